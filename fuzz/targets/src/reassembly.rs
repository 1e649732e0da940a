//! Reassembly against a model that keeps every byte's first copy.

use std::collections::BTreeMap;

use packet::{Reassembly, Seq};

use crate::Input;

const MAX: usize = 300;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let start = Seq(input.word());
    let mut stream = Reassembly::new(start, MAX);
    let mut delivered: Vec<u8> = Vec::new();
    let mut first_copies: BTreeMap<i64, u8> = BTreeMap::new();
    while !input.is_empty() {
        let at = i64::from(input.short() as i16) % 1024;
        let data = input.blob();
        let before = delivered.len();
        let pushed = stream.push(start + at as u32, data, &mut |bytes| delivered.extend_from_slice(bytes));
        assert_eq!(pushed.delivered, delivered.len() - before);
        assert!(stream.kept() <= MAX, "more than the bound is kept");
        assert_eq!(stream.next(), start + delivered.len() as u32);
        if pushed.refused == 0 {
            note(&mut first_copies, at, data);
            in_order_copies_win(&first_copies, &delivered);
        } else {
            // Which part was refused is not said: begin anew with what is known.
            first_copies = delivered.iter().enumerate().map(|(at, byte)| (at as i64, *byte)).collect();
            stream = Reassembly::new(stream.next(), MAX);
        }
    }
}

fn note(first_copies: &mut BTreeMap<i64, u8>, at: i64, data: &[u8]) {
    for (offset, byte) in (at..).zip(data).filter(|(offset, _)| *offset >= 0) {
        first_copies.entry(offset).or_insert(*byte);
    }
}

/// RFC 9293 §3.10: what arrived first is what the application gets, and all of it without a gap.
fn in_order_copies_win(first_copies: &BTreeMap<i64, u8>, delivered: &[u8]) {
    let expected: Vec<u8> = (0..).map_while(|offset| first_copies.get(&offset).copied()).collect();
    assert_eq!(delivered, expected);
}
