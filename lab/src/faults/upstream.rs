//! An upstream whose mood changes: as it should be, slow, silent, lying, flooding.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use crate::dns::message::{Question, Record};
use crate::dns::server::{Forged, Reply, many_v4, many_v6};
use crate::dns::{A, AAAA};

/// TTL of names that are asked for again and again, in seconds.
pub const TTL: u32 = 10;
/// TTL of names whose addresses are held all the time, in seconds.
pub const HELD_TTL: u32 = 7200;
/// Names that are held.
pub const HELD: u32 = 20;
/// Their addresses are those of the many from here on.
const HELD_FROM: u32 = 200;
/// How late a slow upstream is.
const LATE: Duration = Duration::from_millis(300);
/// Replies of a flood to one question.
const FLOOD: u16 = 20;
/// Addresses that no name has.
const FOREIGN: [u8; 4] = [198, 51, 100, 250];

/// How an upstream behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// As it should.
    Good,
    /// It replies 300 ms late.
    Slow,
    /// It says nothing from now on.
    Silent,
    /// With what isn't of the question, forged replies before it, and addresses that may never be opened.
    Lying,
    /// Twenty forged replies before each.
    Flooding,
}

const MOODS: [Mood; 5] = [Mood::Good, Mood::Slow, Mood::Silent, Mood::Lying, Mood::Flooding];

/// The mood, shared with the upstream's threads.
#[derive(Clone, Debug, Default)]
pub struct Moody(Arc<AtomicU8>);

impl Moody {
    /// From the next question on.
    pub fn set(&self, mood: Mood) {
        self.0.store(mood as u8, Relaxed);
    }

    fn get(&self) -> Mood {
        MOODS.get(usize::from(self.0.load(Relaxed))).copied().unwrap_or(Mood::Good)
    }
}

/// The one address of a name, and its type; `None` when there is no such name.
#[must_use]
pub fn address(name: &str) -> Option<(u16, IpAddr)> {
    if let Some(number) = name.strip_suffix(".many.test").and_then(|label| label.strip_prefix('n')?.parse::<u32>().ok())
    {
        let six = number.is_multiple_of(3);
        return Some(if six { (AAAA, many_v6(number).into()) } else { (A, many_v4(number).into()) });
    }
    let number = name.strip_suffix(".held.test")?.strip_prefix('h')?.parse::<u32>().ok()?;
    Some((A, many_v4(HELD_FROM + number % HELD).into()))
}

/// What the upstream says.
#[must_use]
pub fn reply(moody: &Moody, question: &Question) -> Option<Reply> {
    let name = question.name.to_ascii_lowercase();
    let (rtype, address) = address(&name)?;
    if rtype != question.rtype {
        return Some(Reply::default());
    }
    let ttl = if name.ends_with(".held.test") { HELD_TTL } else { TTL };
    let mut reply = Reply::of(vec![Record::address(&question.name, ttl, address)]);
    let foreign = || vec![Record::address(&question.name, ttl, FOREIGN)];
    match moody.get() {
        Mood::Good => {}
        Mood::Slow => reply.delay = LATE,
        Mood::Silent => reply.silent = true,
        Mood::Lying => lie(&mut reply, &name, &question.name, foreign()),
        Mood::Flooding => {
            let forged = |number| Forged { id_offset: number * 7 + 1, question: None, answers: foreign() };
            reply.forged = (0..FLOOD).map(forged).collect();
        }
    }
    Some(reply)
}

/// One lie for each name, of four.
fn lie(reply: &mut Reply, name: &str, asked: &str, foreign: Vec<Record>) {
    match name.bytes().map(u32::from).sum::<u32>() % 4 {
        0 => reply.forged = vec![Forged { id_offset: 1, question: None, answers: foreign }],
        1 => {
            let question = Some("another.test".to_owned());
            reply.forged = vec![Forged { id_offset: 0, question, answers: foreign }];
        }
        2 => reply.answers.push(Record::address("another.test", TTL, FOREIGN)),
        // Loopback, which nobody may be sent to.
        _ => reply.answers = vec![Record::address(asked, TTL, [127, 0, 0, 1])],
    }
}
