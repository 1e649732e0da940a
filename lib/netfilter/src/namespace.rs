//! Network namespaces for one closure: checks and tests need one that nobody else sees.

#![allow(
    clippy::disallowed_methods,
    reason = "this module is a shell: it enters namespaces in threads of its own"
)]
#![allow(unsafe_code, reason = "unshare and setns")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::Error;

/// Runs `work` in a thread that has a new, empty network namespace, which ends with it. Programs that it starts
/// are in that namespace too; `/proc/net` is not (use `/proc/thread-self/net`).
pub fn in_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    // SAFETY: no pointers; only the calling thread's network namespace changes.
    in_thread(work, || unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// The same in the existing namespace `name`, as `ip netns add` makes them.
pub fn in_named<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let path = format!("/run/netns/{name}");
    let file = File::open(path).map_err(|error| Error::system("open network namespace", error))?;
    // SAFETY: the descriptor is open; only the calling thread's network namespace changes.
    in_thread(work, || unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn in_thread<T: Send>(
    work: impl FnOnce() -> T + Send,
    enter: impl FnOnce() -> libc::c_int + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match enter() {
            0 => Ok(work()),
            _ => Err(Error::system("enter network namespace", io::Error::last_os_error())),
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
