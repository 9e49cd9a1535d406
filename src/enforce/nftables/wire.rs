//! Netlink messages and attributes as octets (linux/netlink.h, linux/netfilter/nfnetlink.h). Pure: no socket here.
//!
//! Reading never fails half-way and never panics: an attribute or message whose length doesn't fit ends the iteration,
//! so what follows it is treated as absent.

use std::io;

/// `nfnetlink` subsystem of nf_tables.
pub const SUBSYS_NFTABLES: u8 = 10;
/// `nfnetlink` subsystem of conntrack.
pub const SUBSYS_CTNETLINK: u8 = 1;
/// Address family of our table.
pub const NFPROTO_INET: u8 = 1;
/// Address family of the table that marks what is bridged.
pub const NFPROTO_BRIDGE: u8 = 7;

/// The kernel's `NLM_F_REQUEST`: the message is a request.
pub const F_REQUEST: u16 = 0x1;
/// The kernel's `NLM_F_ACK`: the sender wants to hear that it was done.
pub const F_ACK: u16 = 0x4;
/// The kernel's `NLM_F_DUMP`: the sender wants all of a kind.
pub const F_DUMP: u16 = 0x300;
/// The kernel's `NLM_F_EXCL`: it must not be there yet.
pub const F_EXCL: u16 = 0x200;
/// The kernel's `NLM_F_CREATE`: it is made where it isn't there.
pub const F_CREATE: u16 = 0x400;
/// The kernel's `NLM_F_APPEND`: it goes behind the others.
pub const F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// The kernel's `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 0x8000;
/// Attribute type without the two flag bits.
const TYPE_MASK: u16 = 0x3fff;
/// The kernel's `NLMSGERR_ATTR_MSG`: the attribute that says in words why it refused.
const ERROR_TEXT: u16 = 1;
/// `NLM_F_CAPPED`: the error doesn't repeat the request's payload.
const F_CAPPED: u16 = 0x100;

/// The most octets put into one attribute; its length field has 16 bits.
pub const ATTRIBUTE_LIMIT: usize = 0xff00;

/// A message type within a subsystem.
#[must_use]
pub fn kind(subsystem: u8, message: u8) -> u16 {
    u16::from_be_bytes([subsystem, message])
}

/// One whole message of any netlink family.
#[must_use]
pub fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER.saturating_add(body.len())).unwrap_or(u32::MAX);
    let mut octets = Vec::with_capacity(HEADER.saturating_add(body.len()));
    octets.extend_from_slice(&length.to_ne_bytes());
    octets.extend_from_slice(&kind.to_ne_bytes());
    octets.extend_from_slice(&flags.to_ne_bytes());
    octets.extend_from_slice(&sequence.to_ne_bytes());
    octets.extend_from_slice(&[0; 4]);
    octets.extend_from_slice(body);
    octets
}

/// Requests, one behind the other, as they go into one datagram.
#[derive(Debug, Default)]
pub struct Writer {
    octets: Vec<u8>,
}

/// Where an open message or attribute began.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Open(usize);

impl Writer {
    /// What was written.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Begins a message of `kind` for `family`; `resource` is the nfgenmsg's last field.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> Open {
        let open = Open(self.octets.len());
        self.octets.extend_from_slice(&[0; 4]);
        self.octets.extend_from_slice(&kind.to_ne_bytes());
        self.octets.extend_from_slice(&flags.to_ne_bytes());
        self.octets.extend_from_slice(&sequence.to_ne_bytes());
        self.octets.extend_from_slice(&[0; 4]);
        self.octets.extend_from_slice(&[family, 0]);
        self.octets.extend_from_slice(&resource.to_be_bytes());
        open
    }

    /// Ends the message that `open` began.
    pub fn end(&mut self, open: Open) {
        let length = u32::try_from(self.octets.len().saturating_sub(open.0)).unwrap_or(u32::MAX);
        if let Some(field) = self.octets.get_mut(open.0..open.0.saturating_add(4)) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// The message that opens a transaction.
    pub fn batch_begin(&mut self, sequence: u32) {
        let open = self.begin(BATCH_BEGIN, F_REQUEST, sequence, 0, u16::from(SUBSYS_NFTABLES));
        self.end(open);
    }

    /// The message that commits it.
    pub fn batch_end(&mut self, sequence: u32) {
        let open = self.begin(BATCH_END, F_REQUEST, sequence, 0, u16::from(SUBSYS_NFTABLES));
        self.end(open);
    }

    /// Begins a nested attribute.
    pub fn nest(&mut self, attribute: u16) -> Open {
        let open = Open(self.octets.len());
        self.octets.extend_from_slice(&[0; 2]);
        self.octets.extend_from_slice(&(attribute | NESTED).to_ne_bytes());
        open
    }

    /// Ends the attribute that `open` began. It must be shorter than [`ATTRIBUTE_LIMIT`] plus one small attribute.
    pub fn unnest(&mut self, open: Open) {
        let length = u16::try_from(self.octets.len().saturating_sub(open.0)).unwrap_or(u16::MAX);
        if let Some(field) = self.octets.get_mut(open.0..open.0.saturating_add(2)) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Octets written since `open`.
    #[must_use]
    pub fn since(&self, open: Open) -> usize {
        self.octets.len().saturating_sub(open.0)
    }

    /// An attribute of a few octets.
    pub fn put(&mut self, attribute: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.octets.extend_from_slice(&length.to_ne_bytes());
        self.octets.extend_from_slice(&attribute.to_ne_bytes());
        self.octets.extend_from_slice(value);
        let padding = value.len().wrapping_neg() & 3;
        self.octets.extend_from_slice(&[0u8; 3][..padding]);
    }

    /// A zero-terminated string.
    pub fn put_text(&mut self, attribute: u16, text: &str) {
        let mut value = Vec::with_capacity(text.len().saturating_add(1));
        value.extend_from_slice(text.as_bytes());
        value.push(0);
        self.put(attribute, &value);
    }

    /// A 32 bit number in network order.
    pub fn put_u32(&mut self, attribute: u16, value: u32) {
        self.put(attribute, &value.to_be_bytes());
    }

    /// A 64 bit number in network order.
    pub fn put_u64(&mut self, attribute: u16, value: u64) {
        self.put(attribute, &value.to_be_bytes());
    }
}

/// One message of a received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The message's type, as [`kind`] splits it.
    pub kind: u16,
    /// The flags of the message's header.
    pub flags: u16,
    /// The request's sequence number.
    pub sequence: u32,
    /// Netlink port of whoever caused it.
    pub port: u32,
    /// Everything behind the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// What an acknowledgement or error says: `Some(Ok)` for an acknowledgement, `Some(Err)` with errno and the kernel's
    /// words for a refusal; `None` when it is another message.
    #[must_use]
    pub fn verdict(&self) -> Option<Result<(), Refusal>> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        // NLMSG_DONE carries an errno too, and may carry nothing on old kernels.
        let errno = number(self.payload, 0).map_or(0, |word| i32::from_ne_bytes(word).checked_neg().unwrap_or(0));
        if errno == 0 {
            return Some(Ok(()));
        }
        // error code, the request's header, its payload unless capped, then attributes.
        let mut attributes = 4usize.saturating_add(HEADER);
        if self.flags & F_CAPPED == 0 {
            let request = number(self.payload, 4)
                .map_or(HEADER, |word| usize::try_from(u32::from_ne_bytes(word)).unwrap_or(usize::MAX));
            attributes = align(request).saturating_add(4);
        }
        let words =
            self.payload.get(attributes..).and_then(|rest| find(rest, ERROR_TEXT)).map(text).unwrap_or_default();
        Some(Err(Refusal { errno, words }))
    }

    /// Whether a dump ends here.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.kind == NLMSG_DONE
    }

    /// The nfgenmsg's family.
    #[must_use]
    pub fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The attributes behind the nfgenmsg.
    #[must_use]
    pub fn attributes(&self) -> &'a [u8] {
        self.payload.get(GENERIC..).unwrap_or_default()
    }
}

/// The kernel's refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kernel's error number, as a positive one.
    pub errno: i32,
    /// The kernel's extended word; may be empty.
    pub words: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if self.words.is_empty() { Ok(()) } else { write!(f, " ({})", self.words) }
    }
}

/// The messages of a datagram.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(number(rest, 0)?)).ok()?;
        let whole = rest.get(..length)?;
        let message = Message {
            kind: u16::from_ne_bytes(number(whole, 4)?),
            flags: u16::from_ne_bytes(number(whole, 6)?),
            sequence: u32::from_ne_bytes(number(whole, 8)?),
            port: u32::from_ne_bytes(number(whole, 12)?),
            payload: whole.get(HEADER..)?,
        };
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `octets`: type without flags, and value.
pub fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let attribute = u16::from_ne_bytes(number(rest, 2)?) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((attribute, value))
    })
}

/// The first attribute of this type.
#[must_use]
pub fn find(octets: &[u8], attribute: u16) -> Option<&[u8]> {
    attributes(octets).find(|(found, _)| *found == attribute).map(|(_, value)| value)
}

/// A zero-terminated string; octets that are not UTF-8 are replaced.
#[must_use]
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|octet| *octet == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// A 32 bit number in network order.
#[must_use]
pub fn u32_of(value: &[u8]) -> Option<u32> {
    number(value, 0).map(u32::from_be_bytes)
}

/// A 64 bit number in network order.
#[must_use]
pub fn u64_of(value: &[u8]) -> Option<u64> {
    number(value, 0).map(u64::from_be_bytes)
}

/// Octets of a fixed length at a place.
pub fn number<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::default();
        writer.batch_begin(7);
        let message = writer.begin(kind(SUBSYS_NFTABLES, 12), F_REQUEST | F_ACK, 8, NFPROTO_INET, 0);
        writer.put_text(1, "destguard");
        let list = writer.nest(3);
        writer.put_u64(4, 1500);
        writer.unnest(list);
        writer.end(message);
        writer.batch_end(9);

        let read: Vec<_> = messages(writer.octets()).collect();
        assert_eq!(read.iter().map(|m| m.sequence).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(read[1].kind, 0x0a0c);
        assert_eq!(read[1].family(), Some(NFPROTO_INET));
        assert_eq!(find(read[1].attributes(), 1).map(text).as_deref(), Some("destguard"));
        let inner = find(read[1].attributes(), 3).expect("nested");
        assert_eq!(find(inner, 4).and_then(u64_of), Some(1500));
    }

    #[test]
    fn a_refusal_is_read_with_its_words() {
        let mut payload = Vec::new();
        payload.extend_from_slice(&(-23i32).to_ne_bytes());
        payload.extend_from_slice(&[0; HEADER]);
        let mut words = Writer::default();
        words.put_text(ERROR_TEXT, "too many");
        payload.extend_from_slice(words.octets());
        let message = Message { kind: NLMSG_ERROR, flags: F_CAPPED, sequence: 1, port: 0, payload: &payload };
        assert_eq!(message.verdict(), Some(Err(Refusal { errno: 23, words: "too many".to_owned() })));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            for message in messages(&octets) {
                std::hint::black_box(message.verdict());
                for (_, value) in attributes(message.attributes()) {
                    let _ = (text(value), u64_of(value), attributes(value).count());
                }
            }
            // Attributes straight from noise: the message framing rarely lets noise get that far.
            let _ = attributes(&octets).map(|(_, value)| attributes(value).count()).sum::<usize>();
        }
    }
}
