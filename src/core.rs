//! The pure heart: `(state, event, now) -> outputs`. No clock, no socket, no task, no log is needed here.
//!
//! - [`moment`]: time as the core sees it. [`name`]: domain names.
//! - [`answer`]: binds the records of a response to its question. [`address`]: which addresses may be opened at all.
//!   [`policy`]: which names may be asked. [`verdict`]: all three in one call. These are functions and may run on any task. [`judge`]: the rules as the guard has them.
//! - [`local_names`]: names that are answered without asking. [`zones`]: names of local zones. [`lease`]: the lease table. [`gate`]: which answer waits for which generation. [`plan`]: what the enforcers must
//!   change. [`groups`]: communities by group. [`way`]: by which transport. [`person`]: who asks, where more is known than an address. [`narrow`], [`pairs`]: who may reach what, and which port, where leases are less than everybody's. [`proof`]: what they have acknowledged. [`budget`]: rates of new addresses. [`explain`]: why an address is
//!   open. [`guard`] owns these and is itself owned by one task.
//! - [`ended`]: leases that are over. [`flows`]: routes that stay for live flows. [`remembered`]: a table with a bound and shares.
//! - [`event`]: everything that goes in and comes out. [`journal`]: what of it must be on disk first.

pub mod address;
pub mod answer;
pub mod applications;
pub mod budget;
pub mod client;
pub mod counts;
pub mod ended;
pub mod event;
pub mod exchange;
pub mod explain;
pub mod flows;
pub mod gate;
pub mod groups;
pub mod guard;
pub mod journal;
pub mod judge;
pub mod lease;
pub mod local_names;
pub mod moment;
pub mod name;
pub mod narrow;
pub mod nets;
pub mod pairs;
pub mod person;
pub mod places;
pub mod plan;
pub mod policy;
pub mod proof;
pub mod queue;
pub mod remembered;
pub mod share;
pub mod verdict;
pub mod way;
pub mod zones;
