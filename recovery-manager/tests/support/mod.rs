//! The daemon between a transactionalizer and a proxy that the test plays.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::config::Cluster;
use cluster::control::{
    ConnectionReport, Evidence, Flow, FromLog, FromProxy, LogStatus, ManagerStatus, PendingRequest,
    RecoveryOrder, Tags, ToLog, ToManager, ToProxy,
};
use cluster::frame;
use cluster::identity::Identity;
use cluster::server::{Incoming, PeerId, Server};
use rustix::event::{PollFd, Timespec, poll};
use serde::Serialize;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const B1: &str = "198.51.100.1:80";
pub(crate) const B2: &str = "198.51.100.2:80";

/// A run directory with a configuration, and the sockets of the daemon's peers.
pub(crate) struct Cell {
    dir: PathBuf,
    log: Rc<RefCell<Server>>,
    proxy: UnixListener,
}

fn cluster(dir: &Path, control: SocketAddr) -> String {
    let certificates = dir.display();
    format!(
        "[cluster]\nname = \"test\"\ncertificates = \"{certificates}\"\n[service]\naddress = \"192.0.2.1:80\"\n[[route]]\npool = \"web\"\n\
         [pool.web]\nbackends = [\"b1\", \"b2\"]\n[backend.b1]\naddress = \"{B1}\"\n[backend.b2]\naddress = \"{B2}\"\n\
         [proxy.p]\naddress = \"127.0.0.1\"\n[logger.l]\ncontrol = \"{control}\"\n"
    )
}

impl Cell {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("recovery-manager-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let control = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = cluster(&dir, control);
        certificates::provide(&dir, &Cluster::parse(&text, "test").unwrap(), 31, false).unwrap();
        fs::write(dir.join("cluster.toml"), text).unwrap();
        let us = Identity::load(&dir, "l").unwrap();
        let log = Server::tls(control, us, vec![("p".to_owned(), "127.0.0.1".parse().unwrap())]).unwrap();
        let proxy = UnixListener::bind(dir.join("nfq-splice.sock")).unwrap();
        proxy.set_nonblocking(true).unwrap();
        Self { dir, log: Rc::new(RefCell::new(log)), proxy }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("cluster.toml")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recovery-manager"));
        command.args(["--config"]).arg(self.config()).arg("--run-dir").arg(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env_remove("RUST_LOG");
        command
    }

    pub(crate) fn start(&self) -> Daemon {
        let mut child = self.command().args(["--node", "p"]).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        Daemon { child, log: Some(log) }
    }

    /// The daemon's connection to the log, subscribed.
    pub(crate) fn accept_log(&self) -> Log {
        let mut log = Log { server: Rc::clone(&self.log), peer: None, messages: VecDeque::new() };
        log.exchange_until(|log| log.peer.is_some());
        assert!(matches!(log.read(), ToLog::Subscribe { .. }));
        assert_eq!(log.read(), ToLog::Status);
        log.write(&FromLog::Status(LogStatus::default()));
        log
    }

    /// The daemon's connection to the proxy, subscribed, with the initial state of the backends.
    pub(crate) fn accept_proxy(&self) -> (Proxy, Vec<(SocketAddr, bool)>) {
        let stream = wait_for(|| self.proxy.accept()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut proxy = Proxy(stream);
        assert!(matches!(proxy.read(), ToProxy::Subscribe { .. }));
        let mut backend = || match proxy.read() {
            ToProxy::Backend { backend, up } => (backend, up),
            other => panic!("{other:?}"),
        };
        let backends = vec![backend(), backend()];
        (proxy, backends)
    }

    pub(crate) fn status(&self) -> ManagerStatus {
        let mut stream = UnixStream::connect(self.dir.join("recovery-manager.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        frame::write(&mut stream, &ToManager::Status).unwrap();
        frame::read(&mut stream).unwrap().unwrap()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running daemon; killed if the test fails. What it logs is read all the time: a full pipe would stop it.
pub(crate) struct Daemon {
    child: Child,
    log: Option<JoinHandle<String>>,
}

impl Daemon {
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        (self.child.wait().unwrap(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's connection to a transactionalizer.
pub(crate) struct Log {
    server: Rc<RefCell<Server>>,
    peer: Option<PeerId>,
    messages: VecDeque<ToLog>,
}

impl Log {
    pub(crate) fn read(&mut self) -> ToLog {
        self.exchange_until(|log| !log.messages.is_empty());
        self.messages.pop_front().unwrap()
    }

    pub(crate) fn write(&mut self, message: &(impl Serialize + ?Sized)) {
        self.server.borrow_mut().send(self.peer.unwrap(), message);
    }

    fn exchange_until(&mut self, done: impl Fn(&Self) -> bool) {
        let server = Rc::clone(&self.server);
        while !done(self) {
            let mut server = server.borrow_mut();
            let interest = server.interest();
            let mut fds: Vec<_> =
                interest.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
            let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            assert!(poll(&mut fds, Some(&patience)).unwrap() > 0, "the daemon says nothing to the log");
            for incoming in server.handle_ready() {
                self.take(incoming);
            }
        }
    }

    fn take(&mut self, incoming: Incoming<ToLog>) {
        match incoming {
            Incoming::Connected(peer) => self.peer = Some(peer),
            Incoming::Message(peer, message) if self.peer == Some(peer) => self.messages.push_back(message),
            Incoming::Disconnected(peer, error) if self.peer == Some(peer) => {
                panic!("the daemon is gone: {error}")
            }
            Incoming::Message(..) | Incoming::Disconnected(..) => {}
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(peer) = self.peer {
            self.server.borrow_mut().drop_peer(peer);
        }
    }
}

pub(crate) struct Proxy(pub(crate) UnixStream);

impl Proxy {
    pub(crate) fn read(&mut self) -> ToProxy {
        frame::read(&mut self.0).unwrap().expect("the daemon closed its connection to the proxy")
    }

    pub(crate) fn order(&mut self) -> RecoveryOrder {
        match self.read() {
            ToProxy::Recover(mut orders) if orders.len() == 1 => orders.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn write(&mut self, message: &FromProxy) {
        frame::write(&mut self.0, message).unwrap();
    }
}

pub(crate) fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 5], port))
}

/// A read-only GET of which nothing has been answered.
pub(crate) fn report(port: u16) -> ConnectionReport {
    let request = PendingRequest {
        volatile_headers: None,
        ordinal: 1,
        summary: "GET /files/1m".to_owned(),
        tags: Tags { deterministic: true, read_only: true, idempotent: true, large_file: false },
        complete: true,
        bytes: b"GET /files/1m HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    };
    ConnectionReport {
        ack_tl: 1000,
        ack_cl: 1000,
        client_next: 5000,
        pending: vec![request],
        ..ConnectionReport::new(Flow { client: client(port), backend: B1.parse().unwrap() })
    }
}

pub(crate) fn failed(number: u64, backend_down: bool, connections: Vec<ConnectionReport>) -> FromLog {
    FromLog::Failed {
        number,
        evidence: Evidence::PrematureFin,
        noticed_us: 70,
        backend_down,
        backend: B1.parse().unwrap(),
        connections,
    }
}

/// Accepts within the test's patience.
fn wait_for<T>(mut accept: impl FnMut() -> std::io::Result<T>) -> T {
    let mut accepted = None;
    until(|| {
        accepted = accept().ok();
        accepted.is_some()
    });
    accepted.unwrap()
}

/// Waits for what has no message of its own.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long");
        std::thread::yield_now();
    }
}
