//! Writing and running programs, by landlock (landlock(7)): state and control socket may be written to, the programs of the
//! enforcers may be run, nothing else.
//!
//! Reading stays with the file permissions: lists and certificates lie wherever a reload says.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::ConfineError;

/// The newest interface whose rights are asked for; older kernels give what they know.
const NEWEST: ABI = ABI::V6;
/// Where the dynamic linker of `nft` may be.
const LINKERS: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store"];
/// Programs get it as their input or output.
const NULL: &str = "/dev/null";

/// Restricts this thread and those it starts.
///
/// # Errors
/// Why nothing is restricted.
pub fn restrict(writes: &[&Path], programs: &[PathBuf]) -> Result<(), ConfineError> {
    let handled = AccessFs::from_write(NEWEST) | AccessFs::Execute;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(ConfineError::Landlock)?;
    let writing = AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| {
        let place = match PathFd::new(path) {
            Ok(place) => place,
            Err(PathFdError::OpenCall { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ConfineError::Place { path: path.to_owned(), source }),
        };
        (&mut rules).add_rule(PathBeneath::new(place, access)).map(drop).map_err(ConfineError::Landlock)
    };
    for path in writes {
        allow(path, writing)?;
    }
    if !programs.is_empty() {
        allow(Path::new(NULL), AccessFs::WriteFile.into())?;
        let paths = programs.iter().map(PathBuf::as_path).chain(LINKERS.iter().map(Path::new));
        paths.into_iter().try_for_each(|path| allow(path, AccessFs::Execute.into()))?;
    }
    let status = rules.restrict_self().map_err(ConfineError::Landlock)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}
