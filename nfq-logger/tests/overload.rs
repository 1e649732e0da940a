//! More than the logger can take: dropped and counted, never forwarded unlogged.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(clippy::unwrap_used)] // Helpers of tests count as ordinary code.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use cluster::control::{LoggerStatus, ToLogger};
use cluster::frame;
use common::network::{Network, SERVER};
use common::transfer::{settled, transfer};
use netfilter::raw::RawSender;
use packet::{Flags as Tcp, SegmentBuilder, Seq};
use rustix::process::{Pid, Signal, kill_process};
use segment_log::Reader;

/// More than the queue holds.
const SYNS: u32 = 18_000;

fn status(network: &Network) -> LoggerStatus {
    let mut control = network.control();
    frame::write(&mut control, &ToLogger::Status).unwrap();
    frame::read(&mut control).unwrap().unwrap()
}

/// Packets that the server's interface has received.
fn at_server(network: &Network) -> u64 {
    std::thread::scope(|scope| {
        let read = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let text = network.within(scope, "s", read).join().unwrap();
        let line = text.lines().find(|line| line.trim_start().starts_with("es:")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    })
}

fn flood(network: &Network) {
    let syn = |number: u32| {
        let source = ([10, 0, 1, 2], 20_000 + (number % 40_000) as u16).into();
        let ends = SegmentBuilder::new(source, SERVER.parse().unwrap());
        SegmentBuilder { seq: Seq(number), flags: Tcp::SYN, window: 1000, ..ends }.build()
    };
    let packets: Vec<Vec<u8>> = (0..SYNS).map(syn).collect();
    std::thread::scope(|scope| {
        let send = || {
            let mut sender = RawSender::open(0).unwrap();
            packets.chunks(64).for_each(|batch| _ = sender.send_batch(batch));
        };
        network.within(scope, "c", send).join().unwrap();
    });
}

/// Records of SYNs in the log.
fn logged_syns(network: &Network) -> u64 {
    let mut reader = Reader::open(network.log()).unwrap();
    let mut count = 0;
    while let Some(record) = reader.next().unwrap() {
        count += u64::from(packet::TcpSegment::parse(record.payload()).unwrap().flags() == Tcp::SYN);
    }
    count
}

#[test]
fn what_it_cannot_take_is_dropped_and_counted() {
    let network = Network::new();
    let daemon = network.start();
    let process = Pid::from_raw(daemon.0.id() as i32).unwrap();
    let before = at_server(&network);
    kill_process(process, Signal::STOP).unwrap();
    flood(&network);
    assert!(settled(|| at_server(&network)) < before + 50, "packets passed a logger that stands still");
    kill_process(process, Signal::CONT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let dropped = loop {
        let counters = status(&network).counters;
        let dropped = counters["queue_full_dropped"] + counters["queue_buffer_dropped"];
        if counters["segments"] + dropped >= u64::from(SYNS) && counters["queue_waiting"] == 0 {
            break dropped;
        }
        assert!(Instant::now() < deadline, "{counters:?}");
    };
    let logged = logged_syns(&network);
    assert!(dropped > 0 && logged > 0, "{dropped} dropped, {logged} logged");
    assert!(logged + dropped >= u64::from(SYNS) && logged <= u64::from(SYNS) - dropped, "{logged} {dropped}");
    let passed = settled(|| at_server(&network)) - before;
    assert!(passed <= logged + 50, "{passed} passed, {logged} logged");

    let counters = status(&network).counters;
    assert!(counters["ring_used_bytes"] > 0 && counters["logged_bytes"] > 0, "{counters:?}");
    // Traffic goes on as if nothing had been.
    transfer(&network, 1 << 20, 1 << 20, |_, _, _| ());
}

#[test]
fn readers_are_listed_with_their_lag() {
    let network = Network::new();
    let _daemon = network.start();
    let _reader = Reader::open(network.log()).unwrap().announced().unwrap();
    transfer(&network, 1 << 20, 4 << 20, |_, _, _| ());
    let lag = format!("reader_{}_lag_bytes", std::process::id());
    assert!(status(&network).counters[&lag] >= 4 << 20);
    let stats = network.program(&["dump", "--stats"]).output().unwrap();
    let text = String::from_utf8(stats.stdout).unwrap();
    assert!(text.contains(&format!("process {}, ", std::process::id())), "{text}");
}
