//! Addresses as they are kept a hundred thousand times: in 19 bytes, where the library's take 32.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An address and a port. A packet has neither a scope nor a flow label for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    ip: [u8; 16],
    port: [u8; 2],
    is_v4: bool,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port().to_be_bytes(), is_v4: address.is_ipv4() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        let ip = Ipv6Addr::from(endpoint.ip);
        let v4 = ip.to_ipv4_mapped().filter(|_| endpoint.is_v4);
        Self::new(v4.map_or(IpAddr::V6(ip), IpAddr::V4), u16::from_be_bytes(endpoint.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in
            ["203.0.113.5:40001", "[2001:db8::5]:80", "[::ffff:203.0.113.5]:40001", "[::]:0", "0.0.0.0:0"]
        {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Endpoint::from(address)), address);
        }
        let mapped = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
        assert_ne!(mapped("203.0.113.5:1"), mapped("[::ffff:203.0.113.5]:1"));
    }
}
