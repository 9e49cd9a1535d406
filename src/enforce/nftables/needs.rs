//! What the ruleset needs of the kernel, and what it can do without. Asked only where the kernel refused a ruleset: its own
//! words name no cause. Each sample is checked by the kernel and never in force.

use std::net::SocketAddr;

use ::nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use ::nftables::stmt::Statement;
use ::nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::error::NftError;
use super::ruleset::local_dns::to_resolver;
use super::ruleset::words::{accept, add, bare_chain, base, ct, log_some, mark_ports, prohibit, to_this_host, within};
use super::ruleset::{REDIRECT_PRIORITY, Settings};
use crate::enforce::backend::LeftOut;

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
                 nftables.inside or nftables.bridges is refused as if it were forwarded"
            }
        }
    }
}

/// What it means that these are left out.
#[must_use]
pub fn effects(missing: &[Feature]) -> Vec<LeftOut> {
    missing.iter().map(|feature| feature.effect().to_owned()).collect()
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
    for (what, sample) in needed(settings) {
        if !works(&sample)? {
            return Err(NftError::Unsupported { what });
        }
    }
    let mut missing = Vec::new();
    for (feature, sample) in wanted(settings) {
        if !works(&sample)? {
            missing.push(feature);
        }
    }
    Ok(missing)
}

/// What the ruleset of some settings can't do without: its name, and a small ruleset that needs it.
fn needed(settings: &Settings) -> Vec<(&'static str, Nftables<'static>)> {
    let mut needed = vec![
        ("nf_tables for IPv4 and IPv6 (nf_tables, CONFIG_NF_TABLES_INET)", sample(None, vec![accept()])),
        (
            "connection tracking (nf_conntrack, nft_ct)",
            sample(None, vec![within(ct("state"), &["established"]), accept()]),
        ),
    ];
    if settings.enforce {
        needed.push(("refusal of packets (nft_reject_inet)", sample(None, vec![prohibit()])));
    }
    if settings.forwards() && settings.redirect_dns {
        let chain = base("probe", NfChainType::NAT, NfHook::Prerouting, REDIRECT_PRIORITY, NfChainPolicy::Accept);
        needed.push((
            "redirection, for nftables.redirect_dns (nft_chain_nat, nft_redir, nft_fib_inet)",
            sample(Some(chain), to_this_host(53)),
        ));
    }
    if settings.local() && settings.redirect_dns {
        let chain = base("probe", NfChainType::NAT, NfHook::Output, REDIRECT_PRIORITY, NfChainPolicy::Accept);
        needed.push((
            "redirection of this host's own questions, for nftables.redirect_dns (nft_chain_nat, nft_nat, nft_fib_inet)",
            sample(Some(chain), to_resolver(SocketAddr::from(([127, 0, 0, 1], 53)))),
        ));
    }
    needed
}

/// What it can do without.
fn wanted(settings: &Settings) -> Vec<(Feature, Nftables<'static>)> {
    let mut wanted = vec![(Feature::Log, sample(None, log_some()))];
    if settings.forwards() {
        let mut objects = Vec::new();
        mark_ports(&mut objects, PROBE);
        wanted.push((Feature::Bridge, Nftables { objects: objects.into() }));
    }
    wanted
}

/// A table that is only ever checked.
const PROBE: &str = "destguard_sample";

fn sample(chain: Option<Chain<'static>>, expr: Vec<Statement<'static>>) -> Nftables<'static> {
    let chain = Chain { table: PROBE.into(), ..chain.unwrap_or_else(|| bare_chain("probe")) };
    let rule = Rule {
        family: NfFamily::INet,
        table: PROBE.into(),
        chain: "probe".into(),
        expr: expr.into(),
        handle: None,
        index: None,
        comment: None,
    };
    let table = Table { family: NfFamily::INet, name: PROBE.into(), handle: None };
    let list = [NfListObject::Table(table), NfListObject::Chain(chain), NfListObject::Rule(rule)];
    Nftables { objects: list.into_iter().map(add).collect::<Vec<_>>().into() }
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
