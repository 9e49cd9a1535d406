//! What the ruleset needs of the kernel, and what it can do without. Asked only where the kernel refused a ruleset: its own
//! words name no cause. Each sample is checked by the kernel and never in force.

use ::nftables::schema::Nftables;

use super::error::NftError;
use super::ruleset::{self, Settings};

/// What the ruleset can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Packets that are refused are shown by `denied`.
    Log,
    /// Traffic between the ports of one bridge is told from what is forwarded.
    Bridge,
}

impl Feature {
    /// What it means that it is left out.
    #[must_use]
    pub fn effect(self) -> &'static str {
        match self {
            Self::Log => {
                "this kernel has no nfnetlink_log (or no nft_log, nft_limit): refused packets are counted, but not shown by `destguard denied`"
            }
            Self::Bridge => {
                "this kernel has no nf_tables for bridges: with bridge-nf-call-iptables = 1, traffic between ports of a bridge in \
                 nftables.inside is refused as if it were forwarded"
            }
        }
    }
}

/// What is left out of the ruleset on this kernel. `works` has the kernel check a sample.
///
/// # Errors
/// [`NftError::Unsupported`], naming what is missing; what `works` says but for [`NftError::Nft`].
pub fn judge(
    settings: &Settings,
    mut works: impl FnMut(&Nftables<'static>) -> Result<(), NftError>,
) -> Result<Vec<Feature>, NftError> {
    let mut works = |sample: &Nftables<'static>| match works(sample) {
        Ok(()) => Ok(true),
        Err(NftError::Nft { .. }) => Ok(false),
        Err(error) => Err(error),
    };
    for (what, sample) in ruleset::needed(settings) {
        if !works(&sample)? {
            return Err(NftError::Unsupported { what });
        }
    }
    let mut missing = Vec::new();
    for (feature, sample) in ruleset::wanted(settings) {
        if !works(&sample)? {
            missing.push(feature);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::{Nftables as Config, NftablesMode};

    fn judged(without: &[&str]) -> Result<Vec<Feature>, String> {
        let config = Config { mode: NftablesMode::Both, redirect_dns: true, ..Config::default() };
        let settings = Settings { enforce: true, redirect_dns: config.redirect_dns, ..Settings::nothing(config.mode) };
        let check = |sample: &Nftables<'static>| {
            let text = serde_json::to_string(sample).unwrap();
            match without.iter().any(|word| text.contains(word)) {
                true => Err(NftError::Nft { doing: "checking", reason: "No such file or directory".to_owned() }),
                false => Ok(()),
            }
        };
        judge(&settings, check).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_is_left_out_or_named() {
        assert_eq!(judged(&[]), Ok(vec![]));
        assert_eq!(judged(&["\"log\""]), Ok(vec![Feature::Log]));
        assert_eq!(judged(&["\"log\"", "\"bridge\""]), Ok(vec![Feature::Log, Feature::Bridge]));
        for (missing, named) in [
            ("\"ct\"", "connection tracking"),
            ("reject", "nft_reject_inet"),
            ("redirect", "nft_redir"),
            ("inet", "nf_tables"),
        ] {
            let error = judged(&[missing, "\"log\""]).unwrap_err();
            assert!(error.contains(named), "{missing}: {error}");
        }
    }
}
