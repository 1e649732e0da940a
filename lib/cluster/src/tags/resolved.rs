//! A path as its server may read it.

use std::borrow::Cow;

/// The path decoded, without empty and dot segments. Borrowed if it is the same.
pub(super) fn resolved(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.starts_with(b"/") || is_plain(path) {
        return Cow::Borrowed(path);
    }
    let decoded = decode(path);
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut trailing_slash = false;
    for segment in decoded.split(|b| *b == b'/') {
        trailing_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let end: &[u8] = if trailing_slash && !segments.is_empty() { b"/" } else { b"" };
    let read = [b"/", segments.join(&b'/').as_slice(), end].concat();
    if read == path { Cow::Borrowed(path) } else { Cow::Owned(read) }
}

/// Nothing in it could be read otherwise.
fn is_plain(path: &[u8]) -> bool {
    let after_slash = path.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    !after_slash && !path.contains(&b'%')
}

/// Percent-encoding undone, where it is valid.
pub(super) fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        let escaped =
            if *byte == b'%' { tail.first_chunk().and_then(|digits| hex_byte(*digits)) } else { None };
        decoded.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    decoded
}

fn hex_byte(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn resolving_is_idempotent_and_leaves_no_dots(path in "/[a./%2eE]{0,30}") {
            let once = resolved(path.as_bytes()).into_owned();
            prop_assert!(!once.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b"..")));
            prop_assert!(!once.windows(2).any(|pair| pair == b"//"));
            prop_assert!(once.starts_with(b"/"));
        }
    }
}
