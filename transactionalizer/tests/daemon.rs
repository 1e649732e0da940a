//! The daemon itself: a real segment log, sockets, signals.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use cluster::config::Cluster;
use cluster::connection::Connection;
use cluster::control::{Evidence, FromLog, LoggerStatus, ToLog, ToLogger};
use cluster::frame;
use cluster::identity::Identity;
use cluster::runtime::{Runtime, segment_log};
use common::{OPTIONS, get, response};
use packet::{Flags, SegmentBuilder, Seq};
use rustix::event::{PollFd, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use segment_log::{Flags as RecordFlags, RecordMeta, Writer};

const PATIENCE: Duration = Duration::from_secs(10);

/// A logger, a backend and the daemon, in a directory of their own.
struct Bench {
    dir: PathBuf,
    log: PathBuf,
    control: SocketAddr,
    backend: TcpListener,
    logger: UnixListener,
    child: Option<Child>,
}

/// Ends the connection when dropped.
struct Judge {
    messages: Receiver<ToLogger>,
    connection: UnixStream,
}

impl Judge {
    fn next(&self) -> ToLogger {
        self.messages.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let _ = self.connection.shutdown(std::net::Shutdown::Both);
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Bench {
    fn new(name: &str) -> Self {
        let cluster = format!("t{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&cluster);
        std::fs::create_dir_all(&dir).unwrap();
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = free_port();
        let config = common::CONFIG
            .replace(
                "name = \"test\"",
                &format!("name = \"{cluster}\"\ncertificates = \"{}\"", dir.display()),
            )
            .replace("10.0.3.1:8080", &backend.local_addr().unwrap().to_string())
            .replace("10.0.2.1", "127.0.0.1")
            .replace("10.0.2.2:7000", &control.to_string());
        certificates::provide(&dir, &Cluster::parse(&config, "test").unwrap(), 31, false).unwrap();
        std::fs::write(dir.join("cluster.toml"), config).unwrap();
        let logger = UnixListener::bind(Runtime::new(&dir).socket("nfq-logger")).unwrap();
        Self { log: segment_log(&cluster, "l"), dir, control, backend, logger, child: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_transactionalizer"));
        command
            .arg("--config")
            .arg(self.dir.join("cluster.toml"))
            .args(["--node", "l", "--run-dir"])
            .arg(&self.dir);
        command
    }

    fn start(&mut self) {
        self.child = Some(self.command().stderr(Stdio::inherit()).spawn().unwrap());
    }

    fn writer(&self) -> Writer {
        Writer::open(&self.log, 1 << 20).unwrap()
    }

    /// The daemon as judge: what it says, status requests answered.
    fn judge(&self) -> Judge {
        let (mut stream, _) = self.logger.accept().unwrap();
        let connection = stream.try_clone().unwrap();
        let (sender, messages) = channel();
        thread::spawn(move || {
            while let Ok(Some(message)) = frame::read::<ToLogger>(&mut stream) {
                if matches!(message, ToLogger::Status | ToLogger::Fences) {
                    let _ = frame::write(&mut stream, &LoggerStatus::default());
                }
                if message != ToLogger::Fences {
                    let _ = sender.send(message);
                }
            }
        });
        Judge { messages, connection }
    }

    /// A recovery manager on proxy `p`, subscribed.
    fn manager(&self) -> Manager {
        self.manager_of_epoch(1)
    }

    fn manager_of_epoch(&self, epoch: u64) -> Manager {
        let us = Identity::load(&self.dir, "p").unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut manager =
                Manager { connection: Connection::tls(self.control, &us, "l").unwrap(), messages: vec![] };
            if manager.exchange_until(|it| it.connection.is_up()) {
                manager.send(&ToLog::Subscribe { epoch });
                // The answer to a status request says that the subscription was taken in.
                manager.send(&ToLog::Status);
                let answer = next(&mut manager);
                assert!(matches!(answer, FromLog::Status(_) | FromLog::Fenced { .. }), "{answer:?}");
                return manager;
            }
            assert!(Instant::now() < deadline, "no connection to the daemon");
        }
    }

    /// The backend answers each connection.
    fn serve(&self) -> SocketAddr {
        let listener = self.backend.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        self.backend.local_addr().unwrap()
    }

    fn stop(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_file(&self.log);
    }
}

fn next(manager: &mut Manager) -> FromLog {
    assert!(manager.exchange_until(|it| !it.messages.is_empty()), "the daemon closed the connection");
    manager.messages.remove(0)
}

/// What the test plays.
struct Manager {
    connection: Connection,
    messages: Vec<FromLog>,
}

impl Manager {
    fn send(&mut self, message: &ToLog) {
        self.connection.send(message).unwrap();
    }

    /// False if the connection broke.
    fn exchange_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            let mut fds = [PollFd::from_borrowed_fd(self.connection.as_fd(), self.connection.interest())];
            assert!(poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap() > 0, "no answer");
            let exchanged =
                self.connection.handle_writable().and_then(|()| self.connection.handle_readable());
            match exchanged {
                Ok(messages) => self.messages.extend::<Vec<FromLog>>(messages),
                Err(_) => return false,
            }
        }
        true
    }
}

fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Logs a connection's packets.
struct Traffic<'a> {
    writer: &'a mut Writer,
    client: SocketAddr,
    backend: SocketAddr,
}

impl Traffic<'_> {
    fn log(&mut self, segment: &SegmentBuilder<'_>, hold: u64) {
        let from_backend = segment.source == self.backend;
        let flags = RecordFlags::EMPTY
            .with(RecordFlags::FROM_BACKEND, from_backend)
            .with(RecordFlags::HELD, hold != 0);
        self.writer.append(RecordMeta { time_ns: now_ns(), flags, hold }, &segment.build()).unwrap();
        self.writer.flush();
    }

    fn send(
        &mut self,
        from_client: bool,
        flags: Flags,
        seq: u32,
        ack: Option<u32>,
        payload: &[u8],
        hold: u64,
    ) {
        let (source, destination) =
            if from_client { (self.client, self.backend) } else { (self.backend, self.client) };
        let mut segment = SegmentBuilder::new(source, destination);
        (segment.seq, segment.ack, segment.flags) = (Seq(seq), ack.map(Seq), flags);
        (segment.window, segment.payload) = (60_000, payload);
        segment.syn = flags.syn().then_some(OPTIONS);
        self.log(&segment, hold);
    }

    /// Handshake, a request and the beginning of its response.
    fn half_a_response(&mut self) -> (u32, u32) {
        let request = get("/file");
        self.send(true, Flags::SYN, 99, None, b"", 0);
        self.send(false, Flags::SYN, 499, Some(100), b"", 0);
        self.send(true, Flags::ACK, 100, Some(500), b"", 0);
        self.send(true, Flags::PSH, 100, Some(500), &request, 0);
        let asked = 100 + request.len() as u32;
        self.send(false, Flags::PSH, 500, Some(asked), &response(5000)[..1000], 0);
        (asked, 1500)
    }
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::new("10.0.1.1".parse().unwrap(), port)
}

#[test]
fn premature_fin_reaches_the_manager_within_milliseconds() {
    let mut bench = Bench::new("fin");
    let mut writer = bench.writer();
    bench.start();
    let judge = bench.judge();
    assert_eq!(judge.next(), ToLogger::Judge);
    let mut manager = bench.manager();
    let backend = bench.serve();
    let mut micros = vec![];
    for round in 0..20_u16 {
        let mut traffic = Traffic { writer: &mut writer, client: client(1000 + round), backend };
        let (asked, sent) = traffic.half_a_response();
        // Let the daemon fall asleep, as it is when a server dies.
        thread::sleep(Duration::from_millis(3));
        let begin = Instant::now();
        traffic.send(false, Flags::FIN, sent, Some(asked), b"", u64::from(round) + 1);
        let FromLog::Failed { number, evidence, connections, .. } = next(&mut manager) else { panic!() };
        micros.push(begin.elapsed().as_micros());
        assert_eq!((number, evidence), (u64::from(round) + 1, Evidence::PrematureFin));
        assert_eq!(connections[0].unacked, response(5000)[..1000]);
        let messages: Vec<_> = (0..3).map(|_| judge.next()).collect();
        let hold = u64::from(round) + 1;
        let fence = ToLogger::Fence(connections[0].flow);
        assert_eq!(messages, [ToLogger::Suppress { hold }, fence, ToLogger::Status]);
        manager.send(&ToLog::Ended { client: client(1000 + round), backend: None });
    }
    micros.sort_unstable();
    println!(
        "FIN to report, microseconds: median {} worst {}",
        micros[micros.len() / 2],
        micros[micros.len() - 1]
    );
    assert!(micros[micros.len() / 2] < 20_000);
    assert!(bench.stop(Signal::TERM).success());
}

#[test]
fn reports_wait_for_the_fence_and_the_daemon_reads_on_after_a_restart() {
    let mut bench = Bench::new("restart");
    let mut writer = bench.writer();
    let backend = bench.backend.local_addr().unwrap();
    let mut traffic = Traffic { writer: &mut writer, client: client(2000), backend };
    let (asked, sent) = traffic.half_a_response();
    bench.start();
    let judge = bench.judge();
    let _ = bench.manager();
    assert_eq!(bench.stop(Signal::INT).code(), Some(0));
    drop(judge);
    bench.start();
    let judge = bench.judge();
    assert_eq!(judge.next(), ToLogger::Judge);
    let mut manager = bench.manager();
    traffic.send(false, Flags::RST, sent, Some(asked), b"", 1);
    let FromLog::Failed { evidence, connections, .. } = next(&mut manager) else { panic!() };
    assert_eq!((evidence, connections[0].unrecoverable.clone()), (Evidence::PrematureReset, None));
    assert_eq!(connections[0].unacked, response(5000)[..1000]);
    let flow = connections[0].flow;
    let messages: Vec<_> = (0..3).map(|_| judge.next()).collect();
    assert_eq!(messages, [ToLogger::Suppress { hold: 1 }, ToLogger::Fence(flow), ToLogger::Status]);
}

#[test]
fn it_waits_for_log_and_logger_and_is_refused_a_second_start() {
    let mut bench = Bench::new("late");
    bench.start();
    let judge = bench.judge();
    let mut manager = bench.manager();
    let second = bench.command().output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"));
    let mut writer = bench.writer();
    let backend = bench.backend.local_addr().unwrap();
    let mut traffic = Traffic { writer: &mut writer, client: client(3000), backend };
    let (asked, sent) = traffic.half_a_response();
    traffic.send(false, Flags::FIN, sent, Some(asked), b"", 1);
    assert!(matches!(next(&mut manager), FromLog::Failed { evidence: Evidence::PrematureFin, .. }));
    drop(judge);
    // The logger is started again: the daemon comes back to it.
    assert_eq!(bench.judge().next(), ToLogger::Judge);
    let mut status = UnixStream::connect(Runtime::new(&bench.dir).socket("transactionalizer")).unwrap();
    frame::write(&mut status, &ToLog::Status).unwrap();
    let Some(FromLog::Status(status)) = frame::read(&mut status).unwrap() else { panic!() };
    assert_eq!((status.counters["failed"], status.counters["opened"]), (1, 1));
}

#[test]
fn wrong_configuration_and_strangers_are_refused() {
    let bench = Bench::new("wrong");
    let mut file = std::fs::OpenOptions::new().append(true).open(bench.dir.join("cluster.toml")).unwrap();
    writeln!(file, "[nonsense]\nx = 1").unwrap();
    let refused = bench.command().output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nonsense"));
    assert!(Path::new(&bench.dir).exists());
}

#[test]
fn an_earlier_manager_of_the_same_node_is_fenced_also_after_a_restart() {
    let mut bench = Bench::new("epochs");
    let mut writer = bench.writer();
    let backend = bench.backend.local_addr().unwrap();
    bench.start();
    let judge = bench.judge();
    assert_eq!(judge.next(), ToLogger::Judge);
    let mut earlier = bench.manager_of_epoch(5);
    let mut later = bench.manager_of_epoch(6);
    assert_eq!(next(&mut earlier), FromLog::Fenced { epoch: 6 });
    let mut traffic = Traffic { writer: &mut writer, client: client(4000), backend };
    let (asked, sent) = traffic.half_a_response();
    traffic.send(false, Flags::FIN, sent, Some(asked), b"", 1);
    assert!(matches!(next(&mut later), FromLog::Failed { .. }));
    // What the earlier one says does not count: it is neither told nor believed.
    earlier.send(&ToLog::Ended { client: client(4000), backend: None });
    earlier.send(&ToLog::Status);
    let FromLog::Status(status) = next(&mut earlier) else { panic!("the earlier one was told of a failure") };
    assert_eq!(status.counters["managers_fenced"], 1);
    assert!(bench.stop(Signal::TERM).success());
    drop(judge);
    bench.start();
    let _judge = bench.judge();
    let us = Identity::load(&bench.dir, "p").unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut earlier = loop {
        let mut manager =
            Manager { connection: Connection::tls(bench.control, &us, "l").unwrap(), messages: vec![] };
        if manager.exchange_until(|it| it.connection.is_up()) {
            break manager;
        }
        assert!(Instant::now() < deadline, "no connection to the daemon");
    };
    earlier.send(&ToLog::Subscribe { epoch: 5 });
    assert_eq!(next(&mut earlier), FromLog::Fenced { epoch: 6 });
}
