//! What the guard asks unasked: for itself (where a list is fetched from, names to be kept open), or in a client's place. The answer is judged, leased and
//! in force like any other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::DecodeError;
use tokio::sync::mpsc;

use crate::core::event::LeaseHandle;
use crate::core::name::Name;
use crate::dns::cache::{Key, Outcome};
use crate::dns::codec::query::{Parsed, parse};
use crate::dns::codec::wire::flag;
use crate::dns::resolver::pending::Route;
use crate::dns::resolver::{Missed, Resolver};

/// As whom it asks for itself: this host.
pub const ITSELF: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Every pending ends long before.
const ANSWER: Duration = Duration::from_secs(30);

/// Why no address of a name was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The name can't stand in a question.
    #[error("{0} can't be asked for")]
    Unaskable(Name),
    /// Policy says no to the name.
    #[error("{name} is denied by {rule}")]
    Denied {
        /// The name that was asked for.
        name: Name,
        /// The rule, in words, with its place.
        rule: String,
    },
    /// Nobody answered in time.
    #[error("{0}: no answer in time")]
    Late(Name),
    /// The answer is no message.
    #[error("{name}: {source}")]
    Unread {
        /// The name that was asked for.
        name: Name,
        /// The parser's word.
        source: DecodeError,
    },
    /// The answer has none, or only such as are filtered.
    #[error("{name} has no address that may be opened ({code})")]
    NoAddress {
        /// The name that was asked for.
        name: Name,
        /// The response code of the answer.
        code: ResponseCode,
    },
}

/// What an answer opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The addresses that were opened, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long the answer is good.
    pub ttl: Duration,
}

fn packet(name: &Name, qtype: u16) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet[2..4].copy_from_slice(&flag::RD.to_be_bytes());
    packet[5] = 1;
    packet.extend_from_slice(name.wire());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&1_u16.to_be_bytes());
    packet
}

impl Resolver {
    /// The addresses of a name, open for `client` when they come. `qtype`: A or AAAA.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(in crate::dns) async fn ask_unasked(
        self: &Arc<Self>,
        client: IpAddr,
        name: &Name,
        qtype: u16,
    ) -> Result<Opened, OpenError> {
        let packet = packet(name, qtype);
        let (sender, mut replies) = mpsc::channel(1);
        {
            let Parsed::Question(question) = parse(&packet) else { return Err(OpenError::Unaskable(name.clone())) };
            let rules = self.rules.load();
            let (view, now) = (rules.views.of(client), self.clock.now());
            let policy = rules.views.policy(view);
            let verdict = policy.judge(name);
            if !rules.audit && verdict.denies() {
                return Err(OpenError::Denied { name: name.clone(), rule: policy.words(verdict).to_string() });
            }
            let key = Key::new(question.name.wire(), qtype, false).in_view(view);
            let key = self.setup.load().key_of(key, client);
            let kept = self.kept(&key, rules.generation, now);
            if let Some(entry) = kept.as_ref().filter(|entry| entry.is_in_force(now, rules.lease_min))
                && entry.outcome() == Outcome::Released
                && !entry.leases().is_empty()
            {
                let addresses = entry.leases().iter().map(LeaseHandle::address).collect();
                return Ok(Opened { addresses, ttl: now.until(entry.expires()) });
            }
            let missed =
                Missed { question, name: name.clone(), key, kept: kept.is_some(), local_data: false, noted: false };
            self.submit(&missed, &client.into(), Route::Stream(sender, client));
        }
        let reply = tokio::time::timeout(ANSWER, replies.recv()).await.ok().flatten();
        let reply = reply.ok_or_else(|| OpenError::Late(name.clone()))?;
        let message =
            Message::from_vec(&reply.octets).map_err(|source| OpenError::Unread { name: name.clone(), source })?;
        let addresses: Vec<IpAddr> = message
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            })
            .collect();
        if addresses.is_empty() {
            return Err(OpenError::NoAddress { name: name.clone(), code: message.metadata.response_code });
        }
        let ttl = message.answers.iter().map(|record| record.ttl).min().unwrap_or_default();
        Ok(Opened { addresses, ttl: Duration::from_secs(ttl.into()) })
    }
}
