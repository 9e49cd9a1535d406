//! Puts the ruleset in force, at start and whenever somebody removed it.

use super::blueprint::Blueprint;
use super::error::NftError;
use super::kernel::Kernel;
use super::needs::{self, Feature};
use super::program::Program;
use super::ruleset::{self, Ruleset, Settings};
use super::{arming, lock, verify};

/// The ruleset and what installs it.
#[derive(Debug)]
pub(super) struct Installer {
    program: Program,
    ruleset: Ruleset,
    settings: Settings,
    /// The tables as they were when they were verified last.
    pub(super) blueprint: Option<Blueprint>,
}

impl Installer {
    pub(super) fn new(program: Program, settings: Settings) -> Self {
        Self { program, ruleset: Ruleset::of(&settings), settings, blueprint: None }
    }

    /// Makes the ruleset of other settings; it is in force when it was installed.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.ruleset = Ruleset::of(&self.settings);
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it blocks, or only counts and logs.
    pub(super) fn enforces(&self) -> bool {
        self.settings.enforce
    }

    /// Makes the lock of what is guarded; see [`super::lock`].
    ///
    /// # Errors
    /// The kernel has no such tables, and others.
    pub(super) fn lock(&self) -> Result<Kernel, NftError> {
        lock::close(&self.settings).inspect_err(|error| {
            tracing::warn!(%error, "when another program flushes the ruleset, the host is open until the table is back");
        })
    }

    /// Puts the ruleset in the place of another one of ours, in one transaction that keeps every element.
    pub(super) fn switch(&mut self, committed: impl FnOnce()) -> Result<(), NftError> {
        self.program.apply(&self.ruleset.replacing())?;
        committed();
        self.verify()?;
        self.note()?;
        self.end_foreign_dns();
        Ok(())
    }

    pub(super) fn left_out(&self) -> &[Feature] {
        &self.settings.without
    }

    /// At start. What the kernel can't do is left out where the guard can do without, else named.
    pub(super) fn arm(&mut self) -> Result<(), NftError> {
        self.arm_as_it_can()?;
        self.note()
    }

    fn note(&mut self) -> Result<(), NftError> {
        self.blueprint = Some(Blueprint::read(&mut Kernel::open()?)?);
        Ok(())
    }

    fn arm_as_it_can(&mut self) -> Result<(), NftError> {
        match self.arm_so() {
            Err(error @ NftError::Nft { .. }) => {
                let missing = needs::judge(&self.settings, |sample| self.program.check(sample))?;
                if missing.is_empty() {
                    return Err(error);
                }
                for feature in &missing {
                    tracing::warn!("{}", feature.effect());
                }
                self.change(|settings| settings.without = missing);
                self.arm_so()
            }
            other => other,
        }
    }

    fn arm_so(&self) -> Result<(), NftError> {
        let first = !Kernel::open()?.has_table()?;
        if !first {
            return self.put(false, || ());
        }
        self.program.apply(&ruleset::tracking())?;
        if self.settings.local() {
            match arming::adopt() {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "connections from before the start go on"),
                Err(error @ NftError::Permission) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "connections from before the start may end: they can't be made known");
                }
            }
        }
        self.put(true, || ())
    }

    /// `committed` is called after each commit, before it is read back.
    pub(super) fn install(&mut self, committed: impl FnMut()) -> Result<(), NftError> {
        self.put(false, committed)?;
        self.note()
    }

    fn put(&self, adopting: bool, mut committed: impl FnMut()) -> Result<(), NftError> {
        let transaction = |mut transaction| {
            if adopting {
                self.ruleset.adopting(&mut transaction);
            }
            transaction
        };
        let replaced = self.program.apply(&transaction(self.ruleset.replacing())).and_then(|()| {
            committed();
            self.verify()
        });
        match replaced {
            // A table with the same names but other types, of another version or another program.
            Err(error @ (NftError::Nft { .. } | NftError::ReadBack { .. })) => {
                tracing::warn!(%error, "the table inet destguard can't be taken over and is made anew");
                self.program.apply(&transaction(self.ruleset.recreating()))?;
                committed();
                self.verify()?;
            }
            other => other?,
        }
        if !self.settings.gateway() {
            // Of an earlier configuration.
            Kernel::open()?.delete_bridge_table()?;
        }
        self.end_foreign_dns();
        Ok(())
    }

    /// Their packets are refused as it is, so that nothing is left open where this fails.
    pub(super) fn end_foreign_dns(&self) {
        if !self.settings.enforce || !self.settings.gateway() {
            return;
        }
        let ended = Kernel::open().and_then(|mut kernel| arming::end_foreign_dns(&mut kernel, &self.settings.inside));
        match ended {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "flows to other resolvers were ended"),
            Err(error) => tracing::warn!(%error, "flows to other resolvers are refused, but can't be redirected"),
        }
    }

    fn verify(&self) -> Result<(), NftError> {
        let verify = |json: String| verify::verify(&self.ruleset, &json);
        match self.program.list().and_then(verify) {
            // Any table of anybody may have an owner, the lock's has.
            Err(NftError::ReadBack { .. } | NftError::Nft { .. }) => self.program.list_own().and_then(verify),
            other => other,
        }
    }
}
