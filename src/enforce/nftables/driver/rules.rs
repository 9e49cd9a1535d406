//! Puts other rules in force while it runs: in one transaction, with every lease, every flow and, where the kernel can, every set left as it is.
//!
//! The sets of leases are made for so many elements. Since Linux 6.5 their size is changed in place; before, the table is made anew with larger
//! ones, and with all its elements, in one transaction. They never shrink while they are in use: what they hold must have room.

use std::collections::BTreeMap;

use super::{Driver, State};
use crate::config::schema::NftablesMode;
use crate::enforce::EnforceError;
use crate::enforce::backend::LeftOut;
use crate::enforce::nftables::applications::rewrite_members;
use crate::enforce::nftables::blueprint::Blueprint;
use crate::enforce::nftables::elements::{Key, Set, Timeout};
use crate::enforce::nftables::error::NftError;
use crate::enforce::nftables::needs;
use crate::enforce::nftables::ruleset::Settings;
use crate::enforce::nftables::tracking;
use crate::enforce::rules::{Own, Rules};

impl Driver {
    /// Rules that block, or that only count.
    pub(super) fn enforce(&mut self, enforce: bool) -> Result<(), EnforceError> {
        let settings = Settings { enforce, ..self.installer.settings().clone() };
        self.replace_rules(settings)
    }

    /// Other traffic of the guard itself.
    pub(super) fn change_own(&mut self, own: Own) -> Result<(), EnforceError> {
        let settings = Settings { own: own.traffic, listeners: own.listeners, ..self.installer.settings().clone() };
        self.replace_rules(settings)
    }

    /// Returns what the kernel can't do of them.
    pub(super) fn change_rules(&mut self, rules: &Rules) -> Result<Vec<LeftOut>, EnforceError> {
        let before = self.installer.settings();
        let wanted = Settings::of(rules);
        let capacity = wanted.capacity.max(before.capacity);
        let settings = Settings { capacity, without: before.without.clone(), ..wanted };
        let comes = settings.applications.iter().any(|one| !before.applications.contains(one));
        self.replace_rules(settings)?;
        if comes && matches!(self.state, State::Synced) {
            // What was opened for it before it was there.
            self.want_sync();
        }
        self.settings.on_stop = rules.config.on_stop;
        Ok(needs::effects(self.installer.left_out()))
    }

    fn replace_rules(&mut self, settings: Settings) -> Result<(), EnforceError> {
        if *self.installer.settings() == settings {
            return Ok(());
        }
        match (self.is_off(), settings.mode == NftablesMode::Off) {
            (false, true) => return Ok(self.turn_off(settings)?),
            (true, false) => return Ok(self.turn_on(settings)?),
            (true, true) => {
                self.installer.set(settings);
                return Ok(());
            }
            (false, false) => {}
        }
        let before = self.installer.settings();
        let lock =
            |settings: &Settings| (settings.enforce, settings.mode, settings.inside.clone(), settings.bridges.clone());
        if lock(before) != lock(&settings) {
            // It refuses what other rules may not judge.
            self.settings.disarmer.unlock();
        }
        let switched = self.switch(settings);
        if !matches!(self.state, State::Broken { .. }) {
            self.lock();
        }
        switched
    }

    /// Whether nothing is guarded here, and all is acknowledged.
    pub(super) fn is_off(&self) -> bool {
        self.installer.settings().mode == NftablesMode::Off
    }

    fn turn_off(&mut self, settings: Settings) -> Result<(), NftError> {
        self.settings.disarmer.unlock();
        self.open()?;
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        link.kernel.delete_table()?;
        if let Err(error) = tracking::let_go(&mut link.kernel) {
            tracing::debug!(%error, "flows are kept track of until the daemon ends");
        }
        tracing::warn!("nftables.mode is off: nothing is guarded here any more");
        self.installer.set(settings);
        self.blueprint = None;
        self.written.clear();
        self.cut.clear();
        self.want_sync();
        self.state = State::Disarmed;
        Ok(())
    }

    /// What is leased follows with the full state.
    fn turn_on(&mut self, settings: Settings) -> Result<(), NftError> {
        if self.settings.disarmer.is_disarmed() {
            self.installer.set(settings);
            return Ok(());
        }
        self.open()?;
        let before = self.installer.settings().clone();
        self.installer.set(Settings { without: Vec::new(), ..settings });
        let armed = self.installer.arm();
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        if let Some(what) = link.watch.as_mut().and_then(|watch| watch.take()) {
            tracing::debug!("{what}: installed");
        }
        if let Err(error) = armed {
            self.installer.set(before);
            if let Err(error) = link.kernel.delete_table() {
                tracing::error!(%error, "the nftables table could not be removed");
            }
            return Err(error);
        }
        if let Err(error) = tracking::keep(&mut link.kernel) {
            tracing::debug!(%error, "after a flush of the ruleset by others it takes longer until it is back");
        }
        tracing::warn!("nftables guards here from now on");
        self.blueprint = self.installer.blueprint.take();
        self.installation += 1;
        self.want_sync();
        Ok(())
    }

    fn switch(&mut self, settings: Settings) -> Result<(), EnforceError> {
        let before = self.installer.settings().clone();
        if self.is_disarmed() {
            self.installer.set(settings);
            return Ok(());
        }
        if matches!(self.state, State::Broken { .. }) {
            self.installer.set(settings);
            // That of the old rules is not what is to be put back.
            let blueprint = self.blueprint.take();
            self.repair();
            if let State::Broken { .. } = self.state {
                self.installer.set(before);
                self.blueprint = blueprint;
                return Err(EnforceError::Repairing);
            }
            return Ok(());
        }
        let wanted = settings.clone();
        let Err(error) = self.put(settings) else {
            self.blueprint = self.installer.blueprint.take();
            self.installation += 1;
            self.follow_groups();
            if before.enforce != wanted.enforce {
                let what = if wanted.enforce { "blocks" } else { "blocks nothing: audit" };
                tracing::warn!(enforce = wanted.enforce, "nftables {what}");
            } else {
                tracing::info!("the rules of nftables were replaced");
            }
            return Ok(());
        };
        self.installer.set(before);
        if !matches!(error, NftError::Nft { .. } | NftError::Unsupported { .. }) {
            // They may be in force, or not: the old rules are installed again.
            self.blueprint = None;
            self.lose_for(&error);
        }
        Err(error.into())
    }

    fn put(&mut self, settings: Settings) -> Result<(), NftError> {
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        let before = self.installer.settings().capacity;
        // What came until then is our own change.
        let watch = std::cell::RefCell::new(link.watch.as_mut());
        let own = || {
            if let Some(what) = watch.borrow_mut().as_mut().and_then(|watch| watch.take()) {
                tracing::debug!("{what}: the rules were replaced");
            }
        };
        self.installer.switch(settings, own)?;
        let size = self.installer.settings().size();
        if self.installer.settings().capacity != before {
            self.grow(size)?;
        }
        self.installer.settle()
    }

    /// Gives the sets of leases room for so many elements, where the kernel has not done so already.
    fn grow(&mut self, size: u32) -> Result<(), NftError> {
        let now = self.settings.clock.now();
        let (of, members) = self.members();
        let sets: Vec<_> = self.sets().into_iter().filter(|set| set.is_of_leases()).map(Set::name).collect();
        let sets: Vec<&str> = sets.iter().map(AsRef::as_ref).collect();
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        let found = Blueprint::read(&mut link.kernel)?;
        let wanted = found.resized(&sets, size);
        if wanted.is_met_by(&found) {
            return Ok(());
        }
        let mut elements: BTreeMap<Set, Vec<(Key, Timeout)>> = BTreeMap::new();
        for ((set, key), left) in self.written.left(now) {
            elements.entry(set).or_default().push((key, left));
        }
        let mut transaction = link.kernel.transaction();
        wanted.restore(&found, &mut transaction);
        rewrite_members(&mut transaction, &of, &members);
        elements.into_iter().for_each(|(set, elements)| transaction.add(set, &elements));
        link.kernel.commit("making larger sets", transaction)?;
        if let Some(what) = link.watch.as_mut().and_then(|watch| watch.take()) {
            tracing::debug!("{what}: larger sets were made");
        }
        Ok(())
    }
}
