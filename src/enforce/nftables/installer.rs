//! Puts the ruleset in force, at start and whenever somebody removed it.

use super::blueprint::Blueprint;
use super::error::NftError;
use super::kernel::Kernel;
use super::needs::{self, Feature};
use super::program::Program;
use super::ruleset::{self, Ruleset, Settings};
use super::{applications, arming, lock, verify};

/// The ruleset and what installs it.
#[derive(Debug)]
pub(super) struct Installer {
    program: Program,
    ruleset: Ruleset,
    settings: Settings,
    /// Sets keep the size that they were made with, as before Linux 6.5. In tests.
    pub(super) unresizable: bool,
    /// The tables as they were when they were verified last.
    pub(super) blueprint: Option<Blueprint>,
}

impl Installer {
    pub(super) fn new(program: Program, settings: Settings) -> Self {
        Self { program, ruleset: Ruleset::of(&settings), settings, unresizable: false, blueprint: None }
    }

    /// Makes the ruleset of other settings; it is in force when it was installed.
    pub(super) fn set(&mut self, settings: Settings) {
        self.ruleset = Ruleset::of(&settings);
        self.settings = settings;
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

    /// Puts the ruleset of `settings` in the place of the one in force, in one transaction that keeps every element. What the kernel can't do
    /// of it is left out where the guard can do without.
    ///
    /// # Errors
    /// [`NftError::Nft`], [`NftError::Unsupported`]: the one before stays. Others: it may be in force, or not.
    pub(super) fn switch(&mut self, settings: Settings, committed: impl Fn()) -> Result<(), NftError> {
        let before = self.settings.clone();
        let fresh = Settings { without: Vec::new(), ..settings.clone() };
        self.set(settings);
        let switched = match self.replace(&before, &committed) {
            Err(error @ NftError::Nft { .. }) => {
                let missing = needs::judge(&fresh, |sample| self.program.check(sample));
                match missing {
                    Ok(missing) if missing != self.settings.without => {
                        missing.iter().for_each(|feature| tracing::warn!("{}", feature.effect()));
                        self.set(Settings { without: missing, ..fresh });
                        self.replace(&before, &committed)
                    }
                    Ok(_) => Err(error),
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        if let Err(error) = switched {
            self.set(before);
            return Err(error);
        }
        Ok(())
    }

    fn replace(&mut self, before: &Settings, committed: &impl Fn()) -> Result<(), NftError> {
        if self.settings.local() && !before.local() {
            match arming::adopt() {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "connections from before go on"),
                Err(error) => {
                    tracing::warn!(%error, "connections from before may end: they can't be made known");
                }
            }
        }
        let mut transaction = if self.unresizable && self.settings.capacity != before.capacity {
            Ruleset::of(&Settings { capacity: before.capacity, ..self.settings.clone() }).replacing()
        } else {
            self.ruleset.replacing()
        };
        if self.settings.forwards() && !before.forwards() {
            self.ruleset.adopting(&mut transaction);
        }
        self.program.apply(&transaction)?;
        committed();
        applications::write(&mut Kernel::open()?, &self.settings)?;
        committed();
        if !self.settings.forwards() && before.forwards() {
            Kernel::open()?.delete_bridge_table()?;
            committed();
        }
        match self.verify() {
            // Sets have kept their size.
            Err(NftError::ReadBack { .. }) if self.settings.capacity != before.capacity => {}
            other => other?,
        }
        Ok(())
    }

    /// Behind [`Self::switch`], once the sets have their size.
    ///
    /// # Errors
    /// [`NftError::ReadBack`] and others.
    pub(super) fn settle(&mut self) -> Result<(), NftError> {
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
                self.set(Settings { without: missing, ..self.settings.clone() });
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
            applications::write(&mut Kernel::open()?, &self.settings)?;
            committed();
            self.verify()
        });
        match replaced {
            // A table with the same names but other types, of another version or another program.
            Err(error @ (NftError::Nft { .. } | NftError::ReadBack { .. })) => {
                tracing::warn!(%error, "the table inet destguard can't be taken over and is made anew");
                self.program.apply(&transaction(self.ruleset.recreating()))?;
                committed();
                applications::write(&mut Kernel::open()?, &self.settings)?;
                committed();
                self.verify()?;
            }
            other => other?,
        }
        if !self.settings.forwards() {
            // Of an earlier configuration.
            Kernel::open()?.delete_bridge_table()?;
        }
        self.end_foreign_dns();
        Ok(())
    }

    /// Their packets are refused as it is, so that nothing is left open where this fails.
    pub(super) fn end_foreign_dns(&self) {
        let redirected = self.settings.local() && self.settings.redirect_dns;
        if !self.settings.enforce || !self.settings.forwards() && !redirected {
            return;
        }
        let ended = Kernel::open().and_then(|mut kernel| arming::end_foreign_dns(&mut kernel, &self.settings));
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
