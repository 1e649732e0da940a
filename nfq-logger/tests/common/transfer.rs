//! One connection through the logger, both directions at once.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, threads and a clock")]

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::network::{Network, SERVER};
use super::streams::{receive, send};

pub(crate) const UP: u64 = 11;
pub(crate) const DOWN: u64 = 22;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Sends `up` and `down` bytes at the same time, each end checking what it gets; then both ends close. `during` runs
/// meanwhile, with the numbers of bytes received so far at the server and at the client.
pub(crate) fn transfer(
    network: &Network,
    up: u64,
    down: u64,
    during: impl FnOnce(&AtomicU64, &AtomicU64, &AtomicBool),
) {
    let (at_server, at_client, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let listening = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let server = network.within(scope, "s", || {
            let listener = TcpListener::bind(SERVER).unwrap();
            listening.wait();
            exchange(&listener.accept().unwrap().0, (DOWN, down), (UP, up), &at_server);
        });
        let client = network.within(scope, "c", || {
            listening.wait();
            let stream = TcpStream::connect(SERVER).unwrap();
            exchange(&stream, (UP, up), (DOWN, down), &at_client);
            done.store(true, Ordering::SeqCst);
        });
        during(&at_server, &at_client, &done);
        client.join().unwrap();
        server.join().unwrap();
    });
}

fn exchange(stream: &TcpStream, out: (u64, u64), into: (u64, u64), received: &AtomicU64) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| send(stream, out.0, out.1));
        receive(stream, into.0, into.1, received);
    });
}

/// The value once it has not changed for a while.
pub(crate) fn settled<T: PartialEq>(value: impl Fn() -> T) -> T {
    let mut last = value();
    loop {
        std::thread::sleep(Duration::from_millis(40));
        let now = value();
        if now == last {
            return now;
        }
        last = now;
    }
}
