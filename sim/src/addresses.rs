//! The hosts' addresses, of the run's family.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Backends of the cluster.
pub const BACKENDS: usize = 3;

thread_local! {
    static V6: Cell<bool> = const { Cell::new(false) };
}

/// All addresses are IPv6 from now on, or IPv4.
pub fn set_family(v6: bool) {
    V6.set(v6);
}

fn address(v4: [u8; 4], v6: u16) -> IpAddr {
    if V6.get() {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from(v4[2]), v6))
    } else {
        IpAddr::V4(Ipv4Addr::from(v4))
    }
}

pub fn client_host() -> IpAddr {
    address([10, 0, 0, 1], 1)
}

pub fn client_address(port: u16) -> SocketAddr {
    SocketAddr::new(client_host(), port)
}

pub fn service() -> SocketAddr {
    SocketAddr::new(address([203, 0, 113, 80], 0x80), 80)
}

pub fn backend(number: usize) -> SocketAddr {
    SocketAddr::new(address([10, 0, 1, 11 + number as u8], 0x11 + number as u16), 80)
}

pub fn backend_number(address: SocketAddr) -> Option<usize> {
    (0..BACKENDS).find(|number| backend(*number) == address)
}

/// Somebody else outside.
pub fn stranger(port: u16) -> SocketAddr {
    SocketAddr::new(address([10, 0, 7, 7], 7), port.max(1))
}

/// Where a host sends what is not on its link.
pub fn router() -> IpAddr {
    address([10, 0, 0, 254], 0xfe)
}
