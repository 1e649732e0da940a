//! ICMP errors: views, translation and back, and the errors that the proxy makes itself.

use std::net::{IpAddr, SocketAddr};

use packet::TcpSegment;
use packet::icmp::{IcmpError, IcmpKind, IcmpTranslation, too_big};

use crate::Input;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let translation = translation(&mut input);
    let mtu = input.short();
    let original = input.rest();
    if let Ok(segment) = TcpSegment::parse(original) {
        own_errors_are_read(&segment, mtu);
    }
    let mut rewritten = original.to_vec();
    let applied = translation.apply(&mut rewritten);
    match IcmpError::parse(original) {
        Ok(error) if applied.is_ok() => translation_is_exact(&error, &rewritten, &translation),
        _ => assert!(applied.is_ok() || rewritten == original, "refused, but changed"),
    }
}

fn translation(input: &mut Input<'_>) -> IcmpTranslation {
    let v6 = input.flag();
    let mut address = || -> IpAddr {
        let low = input.byte();
        if v6 { [low; 16].into() } else { [low; 4].into() }
    };
    let [from, to, source, destination] = std::array::from_fn(|_| address());
    IcmpTranslation {
        addresses: [from, to],
        source: SocketAddr::new(source, input.short()),
        destination: SocketAddr::new(destination, input.short()),
        seq: input.word(),
        ack: input.word(),
    }
}

fn translation_is_exact(error: &IcmpError<'_>, rewritten: &[u8], translation: &IcmpTranslation) {
    let after = IcmpError::parse(rewritten).expect("a translated error is one");
    assert!(after.checksums_valid(), "a translated error has right checksums");
    assert_eq!((after.kind(), after.source()), (error.kind(), translation.addresses[0]));
    let (was, is) = (error.quoted(), after.quoted());
    assert_eq!((is.source, is.destination), (translation.source, translation.destination));
    assert_eq!((is.seq, is.length), (was.seq + translation.seq, was.length));
    assert_eq!(after.packet().len(), error.packet().len());
}

fn own_errors_are_read(segment: &TcpSegment<'_>, mtu: u16) {
    let from: IpAddr = if segment.source().is_ipv6() { [9; 16].into() } else { [9; 4].into() };
    let message = too_big(from, segment, mtu);
    // Headers longer than what may be quoted hide the ports.
    let Ok(error) = IcmpError::parse(&message) else { return };
    assert!(error.checksums_valid());
    assert_eq!(error.kind(), IcmpKind::TooBig { mtu: u32::from(mtu) });
    let quoted = error.quoted();
    assert_eq!((quoted.source, quoted.destination), (segment.source(), segment.destination()));
    assert_eq!((error.source(), quoted.seq), (from, segment.seq()));
}
