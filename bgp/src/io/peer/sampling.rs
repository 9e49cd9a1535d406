//! Whether a router that confirms by its word forwards at all, as occasional probes of new addresses show.
//!
//! A probe that nobody answers proves nothing: routers limit their ICMP, or send none. So a *control* follows it: packets to the next hop, which
//! need no route of the guard's. Only where that is answered the router would have answered for the address too, and it is a miss. Misses in a row
//! mean that the router takes the routes and doesn't use them: its import rejects them (RPKI, damping, a filter), or they lead into its null route.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::confirm::Warning;

/// So many misses in a row are no accident.
const SEVERAL: u32 = 3;
/// How long the control is waited for, and how often it is asked meanwhile: Linux answers about once a second.
const CONTROL: Duration = Duration::from_millis(1200);
const CONTROL_STEP: Duration = Duration::from_millis(200);
/// A single miss is said for so long.
const SAID: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Control {
    net: IpNet,
    hop: IpAddr,
    next: Instant,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    control: Option<Control>,
    /// Misses in a row.
    row: u32,
    /// The last of them.
    last: Option<(IpNet, Instant)>,
}

impl Sampling {
    /// An address was not answered for; routes of its family lead to `hop`.
    pub(super) fn unanswered(&mut self, net: IpNet, hop: Option<IpAddr>, now: Instant) {
        self.control = hop.map(|hop| Control { net, hop, next: now, until: now + CONTROL });
    }

    /// An address was answered for, so the routes are used.
    pub(super) fn forwards(&mut self) {
        (self.control, self.row) = (None, 0);
    }

    /// Somebody answered for this address, which may be the control.
    pub(super) fn answered(&mut self, address: IpAddr, now: Instant) {
        if let Some(control) = self.control.take_if(|control| control.hop == address) {
            self.row = self.row.saturating_add(1);
            self.last = Some((control.net, now));
        }
    }

    /// The control, when it is to be asked.
    pub(super) fn probe(&mut self, now: Instant) -> Option<IpAddr> {
        if self.control.is_some_and(|control| control.until <= now) {
            // A silent router: nothing can be said.
            self.control = None;
        }
        let control = self.control.as_mut().filter(|control| control.next <= now)?;
        control.next = now + CONTROL_STEP;
        Some(control.hop)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.control.map(|control| control.next.min(control.until))
    }

    /// Whether a control is waited for: no other address is tried meanwhile.
    pub(super) fn is_busy(&self) -> bool {
        self.control.is_some()
    }

    /// Misses in a row, as far as they are sure.
    pub(super) fn missed(&self) -> u32 {
        self.row
    }

    /// What the operator should know.
    pub(super) fn warning(&self, now: Instant) -> Option<Warning> {
        let (net, at) = self.last?;
        let cause = "does its import reject the routes (RPKI, damping, a filter), or do they lead into its null route?";
        if self.row >= SEVERAL {
            return Some(Warning::failing(format!(
                "acknowledged but not forwarded: packets to {} sampled addresses in a row did not get through, {net} the last, though \
                 those to the next hop do: {cause}",
                self.row
            )));
        }
        (now < at + SAID).then(|| {
            Warning::of(format!(
                "acknowledged but not forwarded: packets to the sampled address {net} did not get through, though those to the next hop do: {cause}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_a_miss_whose_control_answers_counts() {
        let start = Instant::now();
        let hop: IpAddr = "198.51.100.2".parse().unwrap();
        let net: IpNet = "203.0.113.1/32".parse().unwrap();
        let mut sampling = Sampling::default();
        sampling.unanswered(net, Some(hop), start);
        assert_eq!((sampling.probe(start), sampling.probe(start)), (Some(hop), None));
        sampling.answered(net.addr(), start + MS);
        assert!(sampling.is_busy(), "the address is not the control");
        assert_eq!(sampling.poll_timeout(), Some(start + CONTROL_STEP));
        assert_eq!(sampling.probe(start + CONTROL), None);
        assert!(!sampling.is_busy() && sampling.warning(start + CONTROL).is_none(), "a silent router proves nothing");
        for count in 1..=SEVERAL {
            sampling.unanswered(net, Some(hop), start);
            sampling.answered(hop, start);
            assert_eq!(sampling.missed(), count);
            assert_eq!(sampling.warning(start).map(|warning| warning.is_failing), Some(count >= SEVERAL));
        }
        sampling.forwards();
        assert_eq!(
            sampling.warning(start).map(|warning| warning.is_failing),
            Some(false),
            "it may be one prefix alone"
        );
        assert!(sampling.warning(start + SAID).is_none());
        sampling.unanswered(net, None, start);
        assert!(!sampling.is_busy(), "without a next hop there is no control");
    }
}
