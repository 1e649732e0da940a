//! NFQUEUE against the real kernel.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and a clock")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{CLIENT, FORWARD_TO_QUEUE, Net, SERVER, config, fill_checksum, transfer, wait};
use netfilter::queue::{Queue, RECEIVE_BYTES, Verdict, queue_counters};
use netfilter::target::{self, Chain};
use netfilter::{Error, Family};

const CHAIN: Chain<'_> = Chain { family: Family::Ip, table: "test", name: "to_queue" };

fn queueing(name: &str) -> Option<Net> {
    let net = Net::up(name)?;
    net.nft("r", FORWARD_TO_QUEUE);
    net.inside("r", || target::fill_chain(CHAIN, 7)).unwrap();
    Some(net)
}

fn client(port: u16) -> SocketAddr {
    (CLIENT, port).into()
}

fn server(port: u16) -> SocketAddr {
    (SERVER, port).into()
}

#[test]
fn accepted_packets_pass_and_large_ones_come_whole() {
    let Some(net) = queueing("qa") else { return };
    let largest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&largest);
    let daemon = net.daemon(config(7), move |packet, verdicts| {
        if packet.gso {
            seen.fetch_max(packet.payload.len(), Ordering::Relaxed);
        }
        verdicts.push(packet.id, Verdict::Accept).unwrap();
    });
    let listener = net.listen(80);
    let stream = net.connect(client(4000), server(80)).unwrap();
    let accepted = listener.accept().unwrap().0;
    let data: Vec<u8> = (0..20_000_000_u32).map(|i| (i * 7 / 3) as u8).collect();
    assert!(transfer(accepted, stream, &data) == data);
    let counters = daemon.stop();
    assert_eq!((counters.truncated, counters.unknown, counters.refused_verdicts), (0, 0, 0));
    assert!(largest.load(Ordering::Relaxed) > 20_000, "no GSO packet came whole: {largest:?}");
}

#[test]
fn changed_packets_arrive_changed() {
    let Some(net) = queueing("qc") else { return };
    let daemon = net.daemon(config(7), |packet, verdicts| {
        let head = usize::from(packet.payload[0] & 15) * 4;
        let data = head + usize::from(packet.payload[head + 12] >> 4) * 4;
        packet.payload[data..].iter_mut().for_each(|byte| *byte ^= 0x55);
        fill_checksum(packet.payload);
        verdicts.push(packet.id, Verdict::AcceptWith(packet.payload)).unwrap();
    });
    let listener = net.listen(80);
    let stream = net.connect(client(4000), server(80)).unwrap();
    let accepted = listener.accept().unwrap().0;
    let data = vec![0_u8; 5_000_000];
    assert!(transfer(accepted, stream, &data).iter().all(|byte| *byte == 0x55));
    daemon.stop();
}

#[test]
fn nothing_leaks_from_an_empty_chain_or_without_a_daemon() {
    let Some(net) = Net::up("ql") else { return };
    net.nft("r", FORWARD_TO_QUEUE);
    let _listener = net.listen(80);
    assert!(net.connect(client(4000), server(80)).is_err(), "an empty queue chain let packets through");
    net.inside("r", || target::fill_chain(CHAIN, 7)).unwrap();
    assert!(net.connect(client(4001), server(80)).is_err(), "a queue without a daemon let packets through");
    assert_eq!(net.inside("r", || target::chain_queue(CHAIN)).unwrap(), Some(7));
}

#[test]
fn held_packets_wait_and_do_not_hold_others() {
    let Some(net) = queueing("qh") else { return };
    let listener = net.listen(80);
    let mut queue = net.inside("r", || Queue::bind(&config(7))).unwrap();
    let (held_id, stream) = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| net.connect(client(4000), server(80)).unwrap());
        let mut buffer = vec![0; RECEIVE_BYTES];
        let first = receive(&mut queue, &mut buffer);
        // A retransmission or anything else may come meanwhile; only the first is held.
        assert!(!connecting.is_finished());
        assert_eq!(net.inside("r", || queue_counters(7)).unwrap().unwrap().waiting, 1);
        queue.verdict(first.id, Verdict::Accept).unwrap();
        queue.flush().unwrap();
        while !connecting.is_finished() {
            accept_waiting(&mut queue, &mut buffer);
        }
        (first.id, connecting.join().unwrap())
    });
    drop(stream);
    drop(listener);
    // Its verdict was given: a second one is refused and counted.
    queue.verdict(held_id, Verdict::Accept).unwrap();
    queue.flush().unwrap();
    accept_waiting(&mut queue, &mut vec![0; RECEIVE_BYTES]);
    assert_eq!(queue.counters().refused_verdicts, 1);
}

fn receive(queue: &mut Queue, buffer: &mut [u8]) -> netfilter::queue::QueuedMeta {
    for _ in 0..200 {
        if let Some(meta) = queue.recv_into(buffer).unwrap() {
            return meta;
        }
        wait(queue);
    }
    panic!("no packet was queued");
}

fn accept_waiting(queue: &mut Queue, buffer: &mut [u8]) {
    wait(queue);
    while let Some(meta) = queue.recv_into(buffer).unwrap() {
        assert_eq!(buffer[meta.payload.start] >> 4, 4);
        queue.verdict(meta.id, Verdict::Accept).unwrap();
    }
    queue.flush().unwrap();
}

#[test]
fn a_message_that_does_not_fit_is_dropped_and_counted() {
    let Some(net) = queueing("qt") else { return };
    let _listener = net.listen(80);
    let mut queue = net.inside("r", || Queue::bind(&config(7))).unwrap();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| net.connect(client(4000), server(80)));
        while queue.counters().truncated == 0 {
            wait(&queue);
            assert_eq!(queue.recv_into(&mut [0; 64]).unwrap(), None);
            queue.flush().unwrap();
        }
        assert_eq!(net.inside("r", || queue_counters(7)).unwrap().unwrap().waiting, 0);
        assert!(connecting.join().unwrap().is_err());
    });
}

#[test]
fn a_queue_has_one_owner() {
    let Some(net) = Net::up("qo") else { return };
    let first = net.inside("r", || {
        let first = Queue::bind(&config(7)).unwrap();
        assert!(matches!(Queue::bind(&config(7)), Err(Error::QueueTaken(7))));
        assert!(queue_counters(8).unwrap().is_none());
        first
    });
    drop(first);
    net.rebind(&config(7));
}

#[test]
fn what_the_buffer_cannot_take_is_counted_by_the_kernel() {
    let Some(net) = queueing("qb") else { return };
    let listener = net.listen(80);
    let small = netfilter::queue::QueueConfig { receive_buffer: 4096, ..config(7) };
    let daemon = net.daemon(config(7), |packet, verdicts| verdicts.push(packet.id, Verdict::Accept).unwrap());
    let mut stream = net.connect(client(4000), server(80)).unwrap();
    let mut accepted = listener.accept().unwrap().0;
    daemon.stop();
    let queue = net.rebind(&small);
    accepted.set_nonblocking(true).unwrap();
    assert!(accepted.write(&vec![0; 200_000]).unwrap() > 0);
    let dropped = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        net.inside("r", || queue_counters(7)).unwrap().unwrap().user_dropped > 0
    });
    assert!(dropped);
    drop(queue);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(stream.read(&mut [0; 10]).is_err());
}
