//! The link layer of a host with smoltcp's stack.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// The host's only interface: IP packets in and out.
pub struct Wire {
    /// To the host, in order.
    pub incoming: VecDeque<Vec<u8>>,
    /// From the host, in order.
    pub outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

impl Wire {
    /// Nothing on it; `mtu` in bytes.
    pub fn new(mtu: usize) -> Self {
        Self { incoming: VecDeque::new(), outgoing: Vec::new(), mtu }
    }
}

/// A packet that has arrived.
pub struct Received(Vec<u8>);
/// Room for one that leaves.
pub struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
