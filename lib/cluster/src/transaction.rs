//! The name of a transaction (paper §3.1, §4.1): client address, client port, ordinal on the connection.
//!
//! The ordinal has 16 bits in the name and 32 everywhere else. Beyond 65,535 the name carries its low 16 bits: the
//! 65,537th transaction of a connection is called like the first. At most 65,535 transactions of a connection are outstanding at a
//! time, so two that are meant at one moment never have the same name, and [`TransactionId::ordinal_near`] finds the whole
//! ordinal from any that is close. The first is 1.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Names one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// The client.
    pub client: SocketAddr,
    /// Its place on the client's connection, modulo 2¹⁶.
    pub ordinal: u16,
}

impl TransactionId {
    /// Of the `ordinal`th transaction on the client's connection.
    pub fn new(client: SocketAddr, ordinal: u32) -> Self {
        Self { client: SocketAddr::new(client.ip(), client.port()), ordinal: ordinal as u16 }
    }

    /// The 64 bits of an IPv4 client's: address, port, ordinal, from the most significant on.
    pub fn to_bits(self) -> Option<u64> {
        let IpAddr::V4(address) = self.client.ip() else { return None };
        let address = u64::from(address.to_bits());
        Some(address << 32 | u64::from(self.client.port()) << 16 | u64::from(self.ordinal))
    }

    /// What [`to_bits`](Self::to_bits) gave.
    pub fn from_bits(bits: u64) -> Self {
        let address = Ipv4Addr::from_bits((bits >> 32) as u32);
        Self { client: SocketAddr::new(address.into(), (bits >> 16) as u16), ordinal: bits as u16 }
    }

    /// The 160 bits of any client's: its IPv6 address (IPv4 ones mapped, RFC 4291 §2.5.5.2), port, ordinal, in network order.
    pub fn to_bytes(self) -> [u8; 20] {
        let address = match self.client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut bytes = [0; 20];
        let parts = [&address.octets()[..], &self.client.port().to_be_bytes(), &self.ordinal.to_be_bytes()];
        for (place, byte) in bytes.iter_mut().zip(parts.concat()) {
            *place = byte;
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave.
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        let [address @ .., port_high, port_low, high, low] = bytes;
        let client = SocketAddr::new(
            Ipv6Addr::from(address).to_canonical(),
            u16::from_be_bytes([port_high, port_low]),
        );
        Self { client, ordinal: u16::from_be_bytes([high, low]) }
    }

    /// The whole ordinal, if it is less than 2¹⁵ away from `near` (RFC 1982's arithmetic); never below 0.
    pub fn ordinal_near(self, near: u32) -> u32 {
        let distance = self.ordinal.wrapping_sub(near as u16) as i16;
        u32::try_from((i64::from(near) + i64::from(distance)).max(0)).unwrap_or(u32::MAX)
    }
}

/// `203.0.113.5:40001#7`
impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.client, self.ordinal)
    }
}

/// The text is not like `203.0.113.5:40001#7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a transaction as ADDRESS:PORT#ORDINAL, like 203.0.113.5:40001#7")]
pub struct NoTransactionId;

impl FromStr for TransactionId {
    type Err = NoTransactionId;

    fn from_str(text: &str) -> Result<Self, NoTransactionId> {
        let (client, ordinal) = text.split_once('#').ok_or(NoTransactionId)?;
        let client = client.parse().map_err(|_| NoTransactionId)?;
        Ok(Self { client, ordinal: ordinal.parse().map_err(|_| NoTransactionId)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client() -> impl Strategy<Value = SocketAddr> {
        let mapped = |address: &Ipv6Addr| address.to_ipv4_mapped().is_none();
        let v6 = any::<Ipv6Addr>().prop_filter("IPv4 in disguise", mapped).prop_map(IpAddr::V6);
        let ip = prop_oneof![any::<Ipv4Addr>().prop_map(IpAddr::V4), v6];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn every_form_reads_back(client in client(), ordinal in any::<u32>()) {
            let id = TransactionId::new(client, ordinal);
            prop_assert_eq!(TransactionId::from_bytes(id.to_bytes()), id);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            match id.to_bits() {
                Some(bits) => prop_assert_eq!(TransactionId::from_bits(bits), id),
                None => prop_assert!(client.is_ipv6()),
            }
        }

        #[test]
        fn the_whole_ordinal_is_found_from_a_near_one(ordinal in any::<u32>(), off in -32_767_i64..=32_768) {
            let id = TransactionId::new("10.0.0.1:1".parse().unwrap(), ordinal);
            if let Ok(near) = u32::try_from(i64::from(ordinal) + off) {
                prop_assert_eq!(id.ordinal_near(near), ordinal);
            }
        }
    }

    #[test]
    fn the_bits_stand_where_the_paper_puts_them() {
        let id = TransactionId::new("203.0.113.5:40001".parse().unwrap(), 7);
        assert_eq!(id.to_bits(), Some(0xcb00_7105_9c41_0007));
        assert_eq!("203.0.113.5:40001".parse::<TransactionId>(), Err(NoTransactionId));
    }
}
