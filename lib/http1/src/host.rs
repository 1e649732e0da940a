//! Host names as requests carry them (RFC 9110 §4.2, §7.2).

/// Host of `authority` (`host[:port]`), lower case, without port. `Ok(None)` for an empty one.
pub(crate) fn host_of(authority: &str) -> Result<Option<String>, ()> {
    let (host, port) = split_port(authority)?;
    let valid_port = port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5;
    if !valid_port || !valid_host(host) {
        return Err(());
    }
    Ok((!host.is_empty()).then(|| host.to_ascii_lowercase()))
}

/// An IPv6 address contains colons, but stands in brackets.
fn split_port(authority: &str) -> Result<(&str, &str), ()> {
    let name_end = if authority.starts_with('[') { authority.find(']').ok_or(())? + 1 } else { 0 };
    let (name, rest) = authority.split_at(name_end);
    match rest.split_once(':') {
        Some((host, port)) if name.is_empty() => Ok((host, port)),
        Some(("", port)) => Ok((name, port)),
        None if name.is_empty() => Ok((rest, "")),
        None if rest.is_empty() => Ok((name, "")),
        _ => Err(()),
    }
}

fn valid_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').is_some_and(|address| {
            address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b)),
    }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn port_is_stripped_and_case_folded() {
        for (authority, host) in [
            ("Example.COM", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com:", "example.com"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[::1]:443", "[::1]"),
        ] {
            assert_eq!(host_of(authority), Ok(Some(host.to_owned())), "{authority}");
        }
        assert_eq!(host_of(""), Ok(None));
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        for authority in [
            "a b", "a@b", "a/b", "a:b", "a:80:80", "[::1", "[::1]x", "[::1]:x", "[xyz]", "a:123456", "a?b",
            "é", "a\\b",
        ] {
            assert_eq!(host_of(authority), Err(()), "{authority}");
        }
    }
}
