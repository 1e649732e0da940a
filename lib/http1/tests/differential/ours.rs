//! Our reading of a stream, in the oracle's words.

use http1::{Event, Fields, RequestFramer, ResponseFramer, ResponseFraming, Version};

use crate::common::MAX;
use crate::{Item, Stream};

pub(crate) fn read(stream: &Stream) -> Vec<Item> {
    match &stream.methods {
        None => requests(&stream.bytes),
        Some(methods) => responses(&stream.bytes, methods),
    }
}

fn requests(bytes: &[u8]) -> Vec<Item> {
    let (mut framer, mut items, mut at) = (RequestFramer::new(MAX), Vec::new(), 0);
    loop {
        let step = match framer.feed(&bytes[at..]) {
            Ok(step) => step,
            Err(refusal) => {
                items.push(Item::Refused(refusal.reason.to_owned()));
                return items;
            }
        };
        at += step.consumed;
        match step.event {
            Event::Head(head) => {
                let first = format!("{} {}", latin(head.line().as_bytes()), version(head.version));
                items.push(Item::Head(canonical(first, &head.fields), at));
            }
            Event::MessageEnd => items.push(Item::End(at)),
            Event::NeedMore => {
                if !framer.between_messages() || items.is_empty() {
                    items.push(Item::More);
                }
                return items;
            }
            Event::HeadPart | Event::Body => {}
        }
    }
}

fn responses(bytes: &[u8], methods: &[&str]) -> Vec<Item> {
    let (mut framer, mut items, mut at) = (ResponseFramer::new(MAX), Vec::new(), 0);
    for method in methods {
        framer.expect(method).unwrap();
    }
    let mut endless = None;
    while framer.outstanding() > 0 {
        let step = match framer.feed(&bytes[at..]) {
            Ok(step) => step,
            Err(refusal) => {
                items.push(Item::Refused(refusal.reason.to_owned()));
                break;
            }
        };
        at += step.consumed;
        match step.event {
            Event::Head(head) => {
                let first = format!("{} {}", head.status, version(head.version));
                items.push(Item::Head(canonical(first, &head.fields), at));
                endless = match head.framing {
                    ResponseFraming::UntilClose => Some(Item::Close),
                    ResponseFraming::Opaque => Some(Item::Opaque),
                    _ => None,
                };
            }
            Event::MessageEnd => items.push(Item::End(at)),
            Event::NeedMore => {
                let between = framer.finish() == http1::Finish::Between && !items.is_empty();
                let interim = !matches!(items.last(), Some(Item::End(_)));
                items.extend(endless.or((!between || interim).then_some(Item::More)));
                break;
            }
            Event::HeadPart | Event::Body => {}
        }
    }
    items
}

fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    }
}

/// The first line and the fields, one a line. As h11 gives them: names, and the coding's, in lower case, equal lengths as one.
fn canonical(first: String, fields: &Fields) -> String {
    let mut lines = vec![first];
    for (name, value) in fields.iter() {
        let (name, mut value) = (latin(name).to_ascii_lowercase(), latin(value));
        if name == "transfer-encoding" {
            value.make_ascii_lowercase();
        }
        if name == "content-length" {
            let mut lengths = value.split(',').map(|length| length.trim_matches([' ', '\t']));
            let first = lengths.next().unwrap_or_default().to_owned();
            value = if lengths.all(|length| length == first) { first } else { value };
        }
        let line = format!("{name}: {value}");
        if name != "content-length" || !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
