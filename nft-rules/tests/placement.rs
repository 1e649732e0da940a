//! Both directions of a connection come to the queue that [`nft_rules::placement::queue_of`] says, in the real kernel.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../lib/netfilter/tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::net::SocketAddr;

use common::{Net, config, wait};
use netfilter::queue::{Queue, QueueConfig, Verdict};
use netfilter::raw::RawSender;
use nft_rules::check::check;
use nft_rules::placement::queue_of;
use nft_rules::{ProxyRules, QueueForm, install};
use packet::{Flags, SegmentBuilder, TcpSegment};

const FIRST: u16 = 100;
const PORTS: std::ops::Range<u16> = 20_000..20_200;

struct Case {
    client: &'static str,
    service: SocketAddr,
    backend: SocketAddr,
}

fn cases() -> [Case; 2] {
    let (service, backend) = ("10.9.9.9:80".parse().unwrap(), "10.0.2.2:8080".parse().unwrap());
    let (service6, backend6) = ("[fd00:9::9]:80".parse().unwrap(), "[fd00:2::2]:8080".parse().unwrap());
    [
        Case { client: "10.0.1.2", service, backend },
        Case { client: "fd00:1::2", service: service6, backend: backend6 },
    ]
}

/// A raw packet for each client port, in each direction.
fn send(net: &Net, case: &Case) {
    let packets = |from: &dyn Fn(SocketAddr) -> (SocketAddr, SocketAddr)| -> Vec<Vec<u8>> {
        let client = |port| SocketAddr::new(case.client.parse().unwrap(), port);
        PORTS
            .map(|port| from(client(port)))
            .map(|(from, to)| SegmentBuilder { flags: Flags::SYN, ..SegmentBuilder::new(from, to) }.build())
            .collect()
    };
    for (node, packets) in
        [("c", packets(&|client| (client, case.service))), ("s", packets(&|client| (case.backend, client)))]
    {
        net.inside(node, || {
            let sent = RawSender::open(1).unwrap().send_batch(&packets);
            assert_eq!(sent.sent, packets.len());
        });
    }
}

/// Client ports seen, each with the queue that it came to, once for each direction.
fn receive(queues: &mut [Queue], case: &Case) -> [HashMap<u16, u16>; 2] {
    let mut seen = [HashMap::new(), HashMap::new()];
    while seen.iter().any(|ports| ports.len() < PORTS.len()) {
        for (index, queue) in queues.iter_mut().enumerate() {
            let mut handler = |packet: netfilter::queue::QueuedPacket<'_>,
                               verdicts: &mut netfilter::queue::Verdicts| {
                let segment = TcpSegment::parse(packet.payload).unwrap();
                let from_client = segment.destination() == case.service;
                let client = if from_client { segment.source() } else { segment.destination() };
                seen[usize::from(from_client)].insert(client.port(), index as u16);
                verdicts.push(packet.id, Verdict::Drop).unwrap();
            };
            while queue.recv_batch(&mut handler).unwrap() > 0 {}
            queue.flush().unwrap();
        }
        if seen.iter().any(|ports| ports.len() < PORTS.len()) {
            queues.iter().for_each(wait);
        }
    }
    seen
}

#[test]
fn the_kernel_and_the_daemon_agree_in_both_directions() {
    let Some(net) = Net::up("ip") else { return };
    net.add_ipv6();
    for case in cases() {
        for count in [1, 3] {
            let rules =
                ProxyRules::new(case.service, vec![case.backend], FIRST..FIRST + count, 1000).unwrap();
            let form = net.inside("r", || QueueForm::probe().unwrap());
            net.inside("r", || install::install(&rules, form)).unwrap();
            assert!(net.inside("r", || check(&rules, form)).unwrap().is_good());
            let bind = |number| net.rebind(&QueueConfig { number, ..config(number) });
            let mut queues: Vec<Queue> = (FIRST..FIRST + count).map(bind).collect();
            send(&net, &case);
            for direction in receive(&mut queues, &case) {
                for (port, queue) in direction {
                    let client = SocketAddr::new(case.client.parse().unwrap(), port);
                    assert_eq!(queue, queue_of(client, count), "{client} among {count}");
                }
            }
        }
    }
}

/// Fewer queues than before: their chains go, and `check` is content.
#[test]
fn chains_of_queues_not_wanted_any_more_are_deleted() {
    let Some(net) = Net::up("iq") else { return };
    let [case, _] = cases();
    let rules =
        |count| ProxyRules::new(case.service, vec![case.backend], FIRST..FIRST + count, 1000).unwrap();
    let form = net.inside("r", || QueueForm::probe().unwrap());
    for count in [3, 1, 2] {
        net.inside("r", || install::install(&rules(count), form)).unwrap();
        let report = net.inside("r", || check(&rules(count), form)).unwrap();
        assert!(report.is_good(), "{report:?}");
    }
    assert!(!net.run("r", "nft list ruleset").contains("to_queue_2"));
}
