//! A port that comes round while the daemon still has its client's connection: the program had it to its end, and answers behind that.

use cluster::control::ConnectionStatus;
use nfq_splice::Stage;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::continued::{CONNECTS, connected, later, request, shape};
use crate::{OFFER, Proxy, REQUEST, sends_at, service};

/// The client of this connection, which the fast path has.
fn on_the_fast_path(proxy: &mut Proxy, port: u16) -> SegmentBuilder<'static> {
    proxy.answer_for(std::time::Duration::from_secs(100));
    proxy.engine.handle_fast_path();
    let first = connected(proxy, port, 1);
    let syn = sends_at(&mut proxy.engine, later(0), &request(&first));
    let syn = TcpSegment::parse(&syn[0]).unwrap();
    let answer = SegmentBuilder {
        seq: Seq(1000),
        ack: Some(syn.seq() + 1),
        flags: Flags::SYN,
        window: 65_535,
        syn: Some(OFFER),
        timestamps: Some((9, syn.timestamps().unwrap().0)),
        ..SegmentBuilder::new(syn.destination(), syn.source())
    };
    let sent = sends_at(&mut proxy.engine, later(1), &answer.build());
    assert_eq!(TcpSegment::parse(&sent[0]).unwrap().payload(), REQUEST);
    let young = |known: &ConnectionStatus| known.client.port() == port && known.state == "spliced-young";
    assert!(proxy.engine.status().connections.iter().any(young));
    first
}

#[test]
fn a_new_connection_takes_the_place_of_one_that_ended() {
    let Some(mut proxy) = Proxy::up("cl") else { return };
    // Numbers behind those of the first connection, and before.
    for (port, number) in [(5000, 3), (5001, 2)] {
        takes_the_place(&mut proxy, port, number);
    }
}

fn takes_the_place(proxy: &mut Proxy, port: u16, number: u32) {
    let first = on_the_fast_path(proxy, port);
    let client = first.source;
    proxy.engine.handle_place(client, false);
    let copy = sends_at(&mut proxy.engine, later(50), &request(&first));
    assert_eq!(shape(&copy), [(Flags::ACK, 80)], "the same connection");
    let mut second = connected(proxy, port, number);
    // Within one millisecond.
    second.timestamps = Some((first.timestamps.unwrap().0, second.timestamps.unwrap().1));
    proxy.engine.handle_place(client, true);
    let early = sends_at(&mut proxy.engine, later(60), &request(&second));
    assert!(shape(&early).iter().all(|(flags, _)| !flags.syn()), "the fast path has the first one");
    proxy.engine.handle_place(client, false);
    assert_eq!(shape(&sends_at(&mut proxy.engine, later(60), &request(&second))), CONNECTS);
    let state = |port| {
        let status = proxy.engine.status();
        status.connections.into_iter().find(|known| known.client.port() == port).map(|known| known.state)
    };
    assert_eq!(state(port).as_deref(), Some("connecting"));
}

/// What was never answered by the program does not, whatever its numbers.
#[test]
fn forged_data_do_not_take_its_place() {
    let Some(mut proxy) = Proxy::up("cm") else { return };
    let first = on_the_fast_path(&mut proxy, 5000);
    let (value, echo) = first.timestamps.unwrap();
    proxy.engine.handle_place(first.source, false);
    for ahead in [1_000_000, 1 << 30] {
        let forged =
            SegmentBuilder { seq: first.seq + ahead, timestamps: Some((value + 9, echo)), ..first.clone() };
        let sent = sends_at(&mut proxy.engine, later(50), &request(&forged));
        assert!(shape(&sent).iter().all(|(flags, _)| !flags.syn()), "{:?}", shape(&sent));
    }
    let mut copy = request(&first);
    assert_eq!(TcpSegment::parse(&copy).unwrap().destination(), service());
    proxy.engine.handle_packet(later(60), &mut copy, Stage::Tracked);
    assert_eq!(proxy.engine.status().connections[0].state, "spliced-young");
}
