//! Segments of no connection, resets, and SYNs on connections that are there (RFC 9293 §3.10.7, RFC 5961).

use std::time::Duration;

use packet::{Flags, SegmentBuilder, Seq};

use crate::proxy::{ISN, Proxy, backend, client, data, service, syn};

#[test]
fn nonsense_is_dropped_without_an_answer() {
    for flags in [
        Flags(0),
        Flags::FIN,
        Flags::PSH,
        Flags::URG,
        Flags::SYN.union(Flags::FIN),
        Flags::SYN.union(Flags::RST),
        Flags::FIN.union(Flags::PSH).union(Flags::URG),
        Flags(0x3f & !Flags::ACK.0),
    ] {
        let mut proxy = Proxy::new();
        let sent =
            proxy.receive(&SegmentBuilder { seq: ISN, flags, ..SegmentBuilder::new(client(1), service()) });
        assert_eq!((sent, proxy.connections()), (Vec::new(), 0), "{flags:?}");
    }
}

#[test]
fn an_acknowledgement_from_nowhere_is_reset_with_its_own_number_and_rationed() {
    let mut proxy = Proxy::new();
    let stray = SegmentBuilder { ack: Some(Seq(77)), ..data(1, 0, b"x") };
    assert!(proxy.receive(&stray).is_empty(), "an earlier daemon may have lost what came before");
    proxy.pass(Duration::from_millis(150));
    let sent = proxy.receive(&stray);
    assert_eq!((sent.len(), sent[0].flags, sent[0].seq, sent[0].to), (1, Flags::RST, Seq(77), client(1)));
    let answered: usize = (0..5000).map(|_| proxy.receive(&stray).len()).sum();
    assert!(answered < 1000, "{answered} answers to strangers in no time");
    assert!(
        proxy.receive(&SegmentBuilder { flags: Flags::RST, ..stray }).is_empty(),
        "a reset is not answered"
    );
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_reset_counts_only_where_it_is_exact() {
    // Offset from the next byte expected; whether it ends the connection; whether it is challenged (RFC 5961 §3.2).
    for (offset, ends, challenged) in [
        (0, true, false),
        (1, false, true),
        (20_000, false, true),
        (60_000, false, false),
        (-1, false, false),
    ] {
        let mut proxy = Proxy::new();
        let iss = proxy.establish(1);
        let seq = ISN + 1 + offset as u32;
        let sent =
            proxy.receive(&SegmentBuilder { flags: Flags::RST, seq, ack: Some(iss + 1), ..data(1, 0, b"") });
        assert_eq!(proxy.connections(), u64::from(!ends), "reset at {offset}");
        let challenge = sent.first().map(|sent| (sent.flags, sent.seq, sent.ack));
        assert_eq!(challenge, challenged.then_some((Flags::ACK, iss + 1, ISN + 1)), "reset at {offset}");
    }
}

#[test]
fn a_syn_on_an_established_connection_is_challenged_and_closes_no_window() {
    let mut proxy = Proxy::new();
    let iss = proxy.establish(1);
    for seq in [ISN, Seq(5), ISN + 1] {
        let sent = proxy.receive(&SegmentBuilder { seq, ..syn(1) });
        assert_eq!((sent.len(), sent[0].flags, sent[0].ack), (1, Flags::ACK, ISN + 1));
        assert_eq!(sent[0].seq, iss + 1);
        assert!(sent[0].window > 0);
    }
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_backend_without_a_connection_is_reset_a_foreign_host_ignored() {
    let mut proxy = Proxy::new();
    let stray = SegmentBuilder { ack: Some(Seq(4)), ..SegmentBuilder::new(backend(11), client(1)) };
    assert_eq!(
        proxy.receive(&stray).first().map(|sent| (sent.to, sent.flags)),
        Some((backend(11), Flags::RST))
    );
    let foreign = SegmentBuilder { ack: Some(Seq(4)), ..SegmentBuilder::new(backend(99), client(1)) };
    assert!(proxy.receive(&foreign).is_empty());
    assert_eq!(proxy.counter("foreign_dropped"), 1);
}
