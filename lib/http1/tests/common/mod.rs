//! What nobody here wrote: the inputs of llhttp's test suite, mutations of them, and what llhttp made of each.
#![allow(dead_code, unreachable_pub)]

pub const SUITE: &str = include_str!("../corpus/llhttp.tsv");
pub const MUTATED: &str = include_str!("../corpus/mutated.tsv");
pub const MAX: usize = 64 << 10;

pub struct Case<'a> {
    pub is_request: bool,
    pub name: &'a str,
    /// Where llhttp found messages to end.
    pub ends: Vec<usize>,
    /// How it stopped.
    pub stop: &'a str,
    pub bytes: Vec<u8>,
}

pub fn cases(text: &str) -> impl Iterator<Item = Case<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let columns: Vec<_> = line.splitn(5, '\t').collect();
        let [kind, name, ends, stop, bytes] = columns.as_slice() else { panic!("{line}") };
        let ends = ends.split(',').filter(|end| !end.is_empty()).map(|end| end.parse().unwrap()).collect();
        Case { is_request: *kind == "request", name, ends, stop, bytes: unescape(bytes) }
    })
}

pub fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let (unescaped, length) = match (byte, tail) {
            (b'\\', [b'r', ..]) => (b'\r', 1),
            (b'\\', [b'n', ..]) => (b'\n', 1),
            (b'\\', [b't', ..]) => (b'\t', 1),
            (b'\\', [b'\\', ..]) => (b'\\', 1),
            (b'\\', [b'x', digits @ ..]) => {
                let digits = std::str::from_utf8(&digits[..2]).unwrap();
                (u8::from_str_radix(digits, 16).unwrap(), 3)
            }
            _ => (*byte, 0),
        };
        bytes.push(unescaped);
        rest = &rest[length..];
    }
    bytes
}
