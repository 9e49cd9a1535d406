//! Keeps the map of control groups as the host's groups are: at once when one comes or goes, and every few seconds whatever was told.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Driver, State};
use crate::enforce::nftables::applications::{self, Application};
use crate::enforce::nftables::error::NftError;
use crate::sys::cgroups::{self, Groups};

/// How often everything is looked at.
const SCAN: Duration = Duration::from_secs(5);

/// The groups that are followed.
#[derive(Debug)]
pub(super) struct Followed {
    groups: Option<Groups>,
    scan: Instant,
    /// It was said that there are more than are followed.
    said: bool,
}

impl Followed {
    pub(super) fn new() -> Self {
        Self { groups: None, scan: Instant::now(), said: false }
    }

    /// Waits until a group comes or goes.
    pub(super) async fn changed(&mut self) {
        let Some(groups) = &mut self.groups else { return std::future::pending().await };
        loop {
            match groups.changed().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "control groups that come and go are seen every few seconds only");
                    return std::future::pending().await;
                }
            }
        }
    }

    fn members(&self, of: &[Application]) -> BTreeMap<u64, usize> {
        self.groups.as_ref().map(|groups| applications::members(of, &groups.all())).unwrap_or_default()
    }
}

impl Driver {
    /// Follows the groups of the applications that are configured now.
    pub(super) fn follow_groups(&mut self) {
        let (_, patterns) = applications::patterns(&self.installer.settings().applications);
        if patterns.is_empty() {
            self.followed.groups = None;
            return;
        }
        if self.followed.groups.is_none() {
            match cgroups::mounted() {
                Some(root) => self.followed.groups = Some(Groups::new(root)),
                None => tracing::error!(
                    "no control groups of version 2 are mounted: units and groups of [[nftables.application]] reach nothing"
                ),
            }
        }
        if let Some(groups) = &mut self.followed.groups {
            groups.look_for(patterns);
        }
    }

    /// The applications, and which groups are whose.
    pub(super) fn members(&mut self) -> (Vec<Application>, BTreeMap<u64, usize>) {
        self.follow_groups();
        let of = self.installer.settings().applications.clone();
        let members = self.followed.members(&of);
        (of, members)
    }

    /// A group came or went.
    pub(super) fn groups_changed(&mut self) {
        if self.is_disarmed() || matches!(self.state, State::Broken { .. }) {
            return;
        }
        if let Err(error) = self.write_members() {
            self.lose_for(&error);
        }
    }

    pub(super) fn write_members(&mut self) -> Result<(), NftError> {
        let of = &self.installer.settings().applications;
        let members = self.followed.members(of);
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        let mut transaction = link.kernel.transaction();
        applications::rewrite_members(&mut transaction, of, &members);
        link.kernel.commit("control groups of applications", transaction)?;
        tracing::debug!(groups = members.len(), "the control groups of applications are others");
        Ok(())
    }

    /// Looks at all groups and at the kernel's map, when it is time.
    pub(super) fn look_at_groups(&mut self) -> Result<(), NftError> {
        let now = Instant::now();
        if now < self.followed.scan {
            return Ok(());
        }
        self.followed.scan = now + SCAN;
        self.follow_groups();
        let Some(groups) = self.followed.groups.as_mut() else { return Ok(()) };
        groups.scan();
        if groups.is_beyond() && !self.followed.said {
            self.followed.said = true;
            tracing::error!("there are more control groups than can be followed: some applications may reach nothing");
        }
        let members = self.followed.members(&self.installer.settings().applications);
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let held = applications::held_members(&mut link.kernel)?;
        if held.iter().eq(members.keys()) {
            return Ok(());
        }
        // Where nobody tells of groups, this is how they are found.
        let foreign = held.iter().filter(|number| !members.contains_key(number)).count();
        tracing::info!(
            held = held.len(),
            wanted = members.len(),
            foreign,
            "the control groups of applications are others"
        );
        self.write_members()
    }
}
