//! Makes a plan that breaks a promise as small as it gets: less time, fewer faults, fewer clients.

use super::plan::Plan;
use super::promises::{Promise, Violation};
use super::world::run;

/// Tries at most.
const TRIES: usize = 400;

/// The smallest plan found that breaks the same promise, and how it does.
pub fn shrink(plan: &Plan, found: &Violation) -> (Plan, Violation) {
    let mut best = (plan.clone(), found.clone());
    let mut tries = 0;
    let promise = found.promise;
    let mut attempt = |best: &mut (Plan, Violation), smaller: Plan| {
        tries += 1;
        if tries > TRIES || smaller == best.0 {
            return false;
        }
        match broken(&smaller, promise) {
            Some(violation) => {
                *best = (smaller, violation);
                true
            }
            None => false,
        }
    };
    loop {
        let before = best.0.clone();
        let span = best.1.at + 1;
        let mut shorter = Plan { span, ..best.0.clone() };
        shorter.faults.retain(|fault| fault.at <= span);
        attempt(&mut best, shorter);
        // Halves, quarters, and in the end one by one.
        let mut size = best.0.faults.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < best.0.faults.len() {
                let mut smaller = best.0.clone();
                let to = (from + size).min(smaller.faults.len());
                smaller.faults.drain(from..to);
                if !attempt(&mut best, smaller) {
                    from += size;
                }
            }
            size /= 2;
        }
        let mut at = 0;
        while at < best.0.clients.len() && best.0.clients.len() > 1 {
            let mut smaller = best.0.clone();
            smaller.clients.remove(at);
            if !attempt(&mut best, smaller) {
                at += 1;
            }
        }
        let shared = Plan { apart: false, ..best.0.clone() };
        attempt(&mut best, shared);
        for (router, second) in [(true, false), (false, false)] {
            let fewer = best.0.router && (best.0.second || !router);
            let without = Plan { router, second, ..best.0.clone() };
            if fewer {
                attempt(&mut best, without);
            }
        }
        if best.0 == before {
            return best;
        }
    }
}

fn broken(plan: &Plan, promise: Promise) -> Option<Violation> {
    run(plan).err().map(|(violation, _)| violation).filter(|violation| violation.promise == promise)
}
