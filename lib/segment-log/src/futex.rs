//! Shared futexes: waking is by inode and offset, so it works between processes that map the file at other addresses.
//!
//! Readers map read-only, so a sleeper cannot announce itself; the writer wakes after every batch, sleepers or not.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps until woken, `timeout` has passed, or a signal comes; returns at once if `word` is not `expected`.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    // SAFETY: `word` and `timeout` are valid for the call, FUTEX_WAIT only reads them; an unmapped word gives EFAULT.
    // Every outcome means the same to the caller: look again.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &raw const timeout);
    }
}

/// Wakes all who wait for `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE does not access the word, it only identifies it.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}
