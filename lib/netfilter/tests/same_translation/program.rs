//! The fast path's program beside conntrack, and alone.

use std::time::{Duration, Instant};

use netfilter::Family;
use netfilter::conntrack::{Conntrack, SpliceEntry};
use netfilter::fast_path::{FastPath, Kept, Owners, Passed, Recorded, Rescale};
use netfilter::queue::{Queue, Verdict};
use netfilter::raw::RawSender;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment, Translation};

use crate::common::{Net, config};
use crate::segments::{Chance, one_hop_back, without_header_checksum};
use crate::{Direction, QUEUE, agree, arrived, directions, entry, spliced};

/// Nothing is handed over here.
const OWNERS: Owners = Owners { threads: 1, seed: 0 };

fn fast(net: &Net, entry: &SpliceEntry) -> FastPath {
    net.inside("r", || {
        let fast = FastPath::open(10, OWNERS).unwrap();
        assert!(fast.add(entry).unwrap());
        fast.attach().unwrap();
        fast
    })
}

/// Some are taken by the program, some by conntrack.
#[test]
fn three_ways_make_equal_packets() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "tf") else { return };
    let _fast = fast(&net, &entry);
    let mut chance = Chance(8);
    for direction in directions(&entry) {
        agree(&net, &direction, &mut chance);
    }
}

/// Of the form that the program takes; `number` makes it unlike others.
fn plain(direction: &Direction, number: u32, window: u16, payload: &[u8]) -> Vec<u8> {
    let Direction { source, destination, .. } = direction;
    let bare = SegmentBuilder {
        seq: Seq(number.wrapping_mul(0x9e37_79b9)),
        ack: Some(Seq(9)),
        window,
        timestamps: Some((number.wrapping_mul(0x85eb_ca6b), number.wrapping_add(0x7fff_fff0))),
        payload,
        ..SegmentBuilder::new(*source, *destination)
    };
    bare.build()
}

fn monotonic() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)).unwrap()
}

fn recorded(rescale: Rescale, to_its_end: bool) -> Recorded {
    let shown_every = Duration::from_secs(100);
    Recorded { rescale, to_its_end, rest: 5, show: (monotonic() + shown_every, shown_every) }
}

/// The program alone, for one that has no entry: what passes it is also recorded.
#[test]
fn windows_are_rescaled_and_what_passes_is_recorded() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "tr") else { return };
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    let scales = [(7, 2), (3, 9)];
    let [to_backend, to_client] = directions(&entry);
    let fast = net.inside("r", || FastPath::open(10, OWNERS)).unwrap();
    net.inside("r", || fast.attach()).unwrap();
    for (direction, number) in [(to_backend, 0), (to_client, 1)] {
        let Direction { from, to, translation, .. } = &direction;
        let translation = packet::Translation { rescale: Some(scales[number]), ..*translation };
        let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
        let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
        // Who its neighbour is, conntrack's packet asks.
        sender.send(&plain(&direction, 0, 99, b"")).unwrap();
        assert_eq!(arrived(&mut queue, 1).len(), 1);
        assert!(fast.add_recorded(&entry, &recorded(scales, false)).unwrap());
        assert!(conntrack.delete(entry.client, entry.service).unwrap());
        assert_eq!(fast.look(entry.client).unwrap().unwrap_or_default()[number], None);
        let mut newest: Option<(u32, u32)> = None;
        for (step, window) in [(1, 0), (2, 1), (3, 127), (4, 40_000), (5, 65_535)] {
            let payload = vec![7; step as usize * 100];
            let mut expected = plain(&direction, step, window, &payload);
            sender.send(&expected).unwrap();
            let view = TcpSegment::parse(&expected).unwrap();
            let end = (view.seq() + payload.len() as u32).0;
            let record = fast.look(entry.client).unwrap().unwrap_or_default()[number].unwrap();
            if number == 0 {
                assert_eq!(record.end, end, "a client's latest counts");
            }
            assert_eq!((record.ack, record.window), (9, window));
            let stamps = view.timestamps().unwrap();
            let newer = |known: &(u32, u32)| (known.0.wrapping_sub(stamps.0) as i32) > 0;
            newest = newest.filter(|known| number == 1 && newer(known)).or(Some(stamps));
            assert_eq!(Some(record.timestamps), newest, "a server's newest counts");
            translation.apply(&mut expected).unwrap();
            let got = arrived(&mut queue, 1);
            assert_eq!(one_hop_back(&got[0]), without_header_checksum(expected), "{from} to {to}, {window}");
        }
        assert!(fast.add_recorded(&entry, &recorded(scales, false)).unwrap());
        assert!(fast.look(entry.client).unwrap().unwrap_or_default()[number].is_some(), "the record stays");
        assert!(fast.take(entry.client).unwrap()[number].is_some());
        assert_eq!(fast.take(entry.client).unwrap(), [None; 2]);
        conntrack.create(&entry).unwrap();
    }
    net.inside("r", FastPath::detach_any).unwrap();
}

/// Both FINs pass as well where that is wanted, and a later owner finds what is kept.
#[test]
fn what_is_recorded_to_its_end_closes_by_itself() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "tw") else { return };
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    let fast = net.inside("r", || FastPath::open(10, OWNERS)).unwrap();
    let kept = || net.inside("r", FastPath::kept).unwrap();
    assert_eq!(kept(), []);
    net.inside("r", || fast.attach()).unwrap();
    for (direction, number) in directions(&entry).into_iter().zip([0, 1]) {
        let Direction { from, to, translation, .. } = &direction;
        let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
        let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
        // Who its neighbour is, conntrack's packet asks.
        sender.send(&plain(&direction, 0, 99, b"")).unwrap();
        assert_eq!(arrived(&mut queue, 1).len(), 1);
        if number == 0 {
            assert!(fast.add_recorded(&entry, &recorded([(7, 7), (7, 7)], true)).unwrap());
        }
        assert!(conntrack.delete(entry.client, entry.service).unwrap());
        let mut fin = plain(&direction, 2, 500, b"last");
        fin[33] |= Flags::FIN.0;
        packet::fill_checksum(&mut fin).unwrap();
        sender.send(&fin).unwrap();
        let end = (TcpSegment::parse(&fin).unwrap().seq() + 5).0;
        translation.apply(&mut fin).unwrap();
        assert_eq!(one_hop_back(&arrived(&mut queue, 1)[0]), without_header_checksum(fin), "{from} to {to}");
        let passed = fast.look(entry.client).unwrap().unwrap_or_default()[number].unwrap();
        assert_eq!((passed.end, passed.fin, passed.ack), (end, true, 9));
        let expected = SpliceEntry { mark: 0, timeout_s: 0, ..entry };
        let passed = fast.look(entry.client).unwrap().unwrap_or_default();
        assert_eq!(kept(), [Kept { entry: expected, rest: 5, passed }]);
        conntrack.create(&entry).unwrap();
    }
    let mut last = kept()[0];
    assert!(!last.has_ended(), "neither side has the other's FIN");
    let [client, server] = last.passed.map(Option::unwrap);
    let heard = server.end.wrapping_add(entry.server_offset);
    last.passed = [Some(Passed { ack: heard, ..client }), Some(Passed { ack: client.end, ..server })];
    assert!(last.has_ended());
    assert!(fast.take(entry.client).unwrap().into_iter().all(|passed| passed.is_some()));
    assert_eq!(kept(), []);
    assert!(fast.add(&entry).unwrap());
    assert_eq!(kept(), [], "conntrack has it");
    net.inside("r", FastPath::detach_any).unwrap();
}

/// Without an entry nobody but the program translates, and what it leaves to conntrack, at least one segment a second in each
/// direction, is not translated.
#[test]
fn the_program_alone_makes_equal_packets_until_the_connection_is_removed_or_ends() {
    let entry = entry("10.0.1.2:4000", "10.9.9.9:8080", "10.0.2.2:80");
    let Some(net) = spliced(Family::Ip, &entry, "ta") else { return };
    let mut conntrack = net.inside("r", Conntrack::open).unwrap();
    let fast = fast(&net, &entry);
    for direction in directions(&entry) {
        let Direction { from, to, translation, .. } = &direction;
        let mut sender = net.inside(from, || RawSender::open(0)).unwrap();
        let mut queue = net.inside(to, || Queue::bind(&config(QUEUE))).unwrap();
        let mut passes = |packet: &[u8]| {
            sender.send(packet).unwrap();
            let end = Instant::now() + Duration::from_millis(100);
            let mut got = Vec::new();
            while got.is_empty() && Instant::now() < end {
                let one = &mut |packet: netfilter::queue::QueuedPacket<'_>,
                                verdicts: &mut netfilter::queue::Verdicts| {
                    got.push(packet.payload.to_vec());
                    verdicts.push(packet.id, Verdict::Drop).unwrap();
                };
                queue.recv_batch(one).unwrap();
                queue.flush().unwrap();
            }
            // What the program leaves alone goes its way, from the backend to the client, or nowhere.
            got.pop().filter(|got: &Vec<u8>| got[12..20] != packet[12..20])
        };
        // The program does not ask who a neighbour is: conntrack's first packet does.
        assert!(passes(&plain(&direction, 0, 99, b"")).is_some());
        assert!(conntrack.delete(entry.client, entry.service).unwrap());
        let (mut taken, count) = (0, 200);
        for number in 0..count {
            let mut expected = plain(&direction, number, 99, &vec![number as u8; number as usize % 5 * 300]);
            let got = passes(&expected);
            translation.apply(&mut expected).unwrap();
            if let Some(got) = got {
                assert_eq!(one_hop_back(&got), without_header_checksum(expected), "{from} to {to}");
                taken += 1;
            }
        }
        assert!((count - 20..=count).contains(&taken), "{taken} of {count}, {from} to {to}");
        let mut wrong = plain(&direction, 7, 99, b"payload");
        *wrong.last_mut().unwrap() ^= 1;
        if let Some(got) = passes(&wrong) {
            assert!(!TcpSegment::parse(&got).unwrap().checksums_valid(), "a wrong checksum was made right");
        }
        fast.remove(entry.client).unwrap();
        assert_eq!(
            (passes(&plain(&direction, 8, 99, b"")), passes(&plain(&direction, 9, 99, b""))),
            (None, None)
        );
        fast.add(&entry).unwrap();
        // The first acknowledges something new, the second is the first for long.
        let _ = (passes(&plain(&direction, 10, 99, b"")), passes(&plain(&direction, 10, 99, b"")));
        assert!(passes(&plain(&direction, 11, 99, b"")).is_some());
        let mut end = plain(&direction, 12, 99, b"");
        end[33] |= Flags::RST.0;
        let nothing =
            Translation { source: direction.source, destination: direction.destination, ..*translation };
        let nothing = Translation { seq: 0, ack: 0, sack: 0, ts_value: 0, ts_echo: 0, ..nothing };
        nothing.apply(&mut end).unwrap();
        assert_eq!(passes(&end), None);
        assert_eq!(passes(&plain(&direction, 13, 99, b"")), None, "after a reset");
        fast.add(&entry).unwrap();
        conntrack.create(&entry).unwrap();
    }
    net.inside("r", FastPath::detach_any).unwrap();
}
