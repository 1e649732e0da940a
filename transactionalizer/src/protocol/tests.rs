//! Each protocol on a dialogue: which bytes belong to what, and that cuts make no difference.

use cluster::config::{Lines, ProtocolName, Records, Service};
use proptest::prelude::*;

use super::*;

fn service(protocol: ProtocolName) -> Service {
    let lines =
        Lines { request_end: vec!["\n".into(), ";".into()], response_end: "$ ".into(), greeting: true };
    let records = Records { length_bytes: 2, counts_itself: true, max_bytes: 1000 };
    Service { address: "10.0.0.1:80".parse().unwrap(), protocol, lines, records }
}

#[test]
fn only_lines_without_a_greeting_are_continued() {
    let mut service = service(ProtocolName::Lines);
    assert!(new(&service).bound_to_server().is_some());
    service.lines.greeting = false;
    assert_eq!(new(&service).bound_to_server(), None);
}

/// `true`: the client's bytes.
type Turn<'a> = (bool, &'a [u8]);

/// What a dialogue was read as; what stands without an event between two parts of one kind counts as one part.
fn read(protocol: ProtocolName, turns: &[Turn<'_>], pieces: &mut dyn Iterator<Item = usize>) -> Vec<String> {
    let mut protocol = new(&service(protocol));
    let mut events: Vec<(String, usize)> = Vec::new();
    for (client, bytes) in turns {
        let mut bytes = *bytes;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(pieces.next().unwrap_or(bytes.len()).clamp(1, bytes.len()));
            bytes = rest;
            let result =
                feed(&mut *protocol, *client, piece, &mut |event, consumed| match events.last_mut() {
                    Some((last, length)) if *last == event => *length += consumed,
                    _ => events.push((event, consumed)),
                });
            if let Err(refused) = result {
                events.push((format!("refused: {refused}"), 0));
                return events.into_iter().map(|(event, length)| format!("{event} {length}")).collect();
            }
        }
    }
    events.into_iter().map(|(event, length)| format!("{event} {length}")).collect()
}

fn feed(
    protocol: &mut dyn Protocol,
    client: bool,
    mut piece: &[u8],
    say: &mut dyn FnMut(String, usize),
) -> Result<(), Refused> {
    loop {
        let (consumed, events) = if client {
            let step = protocol.feed_request(piece)?;
            let events = match step.event {
                RequestEvent::NeedMore => return Ok(()),
                RequestEvent::Part => vec!["ask".to_owned()],
                // The length of what completes it depends on the cuts.
                RequestEvent::Asked(asked) => vec!["ask".to_owned(), format!("= {}", asked.line())],
                RequestEvent::End => vec!["asked".to_owned()],
            };
            (step.consumed, events)
        } else {
            let step = protocol.feed_response(piece)?;
            let event = match step.event {
                ResponseEvent::NeedMore => return Ok(()),
                ResponseEvent::Head => "head",
                ResponseEvent::Answer(_) => "answer",
                ResponseEvent::Body => "body",
                ResponseEvent::End => "answered",
                ResponseEvent::Unasked => "unasked",
                ResponseEvent::Switched => "switched",
            };
            (step.consumed, vec![event.to_owned()])
        };
        assert!(consumed <= piece.len());
        piece = &piece[consumed..];
        for (index, event) in events.into_iter().enumerate() {
            let switched = event == "switched";
            say(event, if index == 0 { consumed } else { 0 });
            if switched {
                return Ok(());
            }
        }
    }
}

fn whole(protocol: ProtocolName, turns: &[Turn<'_>]) -> Vec<String> {
    let events = read(protocol, turns, &mut std::iter::empty());
    let refused = events.last().is_some_and(|event| event.starts_with("refused"));
    for size in 1..8 {
        let mut cut = read(protocol, turns, &mut std::iter::repeat(size));
        assert_eq!(cut.last(), events.last(), "in pieces of {size}");
        // How much before a refusal was good is not said.
        let same = if refused { events.len() - 1 } else { events.len() };
        cut.truncate(same);
        assert_eq!(cut, events[..same.min(events.len())], "in pieces of {size}");
    }
    events
}

const SHELL: &[Turn<'static>] = &[
    (false, b"hello$ "),
    (true, b"ls;date\n"),
    (false, b"a b\n$ Tue$"),
    (false, b" "),
    (true, b" ; \nwc\n"),
];

#[test]
fn a_shell_ends_requests_in_newline_or_semicolon_and_answers_in_a_prompt() {
    let expected = [
        "unasked 7",
        "ask 3",
        "= ls 0",
        "asked 0",
        "ask 5",
        "= date 0",
        "asked 0",
        "answer 0",
        "body 6",
        "answered 0",
        "answer 0",
        "body 5",
        "answered 0",
        "ask 7",
        "= wc 0",
        "asked 0",
    ];
    assert_eq!(whole(ProtocolName::Lines, SHELL), expected);
    let unasked = whole(ProtocolName::Lines, &[(false, b"$ news")]);
    assert_eq!(unasked, ["unasked 2", "refused: response without a request 0"]);
}

const RECORDS: &[Turn<'static>] =
    &[(true, b"\0\x05abc\0\x02"), (false, b"\0\x03x\0\x02"), (true, b"\0\x04yz")];

#[test]
fn records_are_as_long_as_they_say() {
    let expected = [
        "ask 2",
        "= RECORD 3 0",
        "ask 3",
        "asked 0",
        "ask 2",
        "= RECORD 0 0",
        "asked 0",
        "answer 0",
        "body 3",
        "answered 0",
        "answer 0",
        "body 2",
        "answered 0",
        "ask 2",
        "= RECORD 2 0",
        "ask 2",
        "asked 0",
    ];
    assert_eq!(whole(ProtocolName::Records, RECORDS), expected);
    assert_eq!(
        whole(ProtocolName::Records, &[(true, b"\0\x01")]),
        ["refused: record shorter than its own length 0"]
    );
    let long = whole(ProtocolName::Records, &[(true, b"\x04\x00")]);
    assert_eq!(long, ["refused: record longer than service.records.max_bytes 0"]);
}

const IMAP: &[Turn<'static>] = &[
    (false, b"* OK ready\r\n"),
    (true, b"a1 LOGIN {4}\r\n"),
    (false, b"+ go on\r\n"),
    (true, b"user {2+}\r\npw\r\n"),
    (false, b"* CAPABILITY IMAP4rev1\r\na1 OK in\r\n"),
    (true, b"a2 UID fetch 1 (BODY[])\r\na3 IDLE\r\n"),
    (false, b"* 1 FETCH (UID 1 BODY[] {9}\r\na2 OK no\n)\r\na2 OK done\r\n+ idling\r\n* 2 EXISTS\r\n"),
    (true, b"DONE\r\n"),
    (false, b"a3 OK\r\n* 3 EXISTS\r\n"),
    (true, b"a4 AUTHENTICATE PLAIN\r\n"),
    (false, b"+ \r\n"),
    (true, b"AHU=\r\n"),
    (false, b"a4 NO\r\n"),
    (true, b"a5 LOGOUT\r\n"),
];

#[test]
fn imap_commands_end_with_their_tagged_response() {
    let expected = [
        "unasked 12",
        "ask 14",
        "unasked 9",
        "ask 15",
        "= LOGIN {4} 0",
        "asked 0",
        "answer 0",
        "body 34",
        "answered 0",
        "ask 25",
        "= UID fetch 1 (BODY[]) 0",
        "asked 0",
        "ask 9",
        "= IDLE 0",
        "answer 0",
        "body 53",
        "answered 0",
        "answer 0",
        "body 22",
        "ask 6",
        "asked 0",
        "body 7",
        "answered 0",
        "unasked 12",
        "ask 23",
        "= AUTHENTICATE PLAIN 0",
        "answer 0",
        "body 4",
        "ask 6",
        "body 7",
        "answered 0",
        "asked 0",
        "ask 11",
        "= LOGOUT 0",
        "asked 0",
    ];
    assert_eq!(whole(ProtocolName::Imap, IMAP), expected);
    let tls = [(true, &b"a STARTTLS\r\n"[..]), (false, b"a OK go\r\n"), (false, b"\x16\x03\x01")];
    assert_eq!(whole(ProtocolName::Imap, &tls).last().unwrap(), "switched 0");
    let disorder = [(true, &b"a NOOP\r\nb NOOP\r\n"[..]), (false, b"b OK\r\n")];
    assert_eq!(
        whole(ProtocolName::Imap, &disorder).last().unwrap(),
        "refused: a tagged response to no command, or out of order 0"
    );
}

const SMTP: &[Turn<'static>] = &[
    (false, b"220-mx\r\n220 ready\r\n"),
    (true, b"EHLO a\r\n"),
    (false, b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"),
    (true, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"),
    (false, b"250 ok\r\n250 ok\r\n354 go\r\n"),
    (true, b"Subject: x\r\n\r\n..\r\n.\r\n"),
    (false, b"250 queued\r\n"),
    (true, b"DATA\r\n"),
    (false, b"503 no\r\n"),
    (true, b"AUTH LOGIN\r\n"),
    (false, b"334 user\r\n"),
    (true, b"eA==\r\n"),
    (false, b"535 no\r\n"),
    (true, b"bdat 5 LAST\r\nab\r\ncQUIT\r\n"),
    (false, b"250 ok\r\n221 bye\r\n"),
];

#[test]
fn smtp_commands_end_with_their_reply_and_a_message_with_its_dot() {
    let expected = [
        "unasked 19",
        "ask 8",
        "= EHLO a 0",
        "asked 0",
        "answer 0",
        "body 38",
        "answered 0",
        "ask 17",
        "= MAIL FROM:<a@b> 0",
        "asked 0",
        "ask 15",
        "= RCPT TO:<c@d> 0",
        "asked 0",
        "ask 6",
        "= DATA 0",
        "answer 0",
        "body 8",
        "answered 0",
        "answer 0",
        "body 8",
        "answered 0",
        "answer 0",
        "body 8",
        "ask 21",
        "asked 0",
        "body 12",
        "answered 0",
        "ask 6",
        "= DATA 0",
        "answer 0",
        "body 8",
        "answered 0",
        "asked 0",
        "ask 12",
        "= AUTH LOGIN 0",
        "answer 0",
        "body 10",
        "ask 6",
        "body 8",
        "answered 0",
        "asked 0",
        "ask 13",
        "= bdat 5 LAST 0",
        "ask 5",
        "asked 0",
        "ask 6",
        "= QUIT 0",
        "asked 0",
        "answer 0",
        "body 8",
        "answered 0",
        "answer 0",
        "body 9",
        "answered 0",
    ];
    assert_eq!(whole(ProtocolName::Smtp, SMTP), expected);
}

/// A message that is only its end.
#[test]
fn an_empty_message_ends_at_once() {
    let turns = [(true, &b"DATA\r\n"[..]), (false, b"354 go\r\n"), (true, b".\r\n"), (false, b"250 ok\r\n")];
    assert_eq!(whole(ProtocolName::Smtp, &turns).last().unwrap(), "answered 0");
}

proptest! {
    /// Whatever comes is survived, and every cut gives the same.
    #[test]
    fn cuts_make_no_difference(
        which in 0..4_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..3),
        pieces in prop::collection::vec(1_usize..9, 1..200),
    ) {
        let (protocol, turns) = [
            (ProtocolName::Lines, SHELL),
            (ProtocolName::Records, RECORDS),
            (ProtocolName::Imap, IMAP),
            (ProtocolName::Smtp, SMTP),
        ][which];
        let mut turns: Vec<(bool, Vec<u8>)> = turns.iter().map(|(client, bytes)| (*client, bytes.to_vec())).collect();
        for (turn, place, byte) in damage {
            let count = turns.len();
            let (_, bytes) = &mut turns[turn.index(count)];
            let length = bytes.len();
            bytes[place.index(length)] = byte;
        }
        let turns: Vec<Turn<'_>> = turns.iter().map(|(client, bytes)| (*client, bytes.as_slice())).collect();
        let events = |pieces: &mut dyn Iterator<Item = usize>| {
            let mut events = read(protocol, &turns, pieces);
            if events.last().is_some_and(|event| event.starts_with("refused")) {
                // How much before it was good is not said.
                events.truncate(events.len().saturating_sub(2));
            }
            events
        };
        let mut cut = pieces.into_iter().cycle();
        let (whole, cut) = (events(&mut std::iter::empty()), events(&mut cut));
        prop_assert!(whole.iter().zip(&cut).all(|(a, b)| a == b), "{whole:?} {cut:?}");
    }
}
