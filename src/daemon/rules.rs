//! The rules that questions and addresses are judged by, from configuration and interfaces.

use std::net::IpAddr;

use super::lists::Lists;
use crate::config::Config;
use crate::config::schema::OnLink;
use crate::core::address::AddressFilter;
use crate::core::local_names::LocalNames;
use crate::core::policy::PolicyError;
use crate::core::policy::bound::Bound;
use crate::core::policy::schedule::Hours;
use crate::core::policy::view::Views;
use crate::dns::Rules;
use crate::dns::zones::Zones;
use crate::enforce::bgp::BgpStatus;
use crate::sys::interfaces::{self, Here, InterfacesError};

/// Every value that the rules can't be made of, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct RulesError(Vec<PolicyError>);

/// This host as the filter is to know it, with what `peers` announce to it.
///
/// # Errors
/// It can't be read.
pub fn here(config: &Config, peers: Option<&BgpStatus>) -> Result<Here, InterfacesError> {
    let here = interfaces::here(config.addresses.on_link == OnLink::Inside)?;
    let peers = peers.filter(|_| config.bgp.exclude_announced);
    Ok(Here { announced: peers.map(BgpStatus::networks).unwrap_or_default(), ..here })
}

/// Policy and filter of `config` with its lists, but for what is out of its hours; `here`: this host's own addresses and what is on-link are never opened.
///
/// # Errors
/// See [`RulesError`].
pub fn rules(config: &Config, lists: &Lists, here: &Here, hours: &Hours) -> Result<Rules, RulesError> {
    let own: Vec<(IpAddr, String)> =
        here.addresses.iter().map(|address| (*address, "an address of this host".to_owned())).collect();
    let policy = Views::at(config, &lists.tables(), hours);
    let filter = AddressFilter::new(config, &own)
        .map(|filter| filter.with_on_link(&here.on_link.nets).with_announced(&here.announced));
    match (policy, filter) {
        (Ok(policy), Ok(filter)) => {
            let rules = Rules::new(policy, filter, LocalNames::new(config), &config.lease);
            let rules = rules.with_bound(Bound::new(config));
            Ok(rules.with_zones(Zones::new(&lists.zones().zones(), config)).auditing(config.audits()))
        }
        (policy, filter) => Err(RulesError(policy.err().into_iter().chain(filter.err()).flatten().collect())),
    }
}
