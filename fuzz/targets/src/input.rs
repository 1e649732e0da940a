//! Arbitrary bytes read as choices. At the end everything is zero, so that any prefix of an input is an input.

/// What is left of an input.
#[derive(Debug, Clone)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads `bytes` from their beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `length` bytes.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.bytes(N)) {
            *to = *from;
        }
        array
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    /// Two bytes, big endian.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// Four bytes, big endian.
    pub fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// Eight bytes, big endian.
    pub fn long(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// One of `choices` alternatives, from 0.
    pub fn choose(&mut self, choices: u8) -> u8 {
        self.byte() % choices
    }

    /// True half the time.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Bytes whose number comes before them.
    pub fn blob(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.bytes(length)
    }

    /// Lengths of pieces, each at least 1, the same ones again and again.
    pub fn cuts(&mut self) -> impl Iterator<Item = usize> + Clone + use<> {
        let lengths: [u8; 3] = self.array();
        lengths.into_iter().cycle().map(|length| usize::from(length).max(1))
    }
}
