//! The control connections between machines, over real sockets: who is let in, and what strangers can do.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use certificates::Authority;
use cluster::connection::{Connection, ConnectionError};
use cluster::identity::Identity;
use cluster::server::{Incoming, MAX_HANDSHAKES, PeerId, Server};
use cluster::tls::{TlsError, VERSION};
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Certificates of the logger `l`, the proxy `p` and another node `other`.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("resplice-machines-{}-{number}", std::process::id()));
        let authority = Authority::open(&dir, "test").unwrap().0;
        for node in ["l", "p", "other"] {
            authority.issue(node, 31).unwrap();
        }
        Self(dir)
    }

    fn authority(&self) -> Authority {
        Authority::open(&self.0, "test").unwrap().0
    }

    fn identity(&self, node: &str) -> Identity {
        Identity::load(&self.0, node).unwrap()
    }

    fn server(&self) -> (Server, SocketAddr) {
        let address = free_address();
        let nodes = vec![("p".to_owned(), LOCALHOST)];
        (Server::tls(address, self.identity("l"), nodes).unwrap(), address)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Waits until one of the descriptors is ready; a hang fails the test.
fn wait(server: &Server, client: Option<&Connection>) {
    let mut fds: Vec<_> =
        server.interest().into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
    fds.extend(client.map(|client| PollFd::from_borrowed_fd(client.as_fd(), client.interest())));
    assert!(poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap() > 0, "nothing happens");
}

fn exchange(client: &mut Connection) -> Result<Vec<String>, ConnectionError> {
    client.handle_writable()?;
    client.handle_readable()
}

/// Until the client is in, or why it is not. Nothing may have come of it at the server in the second case.
fn meet(server: &mut Server, client: &mut Connection) -> Result<PeerId, ConnectionError> {
    let mut peer = None;
    loop {
        wait(server, Some(client));
        for incoming in server.handle_ready::<String>() {
            match incoming {
                Incoming::Connected(connected) => peer = Some(connected),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(exchange(client)?, Vec::<String>::new());
        if let Some(peer) = peer.filter(|_| client.is_up()) {
            return Ok(peer);
        }
    }
}

fn refusal(server: &mut Server, client: &mut Connection) -> ConnectionError {
    let error = meet(server, client).unwrap_err();
    let refused = server.refused();
    while server.refused() == refused && refused == 0 {
        wait(server, None);
        assert!(server.handle_ready::<String>().is_empty());
    }
    error
}

/// Whoever else may come or go: the right one is let in.
fn the_right_one_is_let_in(directory: &Directory, server: &mut Server, address: SocketAddr) {
    let mut good = Connection::tls(address, &directory.identity("p"), "l").unwrap();
    let mut up = false;
    while !(up && good.is_up()) {
        wait(server, Some(&good));
        up |= server.handle_ready::<String>().iter().any(|it| matches!(it, Incoming::Connected(_)));
        exchange(&mut good).unwrap();
    }
}

#[test]
fn messages_of_any_size_pass_both_ways() {
    let directory = Directory::new();
    let (mut server, address) = directory.server();
    let mut client = Connection::tls(address, &directory.identity("p"), "l").unwrap();
    let large = "x".repeat(5 << 20);
    // Before anybody is there.
    client.send(&large).unwrap();
    let peer = meet(&mut server, &mut client).unwrap();
    assert_eq!((server.node(peer), client.node()), (Some("p"), Some("l")));
    client.send(&"small".to_owned()).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        wait(&server, Some(&client));
        exchange(&mut client).unwrap();
        seen.extend(server.handle_ready::<String>().into_iter().map(|incoming| match incoming {
            Incoming::Message(_, message) => message,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(seen, [large.clone(), "small".to_owned()]);
    server.send(peer, &large);
    let mut seen = Vec::new();
    while seen.is_empty() {
        wait(&server, Some(&client));
        server.handle_ready::<String>();
        seen = exchange(&mut client).unwrap();
    }
    assert_eq!(seen, [large]);
}

#[test]
fn each_node_must_be_the_one_that_is_expected() {
    let directory = Directory::new();
    let (mut server, address) = directory.server();
    // A node of the cluster that is no proxy: told so.
    let mut other = Connection::tls(address, &directory.identity("other"), "l").unwrap();
    let error = refusal(&mut server, &mut other);
    assert!(
        matches!(&error, ConnectionError::Tls(TlsError::Refused(why)) if why.contains("not that of p")),
        "{error}"
    );
    // A client that looks for another logger than it finds.
    let mut lost = Connection::tls(address, &directory.identity("p"), "other").unwrap();
    let error = refusal(&mut server, &mut lost);
    assert!(error.to_string().contains("not valid for name"), "{error}");
    the_right_one_is_let_in(&directory, &mut server, address);
}

#[test]
fn certificates_of_another_authority_or_time_are_refused_by_either_side() {
    let (directory, foreign) = (Directory::new(), Directory::new());
    let (mut server, address) = directory.server();
    let mut forger = Connection::tls(address, &foreign.identity("p"), "l").unwrap();
    let error = refusal(&mut server, &mut forger);
    // Both authorities have the same name.
    assert!(error.to_string().contains("BadSignature"), "{error}");
    // Good for one second: loaded while it was, shown when it is not any more.
    directory.authority().issue_until("p", 1).unwrap();
    let expired = directory.identity("p");
    std::thread::sleep(Duration::from_millis(2100));
    let mut late = Connection::tls(address, &expired, "l").unwrap();
    let error = refusal(&mut server, &mut late);
    assert!(error.to_string().contains("Expired"), "{error}");
    directory.authority().issue("p", 31).unwrap();
    the_right_one_is_let_in(&directory, &mut server, address);
}

/// A stream that the server closes, whatever it says first.
fn assert_closed(server: &mut Server, mut stream: TcpStream) {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.read(&mut [0; 4096]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => continue,
        }
        assert!(server.handle_ready::<String>().is_empty(), "a stranger was let in");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_no_handshake_is_refused_and_disturbs_nobody() {
    let directory = Directory::new();
    let (mut server, address) = directory.server();
    let plain = cluster::frame::encode(&"let me in".to_owned()).unwrap();
    let oversized = [&[0x16, 3, 3, 0xff, 0xff][..], &vec![1; 70_000]].concat();
    let garbage: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [plain, oversized, garbage, b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 10]] {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&bytes);
        assert_closed(&mut server, stream);
    }
    assert_eq!(server.refused(), 5);
    the_right_one_is_let_in(&directory, &mut server, address);
}

/// Forwards one connection, and gives what the client sent.
fn record(to: SocketAddr, through: TcpListener) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut client, _) = through.accept().unwrap();
        let mut server = TcpStream::connect(to).unwrap();
        let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
        });
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..length]);
            server.write_all(&buffer[..length]).unwrap();
        }
        drop(server.shutdown(std::net::Shutdown::Both));
        back.join().unwrap();
        seen
    })
}

#[test]
fn recorded_truncated_and_changed_connections_carry_no_message() {
    let directory = Directory::new();
    let (mut server, address) = directory.server();
    let through = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let mut client = Connection::tls(through.local_addr().unwrap(), &directory.identity("p"), "l").unwrap();
    let recording = record(address, through);
    meet(&mut server, &mut client).unwrap();
    client.send(&"an order".to_owned()).unwrap();
    let mut seen = 0;
    while seen == 0 {
        wait(&server, Some(&client));
        client.handle_writable().unwrap();
        seen +=
            server.handle_ready::<String>().iter().filter(|it| matches!(it, Incoming::Message(..))).count();
    }
    drop(client);
    while !server.handle_ready::<String>().iter().any(|it| matches!(it, Incoming::Disconnected(..))) {
        wait(&server, None);
    }
    let recorded = recording.join().unwrap();
    let mut changed = recorded.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bytes in [&recorded[..], &changed, &recorded[..recorded.len() / 2], &recorded[..1]] {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        assert_closed(&mut server, stream);
    }
    the_right_one_is_let_in(&directory, &mut server, address);
}

#[test]
fn handshakes_that_do_not_end_are_bounded() {
    let directory = Directory::new();
    let (mut server, address) = directory.server();
    let slow: Vec<TcpStream> = (0..3 * MAX_HANDSHAKES)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&[0x16]).unwrap();
            wait(&server, None);
            assert!(server.handle_ready::<String>().is_empty());
            stream
        })
        .collect();
    the_right_one_is_let_in(&directory, &mut server, address);
    // The listener, those in handshake, the right one.
    assert!(server.interest().len() <= MAX_HANDSHAKES + 2, "{}", server.interest().len());
    std::thread::sleep(cluster::server::HANDSHAKE_TIME);
    server.drop_slow();
    assert!(server.interest().len() <= 2);
    assert_eq!(server.refused(), slow.len() as u64);
}

#[test]
fn addresses_that_no_node_has_are_closed_at_once() {
    let directory = Directory::new();
    let address = free_address();
    let nodes = vec![("p".to_owned(), "192.0.2.1".parse().unwrap())];
    let mut server = Server::tls(address, directory.identity("l"), nodes).unwrap();
    let mut client = Connection::tls(address, &directory.identity("p"), "l").unwrap();
    refusal(&mut server, &mut client);
    assert_eq!(server.refused(), 1);
}

#[test]
fn a_failed_connection_is_reported_and_an_address_in_use_is_named() {
    let directory = Directory::new();
    let mut client = Connection::tls(free_address(), &directory.identity("p"), "l").unwrap();
    let mut fds = [PollFd::from_borrowed_fd(client.as_fd(), client.interest())];
    assert!(poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap() > 0);
    let result = exchange(&mut client);
    assert!(matches!(result, Err(ConnectionError::Failed(Errno::CONNREFUSED))), "{result:?}");

    let taken = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::tls(address, directory.identity("l"), Vec::new()).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_peer_of_another_version_and_this_one_both_say_so() {
    let directory = Directory::new();
    let (mut server, address) = directory.server();
    let newer = directory.identity("p").of_version(VERSION + 1);
    let mut client = Connection::tls(address, &newer, "l").unwrap();
    let error = refusal(&mut server, &mut client);
    let ConnectionError::Tls(TlsError::Version { ours, theirs }) = error else { panic!("{error}") };
    assert_eq!((ours, theirs), (VERSION + 1, VERSION));
    // The server refused it, too: it is not known there.
    assert_eq!((server.refused(), server.peers().count()), (1, 0));
    the_right_one_is_let_in(&directory, &mut server, address);
}

fn problem(dir: &Path, node: &str) -> String {
    Identity::load(dir, node).unwrap_err().to_string()
}

#[test]
fn files_that_are_of_no_use_are_named_with_the_remedy() {
    let directory = Directory::new();
    let (dir, foreign) = (&directory.0, Directory::new());
    assert!(problem(dir, "nobody").contains("nobody.crt: No such file"), "{}", problem(dir, "nobody"));
    let key = dir.join("p.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(
        problem(dir, "p").contains("may be read by others (mode 640): chmod 600"),
        "{}",
        problem(dir, "p")
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    directory.identity("p");
    std::fs::copy(dir.join("other.key"), &key).unwrap();
    assert!(problem(dir, "p").contains("of no use together"), "{}", problem(dir, "p"));
    std::fs::copy(dir.join("other.crt"), dir.join("p.crt")).unwrap();
    assert!(problem(dir, "p").contains("not that of node p"), "{}", problem(dir, "p"));
    std::fs::copy(foreign.0.join("p.crt"), dir.join("p.crt")).unwrap();
    assert!(problem(dir, "p").contains("not of the authority in ca.crt"), "{}", problem(dir, "p"));
    directory.authority().issue_until("p", -5).unwrap();
    assert!(problem(dir, "p").contains("not valid any more"), "{}", problem(dir, "p"));
    std::fs::write(dir.join("p.crt"), "garbage").unwrap();
    assert!(problem(dir, "p").contains("no certificate in PEM"), "{}", problem(dir, "p"));
}
