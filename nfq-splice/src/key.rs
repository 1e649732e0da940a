//! Clients as keys of the table: shorter than a socket address, hashed in one piece.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cluster::control::Client;

/// Address and port of a peer, 18 bytes. An IPv4 address is written as an IPv4-mapped one (RFC 4291 §2.5.5.2), which no
/// packet carries itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key([u8; 18]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl From<SocketAddr> for Key {
    fn from(address: SocketAddr) -> Self {
        let octets = match address.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let mut key = [0; 18];
        let (ip, port) = key.split_at_mut(16);
        ip.copy_from_slice(&octets);
        port.copy_from_slice(&address.port().to_be_bytes());
        Self(key)
    }
}

impl From<Key> for Client {
    fn from(Key(bytes): Key) -> Self {
        let [a @ .., high, low] = bytes;
        let address = Ipv6Addr::from(a);
        let address =
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), |address: Ipv4Addr| address.into());
        Self::new(address, u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_addresses(v4 in any::<([u8; 4], u16)>(), v6 in any::<([u8; 16], u16)>()) {
            for address in [SocketAddr::from(v4), SocketAddr::from(v6)] {
                prop_assert_eq!(SocketAddr::from(Key::from(address)), address);
            }
        }
    }
}
