//! What recovery does with heads: asking for the rest, comparing two executions.

use http1::{compare_heads, parse_request, range_request};
use proptest::prelude::*;

const GET: &str = "GET /f?x HTTP/1.1\r\nHost: h\r\nX-Odd:  kept \r\n\r\n";

fn ranged(head: &str, first: u64, if_range: Option<&str>) -> Option<String> {
    range_request(head.as_bytes(), first, if_range).and_then(|bytes| String::from_utf8(bytes).ok())
}

#[test]
fn a_range_is_added_at_the_end() {
    let expected =
        "GET /f?x HTTP/1.1\r\nHost: h\r\nX-Odd:  kept \r\nRange: bytes=7-\r\nIf-Range: \"e\"\r\n\r\n";
    assert_eq!(ranged(GET, 7, Some("\"e\"")).as_deref(), Some(expected));
    let plain = ranged(&format!("\r\n\r\n{GET}"), 0, None);
    assert_eq!(
        plain.as_deref(),
        Some("\r\n\r\nGET /f?x HTTP/1.1\r\nHost: h\r\nX-Odd:  kept \r\nRange: bytes=0-\r\n\r\n")
    );
}

#[test]
fn an_existing_range_is_replaced_in_its_place() {
    for (range, first, expected) in [
        ("bytes=5-", 9, Some("bytes=9-")),
        ("bytes=5-20", 9, Some("bytes=9-20")),
        ("bytes=5-9", 9, Some("bytes=9-9")),
        ("Bytes=-500", 9, Some("bytes=9-")),
        ("bytes=5-8", 9, None),
        ("bytes=0-1,5-6", 0, None),
        ("items=5-", 9, None),
        ("bytes=", 9, None),
        ("bytes=-", 9, None),
        ("bytes=a-", 9, None),
        ("5-", 9, None),
    ] {
        let head = format!("GET / HTTP/1.1\r\nrange: {range}\r\nIf-Range: old\r\nHost: h\r\n\r\n");
        let result = ranged(&head, first, Some("new"));
        let expected =
            expected.map(|e| format!("GET / HTTP/1.1\r\nrange: {e}\r\nIf-Range: new\r\nHost: h\r\n\r\n"));
        assert_eq!(result, expected, "{range}");
    }
    let kept = ranged("GET / HTTP/1.1\r\nHost: h\r\nRange: bytes=1-\r\nIf-Range: old\r\n\r\n", 3, None);
    assert_eq!(
        kept.as_deref(),
        Some("GET / HTTP/1.1\r\nHost: h\r\nRange: bytes=3-\r\nIf-Range: old\r\n\r\n")
    );
}

#[test]
fn other_requests_get_no_range() {
    for head in [
        "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nRange: bytes=1-\r\nRange: bytes=2-\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "",
    ] {
        assert_eq!(ranged(head, 1, None), None, "{head:?}");
    }
    for validator in ["", "W/\"weak\"", "a\r\nX: y", "\u{e9}"] {
        assert_eq!(ranged(GET, 1, Some(validator)), None, "{validator:?}");
    }
}

fn volatile() -> Vec<String> {
    vec!["date".to_owned(), "X-Id".to_owned()]
}

const LOGGED: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 01\r\nETag: \"a\"\r\nX-ID:\r\n\r\n";

#[test]
fn volatile_values_may_differ_at_equal_length() {
    let compare = |other: &str| compare_heads(LOGGED.as_bytes(), other.as_bytes(), &volatile());
    assert_eq!(compare(LOGGED), Ok(()));
    assert_eq!(compare(&LOGGED.replace("Mon, 01", "Tue, 02")), Ok(()));
    assert_eq!(compare(&format!("{LOGGED}body")), Ok(()));
    assert_eq!(compare(&LOGGED.replace("\"a\"", "\"b\"")), Err(LOGGED.find("a\"").unwrap()));
    assert_eq!(compare(&LOGGED.replace("Mon, 01", "Mon, 011")), Err(LOGGED.find("\r\nETag").unwrap()));
    assert_eq!(compare(&LOGGED.replace("Mon, 01", "Mon, 0")), Err(LOGGED.find("1\r\nETag").unwrap()));
    assert_eq!(compare(&LOGGED.replace("Mon, 01", "M\r\nX: 1")), Err(LOGGED.find("on, 01").unwrap()));
    assert_eq!(compare(&LOGGED.replace("Date", "date")), Err(LOGGED.find("Date").unwrap()));
    assert_eq!(compare(&LOGGED.replace("200 OK", "200 KO")), Err(LOGGED.find("OK").unwrap()));
    assert_eq!(compare(&LOGGED[..20]), Err(20));
    assert_eq!(
        compare_heads(LOGGED.as_bytes(), LOGGED.replace("Mon", "Tue").as_bytes(), &[]),
        Err(LOGGED.find("Mon").unwrap())
    );
}

#[test]
fn the_status_line_is_never_volatile() {
    let names = ["HTTP/1.1 200 a".to_owned()];
    assert_eq!(compare_heads(b"HTTP/1.1 200 a:b\r\n", b"HTTP/1.1 200 a:c\r\n", &names), Err(15));
}

#[test]
fn a_beginning_of_a_head_is_compared_as_far_as_it_goes() {
    let other = LOGGED.replace("Mon, 01", "Tue, 02");
    for end in 0..=LOGGED.len() {
        assert_eq!(compare_heads(&LOGGED.as_bytes()[..end], other.as_bytes(), &volatile()), Ok(()), "{end}");
    }
}

/// The definition on parsed lines; only for heads that end in an empty line, of equal length.
fn oracle(logged: &str, other: &str, volatile: &[String]) -> bool {
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (logged.split("\r\n").collect(), other.split("\r\n").collect());
    let same = |(index, (a, b)): (usize, (&&str, &&str))| match (a.split_once(':'), b.split_once(':')) {
        (Some((n, v)), Some((m, w)))
            if index > 0 && n == m && volatile.iter().any(|x| x.eq_ignore_ascii_case(n)) =>
        {
            v.len() == w.len()
        }
        _ => a == b,
    };
    ours.len() == theirs.len() && ours.iter().zip(&theirs).enumerate().all(same)
}

fn head() -> impl Strategy<Value = String> {
    let field =
        ("(Date|date|X-Id|E|A)", "[ab]{0,3}").prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    prop::collection::vec(field, 0..4)
        .prop_map(|fields| format!("HTTP/1.1 200 OK\r\n{}\r\n", fields.concat()))
}

proptest! {
    #[test]
    fn comparing_agrees_with_the_definition(logged in head(), other in head()) {
        let equal = compare_heads(logged.as_bytes(), other.as_bytes(), &volatile()).is_ok();
        prop_assert_eq!(equal, oracle(&logged, &other, &volatile()));
    }

    #[test]
    fn the_first_difference_is_exact(logged in head(), at in any::<prop::sample::Index>()) {
        let mut other = logged.clone().into_bytes();
        let at = at.index(other.len());
        other[at] = b'~';
        if let Err(offset) = compare_heads(logged.as_bytes(), &other, &volatile()) {
            prop_assert_eq!(offset, at);
        } else {
            let line = logged[..at].rfind('\n').map_or(0, |n| n + 1);
            prop_assert!(logged[line..at].contains(':') && !logged[at..].starts_with(['\r', '\n']));
        }
    }

    #[test]
    fn everything_but_the_range_stays(fields in prop::collection::vec("X-[a-z]{1,4}: ?[!-~]{0,8}\r\n", 0..5), first in 0u64..1 << 62) {
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields.concat());
        let changed = range_request(head.as_bytes(), first, Some("\"v\"")).unwrap();
        let without = String::from_utf8(changed.clone()).unwrap().replace(&format!("Range: bytes={first}-\r\nIf-Range: \"v\"\r\n"), "");
        prop_assert_eq!(without, head);
        let parsed = parse_request(&changed, 1 << 16).unwrap().unwrap();
        let range = format!("bytes={first}-");
        prop_assert_eq!(parsed.field("range"), Some(range.as_bytes()));
        // A second failure of the same response.
        let again = range_request(&changed, first + 1, Some("\"v\"")).unwrap();
        prop_assert_eq!(String::from_utf8(again).unwrap().replace(&(first + 1).to_string(), &first.to_string()), String::from_utf8(changed).unwrap());
    }
}
