//! The `nft` program: where it is, whether it will do, and what it says. Used for the ruleset only, never per answer.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use ::nftables::helper::{self, NftablesError};
use ::nftables::schema::Nftables;

use super::TABLE;
use super::error::NftError;

/// Where `nft` may be. Fixed, since what runs with our privileges must not depend on `PATH`.
pub const PLACES: [&str; 6] =
    ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft", "/usr/local/sbin/nft", "/run/current-system/sw/bin/nft"];
/// The oldest version whose JSON knows all that the ruleset uses.
const AT_LEAST: (u32, u32) = (1, 0);
/// The longest standard error that is passed on.
const WORDS: usize = 600;

/// A usable `nft`.
#[derive(Clone, Debug)]
pub struct Program {
    path: &'static str,
}

impl Program {
    /// Looks for `nft` and asks for its version.
    ///
    /// # Errors
    /// [`NftError::NftMissing`], [`NftError::NftTooOld`], [`NftError::Nft`].
    pub fn find() -> Result<Self, NftError> {
        let path = PLACES
            .into_iter()
            .find(|path| Path::new(path).is_file())
            .ok_or_else(|| NftError::NftMissing { looked_at: PLACES.join(", ") })?;
        let output = Command::new(path)
            .arg("--version")
            .output()
            .map_err(|error| NftError::Nft { doing: "asking its version", reason: error.to_string() })?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match version(&said) {
            Some(found) if found >= AT_LEAST => Ok(Self { path }),
            _ => Err(NftError::NftTooOld {
                path: path.to_owned(),
                found: said,
                needed: format!("{}.{}", AT_LEAST.0, AT_LEAST.1),
            }),
        }
    }

    /// Commits a ruleset in one transaction.
    ///
    /// # Errors
    /// [`NftError::Permission`], [`NftError::Nft`].
    pub fn apply(&self, ruleset: &Nftables<'_>) -> Result<(), NftError> {
        self.give("installing the ruleset", &["-j", "-f", "-"], ruleset)
    }

    /// Has the kernel check a ruleset; nothing of it is in force.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn check(&self, ruleset: &Nftables<'_>) -> Result<(), NftError> {
        self.give("checking what the kernel can do", &["-c", "-j", "-f", "-"], ruleset)
    }

    fn give(&self, doing: &'static str, words: &[&str], ruleset: &Nftables<'_>) -> Result<(), NftError> {
        let said = |reason: String| NftError::Nft { doing, reason };
        let json = serde_json::to_string(ruleset).map_err(|error| said(error.to_string()))?;
        // Not by the crate's helper: it leaves standard error to the daemon's own, so that nobody would learn the reason.
        let mut child = Command::new(self.path)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| said(error.to_string()))?;
        // nft reads all of it before it says anything, so neither side waits for the other.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(json.as_bytes()));
        let output = child.wait_with_output().map_err(|error| said(error.to_string()))?;
        if !output.status.success() {
            return Err(refused(doing, &String::from_utf8_lossy(&output.stderr)));
        }
        written.map_err(|error| said(error.to_string()))
    }

    /// All tables as JSON, without the elements of their sets. (`list table` reads the elements all the same, and takes a second for 100,000.)
    ///
    /// # Errors
    /// [`NftError::Permission`], [`NftError::Nft`].
    pub fn list(&self) -> Result<String, NftError> {
        self.listed(&["-t", "list", "ruleset"])
    }

    /// Our table alone. Slow, but right where [`Self::list`] isn't: nft 1.0.6 has no word for a table with an owner, and writes what is no JSON.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn list_own(&self) -> Result<String, NftError> {
        self.listed(&["-t", "list", "table", "inet", TABLE])
    }

    fn listed(&self, words: &[&str]) -> Result<String, NftError> {
        helper::get_current_ruleset_raw(Some(self.path), words)
            .map_err(|error| explain("reading the ruleset back", error))
    }
}

fn explain(doing: &'static str, error: NftablesError) -> NftError {
    match error {
        NftablesError::NftFailed { stderr, .. } => refused(doing, &stderr),
        other => NftError::Nft { doing, reason: other.to_string() },
    }
}

fn refused(doing: &'static str, stderr: &str) -> NftError {
    if stderr.contains("Operation not permitted") {
        return NftError::Permission;
    }
    NftError::Nft { doing, reason: stderr.trim().chars().take(WORDS).collect() }
}

/// "nftables v1.0.6 (Lester Gooch #5)" -> (1, 0)
fn version(said: &str) -> Option<(u32, u32)> {
    let numbers = said.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut parts = numbers.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("nftables v1.0.6 (Lester Gooch #5)"), Some((1, 0)));
        assert_eq!(version("nftables v0.9.8 (E.D.S.)"), Some((0, 9)));
        assert_eq!(version("something else"), None);
    }
}
