//! A request changed to ask for the rest of its response (RFC 9110 §14).

use crate::head::leading_empty_lines;
use crate::request::{RequestFraming, RequestHead};
use crate::response::number;

/// A copy of the GET request head `head` that asks for the bytes from position `first` of the representation to
/// the end, or to where the original asked; if `if_range` is given, only as long as that validator (a strong ETag or
/// a Last-Modified date) still holds. Everything else stays byte for byte.
///
/// `None` if `head` is not exactly one valid head of a GET without body, if it asks for several ranges or for a range
/// that ends before `first`, or if `if_range` is not a strong validator (RFC 9110 §13.1.5).
pub fn range_request(head: &[u8], first: u64, if_range: Option<&str>) -> Option<Vec<u8>> {
    let request = RequestHead::parse(head).ok()?;
    if request.method() != "GET" || request.framing != RequestFraming::None || !if_range.is_none_or(strong) {
        return None;
    }
    let last = match request.fields.all("range").collect::<Vec<_>>().as_slice() {
        [] => None,
        [range] => last_of(std::str::from_utf8(range).ok()?).ok()?,
        _ => return None,
    };
    if last.is_some_and(|last| last < first) {
        return None;
    }
    let last = last.map(|last| last.to_string()).unwrap_or_default();
    let changed = replace(head, "Range", Some(&format!("bytes={first}-{last}")));
    Some(replace(&changed, "If-Range", if_range))
}

/// The last position asked for; `None` is the end of the representation, where a suffix range ends, too.
fn last_of(range: &str) -> Result<Option<u64>, NotOneRange> {
    let (unit, range) = range.split_once('=').ok_or(NotOneRange)?;
    let (from, to) = range.trim().split_once('-').ok_or(NotOneRange)?;
    let last = match (number(from), number(to)) {
        _ if !unit.trim().eq_ignore_ascii_case("bytes") => return Err(NotOneRange),
        (Some(_), Some(last)) => Some(last),
        (Some(_), None) if to.is_empty() => None,
        (None, Some(_)) if from.is_empty() => None,
        _ => return Err(NotOneRange),
    };
    Ok(last)
}

struct NotOneRange;

fn strong(validator: &str) -> bool {
    !validator.is_empty()
        && !validator.starts_with("W/")
        && validator.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// `head` with the value of its field `name` replaced in place, or the field added at the end.
fn replace(head: &[u8], name: &str, value: Option<&str>) -> Vec<u8> {
    let Some(value) = value else { return head.to_vec() };
    let first_line = leading_empty_lines(head);
    let mut changed = Vec::with_capacity(head.len() + name.len() + value.len() + 4);
    let mut seen = false;
    for (index, line) in
        head.get(first_line..).unwrap_or_default().split_inclusive(|b| *b == b'\n').enumerate()
    {
        let is_it = index > 0 && field_name(line).eq_ignore_ascii_case(name.as_bytes());
        let is_last = line == b"\r\n" && !seen;
        match (is_it, is_last) {
            (true, _) if seen => {}
            (true, _) => {
                changed.extend(field_name(line));
                changed.extend(format!(": {value}\r\n").bytes());
                seen = true;
            }
            (_, true) => changed.extend(format!("{name}: {value}\r\n\r\n").bytes()),
            _ => changed.extend(line),
        }
    }
    [head.get(..first_line).unwrap_or_default(), &changed].concat()
}

fn field_name(line: &[u8]) -> &[u8] {
    line.split(|b| *b == b':').next().unwrap_or_default()
}
