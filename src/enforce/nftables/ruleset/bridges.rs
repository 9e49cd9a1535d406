//! Containers and virtual machines on this host: what comes from their bridges is judged as what comes from inside is.
//!
//! ```text
//!   container -> elsewhere                  judged: open, leased, else denied
//!   container -> container, same bridge     not this host's business, also where bridge-nf-call-iptables brings it to the forward hook
//!   anybody -> published port               by destination NAT of this host: passes; so do the replies
//!   this host -> container                  passes, but for DNS: docker-proxy, health checks, DHCP
//!   container -> foreign port 53            with redirect_dns to this host; else denied
//! ```
//!
//! Bridges are known by patterns of names, which the kernel compares. So one that is made later is guarded from its first packet on.

use ::nftables::expr::{BinaryOperation, Expression, FibResult, MetaKey, NamedExpression};
use ::nftables::stmt::{Operator, Statement};
use ::nftables::types::{NfChainPolicy, NfChainType, NfHook};

#[allow(clippy::wildcard_imports)]
use super::words::*;
use super::{REDIRECT_PRIORITY, Ruleset, Settings};

/// Lets through what comes from nobody who is guarded.
pub(super) fn not_inside(settings: &Settings) -> Vec<Statement<'static>> {
    let from = || meta(MetaKey::Iifname);
    let mut rule = vec![compare(Operator::NEQ, from(), word("@inside"))];
    rule.extend(settings.bridges.iter().map(|bridge| compare(Operator::NEQ, from(), named(bridge))));
    rule.push(accept());
    rule
}

impl Ruleset {
    /// From port to port of one bridge.
    pub(super) fn bridged_rules(&mut self, chain: &'static str, settings: &Settings) {
        let marked = || {
            let mark = BinaryOperation::AND(meta(MetaKey::Mark), number(BRIDGED));
            compare(Operator::NEQ, Expression::BinaryOperation(Box::new(mark)), number(0))
        };
        let ends = || vec![meta(MetaKey::Iifname), meta(MetaKey::Oifname)];
        let same = is(Expression::Named(NamedExpression::Concat(ends())), word("@one_bridge"));
        self.rule(chain, "bridged", vec![same, marked(), accept()]);
        for bridge in &settings.bridges {
            let mut rule: Vec<_> = ends().into_iter().map(|end| is(end, named(bridge))).collect();
            rule.extend([marked(), accept()]);
            self.rule(chain, format!("bridged {bridge}"), rule);
        }
    }

    /// Adds rules to a chain that let `what` pass to containers on the bridges.
    pub(super) fn reach_bridges(
        &mut self,
        chain: &'static str,
        settings: &Settings,
        what: impl Fn() -> Vec<Statement<'static>>,
    ) {
        for bridge in &settings.bridges {
            let mut rule = vec![is(meta(MetaKey::Oifname), named(bridge))];
            rule.extend(what());
            rule.push(accept());
            self.rule(chain, format!("to {bridge}"), rule);
        }
    }

    /// Questions from inside for others come to this host.
    pub(super) fn redirect_chain(&mut self, settings: &Settings) {
        let chain = "dns_redirect";
        self.chains.push(base(chain, NfChainType::NAT, NfHook::Prerouting, REDIRECT_PRIORITY, NfChainPolicy::Accept));
        if settings.gateway() {
            let mut rule = vec![is(meta(MetaKey::Iifname), word("@inside"))];
            rule.extend(to_this_host(settings.asked_at()));
            self.rule(chain, "redirect", rule);
        }
        for bridge in &settings.bridges {
            // A resolver among the containers is theirs; with bridge-nf-call-iptables what goes to it passes here too.
            let mut rule = vec![
                is(meta(MetaKey::Iifname), named(bridge)),
                compare(Operator::NEQ, way(FibResult::Oifname), named(bridge)),
            ];
            rule.extend(to_this_host(settings.asked_at()));
            self.rule(chain, format!("redirect {bridge}"), rule);
        }
    }
}
