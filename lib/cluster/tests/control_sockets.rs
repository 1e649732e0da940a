//! The control sockets of one machine, real ones, driven by poll(2) in one thread as a daemon does it.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use cluster::connection::{Connection, ConnectionError, MAX_OUTGOING};
use cluster::frame::{self, FrameError};
use cluster::lock::DaemonLock;
use cluster::runtime::Runtime;
use cluster::server::{Incoming, MAX_PEERS, PeerId, Server};
use rustix::event::{PollFd, Timespec, poll};

struct Node {
    dir: PathBuf,
    lock: DaemonLock,
}

impl Node {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("resplice-sockets-{}-{number}", std::process::id()));
        let lock = DaemonLock::acquire(&Runtime::new(&dir), "d").unwrap();
        Self { dir, lock }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Waits until one of the server's or the client's descriptors is ready; a hang fails the test.
fn wait(server: &Server, client: Option<&Connection>) {
    let mut fds: Vec<_> =
        server.interest().into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
    fds.extend(client.map(|client| PollFd::from_borrowed_fd(client.as_fd(), client.interest())));
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&patience)).unwrap() > 0, "nothing happens");
}

/// Runs the server until it has reported `count` things.
fn serve(server: &mut Server, count: usize) -> Vec<Incoming<String>> {
    let mut seen = Vec::new();
    while seen.len() < count {
        wait(server, None);
        seen.extend(server.handle_ready());
    }
    seen
}

fn connected(server: &mut Server) -> PeerId {
    match serve(server, 1).as_slice() {
        [Incoming::Connected(peer)] => *peer,
        other => panic!("{other:?}"),
    }
}

/// Runs both ends until the client has received `count` messages.
fn receive(server: &mut Server, client: &mut Connection, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        wait(server, Some(client));
        server.handle_ready::<String>();
        client.handle_writable().unwrap();
        seen.extend(client.handle_readable::<String>().unwrap());
    }
    seen
}

#[test]
fn messages_of_any_size_pass_both_ways() {
    let node = Node::new();
    let mut server = Server::unix(&node.lock).unwrap();
    let mut client = Connection::unix(&node.lock.socket()).unwrap();
    let peer = connected(&mut server);
    let large = "x".repeat(5 << 20);
    client.send(&"small".to_owned()).unwrap();
    client.send(&large).unwrap();
    assert!(client.wants_write(), "a socket's buffer should be smaller than that");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        wait(&server, Some(&client));
        client.handle_writable().unwrap();
        for incoming in server.handle_ready::<String>() {
            let Incoming::Message(from, message) = incoming else { panic!("{incoming:?}") };
            assert_eq!(from, peer);
            seen.push(message);
        }
    }
    assert_eq!(seen, ["small".to_owned(), large.clone()]);
    server.send(peer, &large);
    server.send(peer, &"end".to_owned());
    assert_eq!(receive(&mut server, &mut client, 2), [large, "end".to_owned()]);
}

#[test]
fn a_stale_socket_file_is_replaced_and_only_the_user_may_connect() {
    let node = Node::new();
    drop(Server::unix(&node.lock).unwrap());
    assert!(node.lock.socket().exists());
    let mut server = Server::unix(&node.lock).unwrap();
    assert_eq!(std::fs::metadata(node.lock.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let _client = Connection::unix(&node.lock.socket()).unwrap();
    connected(&mut server);
}

#[test]
fn a_peer_that_sends_garbage_is_dropped_and_disturbs_nobody() {
    let node = Node::new();
    let mut server = Server::unix(&node.lock).unwrap();
    let mut good = Connection::unix(&node.lock.socket()).unwrap();
    let good_peer = connected(&mut server);
    let mut bad = UnixStream::connect(node.lock.socket()).unwrap();
    let bad_peer = connected(&mut server);
    bad.write_all(&[0xff; 100]).unwrap();
    let seen = serve(&mut server, 1);
    let [Incoming::Disconnected(peer, ConnectionError::Frame(FrameError::TooLarge(_)))] = seen.as_slice()
    else {
        panic!("{seen:?}");
    };
    assert_eq!(*peer, bad_peer);
    assert_eq!(bad.read(&mut [0; 1]).unwrap_or(0), 0, "the connection should be closed");
    good.send(&"still here".to_owned()).unwrap();
    assert!(matches!(serve(&mut server, 1).as_slice(), [Incoming::Message(peer, _)] if *peer == good_peer));
    assert_eq!(server.peers().collect::<Vec<_>>(), [good_peer]);
}

#[test]
fn what_was_sent_before_an_end_is_delivered_first() {
    let node = Node::new();
    let mut server = Server::unix(&node.lock).unwrap();
    let mut stream = UnixStream::connect(node.lock.socket()).unwrap();
    connected(&mut server);
    frame::write(&mut stream, "last words").unwrap();
    drop(stream);
    let seen = serve(&mut server, 2);
    assert!(matches!(&seen[0], Incoming::Message(_, words) if words == "last words"), "{seen:?}");
    assert!(matches!(&seen[1], Incoming::Disconnected(_, ConnectionError::Closed)), "{seen:?}");
    let mut stream = UnixStream::connect(node.lock.socket()).unwrap();
    connected(&mut server);
    stream.write_all(&[9, 0, 0, 0, 1]).unwrap();
    drop(stream);
    let seen = serve(&mut server, 1);
    assert!(
        matches!(&seen[0], Incoming::Disconnected(_, ConnectionError::Frame(FrameError::Truncated))),
        "{seen:?}"
    );
}

#[test]
fn peers_are_bounded() {
    let node = Node::new();
    let mut server = Server::unix(&node.lock).unwrap();
    let mut clients = Vec::new();
    while clients.len() < MAX_PEERS {
        clients.push(UnixStream::connect(node.lock.socket()).unwrap());
        connected(&mut server);
    }
    let mut one_more = UnixStream::connect(node.lock.socket()).unwrap();
    while server.refused() == 0 {
        wait(&server, None);
        assert!(server.handle_ready::<String>().is_empty());
    }
    assert_eq!(one_more.read(&mut [0; 1]).unwrap_or(0), 0);
    clients.pop();
    assert!(matches!(serve(&mut server, 1).as_slice(), [Incoming::Disconnected(..)]));
    clients.push(UnixStream::connect(node.lock.socket()).unwrap());
    connected(&mut server);
}

#[test]
fn a_peer_that_does_not_read_is_dropped() {
    let node = Node::new();
    let mut server = Server::unix(&node.lock).unwrap();
    let _client = UnixStream::connect(node.lock.socket()).unwrap();
    let peer = connected(&mut server);
    let large = "x".repeat(16 << 20);
    for _ in 0..=MAX_OUTGOING / large.len() {
        server.send(peer, &large);
    }
    let seen = server.handle_ready::<String>();
    assert!(matches!(seen.as_slice(), [Incoming::Disconnected(_, ConnectionError::Congested)]), "{seen:?}");
    server.send(peer, &large);
    assert!(server.handle_ready::<String>().is_empty(), "a peer that is gone is passed over");
}
