//! What rules say of causes and pairs: of those who asked, the one whose rules let most decides where a lease is everybody's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::core::exchange::guard_of;
use crate::core::judge::{Judge, ViewIds};
use crate::core::lease::Cause;
use crate::core::name::Name;
use crate::core::narrow::{Narrow, Opening, PairId, Port, Who};
use crate::core::person::Mark;
use crate::core::verdict::{Path, PathJudged};

/// Rules, and what is asked of them with every lease.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) judge: Judge,
    all: ViewIds,
    /// Leases can be less than all of an address once they are in force.
    pub(super) narrowly: bool,
}

/// One question behind a pair.
pub(super) struct Asked {
    pub(super) names: Arc<[Name]>,
    pub(super) mark: Option<Mark>,
    /// It was read back from disk: as whom somebody asked nobody knows.
    pub(super) restored: bool,
}

/// What a question opens of what it opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Same,
    Ports(Vec<Port>),
    /// It may not be asked, or it is another application's, or nobody's any more.
    Nothing,
}

/// What is said of the causes of a lease.
pub(super) type Said<'a> = SmallVec<[(&'a Cause, PathJudged); 1]>;

/// Whether a cause went this way.
pub(super) fn is_path(cause: &Cause, question: &Name, chain: &[Name], mark: Option<Mark>) -> bool {
    cause.question == *question && *cause.chain == *chain && cause.mark == mark
}

/// Whether one of those who asked this way may go on. Groups, and types of questions, make causes of their own of one way.
pub(super) fn opens(said: &Said<'_>, question: &Name, chain: &[Name], mark: Option<Mark>) -> bool {
    said.iter().any(|(cause, said)| said.opens() && is_path(cause, question, chain, mark))
}

impl Rules {
    pub(super) fn new(judge: Judge, narrowly: bool) -> Self {
        Self { all: judge.all_views(), judge, narrowly }
    }

    /// What one of those who asked may open of it, at best. After a restart that may be anybody.
    pub(super) fn cause(&self, address: IpAddr, cause: &Cause) -> PathJudged {
        let views: ViewIds = cause.clients.iter().map(|(client, _)| self.judge.view_of(*client, cause.mark)).collect();
        let views = if views.is_empty() { &self.all } else { &views };
        let is_guards = guard_of(&cause.question).is_some();
        let mut best = PathJudged { names: false, address: false };
        let mut last = None;
        for view in views {
            if last.replace(view) == Some(view) {
                continue;
            }
            let path = Path { address, question: &cause.question, chain: &cause.chain };
            // Another guard's lease was judged by that guard; here it is the address that counts.
            let said = if is_guards { self.judge.address(*view, address) } else { self.judge.path(*view, path) };
            if said.opens() {
                return said;
            }
            best.address |= said.address;
        }
        best
    }

    /// What a question behind a pair opens from then on: by the rules of the client whose pair it is, else as the lease is judged.
    pub(super) fn pair(&self, id @ (address, narrow): PairId, asked: &Asked, said: &Said<'_>) -> Opened {
        let Some((question, chain)) = asked.names.split_first() else { return Opened::Same };
        let views: ViewIds = match narrow.who {
            Who::Anyone | Who::Application(_) => self.all.clone(),
            Who::Client(client) if asked.restored => self.judge.views_of_anybody(client),
            Who::Client(client) => SmallVec::from_slice(&[self.judge.view_of(client, asked.mark)]),
        };
        let known =
            narrow.client().is_none() && said.iter().any(|(cause, _)| is_path(cause, question, chain, asked.mark));
        let may_go_on = if known {
            opens(said, question, chain, asked.mark)
        } else {
            views.iter().any(|view| self.judge.path(*view, Path { address, question, chain }).opens())
        };
        if may_go_on { self.opened(id.1, question, &views) } else { Opened::Nothing }
    }

    fn opened(&self, narrow: Narrow, question: &Name, views: &ViewIds) -> Opened {
        let application = match narrow.who {
            Who::Application(number) => Some(number),
            Who::Anyone | Who::Client(_) => None,
        };
        let mut all = BTreeSet::new();
        for view in views.iter().filter(|view| self.judge.may_be_asked(**view, question)) {
            match &*self.judge.openings(*view, question) {
                [] => drop(all.insert(Opening::ALL)),
                openings => all.extend(openings.iter().copied()),
            }
        }
        // Nobody may ask: leases are judged by that.
        if all.is_empty() || all.contains(&Opening { application, to: narrow.to }) {
            return Opened::Same;
        }
        let ports: Vec<Port> = all.iter().filter(|one| one.application == application).map(|one| one.to).collect();
        if application.is_some() || ports.is_empty() {
            return Opened::Nothing;
        }
        Opened::Ports(if ports.contains(&Port::Any) { vec![Port::Any] } else { ports })
    }
}
