//! Three network namespaces, client – router – server, for tests against the real kernel. They need root.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netfilter::namespace::in_named;
use netfilter::queue::{Counters, Queue, QueueConfig, QueuedPacket, Verdicts};
use rustix::event::{PollFd, PollFlags, poll};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// Namespaces `rt<pid>-NAME-c`, `…-r`, `…-s`; gone when dropped.
pub struct Net {
    prefix: String,
}

impl Net {
    /// `None`, with a message, without root.
    pub fn up(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let net = Self { prefix: format!("rt{}-{name}", std::process::id()) };
        for node in ["c", "r", "s"] {
            run(&format!("ip netns add {}", net.name(node)));
            net.run(node, "ip link set lo up");
        }
        net.link("c", "10.0.1.2/24", "10.0.1.1/24");
        net.link("s", "10.0.2.2/24", "10.0.2.1/24");
        net.run("c", "ip route add default via 10.0.1.1");
        net.run("s", "ip route add default via 10.0.2.1");
        net.run("r", "sysctl -qw net.ipv4.ip_forward=1");
        Some(net)
    }

    fn link(&self, node: &str, own: &str, router: &str) {
        let (host, r) = (self.name(node), self.name("r"));
        run(&format!("ip link add eth0 netns {host} type veth peer name r{node} netns {r}"));
        self.run(node, &format!("ip addr add {own} dev eth0"));
        self.run("r", &format!("ip addr add {router} dev r{node}"));
        self.run(node, "ip link set eth0 up");
        self.run("r", &format!("ip link set r{node} up"));
    }

    /// The same addresses again, as `fd00:1::2`, `fd00:2::2`.
    pub fn add_ipv6(&self) {
        for (host, network) in [("c", 1), ("s", 2)] {
            self.run(host, &format!("ip addr add fd00:{network}::2/64 dev eth0 nodad"));
            self.run("r", &format!("ip addr add fd00:{network}::1/64 dev r{host} nodad"));
            self.run(host, &format!("ip route add default via fd00:{network}::1"));
        }
        self.run("r", "sysctl -qw net.ipv6.conf.all.forwarding=1");
        // Until duplicate address detection is over, the router resolves no neighbours.
        let [from, to] = ["[fd00:1::2]:9", "[fd00:2::2]:9"].map(|address| address.parse().unwrap());
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        assert!((0..20).any(|_| self.connect(from, to).is_err_and(refused)));
    }

    pub fn name(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    pub fn run(&self, node: &str, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name(node)))
    }

    /// Applies nft text.
    pub fn nft(&self, node: &str, script: &str) {
        let arguments = ["netns", "exec", &self.name(node), "nft", "-f", "-"];
        let mut child = Command::new("ip").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft refused {script}");
    }

    pub fn inside<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        in_named(&self.name(node), work).unwrap()
    }

    /// A TCP connection from the client, with a short patience.
    pub fn connect(&self, from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.inside("c", || {
            let family = rustix::net::AddressFamily::INET;
            let domain = if to.is_ipv4() { family } else { rustix::net::AddressFamily::INET6 };
            let fd = rustix::net::socket_with(
                domain,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
            rustix::net::bind(&fd, &from)?;
            rustix::net::sockopt::set_socket_timeout(
                &fd,
                rustix::net::sockopt::Timeout::Send,
                Some(Duration::from_millis(700)),
            )?;
            rustix::net::connect(&fd, &to)?;
            let stream = TcpStream::from(fd);
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(stream)
        })
    }

    /// Listens in the server's namespace.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.inside("s", || TcpListener::bind((SERVER, port)).unwrap())
    }

    /// Binds a queue in the router that was another's a moment ago: a child that another test starts keeps the old
    /// descriptor between fork and exec.
    pub fn rebind(&self, config: &QueueConfig) -> Queue {
        for _ in 0..500 {
            if let Ok(queue) = self.inside("r", || Queue::bind(config)) {
                return queue;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("queue {} stays taken", config.number)
    }

    /// A daemon in the router that gives each packet of `queue` to `handler` until stopped.
    pub fn daemon(
        &self,
        config: QueueConfig,
        mut handler: impl FnMut(QueuedPacket<'_>, &mut Verdicts) + Send + 'static,
    ) -> Daemon {
        let mut queue = self.rebind(&config);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                wait(&queue);
                while queue.recv_batch(&mut handler).unwrap() > 0 {}
                queue.flush().unwrap();
            }
            queue.counters()
        });
        Daemon { stop, thread: Some(thread) }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in ["c", "r", "s"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(node)]).status();
        }
    }
}

pub struct Daemon {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<JoinHandle<Counters>>,
}

impl Daemon {
    pub fn stop(mut self) -> Counters {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Until readable, or 20 ms.
pub fn wait(fd: &impl AsFd) {
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap();
}

pub fn config(number: u16) -> QueueConfig {
    QueueConfig { number, max_packets: 4096, receive_buffer: 8 << 20 }
}

pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A table in the router that sends forwarded TCP to the queue chain and drops what comes back.
pub const FORWARD_TO_QUEUE: &str = "
    table ip test {
        chain to_queue { }
        chain hand_over { jump to_queue; drop; }
        chain forward { type filter hook forward priority 0; meta l4proto tcp goto hand_over; }
    }";

/// Sends all of `data` through a new connection and returns what arrives.
pub fn transfer(mut from: TcpStream, mut to: TcpStream, data: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            from.write_all(data).unwrap();
            from.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        to.read_to_end(&mut received).unwrap();
        received
    })
}

/// Fills in the TCP checksum of an IPv4 packet.
pub fn fill_checksum(packet: &mut [u8]) {
    let head = usize::from(packet[0] & 15) * 4;
    packet[head + 16..head + 18].copy_from_slice(&[0, 0]);
    let length = packet.len() - head;
    let mut sum = 6 + length as u64;
    for (index, byte) in packet[12..20].iter().chain(&packet[head..]).enumerate() {
        sum += u64::from(*byte) << (8 * (1 - index % 2));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[head + 16..head + 18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
