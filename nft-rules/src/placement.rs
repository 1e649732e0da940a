//! Which queue a client's packets go to: a hash of its address and port, the same for both directions, so that one thread
//! owns a connection.
//!
//! The rules let the kernel hash (`jhash`, `net/netfilter/nft_hash.c`); the daemon must find the same queue for an entry that
//! it reads from conntrack, so the function is here as well; and its BPF program (`lib/netfilter/src/fast_path/hand_over.rs`) for what
//! it does not leave to a queue. Tests compare all three.

use std::net::{IpAddr, SocketAddr};

use netfilter::Family;

/// Queues of one proxy at most.
pub const MAX_QUEUES: u16 = 64;
/// Any fixed number; the daemon, its BPF program and the rules must use the same.
pub const SEED: u32 = 0x5e51_10ad;
/// `JHASH_INITVAL` of `include/linux/jhash.h`.
const INITIAL: u32 = 0xdead_beef;

/// As nft says it: the hash of the client's address and port, which are the packet's source or its destination.
pub(crate) fn expression(family: Family, client_is_source: bool, queues: u16) -> String {
    let ip = family.name();
    let (address, port) = if client_is_source { ("saddr", "sport") } else { ("daddr", "dport") };
    hash_of(&format!("{ip} {address} . tcp {port}"), queues)
}

/// The same of any key that reads as an address and a port.
pub(crate) fn hash_of(key: &str, queues: u16) -> String {
    format!("jhash {key} mod {queues} seed {SEED:#x}")
}

/// The index of a client's queue, less than `queues`, which is at least 1.
pub fn queue_of(client: SocketAddr, queues: u16) -> u16 {
    let [high, low] = client.port().to_be_bytes();
    let port = word([high, low, 0, 0]);
    let hash = match client.ip() {
        IpAddr::V4(address) => hash(&[word(address.octets()), port]),
        IpAddr::V6(address) => {
            let [a, b, c, d] = words(address.octets());
            hash(&[a, b, c, d, port])
        }
    };
    // `reciprocal_scale()`: below `queues`, so it fits.
    ((u64::from(hash) * u64::from(queues)) >> 32) as u16
}

fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l]), word([m, n, o, p])]
}

/// `jhash()` of `include/linux/jhash.h` (Bob Jenkins' lookup3) for whole words.
fn hash(key: &[u32]) -> u32 {
    let start = INITIAL.wrapping_add(key.len() as u32 * 4).wrapping_add(SEED);
    let mut state = [start; 3];
    let mut rest = key;
    while let [a, b, c, more @ ..] = rest
        && !more.is_empty()
    {
        add(&mut state, &[*a, *b, *c]);
        mix(&mut state);
        rest = more;
    }
    add(&mut state, rest);
    finish(state)
}

fn add(state: &mut [u32; 3], words: &[u32]) {
    for (sum, word) in state.iter_mut().zip(words) {
        *sum = sum.wrapping_add(*word);
    }
}

/// `__jhash_mix`
fn mix(state: &mut [u32; 3]) {
    let [mut a, mut b, mut c] = *state;
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(first);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(second);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(third);
        b = b.wrapping_add(a);
    }
    *state = [a, b, c];
}

/// `__jhash_final`
fn finish([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::queue_of;

    #[test]
    fn every_queue_gets_its_share() {
        for queues in [1, 2, 3, 64] {
            let mut counts = vec![0_u32; usize::from(queues)];
            for port in 0..32_000 {
                counts[usize::from(queue_of(([10, 0, 1, 2], port).into(), queues))] += 1;
            }
            let fair = 32_000 / u32::from(queues);
            assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 4 + 1), "{counts:?}");
        }
    }
}
