//! What the daemon must be able to tell and do for the control interface. Everything but the core has a default, so that a
//! daemon without BGP, say, needs no more than it has.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use ipnet::IpNet;

use super::access::Access;
use super::denied::DeniedLog;
use super::history::Plots;
use super::query_log::QueryLog;
use super::types::{self, Judgement, List, LoggedError, Peer, Process, Reloaded, Suggested, Tried, Upstream};
use crate::config::schema::{Action, Hide};
use crate::core::counts::Counts;
use crate::core::event::{Event, RevokeTarget};
use crate::core::explain::{EndedView, EnforcerView, Explanation, Known, LeaseFilter, LeaseView};
use crate::core::name::Name;
use crate::core::policy::view::Whose;
use crate::core_task::{CoreHandle, Stopped};

/// Something that comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is asked of the core; a trait so that tests need none.
pub trait CoreView: Send + Sync {
    /// A page of leases behind the address `after`.
    fn leases(
        &self,
        filter: LeaseFilter,
        after: Option<IpAddr>,
        limit: usize,
    ) -> Later<'_, Result<Vec<LeaseView>, Stopped>>;
    /// Why an address is open.
    fn explain(&self, address: IpAddr) -> Later<'_, Result<Option<Explanation>, Stopped>>;
    /// Why the addresses of a name are open.
    fn explain_name(&self, name: Name, limit: usize) -> Later<'_, Result<Vec<Explanation>, Stopped>>;
    /// What is known of an address, open or not.
    fn known(&self, address: IpAddr) -> Later<'_, Result<Known, Stopped>> {
        Box::pin(async move { Ok(Known { lease: self.explain(address).await?, ..Known::default() }) })
    }
    /// Leases of a name that are over.
    fn ended_of_name(&self, _name: Name, _limit: usize) -> Later<'_, Result<Vec<EndedView>, Stopped>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Counts and enforcers, of one moment.
    fn overview(&self) -> Later<'_, Result<(Counts, Vec<EnforcerView>), Stopped>>;
    /// Closes at once what was opened for a name or an address.
    fn revoke(&self, target: RevokeTarget) -> Later<'_, Result<(), Stopped>>;
}

impl CoreView for CoreHandle {
    fn leases(
        &self,
        filter: LeaseFilter,
        after: Option<IpAddr>,
        limit: usize,
    ) -> Later<'_, Result<Vec<LeaseView>, Stopped>> {
        Box::pin(self.inspect(move |guard, now| guard.leases(&filter, after, limit, now)))
    }

    fn explain(&self, address: IpAddr) -> Later<'_, Result<Option<Explanation>, Stopped>> {
        Box::pin(self.inspect(move |guard, now| guard.explain(address, now)))
    }

    fn explain_name(&self, name: Name, limit: usize) -> Later<'_, Result<Vec<Explanation>, Stopped>> {
        Box::pin(self.inspect(move |guard, now| guard.explain_name(&name, limit, now)))
    }

    fn known(&self, address: IpAddr) -> Later<'_, Result<Known, Stopped>> {
        Box::pin(self.inspect(move |guard, now| guard.known(address, now)))
    }

    fn ended_of_name(&self, name: Name, limit: usize) -> Later<'_, Result<Vec<EndedView>, Stopped>> {
        Box::pin(self.inspect(move |guard, now| guard.ended_of_name(&name, limit, now)))
    }

    fn overview(&self) -> Later<'_, Result<(Counts, Vec<EnforcerView>), Stopped>> {
        Box::pin(self.inspect(|guard, now| (guard.counts(), guard.enforcers(now))))
    }

    fn revoke(&self, target: RevokeTarget) -> Later<'_, Result<(), Stopped>> {
        Box::pin(self.tell(Event::Revoke(target)))
    }
}

/// What `explain` asks policy and filter about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An address, which the filter judges.
    Address(IpAddr),
    /// A name, which the policy judges.
    Name(Name),
}

/// An exception that a command makes or undoes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The names, as a rule of the configuration is written.
    pub name: String,
    /// What they get.
    pub action: Action,
    /// The one client it is for; without it, it is for everybody.
    pub client: Option<IpAddr>,
    /// For how long; `None`: undo it.
    pub span: Option<Duration>,
}

/// How a reload is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Only say what would change.
    pub dry_run: bool,
    /// Go back after so long, unless it is confirmed.
    pub confirm: Option<Duration>,
}

/// Why the daemon did not do what somebody asked of it; all is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Undone {
    /// It has no part that could, as in tests.
    #[error("this daemon {0}")]
    Lacks(&'static str),
    /// Nothing was changed for a trial.
    #[error("no change waits to be confirmed")]
    NothingToConfirm,
    /// The part of the daemon that does it, in an error of its own.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Undone {
    /// Said by the part of the daemon that does it.
    pub fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// Everything that the control interface shows and does. The daemon implements it once.
pub trait Sources: Send + Sync + 'static {
    /// The core, which knows leases and their causes.
    fn core(&self) -> &dyn CoreView;

    /// The log of refusals.
    fn denied(&self) -> &DeniedLog;

    /// Questions denied by policy or filter since the start.
    fn denied_count(&self) -> u64 {
        0
    }

    /// Questions that would have been refused, or answered in part, were it not for the audit.
    fn would_refuse(&self) -> u64 {
        0
    }

    /// Whether the whole guard only says what it would do.
    fn audits(&self) -> bool {
        false
    }

    /// BGP peers, in the order of the file.
    fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }

    /// The guard's own anycast addresses, if it has any.
    fn service(&self) -> Option<types::Service> {
        None
    }

    /// Upstreams, in the order of the file.
    fn upstreams(&self) -> Vec<Upstream> {
        Vec::new()
    }

    /// List files of the policy, in the order of the file.
    fn lists(&self) -> Vec<List> {
        Vec::new()
    }

    /// Local zones, in the order of the file.
    fn zones(&self) -> Vec<types::Zone> {
        Vec::new()
    }

    /// Applications that names are bound to.
    fn applications(&self) -> Vec<types::Application> {
        Vec::new()
    }

    /// Why something only counts and logs, as in "nftables.enforce is false"; empty when all enforce.
    fn audit(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is wrong beside enforcers and upstreams, as in "the state directory is full".
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }

    /// Groups and lists that are out of their hours.
    fn out_of_hours(&self) -> Vec<types::Scheduled> {
        Vec::new()
    }

    /// Groups and lists that are in force by their schedules.
    fn in_hours(&self) -> Vec<types::Scheduled> {
        Vec::new()
    }

    /// The operator's exceptions from the policy.
    fn exceptions(&self) -> Vec<types::Exception> {
        Vec::new()
    }

    /// Makes or undoes one; returns for how long what was made lasts.
    ///
    /// # Errors
    /// Why nothing was changed.
    fn except(&self, _change: Change) -> Later<'_, Result<Option<Duration>, Undone>> {
        Box::pin(async { Err(Undone::Lacks("takes no exceptions")) })
    }

    /// Forgets kept answers that have this name as question or alias; returns how many.
    fn forget_answers(&self, _name: &Name) -> usize {
        0
    }

    /// The query log, and what of it readers don't learn.
    fn query_log(&self) -> (QueryLog, Vec<Hide>) {
        (QueryLog::default(), Vec::new())
    }

    /// What clients of this prefix used in audit since then (seconds since 1970).
    fn suggest(&self, _client: Option<IpNet>, _since: u64) -> Suggested {
        Suggested::default()
    }

    /// Who may read over TCP: whoever comes, unless there is a configuration.
    fn access(&self) -> Access {
        Access::default()
    }

    /// The last hour and day; empty where nobody reads the counters.
    fn plots(&self) -> Plots {
        Plots::default()
    }

    /// What the daemon's process may do.
    fn process(&self) -> Process {
        Process::default()
    }

    /// Prefixes of the network itself, in words.
    fn inside(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is not well, or soon won't be, though nothing is wrong yet.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The last few errors, newest first.
    fn errors(&self) -> Vec<LoggedError> {
        Vec::new()
    }

    /// What policy and filter would say now, of everybody's questions or of theirs whom `whose` names. `causes`: questions that had the address in their
    /// answers, with their aliases.
    fn judge(&self, _subject: &Subject, _whose: Whose<'_>, _causes: &[(Name, Vec<Name>)]) -> Judgement {
        Judgement { verdict: "unknown".to_owned(), ..Judgement::default() }
    }

    /// Whether there is a group of this name.
    fn has_group(&self, _group: &str) -> bool {
        false
    }

    /// What questions for a name would get now, by type; may ask upstreams.
    fn try_name<'a>(&'a self, _name: &Name, _whose: Whose<'a>) -> Later<'a, Vec<Tried>> {
        Box::pin(async { Vec::new() })
    }

    /// The OpenMetrics text.
    ///
    /// # Errors
    /// It could not be made.
    fn metrics(&self) -> Result<String, Undone> {
        Err(Undone::failed("there are no metrics"))
    }

    /// Checks the file, prints the difference, applies it; on any error the old configuration stays.
    fn reload(&self, _wish: Wish) -> Later<'_, Reloaded> {
        let report = "this daemon can't reload".to_owned();
        Box::pin(async { Reloaded { report, ..Reloaded::default() } })
    }

    /// Goes back to what was in force before the last change.
    fn undo(&self) -> Later<'_, Reloaded> {
        let report = "this daemon can't reload".to_owned();
        Box::pin(async { Reloaded { report, ..Reloaded::default() } })
    }

    /// The change on trial stays.
    ///
    /// # Errors
    /// There is none.
    fn confirm(&self) -> Result<String, Undone> {
        Err(Undone::Lacks("can't reload"))
    }

    /// Ends the daemon soon after the answer; `withdraw`: routers are to drop its routes at once.
    ///
    /// # Errors
    /// Why it goes on.
    fn stop(&self, _withdraw: bool) -> Result<String, Undone> {
        Err(Undone::Lacks("can't be stopped so"))
    }

    /// Sends the sockets to the process that waits for them, and ends the daemon soon after the answer.
    ///
    /// # Errors
    /// Why it goes on.
    fn hand_over(&self) -> Result<String, Undone> {
        Err(Undone::Lacks("has no sockets"))
    }

    /// Leaves the packet filter as it is when the daemon ends: it will be back.
    ///
    /// # Errors
    /// Why it can't.
    fn restarting(&self) -> Result<String, Undone> {
        Err(Undone::Lacks("has no packet filter"))
    }

    /// Removes the nftables table.
    ///
    /// # Errors
    /// Why it is still there.
    fn disarm(&self) -> Later<'_, Result<String, Undone>> {
        Box::pin(async { Err(Undone::Lacks("has no nftables table")) })
    }
}
