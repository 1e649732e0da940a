//! Elements of an nft set of addresses and ports: which flows are queued before conntrack.

use std::net::{IpAddr, SocketAddr};

use crate::Error;
use crate::netlink::{self, Attribute, Builder, Message};
use crate::nftables::{self, Batch, DELETE_ELEMENT, DESTROY_ELEMENT, Family, GET_ELEMENT, NEW_ELEMENT};
use crate::socket::Socket;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
/// Elements of one message: their list is one attribute of at most 64 KiB.
const CHUNK: usize = 1024;

const LIST: &str = "list set";
const DELETE: &str = "delete from set";
const LOOK_UP: &str = "look up in set";

/// A set keyed `ipv4_addr . inet_service` or `ipv6_addr . inet_service`.
pub struct Sets {
    socket: Socket,
    family: Family,
    table: String,
    set: String,
    /// The kernel may know how to delete what may be missing.
    tolerant: bool,
}

impl Sets {
    /// Names a set; it need not exist yet. `Family::Ip6` wants IPv6 addresses, `Family::Ip` IPv4 ones.
    pub fn open(family: Family, table: &str, set: &str) -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open()?,
            family,
            table: table.to_owned(),
            set: set.to_owned(),
            tolerant: true,
        })
    }

    /// Adds elements, all or none; those that are there stay. Packets meet them from when this returns.
    pub fn add(&mut self, elements: &[SocketAddr]) -> Result<(), Error> {
        if elements.is_empty() {
            return Ok(());
        }
        let errno = self.change("add to set", NEW_ELEMENT, libc::NLM_F_CREATE, elements)?;
        nftables::succeed("add to set", errno)
    }

    /// Deletes elements; those that are not there are no error.
    pub fn delete(&mut self, elements: &[SocketAddr]) -> Result<(), Error> {
        if elements.is_empty() {
            return Ok(());
        }
        if self.tolerant {
            match self.change(DELETE, DESTROY_ELEMENT, 0, elements)? {
                libc::EINVAL | libc::EOPNOTSUPP => self.tolerant = false,
                errno => return nftables::succeed(DELETE, errno),
            }
        }
        elements.iter().try_for_each(|element| self.delete_one(*element))
    }

    /// Before Linux 6.3 a missing element is an error, and undoing the batch takes the kernel milliseconds: ask first.
    fn delete_one(&mut self, element: SocketAddr) -> Result<(), Error> {
        if !self.contains(element)? {
            return Ok(());
        }
        match self.change(DELETE, DELETE_ELEMENT, 0, &[element])? {
            libc::ENOENT => Ok(()),
            errno => nftables::succeed(DELETE, errno),
        }
    }

    /// Whether the element is in the set.
    pub fn contains(&mut self, element: SocketAddr) -> Result<bool, Error> {
        let Self { socket, family, table, set, .. } = self;
        let mut request = Builder::default();
        let head = nftables::head(socket, *family, GET_ELEMENT, libc::NLM_F_ACK);
        request.message(head, |message| of_set(message, table, set, &[element]));
        let mut errno = None;
        socket.request(LOOK_UP, request.bytes(), &mut |message| {
            errno = errno.or(message.error().filter(|_| message.sequence == head.sequence));
        })?;
        match errno {
            Some(0) => Ok(true),
            Some(libc::ENOENT) => Ok(false),
            Some(errno) => Err(Error::errno(LOOK_UP, errno)),
            None => Err(Error::Answer(LOOK_UP)),
        }
    }

    /// All elements.
    pub fn list(&mut self) -> Result<Vec<SocketAddr>, Error> {
        let Self { socket, family, table, set, .. } = self;
        let mut request = Builder::default();
        let head = nftables::head(socket, *family, GET_ELEMENT, libc::NLM_F_DUMP);
        request.message(head, |message| {
            message.string(LIST_TABLE, table);
            message.string(LIST_SET, set);
        });
        let (mut found, mut end) = (Vec::new(), None);
        socket.request(LIST, request.bytes(), &mut |message| {
            if message.sequence == head.sequence {
                end = end.or(message.error());
                found.extend(elements_of(message));
            }
        })?;
        nftables::succeed(LIST, end.ok_or(Error::Answer(LIST))?).map(|()| found)
    }

    /// Deletes all elements.
    pub fn flush(&mut self) -> Result<(), Error> {
        let Self { socket, family, table, set, .. } = self;
        let mut batch = Batch::begin(socket, *family);
        batch.add(DELETE_ELEMENT, 0, |message| {
            message.string(LIST_TABLE, table);
            message.string(LIST_SET, set);
        });
        nftables::succeed("flush set", batch.commit("flush set")?)
    }

    fn change(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: i32,
        elements: &[SocketAddr],
    ) -> Result<i32, Error> {
        let Self { socket, family, table, set, .. } = self;
        if elements.iter().any(|element| element.is_ipv6() != (*family == Family::Ip6)) {
            return Err(Error::MixedFamilies(what));
        }
        let mut batch = Batch::begin(socket, *family);
        for chunk in elements.chunks(CHUNK) {
            batch.add(kind, flags, |message| of_set(message, table, set, chunk));
        }
        batch.commit(what)
    }
}

fn of_set(message: &mut Builder, table: &str, set: &str, elements: &[SocketAddr]) {
    message.string(LIST_TABLE, table);
    message.string(LIST_SET, set);
    message.nested(LIST_ELEMENTS, |list| {
        for element in elements {
            add_element(list, *element);
        }
    });
}

fn add_element(list: &mut Builder, element: SocketAddr) {
    list.nested(ELEMENT, |item| {
        item.nested(ELEMENT_KEY, |key| key.attribute(DATA_VALUE, key_of(element).as_slice()));
    });
}

fn elements_of<'a>(message: &Message<'a>) -> impl Iterator<Item = SocketAddr> + 'a {
    let ours = message.kind == nftables::kind(NEW_ELEMENT);
    let list = message.attributes().find(LIST_ELEMENTS).filter(|_| ours);
    let key = |item: Attribute<'a>| item.nested().find(ELEMENT_KEY)?.nested().find(DATA_VALUE);
    list.into_iter().flat_map(|list| list.nested()).filter_map(move |item| address_of(key(item)?.value()))
}

/// The reverse of [`key_of`].
fn address_of(key: &[u8]) -> Option<SocketAddr> {
    let address = match key.len() {
        8 => IpAddr::from(netlink::read::<4>(key, 0)?),
        20 => IpAddr::from(netlink::read::<16>(key, 0)?),
        _ => return None,
    };
    let port = netlink::read::<2>(key, key.len() - 4)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port)))
}

/// Address and port, each filled up to a multiple of four bytes.
fn key_of(element: SocketAddr) -> Vec<u8> {
    let mut key = match element.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    key.extend_from_slice(&element.port().to_be_bytes());
    key.extend_from_slice(&[0; 2]);
    key
}
