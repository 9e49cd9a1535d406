//! The octets of a file of records, so that damage to some of them costs no others.
//!
//! ```text
//!  file  = head head frame*
//!  head  = magic 8 | boot id 36 | secret 8 | epoch 8 | first 4 | settled 4 | crc32c 4
//!  frame = mark 4 | number 4 | length 2 | crc32c 4 | record
//! ```
//! Integers are big-endian. The head stands there twice, so that one of them is whole. The mark, which is the secret's first half, lets a reader find
//! the next frame behind one that it can't read. The checksum of a frame begins with the secret: the names in a record are what others
//! chose, and none of them may pass for a frame. The secret is drawn at each start and never leaves the file.
//!
//! # What damage may hide
//!
//! Frames are numbered without gaps, so that a reader knows how many it could not read. A revocation is written as two frames, one behind the
//! other. If one frame alone is missing, no revocation is. If several in a row are, one may be among them, and what stood before
//! it may have been revoked: those leases are not restored, those written later are. The first `settled` frames behind `first` are what
//! was alive when the file was made, and no revocation is among them. Without this rule a bad sector could open what the operator
//! closed; with it the price of such a sector is that clients ask again.

use super::record::{self, Record};

/// Begins a file.
const MAGIC: &[u8; 8] = b"DGLEASE4";
/// Files of earlier versions: a head without its like, and records without marks.
const OLD_MAGICS: [&[u8; 8]; 3] = [b"DGLEASE3", b"DGLEASE2", b"DGLEASE1"];
/// A boot id is a UUID in text form.
const BOOT_ID: usize = 36;
/// Octets of a head.
const HEAD: usize = 8 + BOOT_ID + 8 + 8 + 4 + 4 + 4;
/// Octets of a frame before its record.
const FRAME: usize = 4 + 4 + 2 + 4;
/// The least that a revocation takes in a file: two frames with a tag and the shortest name.
const LEAST_REVOCATION: usize = 2 * (FRAME + 2);

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Names the boot of the machine in which it was written.
    pub boot_id: String,
    /// Of the process that wrote it.
    pub secret: u64,
    /// Each file has a later one than those before it.
    pub epoch: u64,
    /// The first frame's number.
    pub first: u32,
    /// So many frames are what was alive when the file was made.
    pub settled: u32,
}

/// What a file holds, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record of the journal that could be read.
    Record(Record),
    /// What could not be read here may have revoked anything before it.
    Gap,
}

/// What could be read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Names the boot in which it was written.
    pub boot_id: String,
    /// Its epoch; 0 of an earlier version.
    pub epoch: u64,
    /// Records and gaps.
    pub entries: Vec<Entry>,
    /// What is wrong with it. The torn end that a crash leaves is not.
    pub damage: Option<String>,
}

/// Appends the head, twice.
pub fn put_heads(head: &Head, out: &mut Vec<u8>) {
    let mut octets = MAGIC.to_vec();
    octets.extend(head.boot_id.bytes().chain(std::iter::repeat(b' ')).take(BOOT_ID));
    octets.extend(head.secret.to_be_bytes());
    octets.extend(head.epoch.to_be_bytes());
    octets.extend(head.first.to_be_bytes());
    octets.extend(head.settled.to_be_bytes());
    octets.extend(record::crc32c(&[&octets]).to_be_bytes());
    out.extend_from_slice(&octets);
    out.extend_from_slice(&octets);
}

fn take_head(octets: &[u8]) -> Option<Head> {
    let octets = octets.get(..HEAD)?;
    let (body, sum) = octets.split_last_chunk::<4>()?;
    if record::crc32c(&[body]) != u32::from_be_bytes(*sum) {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let (boot_id, rest) = rest.split_at_checked(BOOT_ID)?;
    let (secret, rest) = rest.split_first_chunk()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (settled, _) = rest.split_first_chunk()?;
    Some(Head {
        boot_id: String::from_utf8_lossy(boot_id).trim().to_owned(),
        secret: u64::from_be_bytes(*secret),
        epoch: u64::from_be_bytes(*epoch),
        first: u32::from_be_bytes(*first),
        settled: u32::from_be_bytes(*settled),
    })
}

fn mark(secret: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = secret.to_be_bytes();
    [a, b, c, d]
}

/// Appends one frame.
pub fn put_frame(secret: u64, number: u32, record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&mark(secret));
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    record::encode(record, out);
    let payload = out.get(start + FRAME..).unwrap_or_default();
    // A record is far shorter than 64 KiB.
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let sum = record::crc32c(&[&secret.to_be_bytes(), &number.to_be_bytes(), &length, payload]).to_be_bytes();
    if let Some(place) = out.get_mut(start + 8..start + FRAME) {
        place.copy_from_slice(&[length[0], length[1], sum[0], sum[1], sum[2], sum[3]]);
    }
}

/// A frame that was read.
struct Frame {
    number: u32,
    /// `None`: of a kind that only a later version knows.
    record: Option<Record>,
    length: usize,
    marked: bool,
}

/// The frame at the front, whatever its mark looks like: the checksum says whether it is one.
fn take_frame(secret: u64, octets: &[u8]) -> Option<Frame> {
    let (found, rest) = octets.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    if record::crc32c(&[&secret.to_be_bytes(), number, length, payload]) != u32::from_be_bytes(*sum) {
        return None;
    }
    let record = record::decode(payload);
    Some(Frame {
        number: u32::from_be_bytes(*number),
        record,
        length: FRAME + payload.len(),
        marked: *found == mark(secret),
    })
}

/// Reads a file, however much of it is damaged.
#[must_use]
pub fn read(octets: &[u8]) -> Stored {
    let heads = [take_head(octets), octets.get(HEAD..).and_then(take_head)];
    let whole = heads.iter().all(Option::is_some);
    if let Some(head) = heads.into_iter().flatten().next() {
        return read_frames(head, octets.get(2 * HEAD..).unwrap_or_default(), whole);
    }
    match octets.split_first_chunk::<8>() {
        Some((magic, rest)) if OLD_MAGICS.contains(&magic) => read_old(rest),
        _ => Stored { damage: Some("it doesn't begin like a lease journal".to_owned()), ..Stored::default() },
    }
}

fn read_frames(head: Head, mut rest: &[u8], heads_whole: bool) -> Stored {
    let secret = head.secret;
    let settled = head.first.wrapping_add(head.settled);
    let mut entries = Vec::new();
    let (mut places, mut lost) = (u32::from(!heads_whole), 0u32);
    let mut expected = head.first;
    let after = |number: u32, before: u32| number.wrapping_sub(before);
    while !rest.is_empty() {
        let here = take_frame(secret, rest).filter(|frame| after(frame.number, expected) < u32::MAX / 2);
        let (frame, skipped) = match here {
            Some(frame) => (frame, 0),
            None => match next_frame(secret, rest, expected) {
                Some(found) => found,
                None => break,
            },
        };
        let missing = after(frame.number, expected);
        if skipped > 0 || missing > 0 || !frame.marked {
            places = places.saturating_add(1);
        }
        if missing > 0 {
            lost = lost.saturating_add(missing);
            // Numbers before `settled` are of what was alive.
            let revoking = frame.number.wrapping_sub(settled);
            let beyond = if revoking < u32::MAX / 2 { revoking.min(missing) } else { 0 };
            if beyond > 1 {
                entries.push(Entry::Gap);
            }
        }
        entries.extend(frame.record.map(Entry::Record));
        expected = frame.number.wrapping_add(1);
        rest = rest.get(skipped.saturating_add(frame.length)..).unwrap_or_default();
    }
    // What is too short for a revocation hides none, and a crash leaves it too.
    if rest.len() >= LEAST_REVOCATION && !is_torn(rest, expected, secret) {
        places = places.saturating_add(1);
        if !is_one(rest, expected, secret) && after(expected, settled) < u32::MAX / 2 {
            entries.push(Entry::Gap);
        }
    }
    let damage = (places > 0).then(|| format!("it is damaged in {places} place(s), {lost} record(s) or more are lost"));
    Stored { boot_id: head.boot_id, epoch: head.epoch, entries, damage }
}

/// The next frame behind the front that can be read, and what has to be skipped for it.
fn next_frame(secret: u64, octets: &[u8], expected: u32) -> Option<(Frame, usize)> {
    let mark = mark(secret);
    let places = octets.windows(mark.len()).enumerate().skip(1).filter(|(_, window)| *window == mark);
    places
        .filter_map(|(at, _)| Some((take_frame(secret, octets.get(at..)?)?, at)))
        .find(|(frame, _)| frame.number.wrapping_sub(expected) < u32::MAX / 2)
}

/// Whether this is what a crash leaves at the end: the front of the next frame, or what the file system had no time to fill.
fn is_torn(rest: &[u8], expected: u32, secret: u64) -> bool {
    if rest.iter().all(|octet| *octet == 0) {
        return true;
    }
    let front: Vec<u8> = mark(secret).into_iter().chain(expected.to_be_bytes()).collect();
    let same = rest.iter().zip(&front).all(|(one, other)| one == other);
    let length = rest.get(8..10).and_then(|length| length.try_into().ok()).map(u16::from_be_bytes);
    same && length.is_none_or(|length| rest.len() < FRAME + usize::from(length))
}

/// Whether this is the next frame alone, but for a bit of its head and whatever of its record.
fn is_one(rest: &[u8], expected: u32, secret: u64) -> bool {
    let Some(length) = rest.len().checked_sub(FRAME).and_then(|length| u16::try_from(length).ok()) else {
        return false;
    };
    let front = mark(secret).into_iter().chain(expected.to_be_bytes()).chain(length.to_be_bytes());
    rest.iter().zip(front).map(|(one, other)| (one ^ other).count_ones()).sum::<u32>() <= 1
}

/// Files without marks end where they are torn. One that is damaged elsewhere says nothing of what was revoked behind that: none of it is used.
fn read_old(octets: &[u8]) -> Stored {
    let Some((boot_id, mut rest)) = octets.split_at_checked(BOOT_ID) else {
        return Stored { damage: Some("it is cut within its head".to_owned()), ..Stored::default() };
    };
    let mut stored = Stored { boot_id: String::from_utf8_lossy(boot_id).trim().to_owned(), ..Stored::default() };
    while !rest.is_empty() {
        let Some((record, length)) = record::decode_old(rest) else { break };
        stored.entries.push(Entry::Record(record));
        rest = rest.get(length..).unwrap_or_default();
    }
    let declared = rest.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
    let torn =
        declared.is_none_or(|length| rest.len() < record::OLD_HEAD + length) || rest.iter().all(|octet| *octet == 0);
    if !torn {
        stored.entries.push(Entry::Gap);
        stored.damage =
            Some(format!("an earlier version wrote it, and it is damaged {} octets before its end", rest.len()));
    }
    stored
}

/// What takes an address back stands in the file twice.
#[must_use]
pub fn copies(record: &Record) -> usize {
    match record {
        Record::Closed { .. } | Record::Revoked { .. } | Record::PairClosed { .. } => 2,
        Record::Lease { .. } | Record::Pair { .. } | Record::Time { .. } => 1,
    }
}

/// Appends whatever frames a record takes; `next` is the next one's number.
pub fn put(secret: u64, next: &mut u32, record: &Record, out: &mut Vec<u8>) {
    for _ in 0..copies(record) {
        put_frame(secret, *next, record, out);
        *next = next.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests;
