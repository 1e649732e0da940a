//! A network namespace for one closure.
#![allow(unsafe_code, reason = "unshare")]

use std::io;

use crate::Error;

/// Runs `work` in a thread that has a new, empty network namespace, which ends with it. Programs that it starts
/// are in that namespace too; `/proc/net` is not (use `/proc/thread-self/net`).
pub fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no pointers; only this thread's network namespace changes.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => Ok(work()),
                _ => Err(Error::system("make a network namespace", io::Error::last_os_error())),
            }
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
