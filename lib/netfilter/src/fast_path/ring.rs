//! What the program hands to one thread of its owner: a ring in memory that both see (`kernel/bpf/ringbuf.c`). The thread's position is
//! on a page that it writes; the kernel's position, and the records twice over, one behind the other, are on pages that it reads only.
#![allow(unsafe_code, reason = "mmap(2), and memory that the kernel writes")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::syscalls;

/// A packet of more bytes is not handed over.
pub(super) const MOST: usize = 1504;
/// Bytes of a record: the packet's length, and the packet from the eighth on.
pub(super) const PLACE: usize = MOST + 8;
/// Of all records: some 1,300, a twentieth of a second of new connections; further ones are queued.
const BYTES: usize = 2 << 20;
/// What the kernel has before each record: length, with bits of its own, and 4 bytes more.
const HEADER: usize = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const _: () = assert!(BYTES.is_power_of_two() && PLACE.is_multiple_of(8) && PLACE < DISCARDED as usize);

/// Without memory of this process.
pub(super) fn create() -> io::Result<OwnedFd> {
    syscalls::create_ring(BYTES as u32)
}

/// The reader's end. Readable (poll) when something was handed over.
pub struct Ring {
    fd: OwnedFd,
    own: Mapping,
    shared: Mapping,
    page: usize,
    /// Up to where it was read.
    position: u64,
}

/// Memory that is given back in the end.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory belongs to this process, not to a thread; who owns the mapping owns the only pointer to it here.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, (offset, bytes): (usize, usize), protection: libc::c_int) -> io::Result<Self> {
        // SAFETY: no address is asked for, so that nothing of this process is replaced.
        let start = unsafe {
            libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset as libc::off_t)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing that points into it outlives it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Ring {
    /// Of a ring made by [`create`].
    pub(super) fn map(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) });
        let page = page.map_err(|_| io::ErrorKind::InvalidData)?;
        let own = Mapping::new(fd.as_fd(), (0, page), libc::PROT_READ | libc::PROT_WRITE)?;
        let shared = Mapping::new(fd.as_fd(), (page, page + 2 * BYTES), libc::PROT_READ)?;
        let mut ring = Self { fd, own, shared, page, position: 0 };
        ring.position = ring.own().load(Ordering::Relaxed);
        Ok(ring)
    }

    /// Gives each packet that is there, `most` of them at most, from IP's header on. Gives their number. The kernel wakes nobody for what
    /// comes from then on until [`Self::rest`].
    pub fn receive(&mut self, most: usize, mut take: impl FnMut(&mut [u8])) -> usize {
        let (mut buffer, mut count) = ([0; MOST], 0);
        let end = self.kernels().load(Ordering::Acquire);
        while count < most && self.position < end {
            let Some((packet, next)) = self.record(self.position, &mut buffer) else { break };
            self.position = next;
            if let Some(packet) = packet {
                take(packet);
                count += 1;
            }
        }
        // Half of the ring is room enough for the kernel.
        if self.position.wrapping_sub(self.own().load(Ordering::Relaxed)) > (BYTES / 2) as u64 {
            self.own().store(self.position, Ordering::Release);
        }
        count
    }

    /// Before the thread waits: the kernel wakes a reader of whom it knows that he has read everything. False: there is something
    /// already.
    pub fn rest(&mut self) -> bool {
        self.own().store(self.position, Ordering::Release);
        // What is finished after this finds the position; what was finished before is found here.
        fence(Ordering::SeqCst);
        self.kernels().load(Ordering::Acquire) == self.position || self.is_busy(self.position)
    }

    /// Up to where this process has read, as the kernel knows it.
    fn own(&self) -> &AtomicU64 {
        // SAFETY: it is at the beginning of a page that stays mapped as long as `self`, aligned as pages are, and kernel and this process use
        // atomic operations only.
        unsafe { AtomicU64::from_ptr(self.own.start.as_ptr().cast()) }
    }

    /// Up to where the kernel has begun to write.
    fn kernels(&self) -> &AtomicU64 {
        // SAFETY: as in `own`; this process only loads.
        unsafe { AtomicU64::from_ptr(self.shared.start.as_ptr().cast()) }
    }

    /// How a record begins.
    fn header(&self, position: u64) -> u32 {
        // SAFETY: a record begins less than `BYTES` behind the first page, so header and place lie in the second copy of the records at the
        // latest, which is mapped as long as `self`. Positions are multiples of eight. The kernel writes this word once more at most,
        // atomically.
        unsafe { AtomicU32::from_ptr(self.shared.start.as_ptr().add(self.place(position)).cast()) }
            .load(Ordering::Acquire)
    }

    fn place(&self, position: u64) -> usize {
        self.page + (position as usize & (BYTES - 1))
    }

    /// The kernel is still writing it.
    fn is_busy(&self, position: u64) -> bool {
        self.header(position) & BUSY != 0
    }

    /// The record at a position before that of the kernel, if it is finished, and where it ends; a packet, unless it was discarded.
    fn record<'a>(&self, position: u64, buffer: &'a mut [u8; MOST]) -> Option<(Option<&'a mut [u8]>, u64)> {
        let (header, at) = (self.header(position), self.place(position));
        if header & BUSY != 0 {
            return None;
        }
        let bytes = (header & !DISCARDED) as usize;
        let end = position + (HEADER + bytes.next_multiple_of(8)) as u64;
        if header & DISCARDED != 0 || bytes != PLACE {
            return Some((None, end));
        }
        let place = HEADER + PLACE - MOST;
        // SAFETY: as in `header`; the record is finished, and the kernel writes nothing there until the position is behind it.
        let length = unsafe { self.shared.start.as_ptr().add(at + HEADER).cast::<[u8; 4]>().read() };
        let length = u32::from_ne_bytes(length);
        let Some(packet) = buffer.get_mut(..length as usize) else { return Some((None, end)) };
        // SAFETY: as before; the packet is no longer than its place, and this process's buffer is elsewhere.
        unsafe {
            let from = self.shared.start.as_ptr().add(at + place);
            std::ptr::copy_nonoverlapping(from, packet.as_mut_ptr(), packet.len());
        }
        Some((Some(packet), end))
    }
}
