//! TCP options (RFC 9293 §3.2, RFC 7323, RFC 2018).

use serde::{Deserialize, Serialize};

/// The options of a SYN that bind the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SynOptions {
    /// Maximum segment size, bytes; absent means 536 (IPv4) or 1220 (IPv6).
    pub mss: Option<u16>,
    /// Window scale, at most 14 (RFC 7323 §2.3).
    pub window_scale: Option<u8>,
    /// SACK permitted (RFC 2018).
    pub sack_permitted: bool,
    /// TSval of the SYN, if timestamps are used (RFC 7323 §3).
    pub timestamp: Option<u32>,
}

/// One option, at its place in the option field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Kind (IANA).
    pub kind: u8,
    /// Offset of `data` from the beginning of the option field.
    pub offset: usize,
    /// What follows kind and length.
    pub data: &'a [u8],
}

/// Kinds that this project reads.
pub(crate) mod kind {
    pub(crate) const END: u8 = 0;
    pub(crate) const NOP: u8 = 1;
    pub(crate) const MSS: u8 = 2;
    pub(crate) const WINDOW_SCALE: u8 = 3;
    pub(crate) const SACK_PERMITTED: u8 = 4;
    pub(crate) const SACK: u8 = 5;
    pub(crate) const TIMESTAMPS: u8 = 8;
}

/// The options of a segment, in order. An illegal length ends the walk (RFC 9293 MUST-7: survived).
#[derive(Debug, Clone)]
pub struct Options<'a> {
    field: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// Walks an option field.
    pub fn new(field: &'a [u8]) -> Self {
        Self { field, at: 0 }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<TcpOption<'a>> {
        loop {
            let kind = *self.field.get(self.at)?;
            match kind {
                kind::END => return None,
                kind::NOP => self.at += 1,
                _ => {
                    let length = usize::from(*self.field.get(self.at + 1)?);
                    let offset = self.at + 2;
                    let data = self.field.get(offset..self.at + length)?;
                    self.at += length;
                    return Some(TcpOption { kind, offset, data });
                }
            }
        }
    }
}

/// A splice changes what such an option says.
pub(crate) fn is_translated(kind: u8) -> bool {
    matches!(kind, kind::TIMESTAMPS | kind::SACK)
}

/// Reads the options of a SYN; a window scale above 14 counts as 14 (RFC 7323 §2.3).
pub(crate) fn syn_options(field: &[u8]) -> SynOptions {
    let mut found = SynOptions::default();
    for option in Options::new(field) {
        match (option.kind, option.data) {
            (kind::MSS, &[a, b]) => found.mss = Some(u16::from_be_bytes([a, b])),
            (kind::WINDOW_SCALE, &[scale]) => found.window_scale = Some(scale.min(14)),
            (kind::SACK_PERMITTED, &[]) => found.sack_permitted = true,
            (kind::TIMESTAMPS, &[a, b, c, d, ..]) if option.data.len() == 8 => {
                found.timestamp = Some(u32::from_be_bytes([a, b, c, d]));
            }
            _ => {}
        }
    }
    found
}

/// TSval and TSecr, if present; of several options the last counts, as in [`syn_options`] and in Linux.
pub(crate) fn timestamps(field: &[u8]) -> Option<(u32, u32)> {
    let pairs = Options::new(field).filter_map(|option| match (option.kind, option.data) {
        (kind::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
            Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
        }
        _ => None,
    });
    pairs.last()
}
