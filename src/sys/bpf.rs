//! bpf(2), where the library that loads programs doesn't go: links of cgroups, pins, and tables in batches.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP: i32 = 1;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const OBJ_INFO: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_UPDATE_BATCH: i32 = 26;
const MAP_DELETE_BATCH: i32 = 27;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

/// The kernel's `BPF_LINK_TYPE_CGROUP`: a program that hangs at a control group.
const LINK_CGROUP: u32 = 3;
/// Elements read by one call. No bucket of a table is longer.
const AT_ONCE: usize = 4096;
/// A read that a bucket doesn't fit into is tried with twice the room, up to this many elements.
const MOST_AT_ONCE: usize = 1 << 20;

/// The kernel's `BPF_FS_MAGIC`: the file system where programs are pinned.
const BPF_FS: u32 = 0xcafe_4a11;
/// The kernel's `CGROUP2_SUPER_MAGIC`: the file system of control groups.
const CGROUP2: u32 = 0x6367_7270;

/// A kind of `bpf_attr`: what one command reads and writes.
///
/// # Safety
/// It must be of `repr(C)`, without padding, as the command has it; what it points to must live through the call, as long as it says.
unsafe trait Attributes: Sized {}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct AskInfo {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct Create {
    program: u32,
    target: u32,
    hook: u32,
    flags: u32,
}

#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

#[repr(C)]
struct Detach {
    link: u32,
}

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct One {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

// SAFETY: as bpf(2) has them; who makes one keeps what it points to.
unsafe impl Attributes for Pin {}
// SAFETY: as above.
unsafe impl Attributes for One {}
// SAFETY: as above.
unsafe impl Attributes for AskInfo {}
// SAFETY: as above.
unsafe impl Attributes for Create {}
// SAFETY: as above.
unsafe impl Attributes for Update {}
// SAFETY: as above.
unsafe impl Attributes for Detach {}
// SAFETY: as above.
unsafe impl Attributes for Batch {}

fn bpf<A: Attributes>(command: i32, attributes: &mut A) -> io::Result<i64> {
    // SAFETY: `Attributes` promises that the command finds what it expects.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, mem::size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: i64) -> io::Result<OwnedFd> {
    let raw = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: a fresh descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn path_of(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn address<T>(of: &[T]) -> u64 {
    of.as_ptr().expose_provenance() as u64
}

fn address_mut<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr().expose_provenance() as u64
}

/// Gives an object a name in a bpffs, which holds it.
///
/// # Errors
/// The kernel's: EEXIST, or it isn't a bpffs.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_of(path)?;
    bpf(OBJ_PIN, &mut Pin { path: address(path.as_bytes_with_nul()), fd: number(fd), flags: 0 }).map(drop)
}

/// The object of a name.
///
/// # Errors
/// The kernel's: ENOENT, or it isn't a bpffs.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = path_of(path)?;
    descriptor(bpf(OBJ_GET, &mut Pin { path: address(path.as_bytes_with_nul()), fd: 0, flags: 0 })?)
}

fn info(fd: BorrowedFd<'_>) -> io::Result<[u32; 64]> {
    let mut info = [0u32; 64];
    let length = u32::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    bpf(OBJ_INFO, &mut AskInfo { fd: number(fd), length, info: address_mut(&mut info) })?;
    Ok(info)
}

/// A program's number.
///
/// # Errors
/// The kernel's.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info(program)?[1])
}

/// A program at a cgroup's hook. It is there as long as a descriptor or a pin of it is.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The number of the link in the kernel.
    pub id: u32,
    /// The program's number.
    pub program: u32,
    /// The cgroup's number; 0 when it was detached, or the cgroup is gone.
    pub cgroup: u64,
}

impl Link {
    /// Attaches a program, beside those of others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, hook: u32) -> io::Result<Self> {
        let mut create = Create { program: number(program), target: number(cgroup), hook, flags: 0 };
        descriptor(bpf(LINK_CREATE, &mut create)?).map(Self)
    }

    /// The link of a pin.
    ///
    /// # Errors
    /// As [`pinned`].
    pub fn pinned(path: &Path) -> io::Result<Self> {
        pinned(path).map(Self)
    }

    /// Gives it a name.
    ///
    /// # Errors
    /// As [`pin`].
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }

    /// Puts another program in the place of its own; no call meets neither.
    ///
    /// # Errors
    /// The kernel's: ENOLINK when it is detached.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let (link, program) = (number(self.0.as_fd()), number(program));
        bpf(LINK_UPDATE, &mut Update { link, program, flags: 0, old: 0 }).map(drop)
    }

    /// Takes the program from its cgroup, whoever else has a descriptor or a pin.
    ///
    /// # Errors
    /// The kernel's: it is older than 5.9.
    pub fn detach(&self) -> io::Result<()> {
        bpf(LINK_DETACH, &mut Detach { link: number(self.0.as_fd()) }).map(drop)
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// The kernel's, or it is a link of another kind.
    pub fn info(&self) -> io::Result<LinkInfo> {
        let info = info(self.0.as_fd())?;
        let [kind, id, program, _, low, high, ..] = info;
        if kind != LINK_CGROUP {
            return Err(io::Error::other("it is no link of a cgroup"));
        }
        let halves = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
        let cgroup = halves.try_into().map_or(0, u64::from_ne_bytes);
        Ok(LinkInfo { id, program, cgroup })
    }
}

/// What a table is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The table's type (`enum bpf_map_type`).
    pub kind: u32,
    /// Octets of a key.
    pub key: u32,
    /// Octets of a value.
    pub value: u32,
    /// The most elements that the table holds.
    pub most: u32,
}

/// Where reading a table has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    from: [u64; 4],
    begun: bool,
    room: usize,
}

/// A hash table of the kernel.
#[derive(Debug)]
pub struct Table {
    fd: OwnedFd,
    id: u32,
    shape: Shape,
}

impl Table {
    /// Takes a descriptor of one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        let [kind, id, key, value, most, ..] = info(fd.as_fd())?;
        Ok(Self { fd, id, shape: Shape { kind, key, value, most } })
    }

    /// The number of the table in the kernel.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it was made as.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// For pins and loaders.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Adds elements, or gives those that are there their new values. Returns how many were done: fewer when it is full.
    ///
    /// # Errors
    /// The kernel's, or keys and values aren't of the table's shape.
    pub fn put(&self, keys: &[u8], values: &[u8]) -> io::Result<usize> {
        let count = self.count(keys, self.shape.key)?;
        if self.count(values, self.shape.value)? != count {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(most) = u32::try_from(count).ok().filter(|count| *count > 0) else { return Ok(0) };
        let mut batch = self.batch(address(keys), address(values), most);
        match bpf(MAP_UPDATE_BATCH, &mut batch) {
            Ok(_) => Ok(count),
            Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) => {
                Ok(usize::try_from(batch.count).unwrap_or(0))
            }
            Err(error) => Err(error),
        }
    }

    /// Removes elements; that one isn't there is no error.
    ///
    /// # Errors
    /// The kernel's, or the keys aren't of the table's shape.
    pub fn remove(&self, keys: &[u8]) -> io::Result<()> {
        let size = usize::try_from(self.shape.key).unwrap_or(1);
        self.count(keys, self.shape.key)?;
        let mut rest = keys;
        while let Some(count) = u32::try_from(rest.len() / size).ok().filter(|count| *count > 0) {
            let mut batch = self.batch(address(rest), 0, count);
            let done = match bpf(MAP_DELETE_BATCH, &mut batch) {
                Ok(_) => return Ok(()),
                // It stops before the first that isn't there.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => usize::try_from(batch.count).unwrap_or(0),
                Err(error) => return Err(error),
            };
            rest = rest.get(size.saturating_mul(done.saturating_add(1))..).unwrap_or_default();
        }
        Ok(())
    }

    /// The value of a key; `None`: it isn't there.
    ///
    /// # Errors
    /// The kernel's, or the key isn't of the table's shape.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if self.count(key, self.shape.key)? != 1 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut value = vec![0u8; usize::try_from(self.shape.value).unwrap_or(0)];
        let map = number(self.fd.as_fd());
        let mut one = One { map, pad: 0, key: address(key), value: address_mut(&mut value), flags: 0 };
        match bpf(MAP_LOOKUP, &mut one) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands some more elements to `each`; false: there are no more. One that is added or removed meanwhile may be missing, or come twice.
    ///
    /// # Errors
    /// The kernel's.
    pub fn part(&self, at: &mut Place, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<bool> {
        let size = |octets: u32| usize::try_from(octets).unwrap_or(0);
        let (key, value) = (size(self.shape.key), size(self.shape.value));
        if key == 0 || value == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        loop {
            let room = at.room.max(AT_ONCE);
            let (mut keys, mut values) = (vec![0u8; key * room], vec![0u8; value * room]);
            let mut to = [0u64; 4];
            let most = u32::try_from(room).map_err(io::Error::other)?;
            let mut batch = self.batch(address_mut(&mut keys), address_mut(&mut values), most);
            batch.from = if at.begun { address(&at.from) } else { 0 };
            batch.to = address_mut(&mut to);
            let more = match bpf(MAP_LOOKUP_BATCH, &mut batch) {
                Ok(_) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < MOST_AT_ONCE => {
                    at.room = room * 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = usize::try_from(batch.count).unwrap_or(0).min(room);
            let elements = keys.chunks_exact(key).zip(values.chunks_exact(value)).take(count);
            elements.for_each(|(key, value)| each(key, value));
            (at.from, at.begun) = (to, true);
            return Ok(more);
        }
    }

    /// Hands every element to `each`, as [`Self::part`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn each(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut at = Place::default();
        while self.part(&mut at, &mut each)? {}
        Ok(())
    }

    fn batch(&self, keys: u64, values: u64, count: u32) -> Batch {
        Batch { from: 0, to: 0, keys, values, count, map: number(self.fd.as_fd()), element_flags: 0, flags: 0 }
    }

    fn count(&self, octets: &[u8], size: u32) -> io::Result<usize> {
        let size = usize::try_from(size).ok().filter(|size| *size > 0 && octets.len().is_multiple_of(*size));
        size.map(|size| octets.len() / size).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// What is mounted at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// The file system of pins.
    Bpf,
    /// Control groups, version 2.
    Cgroup2,
    /// Another file system, which can't be used.
    Other,
}

/// What this place is of.
///
/// # Errors
/// The kernel's.
pub fn mounted(path: &Path) -> io::Result<Mounted> {
    let path = path_of(path)?;
    let mut status = mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: both live across the call, which writes no more than the structure.
    if unsafe { libc::statfs(path.as_ptr(), status.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern of it is valid, and it was zeroed.
    let kind = unsafe { status.assume_init() }.f_type;
    // Its type is another on each machine.
    Ok(match u32::try_from(kind & 0xffff_ffff) {
        Ok(BPF_FS) => Mounted::Bpf,
        Ok(CGROUP2) => Mounted::Cgroup2,
        _ => Mounted::Other,
    })
}
