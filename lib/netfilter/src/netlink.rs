//! Netlink messages as bytes: a builder and a parser that trusts no length.

use std::ops::Range;

const HEADER: usize = 16;
const GENERIC: usize = 4;
const ATTRIBUTE: usize = 4;
const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

/// Longest value of an attribute, bytes.
pub(crate) const MAX_VALUE: usize = u16::MAX as usize - ATTRIBUTE;
/// `NLMSG_ERROR`: an error or, with code 0, an acknowledgement.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(crate) const DONE: u16 = 3;

pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Type, flags and sequence number of a message, and netfilter's generic header.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) family: u8,
    /// Queue number, or subsystem of a batch.
    pub(crate) resource: u16,
}

/// Messages one after the other, for one `sendto`.
#[derive(Default)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Appends one message; `body` adds its attributes.
    pub(crate) fn message(&mut self, head: Head, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&head.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&head.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&head.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[head.family, 0]);
        self.bytes.extend_from_slice(&head.resource.to_be_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.patch(start, &length.to_ne_bytes());
    }

    /// Sets further flags of the message that begins at `start`.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        if let Some(set) = read(&self.bytes, start + 6).map(u16::from_ne_bytes) {
            self.patch(start + 6, &(set | flags).to_ne_bytes());
        }
    }

    /// `value` is at most [`MAX_VALUE`] long: the caller's duty where lengths come from outside.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        debug_assert!(value.len() <= MAX_VALUE);
        self.bytes.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(crate) fn be16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub(crate) fn string(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    /// An attribute of attributes.
    pub(crate) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NESTED);
        body(self);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u16;
        self.patch(start, &length.to_ne_bytes());
        self.pad();
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// One received message.
#[derive(Debug, Clone)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    datagram: &'a [u8],
    body: Range<usize>,
}

impl<'a> Message<'a> {
    fn body(&self) -> &'a [u8] {
        self.datagram.get(self.body.clone()).unwrap_or_default()
    }

    /// The errno (positive; 0: acknowledged) of an [`ERROR`] or [`DONE`] message.
    pub(crate) fn error(&self) -> Option<i32> {
        let code = i32::from_ne_bytes(read(self.body(), 0)?);
        (self.kind == ERROR || self.kind == DONE).then_some(code.saturating_neg())
    }

    pub(crate) fn attributes(&self) -> Attributes<'a> {
        let start = (self.body.start + GENERIC).min(self.body.end);
        Attributes { datagram: self.datagram, rest: start..self.body.end }
    }
}

/// The messages of a received datagram; ends at the first that does not fit.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(read(datagram, at)?) as usize;
        let end = at.checked_add(length)?;
        if length < HEADER || end > datagram.len() {
            return None;
        }
        let message = Message {
            kind: u16::from_ne_bytes(read(datagram, at + 4)?),
            sequence: u32::from_ne_bytes(read(datagram, at + 8)?),
            datagram,
            body: at + HEADER..end,
        };
        at = at.checked_add(align(length))?;
        Some(message)
    })
}

/// One attribute.
#[derive(Debug, Clone)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    datagram: &'a [u8],
    /// Where the value is in the datagram.
    pub(crate) range: Range<usize>,
}

impl<'a> Attribute<'a> {
    pub(crate) fn value(&self) -> &'a [u8] {
        self.datagram.get(self.range.clone()).unwrap_or_default()
    }

    pub(crate) fn nested(&self) -> Attributes<'a> {
        Attributes { datagram: self.datagram, rest: self.range.clone() }
    }

    pub(crate) fn be32(&self) -> Option<u32> {
        read(self.value(), 0).map(u32::from_be_bytes)
    }

    pub(crate) fn be16(&self) -> Option<u16> {
        read(self.value(), 0).map(u16::from_be_bytes)
    }

    pub(crate) fn byte(&self) -> Option<u8> {
        self.value().first().copied()
    }
}

/// Attributes in their order; ends at the first that does not fit.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a> {
    datagram: &'a [u8],
    rest: Range<usize>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn find(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let start = self.rest.start;
        let bytes = self.datagram.get(self.rest.clone())?;
        let length = u16::from_ne_bytes(read(bytes, 0)?) as usize;
        if length < ATTRIBUTE || length > bytes.len() {
            return None;
        }
        let kind = u16::from_ne_bytes(read(bytes, 2)?) & KIND_MASK;
        self.rest.start = (start + align(length)).min(self.rest.end);
        Some(Attribute { kind, datagram: self.datagram, range: start + ATTRIBUTE..start + length })
    }
}

/// `N` bytes at `at`, if they are there.
pub(crate) fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Attributes, Builder, Head, messages};

    fn walk(attributes: Attributes<'_>, depth: usize) {
        for attribute in attributes {
            assert!(attribute.value().len() < 1 << 16);
            let _ = (attribute.be32(), attribute.be16(), attribute.byte());
            if depth < 8 {
                walk(attribute.nested(), depth + 1);
            }
        }
    }

    fn built(kind: u16, values: &[(u16, Vec<u8>)]) -> Builder {
        let mut builder = Builder::default();
        let head = Head { kind, flags: 1, sequence: 9, family: 2, resource: 5 };
        builder.message(head, |message| {
            for (kind, value) in values {
                message.nested(*kind, |nested| nested.attribute(*kind, value));
            }
        });
        builder
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for message in messages(&bytes) {
                let _ = (message.error(), crate::conntrack::decode(&message));
                walk(message.attributes(), 0);
            }
        }

        #[test]
        fn damaged_messages_do_not_panic(
            values in prop::collection::vec((1..40_u16, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
            kind in prop::sample::select(vec![2_u16, 3, 0x100, 0x102, 0x300]),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = built(kind, &values).bytes().to_vec();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            for message in messages(&bytes) {
                let _ = (message.error(), crate::conntrack::decode(&message));
                walk(message.attributes(), 0);
            }
        }

        #[test]
        fn what_is_built_is_parsed(
            values in prop::collection::vec((1..1000_u16, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
        ) {
            let builder = built(0x301, &values);
            let parsed: Vec<_> = messages(builder.bytes()).collect();
            prop_assert_eq!(parsed.len(), 1);
            let read: Vec<(u16, Vec<u8>)> = parsed[0]
                .attributes()
                .map(|outer| (outer.kind, outer.nested().find(outer.kind).unwrap().value().to_vec()))
                .collect();
            prop_assert_eq!(read, values);
        }
    }
}
