//! What the query log is told: each question once, when its reply is made.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use crate::control::query_log::{self, Fate};
use crate::core::event::LeaseHandle;
use crate::dns::cache::{Entry, Outcome};
use crate::dns::codec::query::Question;
use crate::dns::resolver::Resolver;

/// Who asked what, and how.
#[derive(Clone, Copy)]
pub(in crate::dns) struct Asked<'a> {
    pub(in crate::dns) client: IpAddr,
    pub(in crate::dns) stream: bool,
    /// Lower-case wire form.
    pub(in crate::dns) name: &'a [u8],
    pub(in crate::dns) qtype: u16,
    /// Since the question came.
    pub(in crate::dns) took: Duration,
}

impl<'a> Asked<'a> {
    /// Answered at once.
    pub(in crate::dns) fn now(question: &'a Question<'_>, client: IpAddr, stream: bool) -> Self {
        Self { client, stream, name: question.name.wire(), qtype: question.qtype, took: Duration::ZERO }
    }
}

/// What the reply says, and why.
pub(in crate::dns) struct End<'a> {
    pub(in crate::dns) fate: Fate,
    pub(in crate::dns) rcode: u16,
    pub(in crate::dns) why: Option<&'a str>,
}

impl Resolver {
    /// Without addresses.
    pub(in crate::dns) fn log(&self, asked: Asked<'_>, end: &End<'_>) {
        self.log_with(asked, end, SmallVec::new());
    }

    /// The reply of an entry. `fate`: of one that is an answer.
    pub(in crate::dns) fn log_entry(&self, asked: Asked<'_>, entry: &Entry, fate: Fate, why: Option<&str>) {
        if !self.query_log.keeps() {
            return;
        }
        let fate = match entry.outcome {
            Outcome::Released => fate,
            Outcome::Denied(reason) | Outcome::Failed(reason) => Fate::of_reason(reason),
        };
        let why = why.or_else(|| entry.ede.as_deref().map(|ede| ede.text.as_ref()));
        let addresses = entry.leases.iter().map(LeaseHandle::address).collect();
        let rcode = entry.message.octets().get(3).map_or(0, |flags| u16::from(flags & 0x0f));
        self.log_with(asked, &End { fate, rcode, why }, addresses);
    }

    fn log_with(&self, asked: Asked<'_>, end: &End<'_>, addresses: SmallVec<[IpAddr; 2]>) {
        if !self.query_log.keeps() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.query_log.record(query_log::Entry {
            time: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            client: asked.client,
            over: if asked.stream { "stream" } else { "udp" },
            name: SmallVec::from_slice(asked.name),
            qtype: asked.qtype,
            rcode: u8::try_from(end.rcode & 0x0f).unwrap_or(0),
            fate: end.fate,
            why: end.why.filter(|why| !why.is_empty()).map(Box::from),
            took: u32::try_from(asked.took.as_micros()).unwrap_or(u32::MAX),
            addresses,
        });
    }
}
