//! The rules as the guard is given them: what an answer may open, for whom, by the same code that judges answers ([`super::verdict`]).
//!
//! An answer says by which rules it was judged ([`Admission::judged`](super::event::Admission::judged)). One that was judged by others than those in
//! force is judged again when it comes, so that none rests on rules of which a reload is over.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::address::{AddressFilter, Admitted};
use super::name::Name;
use super::narrow::Openings;
use super::person::Mark;
use super::policy::bound::Bound;
use super::policy::view::{ViewId, Views};
use super::verdict::{self, Path, PathJudged};

/// Rules that judge. Cheap to clone; never changed.
#[derive(Clone)]
pub struct Judge {
    number: u64,
    views: Arc<Views>,
    filter: Arc<AddressFilter>,
    bound: Arc<Bound>,
}

impl fmt::Debug for Judge {
    /// By the number: a list may have a million names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Judge").field(&self.number).finish()
    }
}

/// Views by which somebody is judged; nearly always one.
pub type ViewIds = SmallVec<[ViewId; 4]>;

impl Judge {
    /// These rules. No others have this number.
    #[must_use]
    pub fn new(number: u64, views: Arc<Views>, filter: Arc<AddressFilter>, bound: Arc<Bound>) -> Self {
        Self { number, views, filter, bound }
    }

    /// The number of these rules, as it was given to [`Judge::new`].
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// By which view a client is judged, of whom this mark is known.
    #[must_use]
    pub fn view_of(&self, client: IpAddr, mark: Option<Mark>) -> ViewId {
        self.views.of_marked(client, mark)
    }

    /// By which somebody may be judged who asks from there, whoever that is.
    #[must_use]
    pub fn views_of_anybody(&self, client: IpAddr) -> ViewIds {
        self.views.of_anybody(client).into_iter().collect()
    }

    /// By which anybody may be judged.
    #[must_use]
    pub fn all_views(&self) -> ViewIds {
        self.views.all().collect()
    }

    /// What a view says of a path.
    #[must_use]
    pub fn path(&self, view: ViewId, path: Path<'_>) -> PathJudged {
        verdict::judge_path(self.views.policy(view), &self.filter, path)
    }

    /// What a view says of a lease of another guard, which has judged the names itself.
    #[must_use]
    pub fn address(&self, view: ViewId, address: IpAddr) -> PathJudged {
        let open = || {
            let always = self.filter.judge(address, &Name::root(), &[]);
            matches!(always, Ok(Admitted::AlreadyOpen)) || self.filter.may_be_leased(address)
        };
        let denied = verdict::denied_address(self.views.policy(view), &self.filter, address).is_some();
        PathJudged { names: true, address: !denied && open() }
    }

    /// Whether another guard may lease it here: an answer to some name could open it, and some view denies it in none.
    #[must_use]
    pub fn may_be_of_a_guard(&self, address: IpAddr) -> bool {
        let denied = |view| verdict::denied_address(self.views.policy(view), &self.filter, address).is_some();
        self.filter.may_be_leased(address) && !self.views.all().all(denied)
    }

    /// Whether a view lets a question be asked.
    #[must_use]
    pub fn may_be_asked(&self, view: ViewId, question: &Name) -> bool {
        !self.views.policy(view).judge(question).denies()
    }

    /// What an answer opens of its addresses, and for whom; nothing: all, for whoever asked.
    #[must_use]
    pub fn openings(&self, view: ViewId, question: &Name) -> Openings {
        self.bound.openings(question, self.views.policy(view).openings(question))
    }
}
