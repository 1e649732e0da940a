//! What the kernel (or somebody who can write to the socket) sends: NFQUEUE packets and conntrack messages.

use netfilter::received;

pub(crate) fn run(bytes: &[u8]) {
    if let Some(packet) = received::queued_packet(bytes) {
        assert!(bytes.get(packet.payload.clone()).is_some(), "a payload outside of the datagram");
    }
    let found = received::connections(bytes);
    // A message that names a connection both ways has at least two tuples.
    assert!(found.len() * 40 <= bytes.len(), "more connections than fit");
}
