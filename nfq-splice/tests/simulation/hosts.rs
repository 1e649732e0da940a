//! Hosts with an independent TCP stack (smoltcp), on virtual time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

use packet::Time;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

/// Hosts at most: the client and the backends.
pub(crate) const HOSTS: usize = 4;

thread_local! {
    static MILLIS: Cell<u64> = const { Cell::new(0) };
    static OFFSETS: Cell<[u32; HOSTS]> = const { Cell::new([0; HOSTS]) };
}

fn clock(host: usize) -> u32 {
    (MILLIS.get() as u32).wrapping_add(OFFSETS.get()[host])
}

/// smoltcp takes a plain function: one for each host.
const CLOCKS: [fn() -> u32; HOSTS] = [|| clock(0), || clock(1), || clock(2), || clock(3)];

/// Where each host's timestamp clock begins.
pub(crate) fn set_clocks(offsets: [u32; HOSTS]) {
    OFFSETS.set(offsets);
}

fn instant(now: Time) -> Instant {
    Instant::from_micros((now.as_nanos() / 1000) as i64)
}

/// The host's only interface.
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

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

pub(crate) struct Host {
    pub(crate) number: usize,
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    wire: Wire,
    timestamps: bool,
}

impl Host {
    pub(crate) fn new(number: usize, address: Ipv4Addr, seed: u64, timestamps: bool, mtu: usize) -> Self {
        let mut wire = Wire { incoming: VecDeque::new(), outgoing: Vec::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(address.into(), 24)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(10, 0, 0, 254)).unwrap();
        Self { number, interface, sockets: SocketSet::new(Vec::new()), wire, timestamps }
    }

    pub(crate) fn add_socket(&mut self, receive: usize, send: usize) -> SocketHandle {
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
        if self.timestamps {
            socket.set_tsval_generator(Some(CLOCKS[self.number]));
        }
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn connect(&mut self, handle: SocketHandle, to: std::net::SocketAddr, port: u16) {
        let context = self.interface.context();
        self.sockets.get_mut::<tcp::Socket>(handle).connect(context, to, port).unwrap();
    }

    pub(crate) fn receive(&mut self, packet: Vec<u8>) {
        self.wire.incoming.push_back(packet);
    }

    /// Lets the stack work, and gives what it sends.
    pub(crate) fn poll(&mut self, now: Time) -> Vec<Vec<u8>> {
        MILLIS.set(now.as_nanos() / 1_000_000);
        self.interface.poll(instant(now), &mut self.wire, &mut self.sockets);
        std::mem::take(&mut self.wire.outgoing)
    }

    pub(crate) fn poll_at(&mut self, now: Time) -> Option<Time> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Time::from_nanos(at.total_micros().max(0) as u64 * 1000))
    }
}
