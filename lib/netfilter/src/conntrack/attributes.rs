//! The numbers of ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`, `nf_conntrack_tcp.h`).

pub(super) const SUBSYSTEM: u16 = 1 << 8;
pub(super) const NEW: u16 = SUBSYSTEM;
pub(super) const GET: u16 = SUBSYSTEM | 1;
pub(super) const DELETE: u16 = SUBSYSTEM | 2;

pub(super) const TUPLE_ORIGINAL: u16 = 1;
pub(super) const TUPLE_REPLY: u16 = 2;
pub(super) const STATUS: u16 = 3;
pub(super) const PROTOCOL_INFO: u16 = 4;
pub(super) const TIMEOUT: u16 = 7;
pub(super) const MARK: u16 = 8;
pub(super) const ID: u16 = 12;
pub(super) const NAT_DESTINATION: u16 = 13;
pub(super) const SEQUENCE_ORIGINAL: u16 = 15;
pub(super) const SEQUENCE_REPLY: u16 = 16;
pub(super) const MARK_MASK: u16 = 21;
pub(super) const SYNPROXY: u16 = 24;

pub(super) const TUPLE_IP: u16 = 1;
pub(super) const TUPLE_PROTOCOL: u16 = 2;
pub(super) const PROTOCOL_NUMBER: u16 = 1;
pub(super) const SOURCE_PORT: u16 = 2;
pub(super) const DESTINATION_PORT: u16 = 3;

/// Of an address, for IPv4 and for IPv6.
pub(super) const IP_SOURCE: [u16; 2] = [1, 3];
pub(super) const IP_DESTINATION: [u16; 2] = [2, 4];

pub(super) const NAT_MIN: [u16; 2] = [1, 4];
pub(super) const NAT_MAX: [u16; 2] = [2, 5];
pub(super) const NAT_PROTOCOL: u16 = 3;
pub(super) const NAT_PORT_MIN: u16 = 1;
pub(super) const NAT_PORT_MAX: u16 = 2;

pub(super) const OFFSET_POSITION: u16 = 1;
pub(super) const OFFSET_BEFORE: u16 = 2;
pub(super) const OFFSET_AFTER: u16 = 3;

pub(super) const SYNPROXY_ISN: u16 = 1;
/// The kernel uses this only in a handshake of its own; here it says whether the connection has timestamps.
pub(super) const SYNPROXY_ITS: u16 = 2;
pub(super) const SYNPROXY_OFFSET: u16 = 3;

pub(super) const INFO_TCP: u16 = 1;
pub(super) const TCP_STATE: u16 = 1;
pub(super) const TCP_SCALE_ORIGINAL: u16 = 2;
pub(super) const TCP_SCALE_REPLY: u16 = 3;
pub(super) const TCP_FLAGS_ORIGINAL: u16 = 4;
pub(super) const TCP_FLAGS_REPLY: u16 = 5;
pub(super) const ESTABLISHED: u8 = 3;
pub(super) const FLAG_WINDOW_SCALE: u8 = 1;
pub(super) const FLAG_SACK: u8 = 2;
pub(super) const FLAG_LIBERAL: u8 = 8;

pub(super) const SEEN_REPLY: u32 = 1 << 1;
pub(super) const ASSURED: u32 = 1 << 2;
pub(super) const CONFIRMED: u32 = 1 << 3;

pub(super) const TCP: u8 = libc::IPPROTO_TCP as u8;
