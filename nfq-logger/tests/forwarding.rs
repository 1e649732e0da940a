//! The daemon in the path of real connections, in network namespaces. Needs root.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cluster::control::{Flow, LoggerStatus, ToLogger};
use cluster::frame;
use common::network::{Network, SERVER};
use common::streams::LoggedStreams;
use common::transfer::{DOWN, PATIENCE, UP, settled, transfer};

fn status(control: &mut UnixStream) -> LoggerStatus {
    frame::write(control, &ToLogger::Status).unwrap();
    frame::read(control).unwrap().unwrap()
}

#[test]
fn every_byte_of_both_directions_is_logged_in_order() {
    let network = Network::new();
    let _daemon = network.start();
    let (up, down) = (8 << 20, 24 << 20);
    let mut logged = LoggedStreams::open(&network.log(), UP, DOWN);
    transfer(&network, up, down, |_, _, done| {
        while !done.load(Ordering::SeqCst) {
            logged.read();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(logged.read(), (up, down));
    assert!(logged.gso > 0, "large packets arrive whole");
    let counters = status(&mut network.control()).counters;
    let bad: u64 =
        ["unparsable", "bad_checksum", "nonsense", "not_ours"].iter().map(|name| counters[*name]).sum();
    assert_eq!(bad, 0, "{counters:?}");
    assert_eq!(counters["queue_buffer_dropped"] + counters["queue_full_dropped"], 0, "{counters:?}");

    let dump = network.program(&["dump"]).output().unwrap();
    assert!(dump.status.success());
    let text = String::from_utf8(dump.stdout).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.contains("> 10.0.2.2:80: Flags [S], seq 0"), "{first}");
    // The last acknowledgements may come after the count.
    assert!(text.lines().count() as u64 >= counters["last_record"]);
    let json = network.program(&["dump", "--json"]).output().unwrap();
    let lengths = String::from_utf8(json.stdout).unwrap();
    let values = lengths.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let total: u64 = values.map(|value| value["length"].as_u64().unwrap()).sum();
    assert!(total >= up + down);
}

/// Whatever reached an end before the logger was killed must be in the log then: acknowledged bytes are never sent again.
#[test]
fn a_killed_logger_has_let_nothing_pass_unlogged() {
    let network = Network::new();
    let mut daemon = Some(network.start());
    let (up, down) = (6 << 20, 18 << 20);
    let mut logged = LoggedStreams::open(&network.log(), UP, DOWN);
    let mut kills = 0;
    transfer(&network, up, down, |at_server, at_client, done| {
        for round in 1_u64.. {
            let goal = at_client.load(Ordering::SeqCst) + (round * 0x9e37_79b9 % 3_000_000);
            while at_client.load(Ordering::SeqCst) < goal && !done.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            if done.load(Ordering::SeqCst) {
                break;
            }
            daemon.take().unwrap().kill();
            kills += 1;
            // What had passed arrives; more cannot come.
            let arrived = settled(|| (at_server.load(Ordering::SeqCst), at_client.load(Ordering::SeqCst)));
            let in_log = logged.read();
            assert!(in_log.0 >= arrived.0 && in_log.1 >= arrived.1, "{arrived:?} arrived, {in_log:?} logged");
            daemon = Some(network.start());
        }
    });
    assert_eq!(logged.read(), (up, down));
    assert!(kills >= 5, "only {kills} kills");
    // A logger that starts when everything has arrived may have nothing to log.
    assert!((kills..=kills + 1).contains(&logged.epoch), "epoch {} after {kills} kills", logged.epoch);
}

/// A server that sends `data` and ends; the client's side in a closure that gets the stream after the data.
fn ending(network: &Network, abort: bool, client: impl FnOnce(TcpStream) + Send) {
    let listening = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        network.within(scope, "s", || {
            let listener = TcpListener::bind(SERVER).unwrap();
            listening.wait();
            let mut stream = listener.accept().unwrap().0;
            let mut request = [0; 7];
            stream.read_exact(&mut request[..if abort { 3 } else { 7 }]).unwrap();
            // Closed with data unread: a RST.
            stream.write_all(b"response").unwrap();
        });
        network
            .within(scope, "c", || {
                listening.wait();
                let mut stream = TcpStream::connect(SERVER).unwrap();
                stream.write_all(b"request").unwrap();
                client(stream);
            })
            .join()
            .unwrap();
    });
}

fn is_quiet(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Waits for a held segment in the log.
fn held(logged: &mut LoggedStreams) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    while logged.held.is_empty() && Instant::now() < deadline {
        logged.read();
    }
    logged.held[0]
}

fn plain_log(network: &Network) -> LoggedStreams {
    LoggedStreams::open_unchecked(&network.log())
}

#[test]
fn a_fin_passes_when_the_judge_says_so() {
    let network = Network::new();
    let _daemon = network.start();
    let mut judge = network.control();
    frame::write(&mut judge, &ToLogger::Judge).unwrap();
    assert_eq!(status(&mut judge).counters["judges_now"], 1);
    ending(&network, false, |mut stream| {
        let hold = held(&mut plain_log(&network));
        let mut data = Vec::new();
        let seen =
            stream.set_read_timeout(Some(Duration::from_millis(500))).map(|()| stream.read_to_end(&mut data));
        assert!(seen.unwrap().is_err(), "the end was seen");
        let asked = Instant::now();
        frame::write(&mut judge, &ToLogger::Release { hold }).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut data).unwrap();
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
        assert_eq!(data, b"response");
    });
    assert_eq!(status(&mut judge).counters["released"], 1);
}

#[test]
fn a_suppressed_end_and_a_fenced_backend_are_never_seen() {
    for abort in [false, true] {
        let network = Network::new();
        let _daemon = network.start();
        let mut judge = network.control();
        frame::write(&mut judge, &ToLogger::Judge).unwrap();
        status(&mut judge);
        ending(&network, abort, |mut stream| {
            let hold = held(&mut plain_log(&network));
            frame::write(&mut judge, &ToLogger::Suppress { hold }).unwrap();
            let flow = Flow { client: stream.local_addr().unwrap(), backend: SERVER.parse().unwrap() };
            frame::write(&mut judge, &ToLogger::Fence(flow)).unwrap();
            assert_eq!(status(&mut judge).counters["fences"], 1);
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let _ = stream.read(&mut [0; 100]);
            // Longer than the judgement's time, and than several retransmissions of the FIN.
            assert!(is_quiet(&mut stream, Duration::from_secs(3)));
        });
        let counters = status(&mut judge).counters;
        assert_eq!((counters["suppressed"], counters["judgements_late"]), (1, 0), "{counters:?}");
        assert_eq!(counters["held_now"], 0);
    }
}

/// The next logger has them from the log, before anybody tells it.
#[test]
fn a_killed_logger_leaves_its_fences() {
    let network = Network::new();
    let daemon = network.start();
    let mut judge = network.control();
    frame::write(&mut judge, &ToLogger::Judge).unwrap();
    status(&mut judge);
    ending(&network, false, |mut stream| {
        held(&mut plain_log(&network));
        let flow = Flow { client: stream.local_addr().unwrap(), backend: SERVER.parse().unwrap() };
        frame::write(&mut judge, &ToLogger::Fence(flow)).unwrap();
        status(&mut judge);
        daemon.kill();
        let _daemon = network.start();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let _ = stream.read(&mut [0; 100]);
        // Longer than several retransmissions of the FIN, which nobody judges.
        assert!(is_quiet(&mut stream, Duration::from_secs(1)));
        let mut control = network.control();
        let counters = status(&mut control).counters;
        assert_eq!((counters["fences_restored"], counters["fences"]), (1, 0), "{counters:?}");
        assert!(counters["fenced_dropped"] > 0, "{counters:?}");
        frame::write(&mut control, &ToLogger::Fences).unwrap();
        let answer: LoggerStatus = frame::read(&mut control).unwrap().unwrap();
        assert_eq!(answer.fenced, [flow]);
    });
}

#[test]
fn without_a_judgement_the_end_comes_late_and_without_the_judge_at_once() {
    let network = Network::new();
    let _daemon = network.start();
    let mut judge = network.control();
    frame::write(&mut judge, &ToLogger::Judge).unwrap();
    status(&mut judge);
    let started = Instant::now();
    ending(&network, false, |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 8);
    });
    let late = started.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(4)).contains(&late), "{late:?}");
    assert_eq!(status(&mut judge).counters["judgements_late"], 1);

    let started = Instant::now();
    ending(&network, false, |mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        drop(judge);
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 8);
    });
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn a_second_logger_is_refused_and_the_first_ends_cleanly() {
    let network = Network::new();
    let mut daemon = network.start();
    for (run_dir, reason) in [("run", "already running"), ("other", "another logger is writing to it")] {
        let second = network.run_command(run_dir).output().unwrap();
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1));
        assert!(said.contains(reason), "{said}");
    }
    let pid = rustix::process::Pid::from_child(&daemon.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    let mut again = network.start();
    assert!(again.0.try_wait().unwrap().is_none());
}

#[test]
fn dump_refuses_what_is_no_log_and_ends_quietly_with_its_reader() {
    let network = Network::new();
    let _daemon = network.start();
    for file in ["/etc/passwd", "/nonexistent", "/dev/shm", "/dev/null"] {
        let dump = network.program(&["dump", "--read", file]).output().unwrap();
        assert_eq!(dump.status.code(), Some(1), "{file}");
        let said = String::from_utf8_lossy(&dump.stderr).into_owned();
        assert!(said.contains(file) && !said.contains("panicked"), "{said}");
    }
    transfer(&network, 1 << 20, 1 << 20, |_, _, _| {});
    let mut follower =
        network.program(&["dump", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = follower.stdout.take().unwrap();
    out.read_exact(&mut [0; 200]).unwrap();
    drop(out);
    ending(&network, false, |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = follower.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
