//! What DoT, DoH and DoQ have in common: one question answered, its reply padded, and how long who may stay.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::tcp::Connections;
use crate::control::query_log::Tapped;
use crate::core::person::{Person, Who};
use crate::dns::codec::wire::{HEADER, rtype, skip_name, u16_at};
use crate::dns::resolver::pending::Route;
use crate::dns::resolver::unsent::Reply;
use crate::dns::resolver::{Handled, Resolver, Turn};
use crate::dns::transport::Transport;
use crate::tls::people::{NoLonger, Shown, Trust};

/// Encrypted connections at once, all transports together.
pub const CONNECTIONS: usize = 2048;
/// Encrypted connections of one client at once.
pub const CONNECTIONS_PER_CLIENT: usize = 64;
/// How long a handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection without question for so long is closed; longer than TCP's, for a handshake is dear. (Tests don't wait half a minute.)
pub const IDLE: Duration = Duration::from_secs(if cfg!(test) { 8 } else { 30 });
/// The same when three quarters of all connections are in use.
const IDLE_CROWDED: Duration = Duration::from_secs(3);
/// How long a guard that stops waits for the first question of a connection: it is on its way.
pub const FIRST: Duration = Duration::from_millis(300);
/// How often a connection on which nothing ends by itself is looked at for that.
pub const LOOK: Duration = Duration::from_millis(500);
/// The longest that a question can take: the upstream's time and the gate's, with room.
const ANSWER: Duration = Duration::from_secs(30);
/// Replies are padded to a multiple of this (RFC 8467 section 4.1).
const BLOCK: usize = 468;
/// Octets of an option before its value.
const OPTION: usize = 4;

/// How long a connection may be idle.
pub fn idle_time(connections: &Connections) -> Duration {
    if connections.encrypted().limit().taken() > CONNECTIONS / 4 * 3 { IDLE_CROWDED } else { IDLE }
}

/// The metric's word for connections that end since their certificate counts no more.
pub const CERTIFICATE: &str = "client_certificate";

/// Who asks on a connection, at this path of DNS over HTTPS where it isn't the usual one.
///
/// # Errors
/// [`NoLonger`]: the connection is to end.
pub fn who(client: IpAddr, shown: Option<(&Trust, &Shown)>, path: Option<&str>) -> Result<Who, NoLonger> {
    let certificate = shown.map_or(Ok(None), |(trust, shown)| trust.certificate_of(shown))?;
    let path = path.map(Box::from);
    let person = (certificate.is_some() || path.is_some()).then(|| Arc::new(Person { certificate, path }));
    Ok(Who { address: client, person })
}

/// Why a message has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It is no question.
    NoQuestion,
    /// A list leaves it without reply (`rpz-drop`).
    Silence,
    /// Nothing came of it in time.
    Late,
}

/// The reply to one message, from `who`, sent to the guard's address `local`.
///
/// # Errors
/// [`Unanswered`].
pub async fn answer(
    resolver: &Arc<Resolver>,
    message: &[u8],
    who: &Who,
    local: Option<IpAddr>,
    transport: Transport,
) -> Result<Reply, Unanswered> {
    let client = who.address;
    resolver.metrics.encrypted_questions.get_or_create(&transport.label()).inc();
    // Room for the one reply, so that sending it never waits.
    let (sender, mut reply) = mpsc::channel(1);
    let mut out = Vec::new();
    let tapped = |reply, octets| {
        resolver.query_log.tap(Tapped { way: transport.way(), reply, client, port: None, local, octets });
    };
    let missed = {
        let rules = resolver.rules.load();
        let mut turn = Turn::new(&rules, resolver.clock.now(), local);
        let handled = resolver.handle(message, who, true, &mut turn, &mut out);
        resolver.metrics.cache_hits.inc_by(turn.hits);
        resolver.metrics.released.inc_by(turn.released);
        if !matches!(handled, Handled::Drop) {
            tapped(false, message);
        }
        match handled {
            Handled::Reply => false,
            Handled::Miss(missed) => {
                resolver.submit(&missed, who, Route::Stream(sender, client));
                true
            }
            Handled::Drop => return Err(Unanswered::NoQuestion),
            Handled::Silence => return Err(Unanswered::Silence),
        }
    };
    let mut out = if missed {
        // Every pending answers those who wait; the time is a net below that.
        tokio::time::timeout(ANSWER, reply.recv()).await.ok().flatten().ok_or(Unanswered::Late)?
    } else {
        resolver.outgoing(client, out)
    };
    resolver.metrics.replies.count(transport.way(), &out.octets);
    pad(&mut out.octets);
    tapped(true, &out.octets);
    Ok(out)
}

/// Pads a reply of the guard's own (RFC 7830 section 4): for clients that speak EDNS, to a multiple of 468 octets.
/// Its OPT, if it has one, is its last record; this relies on it and changes nothing where it isn't so.
pub fn pad(reply: &mut Vec<u8>) {
    const PADDING: u16 = 12;
    let bare = reply.len().saturating_add(OPTION);
    let end = bare.next_multiple_of(BLOCK).min(usize::from(u16::MAX));
    let Some(padding) = end.checked_sub(bare) else { return };
    // No padding is longer than a block.
    add_option(reply, PADDING, [0; BLOCK].get(..padding).unwrap_or_default());
}

/// Adds an option to the OPT that ends a reply of the guard's own, where there is one and there is room.
pub fn add_option(reply: &mut Vec<u8>, option: u16, value: &[u8]) {
    let Some(opt) = last_opt(reply) else { return };
    let (Some(len_at), Ok(len)) = (opt.checked_add(9), u16::try_from(value.len())) else { return };
    let whole = reply.len().saturating_add(OPTION).saturating_add(value.len());
    let known = u16_at(reply, len_at).and_then(|known| known.checked_add(len)?.checked_add(OPTION as u16));
    let Some(options) = known.filter(|_| whole <= usize::from(u16::MAX)) else { return };
    crate::dns::codec::wire::put_u16(reply, len_at, options);
    reply.extend_from_slice(&option.to_be_bytes());
    reply.extend_from_slice(&len.to_be_bytes());
    reply.extend_from_slice(value);
}

/// Where the OPT record begins, if it ends the message.
fn last_opt(reply: &[u8]) -> Option<usize> {
    let count = |at| u16_at(reply, at).map_or(0, u32::from);
    let mut at = HEADER;
    for _ in 0..count(4) {
        at = skip_name(reply, at)?.checked_add(4)?;
    }
    let records = count(6).saturating_add(count(8)).saturating_add(count(10));
    for index in 1..=records {
        let start = at;
        let fixed = skip_name(reply, at)?;
        let kind = u16_at(reply, fixed)?;
        at = fixed.checked_add(10)?.checked_add(usize::from(u16_at(reply, fixed.checked_add(8)?)?))?;
        if index == records {
            return (kind == rtype::OPT && at == reply.len() && fixed == start.checked_add(1)?).then_some(start);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codec::ede::Ede;
    use crate::dns::codec::query::ClientEdns;
    use crate::dns::codec::reply::{ReplyHead, any, error};

    #[test]
    fn replies_with_edns_are_padded_and_stay_well_formed() {
        let edns = Some(ClientEdns { size: 1232, dnssec_ok: false, cookie: None });
        let question = b"\x01a\x07example\x00\x00\xff\x00\x01";
        let head = ReplyHead { id: 7, flags: 0x0100, octets: question, edns, limit: 65_535 };
        let ede = Ede::new(23, "words");
        for kind in 0..3 {
            let mut out = Vec::new();
            match kind {
                0 => any(&head, &mut out),
                1 => error(2, &head, None, &mut out),
                _ => error(2, &head, Some(&ede), &mut out),
            }
            let plain = hickory_proto::op::Message::from_vec(&out).unwrap();
            pad(&mut out);
            assert_eq!(out.len(), BLOCK);
            let padded = hickory_proto::op::Message::from_vec(&out).unwrap();
            assert_eq!(plain.answers, padded.answers);
        }
    }

    #[test]
    fn where_three_quarters_are_taken_less_time_is_given() {
        let connections = Connections::default();
        assert_eq!(idle_time(&connections), IDLE);
        let limit = connections.encrypted().limit();
        let claim = |last: u8| crate::core::client::Clients::default().claim([192, 0, 2, last].into());
        let crowd: Vec<_> = (0..24).map(|one| limit.take_some(claim(one), CONNECTIONS_PER_CLIENT).ok()).collect();
        assert!(crowd.iter().all(Option::is_some));
        assert_eq!(idle_time(&connections), IDLE);
        let one_more = limit.take(claim(99)).ok();
        assert_eq!((one_more.is_some(), idle_time(&connections)), (true, IDLE_CROWDED));
    }

    #[test]
    fn others_stay_as_they_are() {
        let question = b"\x01a\x07example\x00\x00\x01\x00\x01";
        let head = ReplyHead { id: 7, flags: 0x0100, octets: question, edns: None, limit: 65_535 };
        let mut out = Vec::new();
        error(2, &head, None, &mut out);
        let before = out.clone();
        pad(&mut out);
        assert_eq!(out, before);
        for len in 0..before.len() {
            let mut cut = before[..len].to_vec();
            pad(&mut cut);
            assert_eq!(cut, before[..len]);
        }
    }
}
