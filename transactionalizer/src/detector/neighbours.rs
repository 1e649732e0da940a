//! What the kernel says of its neighbours and links (rtnetlink(7)): that a host, or the way to it, is lost.

use std::net::IpAddr;

/// `struct nlmsghdr`, linux/netlink.h.
const HEADER: usize = 16;
/// `struct ndmsg`, linux/neighbour.h.
const NEIGHBOUR: usize = 12;
/// `struct rtattr`, linux/rtnetlink.h.
const ATTRIBUTE: usize = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNEIGH: u16 = 28;
const NDA_DST: u16 = 1;
/// Nobody answers for the address (`NUD_FAILED`).
const FAILED: u16 = 0x20;
/// There is a carrier (`IFF_LOWER_UP`, linux/if.h).
const LOWER_UP: u32 = 1 << 16;

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nobody answers for this address on the local network.
    Neighbour(IpAddr),
    /// An interface has no carrier, or is gone.
    Link,
}

/// What a datagram from the kernel says; ends at the first message that does not fit.
pub fn losses(datagram: &[u8]) -> Vec<Lost> {
    let (mut losses, mut rest) = (vec![], datagram);
    while let Some(length) = read(rest, 0).map(u32::from_ne_bytes) {
        let Some(message) = rest.get(..length as usize).filter(|message| message.len() >= HEADER) else {
            break;
        };
        losses.extend(loss(message));
        rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    losses
}

fn loss(message: &[u8]) -> Option<Lost> {
    let body = message.get(HEADER..)?;
    match read(message, 4).map(u16::from_ne_bytes)? {
        RTM_DELLINK => Some(Lost::Link),
        RTM_NEWLINK => (u32::from_ne_bytes(read(body, 8)?) & LOWER_UP == 0).then_some(Lost::Link),
        RTM_NEWNEIGH if u16::from_ne_bytes(read(body, 8)?) & FAILED != 0 => address(body.get(NEIGHBOUR..)?),
        _ => None,
    }
}

/// The neighbour's address among its attributes.
fn address(mut attributes: &[u8]) -> Option<Lost> {
    loop {
        let length = usize::from(u16::from_ne_bytes(read(attributes, 0)?));
        let value = attributes.get(ATTRIBUTE..length)?;
        if u16::from_ne_bytes(read(attributes, 2)?) == NDA_DST {
            let v4 = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(value).ok().map(IpAddr::from);
            return v4().or_else(v6).map(Lost::Neighbour);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    /// Before the address comes an attribute of another kind, as long as an odd number.
    fn neighbour(state: u16, address: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0, 7, 0, 0, 0];
        body.extend(state.to_ne_bytes());
        body.extend([0, 1]);
        for (kind, value) in [(2_u16, &[1, 2, 3, 4, 5][..]), (NDA_DST, address)] {
            body.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        message(RTM_NEWNEIGH, &body)
    }

    fn link(flags: u32) -> Vec<u8> {
        let mut body = vec![0, 0, 1, 0, 7, 0, 0, 0];
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        message(RTM_NEWLINK, &body)
    }

    #[test]
    fn failed_neighbours_and_lost_carriers_are_losses_and_nothing_else_is() {
        let reachable = 0x02;
        let datagram = [
            neighbour(FAILED, &[10, 0, 3, 1]),
            neighbour(reachable, &[10, 0, 3, 2]),
            link(LOWER_UP | 1),
            link(1),
            message(RTM_DELLINK, &[]),
            message(3, b"whatever"),
            neighbour(FAILED, &std::net::Ipv6Addr::LOCALHOST.octets()),
        ]
        .concat();
        let neighbour = |text: &str| Lost::Neighbour(text.parse().unwrap());
        assert_eq!(losses(&datagram), [neighbour("10.0.3.1"), Lost::Link, Lost::Link, neighbour("::1")]);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_survived(datagram: Vec<u8>, cut: usize) {
            losses(&datagram);
            let good = [neighbour(FAILED, &[10, 0, 3, 1]), link(1)].concat();
            losses(&good[..cut % good.len()]);
        }
    }
}
