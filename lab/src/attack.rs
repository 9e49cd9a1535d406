//! Attacks on the guard with honest clients beside them: `lab/attack`. Whoever attacks may cost only itself.
//!
//! ```text
//!   honest host ---+                        +-- upstream (scripted, on loopback)
//!   attacker ------+-- br0 -- the guard ----+
//!   a crowd -------+
//! ```
//!
//! Each host is a network namespace on one bridge, so that each has a link-layer address of its own. For each attack a guard of its own is started. Honest clients
//! ask over UDP, TCP and DoT before, during and after. A question counts as lost when five seconds, and over UDP one retransmission, bring no
//! answer. The attacks leave most of the processor idle: what is tried is who gets which part of the guard's tables.
//!
//! - [`site`]: namespaces, guard and upstream. [`signed`]: what that signs. [`honest`]: who asks and what it got. [`hostile`]: the attacks.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use honest::{Tally, Way};
pub use hostile::Kind;
use site::Site;

mod honest;
mod hostile;
mod signed;
mod site;

/// Errors cross threads.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Losses that are too many, of a thousand.
const LOSSES: f64 = 1.0;
/// On a machine of two cores, attackers and upstream take their turns with the guard: so much later is no fault of its shares.
const FLOOR_MS: f64 = 20.0;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path of the destguard that is tried.
    pub binary: PathBuf,
    /// For files; empty.
    pub dir: PathBuf,
    /// How long each attack lasts; before and after it a quarter of that, two seconds at least.
    pub length: Duration,
    /// The kinds of attack that are run, one behind the other.
    pub kinds: Vec<Kind>,
}

/// Before, during and after.
const PHASES: [&str; 3] = ["before", "during", "after"];

/// What honest clients got in one attack.
#[derive(Debug)]
pub struct Result {
    /// The kind of attack.
    pub kind: Kind,
    /// By way and phase.
    tallies: Vec<(Way, [Tally; 3])>,
    /// What the attack itself did, in words.
    pub attack: String,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Outcome {
    /// In the plan's order.
    pub results: Vec<Result>,
}

impl Result {
    /// Questions of honest clients that were lost during and after the attack, in words.
    #[must_use]
    pub fn losses(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (way, tallies) in &self.tallies {
            for (phase, tally) in PHASES.iter().zip(tallies) {
                if tally.lost as f64 * 1000.0 > tally.asked as f64 * LOSSES || tally.asked == 0 {
                    let why = tally.reasons.iter().map(|(why, count)| format!("{why}: {count}"));
                    wrong.push(format!(
                        "{}: {} of {} lost over {} {phase} the attack ({})",
                        self.kind.name(),
                        tally.lost,
                        tally.asked,
                        way.name(),
                        why.collect::<Vec<_>>().join(", ")
                    ));
                }
            }
        }
        wrong
    }

    /// Ways whose 99th percentile more than doubles, in words.
    #[must_use]
    pub fn delays(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (way, [before, during, _]) in &self.tallies {
            let (before, during) = (before.percentile(99), during.percentile(99));
            if during > (2.0 * before).max(before + FLOOR_MS) {
                let name = self.kind.name();
                wrong.push(format!("{name}: p99 over {} went from {before:.1} to {during:.1} ms", way.name()));
            }
        }
        wrong
    }

    /// One line for each way.
    pub fn print(&self) {
        for (way, tallies) in &self.tallies {
            print!("{:<13}{:<5}", self.kind.name(), way.name());
            for tally in tallies {
                let (p50, p99) = (tally.percentile(50), tally.percentile(99));
                print!("{:>7}{p50:>8.1}{p99:>8.1}{:>5} |", tally.asked, tally.lost);
            }
            println!();
        }
        println!("{:<18}{}", "", self.attack);
    }

    /// Above the lines.
    pub fn print_head() {
        print!("{:<18}", "attack");
        for phase in PHASES {
            print!("{phase:>7}{:>8}{:>8}{:>5} |", "p50 ms", "p99 ms", "lost");
        }
        println!();
    }
}

/// What everybody shares during one attack.
pub(crate) struct Stage {
    /// The attack is to go on.
    attacking: AtomicBool,
    /// The honest are to go on.
    asking: AtomicBool,
    phase: AtomicUsize,
}

impl Stage {
    fn attacks(&self) -> bool {
        self.attacking.load(Relaxed)
    }

    fn asks(&self) -> bool {
        self.asking.load(Relaxed)
    }

    fn phase(&self) -> usize {
        self.phase.load(Relaxed).min(2)
    }
}

/// Ends the threads of a scope however it is left.
struct End<'a>(&'a Stage);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.attacking.store(false, Relaxed);
        self.0.asking.store(false, Relaxed);
    }
}

/// Runs the attacks one after the other. The calling thread must be in a network namespace of its own.
///
/// # Errors
/// When the guard doesn't start, or ends.
pub fn run(plan: &Plan) -> std::result::Result<Outcome, AnyError> {
    crate::sys::raise_open_files()?;
    let mut outcome = Outcome::default();
    for &kind in &plan.kinds {
        let dir = plan.dir.join(kind.name());
        std::fs::create_dir_all(&dir)?;
        // Each in a namespace of its own: what one left behind is nothing to the next.
        let result = std::thread::scope(|scope| {
            let alone = scope.spawn(|| -> std::result::Result<Result, AnyError> {
                crate::sys::leave_network()?;
                one(kind, &Site::up(&plan.binary, &dir, kind)?, plan.length)
            });
            alone.join().unwrap_or_else(|_| Err("it panicked".into()))
        })?;
        outcome.results.push(result);
    }
    Ok(outcome)
}

fn one(kind: Kind, site: &Site, length: Duration) -> std::result::Result<Result, AnyError> {
    let around = (length / 4).max(Duration::from_secs(2));
    let stage = Stage { attacking: AtomicBool::new(true), asking: AtomicBool::new(true), phase: AtomicUsize::new(0) };
    let stage = &stage;
    std::thread::scope(|scope| {
        let end = End(stage);
        let honest: Vec<_> = honest::Asking::all(kind)
            .into_iter()
            .map(|asking| (asking.way, scope.spawn(move || asking.go_on(site, stage))))
            .collect();
        pause(around);
        stage.phase.store(1, Relaxed);
        let attack = scope.spawn(|| hostile::attack(kind, site, stage));
        pause(length);
        stage.attacking.store(false, Relaxed);
        stage.phase.store(2, Relaxed);
        pause(around);
        drop(end);
        let attack = attack.join().unwrap_or_else(|_| Err("the attack panicked".into()))?;
        let mut tallies: Vec<(Way, [Tally; 3])> = Vec::new();
        for (way, thread) in honest {
            let seen = thread.join().unwrap_or_else(|_| Err("an honest client panicked".into()))?;
            match tallies.iter_mut().find(|(other, _)| *other == way) {
                Some((_, all)) => all.iter_mut().zip(seen).for_each(|(all, more)| all.add(more)),
                None => tallies.push((way, seen)),
            }
        }
        site.is_alive()?;
        Ok(Result { kind, tallies, attack })
    })
}

fn pause(length: Duration) {
    let end = Instant::now() + length;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left);
    }
}
