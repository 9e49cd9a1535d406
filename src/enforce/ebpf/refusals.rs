//! Who was refused what: the program tells of every refusal, through a ring that is read here. When nobody reads, the first 4,000 wait and the others
//! are counted.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::Error;
use super::layout::{self, Refusal};
use super::program;

/// Refusals that are read before others have a turn.
const AT_ONCE: usize = 256;

struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The ring of the program in force, also of one that was installed before this process began.
pub struct Refusals {
    ring: AsyncFd<Ring>,
    id: u32,
}

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refusals")
    }
}

impl Refusals {
    /// Opens it. Needs a tokio runtime.
    ///
    /// # Errors
    /// No program is installed.
    #[allow(unsafe_code)]
    pub fn open() -> Result<Self, Error> {
        let (ring, id) = program::refusals()?;
        let ring = Ring(ring);
        // SAFETY: the ring owns its descriptor, and nothing here closes or changes it before it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        ring.map(|ring| Self { ring, id }).map_err(|error| Error::call("waiting for refusals")(error.into()))
    }

    /// Whether it is the one that is pinned: another program may have brought another.
    #[must_use]
    pub fn is_current(&self) -> bool {
        program::refusals_id() == Some(self.id)
    }

    /// Waits for refusals and hands some of them to `seen`.
    ///
    /// # Errors
    /// The descriptor's.
    pub async fn read(&mut self, mut seen: impl FnMut(Refusal)) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        for _ in 0..AT_ONCE {
            // Read before the next is asked for: it lies in the ring until then.
            let read = ready.get_inner_mut().0.next().map(|octets| layout::refusal(&octets));
            match read {
                Some(refusal) => refusal.into_iter().for_each(&mut seen),
                None => {
                    ready.clear_ready();
                    break;
                }
            }
        }
        Ok(())
    }
}
