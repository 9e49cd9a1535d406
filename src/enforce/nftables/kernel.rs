//! Requests to nf_tables over one long-lived socket: transactions, dumps, counters.

use std::io;
use std::ops::Range;

use super::elements::{self, Features, Held, Key, Set, Transaction};
use super::error::NftError;
use super::fit::Dated;
use super::wire::{self, F_DUMP, F_REQUEST, Message, NFPROTO_BRIDGE, NFPROTO_INET, Refusal, SUBSYS_NFTABLES, Writer};
use super::{Count, Counters, TABLE, lock};
use crate::sys::clock::Clock;
use crate::sys::netlink::Socket;

const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const GET_OBJECT: u8 = 19;

const TABLE_NAME: u16 = 1;
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_DATA: u16 = 4;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// Buffer asked for: the acknowledgements of the largest transaction fit.
const BUFFER: i32 = 8 << 20;
/// One part of a dump; the kernel makes them as long as the reader's buffer, at most 32 KiB.
const PART: usize = 64 << 10;
/// Most elements looked up at once: their replies fit the socket's buffer many times over.
pub const LOOK_UP: usize = 256;
/// How long the kernel may take for the next part of a dump.
const PATIENCE_MS: i32 = 10_000;

/// The socket and what its kernel can do.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// What this kernel can do, as [`Features`] lists it.
    pub features: Features,
}

impl Kernel {
    /// Opens the socket in the calling thread's network namespace. `features` are taken for granted until probed.
    ///
    /// # Errors
    /// [`NftError::Netlink`].
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::netfilter(BUFFER).map_err(|source| failed("opening a socket", source))?;
        let features = Features { refresh: false, destroy: false };
        Ok(Self { socket, sequence: 1, buffer: vec![0; PART], features })
    }

    /// The netlink port that appears in notifications of what this socket did.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// A transaction on our table.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.sequence)
    }

    /// A transaction on another table.
    #[must_use]
    pub fn transaction_on(&self, table: &str) -> Transaction {
        Transaction::on(table, self.sequence)
    }

    /// Commits a transaction: all of it is in force when this returns, or nothing of it.
    ///
    /// # Errors
    /// [`NftError::Full`], [`NftError::Gone`], [`NftError::Permission`] and others.
    pub fn commit(&mut self, doing: &'static str, transaction: Transaction) -> Result<(), NftError> {
        if transaction.requests() == 0 {
            return Ok(());
        }
        let (octets, expected, next) = transaction.finish();
        self.sequence = next;
        self.drain();
        if let Ok(length) = i32::try_from(octets.len())
            && length > BUFFER / 2
        {
            self.socket.grow(length.saturating_mul(2));
        }
        self.socket.send(&octets).map_err(|source| failed(doing, source))?;
        self.acknowledged(doing, &expected)
    }

    /// Every element of a set. Slow for large ones: 0.2 s at 100,000, quadratic.
    ///
    /// # Errors
    /// [`NftError::Gone`] and others.
    pub fn dump(&mut self, table: &str, set: Set) -> Result<Vec<Held>, NftError> {
        let mut all = Vec::new();
        self.parts(table, set, |part| all.extend(part))?;
        Ok(all)
    }

    /// The same, with the time at which each was read.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn dump_dated(&mut self, table: &str, set: Set, clock: Clock) -> Result<Vec<Dated>, NftError> {
        let mut all = Vec::new();
        // The kernel reads the next part while it gives one away, and the first two before it gave any.
        let mut times = [clock.now(); 2];
        self.parts(table, set, |part| {
            let [from, before] = times;
            let to = clock.now();
            all.extend(part.into_iter().map(|held| Dated { held, from, to }));
            times = [before, to];
        })?;
        Ok(all)
    }

    fn parts(&mut self, table: &str, set: Set, mut each: impl FnMut(Vec<Held>)) -> Result<(), NftError> {
        let sequence = self.next_sequence();
        let request = elements::dump_request(table, set, sequence);
        self.ask("dumping a set", sequence, &request, |message| {
            each(elements::read_elements(set, message.attributes()).collect());
        })
    }

    /// These elements of a set, in order; `None` for those that aren't there. At most [`LOOK_UP`] at once. Cheap whatever the size
    /// of the set: about a microsecond for each.
    ///
    /// # Errors
    /// Those of the socket. A set that isn't there has no elements.
    pub fn look_up(&mut self, table: &str, set: Set, keys: &[Key]) -> Result<Vec<Option<Held>>, NftError> {
        let doing = "looking elements up";
        let mut found: Vec<Option<Held>> = Vec::with_capacity(keys.len());
        while let Some(rest) = keys.get(found.len()..).filter(|rest| !rest.is_empty()) {
            let sequence = self.next_sequence();
            let request = elements::look_up_request(table, set, rest, sequence);
            self.drain();
            self.socket.send(&request).map_err(|source| failed(doing, source))?;
            let mut end = None;
            while let Some(datagram) = self.socket.receive(&mut self.buffer).map_err(|source| failed(doing, source))? {
                for message in wire::messages(datagram).filter(|message| message.sequence == sequence) {
                    match message.verdict() {
                        Some(verdict) => end = end.or(Some(verdict)),
                        None => found.extend(elements::read_elements(set, message.attributes()).map(Some)),
                    }
                }
            }
            match end {
                Some(Ok(())) if found.len() == keys.len() => {}
                Some(Err(refusal)) if refusal.errno == libc::ENOENT && found.len() < keys.len() => found.push(None),
                Some(Err(refusal)) => return Err(refused(doing, &refusal)),
                _ => return Err(NftError::Malformed("other elements than were asked for")),
            }
        }
        let as_asked = |(found, key): (&Option<Held>, &Key)| found.is_none_or(|held| held.key == *key);
        if found.iter().zip(keys).all(as_asked) {
            Ok(found)
        } else {
            Err(NftError::Malformed("other elements than were asked for"))
        }
    }

    /// Whether our table exists.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn has_table(&mut self) -> Result<bool, NftError> {
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        let open = writer.begin(wire::kind(SUBSYS_NFTABLES, GET_TABLE), F_REQUEST, sequence, NFPROTO_INET, 0);
        writer.put_text(TABLE_NAME, TABLE);
        writer.end(open);
        let mut found = false;
        let asked = self.ask("looking for the table", sequence, writer.octets(), |_| found = true);
        match asked {
            Ok(()) => Ok(found),
            Err(NftError::Gone) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes our table with all it holds; its absence is no error.
    ///
    /// # Errors
    /// [`NftError::Permission`] and others.
    pub fn delete_table(&mut self) -> Result<(), NftError> {
        let mut transaction = self.transaction();
        transaction.request(DELETE_TABLE, 0, |writer| writer.put_text(TABLE_NAME, TABLE));
        match self.commit("removing the table", transaction) {
            Err(NftError::Gone) => {}
            other => other?,
        }
        lock::remove_left(self)?;
        self.delete_bridge_table()
    }

    /// Removes the table that marks what is bridged; its absence is no error.
    ///
    /// # Errors
    /// [`NftError::Permission`] and others.
    pub fn delete_bridge_table(&mut self) -> Result<(), NftError> {
        let mut transaction = self.transaction();
        transaction.request_of(NFPROTO_BRIDGE, DELETE_TABLE, 0, |writer| writer.put_text(TABLE_NAME, TABLE));
        match self.commit("removing the bridge's table", transaction) {
            // The kernel may know no tables for bridges. The table blocks nothing.
            Err(NftError::Gone | NftError::Refused { .. }) => Ok(()),
            other => other,
        }
    }

    /// The named counters.
    ///
    /// # Errors
    /// [`NftError::Gone`] and others.
    pub fn counters(&mut self) -> Result<Counters, NftError> {
        let sequence = self.next_sequence();
        let mut writer = Writer::default();
        let open = writer.begin(wire::kind(SUBSYS_NFTABLES, GET_OBJECT), F_REQUEST | F_DUMP, sequence, NFPROTO_INET, 0);
        writer.put_text(OBJECT_TABLE, TABLE);
        writer.end(open);
        let mut counters = Counters::default();
        let mut any = false;
        self.ask("reading the counters", sequence, writer.octets(), |message| {
            any |= read_counter(message.attributes(), &mut counters).is_some();
        })?;
        // A dump of a table that isn't there is empty, without an error.
        if any { Ok(counters) } else { Err(NftError::Gone) }
    }

    /// Sends one request and hands every message of the reply to `each`, until its end.
    ///
    /// # Errors
    /// The kernel's refusal, or the socket's.
    pub fn ask(
        &mut self,
        doing: &'static str,
        sequence: u32,
        request: &[u8],
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), NftError> {
        self.drain();
        self.socket.send(request).map_err(|source| failed(doing, source))?;
        loop {
            let ready = self.socket.wait(PATIENCE_MS).map_err(|source| failed(doing, source))?;
            let part = self.socket.receive(&mut self.buffer).map_err(|source| failed(doing, source))?;
            let Some(part) = part else {
                if ready {
                    continue;
                }
                return Err(NftError::Malformed("the kernel did not answer"));
            };
            let mut single = false;
            for message in wire::messages(part).filter(|message| message.sequence == sequence) {
                match message.verdict() {
                    Some(Err(refusal)) => return Err(refused(doing, &refusal)),
                    Some(Ok(())) => return Ok(()),
                    None => {
                        single |= message.flags & F_MULTI == 0;
                        each(message);
                    }
                }
            }
            if single {
                return Ok(());
            }
        }
    }

    /// Sends `count` independent requests with sequence numbers from `first`, each asking for an acknowledgement.
    ///
    /// # Errors
    /// The first refusal; the other requests are carried out all the same.
    pub fn send_acknowledged(
        &mut self,
        doing: &'static str,
        octets: &[u8],
        first: u32,
        count: usize,
    ) -> Result<(), NftError> {
        self.drain();
        self.socket.send(octets).map_err(|source| failed(doing, source))?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.acknowledged(doing, &(first.wrapping_sub(1)..first.wrapping_add(count)))
    }

    /// Reads what the kernel answered to a transaction: all of it is queued already.
    fn acknowledged(&mut self, doing: &'static str, expected: &Range<u32>) -> Result<(), NftError> {
        let wanted = expected.end.wrapping_sub(expected.start).saturating_sub(1);
        let mut acknowledged = 0u32;
        let mut refusal = None;
        while let Some(datagram) = self.socket.receive(&mut self.buffer).map_err(|source| failed(doing, source))? {
            for message in wire::messages(datagram) {
                if message.sequence.wrapping_sub(expected.start) > wanted.saturating_add(1) {
                    continue;
                }
                match message.verdict() {
                    Some(Ok(())) => acknowledged = acknowledged.saturating_add(1),
                    // The first one says why; those behind it may be its consequences.
                    Some(Err(first)) if refusal.is_none() => refusal = Some(first),
                    _ => {}
                }
            }
        }
        match refusal {
            Some(refusal) => Err(refused(doing, &refusal)),
            None if acknowledged >= wanted => Ok(()),
            None => Err(NftError::Malformed("fewer acknowledgements than requests")),
        }
    }

    /// Forgets replies to requests that were given up.
    fn drain(&mut self) {
        while let Ok(Some(_)) = self.socket.receive(&mut self.buffer) {}
    }

    /// A sequence number that was not used lately.
    pub fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        sequence
    }
}

/// `NLM_F_MULTI`: more of the reply follows.
const F_MULTI: u16 = 0x2;

fn read_counter(attributes: &[u8], counters: &mut Counters) -> Option<()> {
    let name = wire::text(wire::find(attributes, OBJECT_NAME)?);
    let data = wire::find(attributes, OBJECT_DATA)?;
    let count = Count {
        packets: wire::find(data, COUNTER_PACKETS).and_then(wire::u64_of)?,
        bytes: wire::find(data, COUNTER_BYTES).and_then(wire::u64_of)?,
    };
    match name.as_str() {
        "allowed" => counters.allowed = count,
        "established" => counters.established = count,
        "denied" => counters.denied = count,
        "dns_bypass" => counters.dns_bypass = count,
        _ => return None,
    }
    Some(())
}

/// What a failed system call means.
pub fn failed(doing: &'static str, source: io::Error) -> NftError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => NftError::Permission,
        _ => NftError::Netlink { doing, source },
    }
}

/// What a refused request means.
fn refused(doing: &'static str, refusal: &Refusal) -> NftError {
    match refusal.errno {
        libc::EPERM | libc::EACCES => NftError::Permission,
        libc::ENFILE => NftError::Full,
        libc::ENOENT => NftError::Gone,
        _ => NftError::Refused { doing, reason: refusal.to_string() },
    }
}
