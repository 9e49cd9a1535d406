//! `[flows]`

use std::time::Duration;

use super::Checks;
use crate::config::schema::{Exporter, NftablesMode};
use crate::core::flows::INTERVALS;

/// Most exporters, and most places to listen at.
const MOST: usize = 64;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

impl Checks<'_, '_> {
    pub(super) fn flows(&mut self) {
        let flows = &self.config.flows;
        self.unique("flows.listen", &flows.listen);
        for (index, at) in flows.listen.iter().enumerate() {
            if at.port() == 0 {
                self.error(
                    &format!("flows.listen[{index}]"),
                    format!("{at} has no port; exporters often send to 2055, 4739 or 6343"),
                );
            }
        }
        for (key, many) in [("flows.listen", flows.listen.len()), ("flows.exporter", flows.exporter.len())] {
            if many > MOST {
                self.error(key, format!("{many} are too many; at most {MOST}"));
            }
        }
        if self.sound(&["flows.listen", "flows.exporter"]) && flows.listen.is_empty() != flows.exporter.is_empty() {
            match flows.exporter.is_empty() {
                true => self.error_with(
                    "flows.listen",
                    "nobody may send flows here: there is no [[flows.exporter]]",
                    "name each router that exports flows with its `address` and `kind`",
                ),
                false => self.error_with(
                    "flows.exporter",
                    "exporters have nowhere to send to: `flows.listen` is empty",
                    "set flows.listen, as in [\"192.0.2.2:2055\"]",
                ),
            }
        }
        if self.sound(&["flows.max"]) && !(SHORTEST..=LONGEST).contains(&flows.max.0) {
            self.error("flows.max", format!("{} is not between 1s and 7d", flows.max));
        }
        for (index, exporter) in flows.exporter.iter().enumerate() {
            self.exporter(index, exporter);
        }
        let gateway = matches!(self.config.nftables.mode, NftablesMode::Gateway | NftablesMode::Both);
        if flows.conntrack && !gateway && self.sound(&["flows.conntrack", "nftables.mode"]) {
            self.error_with(
                "flows.conntrack",
                "this host sees no connections of others: `nftables.mode` is neither \"gateway\" nor \"both\"",
                "where the guard is not the gateway, name the routers as [[flows.exporter]]",
            );
        }
        let path = if flows.conntrack { "flows.conntrack" } else { "flows.exporter" };
        if flows.is_on() && self.config.bgp.peer.is_empty() && self.sound(&["bgp.peer"]) {
            self.warning(
                path,
                "there is no [[bgp.peer]]: flows keep routes, and nothing else",
                "leave it out; nftables keeps established connections anyway",
            );
        }
    }

    fn exporter(&mut self, index: usize, exporter: &Exporter) {
        let key = |key: &str| format!("flows.exporter[{index}].{key}");
        let address = exporter.address;
        let before = self.config.flows.exporter.iter().take(index).position(|other| other.address == address);
        if let Some(first) = before {
            self.error(&key("address"), format!("{address} is that of flows.exporter[{first}] already"));
        } else if address.is_unspecified() || address.is_multicast() {
            self.error(&key("address"), format!("{address} is an address that nobody sends from"));
        }
        let interval = exporter.interval;
        if !(SHORTEST..=LONGEST_INTERVAL).contains(&interval.0) {
            self.error(&key("interval"), format!("{interval} is not between 1s and 1h"));
        } else if interval.0.saturating_mul(INTERVALS) > self.config.bgp.linger.0 && !self.config.bgp.peer.is_empty() {
            self.warning(
                &key("interval"),
                format!(
                    "three times {interval} is longer than `bgp.linger` ({}): a restart of the guard may cut flows",
                    self.config.bgp.linger
                ),
                "set a longer bgp.linger, or a shorter active timeout on the exporter and here",
            );
        }
    }
}
