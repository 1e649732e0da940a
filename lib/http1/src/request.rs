//! Request heads (RFC 9112 §3).

use std::mem::MaybeUninit;

use crate::MAX_FIELDS;
use crate::field::Fields;
use crate::head::{self, Refusal, Scan, Version, leading_empty_lines};
use crate::host::host_of;

/// How the end of a request's body is found (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFraming {
    /// There is no body.
    None,
    /// So many bytes, at least 1.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// A complete request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, one space, target.
    line: Box<str>,
    method_bytes: usize,
    /// Host without port, lower case: the target's authority if it has one, else the `Host` field.
    /// `None` if that is absent (HTTP/1.0) or empty.
    pub host: Option<String>,
    /// Protocol version.
    pub version: Version,
    /// What follows the head.
    pub framing: RequestFraming,
    /// The client wants to go on after the response.
    pub keep_alive: bool,
    /// Length in bytes, from the first byte (leading empty lines included) to the final empty line.
    pub head_bytes: usize,
    /// All fields.
    pub fields: Fields,
}

impl RequestHead {
    /// As received; methods are case-sensitive.
    pub fn method(&self) -> &str {
        self.line.get(..self.method_bytes).unwrap_or_default()
    }

    /// The request target as received.
    pub fn target(&self) -> &str {
        self.line.get(self.method_bytes + 1..).unwrap_or_default()
    }

    /// Method and target, as received, with one space between them.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The target's path without query, as received: not decoded, dots not resolved. `*` for `OPTIONS *`,
    /// empty for CONNECT.
    pub fn path(&self) -> &str {
        split_target(self.method(), self.target()).map_or("", |(_, path)| path)
    }

    /// The target's query, as received, without the question mark.
    pub fn query(&self) -> Option<&str> {
        let target = self.target();
        let before_fragment = target.split_once('#').map_or(target, |(before, _)| before);
        before_fragment.split_once('?').map(|(_, query)| query)
    }

    /// The value of the first field called `name`, compared without case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// The values of all cookies called `name`, compared with case (RFC 6265 §4.2.1), as sent: quotes included.
    pub fn cookies<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.all("cookie").flat_map(|value| value.split(|b| *b == b';')).filter_map(|pair| {
            let pair = pair.trim_ascii();
            let (found, value) = pair.split_at(pair.iter().position(|b| *b == b'=')?);
            (found == name.as_bytes()).then(|| value.get(1..).unwrap_or_default())
        })
    }

    /// `raw` ends with the head's empty line.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, Refusal> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let status =
            request.parse_with_uninit_headers(raw, &mut headers).map_err(|error| refusal(error, raw))?;
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(Refusal::bad("malformed request line"));
        };
        if status != httparse::Status::Complete(raw.len()) || u32::try_from(raw.len()).is_err() {
            return Err(Refusal::bad("malformed head"));
        }
        let version = Version::of(request.version);
        Self::understand(method, target, version, Fields::new(raw, request.headers))
    }

    fn understand(method: &str, target: &str, version: Version, fields: Fields) -> Result<Self, Refusal> {
        let field_host = host_field(version, &fields)?;
        let (authority, _) = split_target(method, target)?;
        let host = match authority {
            Some(authority) => {
                host_of(authority).map_err(|()| Refusal::bad("invalid host in the request target"))?
            }
            None => field_host,
        };
        Ok(Self {
            line: [method, " ", target].concat().into(),
            method_bytes: method.len(),
            host,
            framing: framing(version, &fields)?,
            keep_alive: head::keep_alive(version, &fields),
            head_bytes: fields.raw().len(),
            version,
            fields,
        })
    }
}

/// The request head at the beginning of `bytes`, or `None` if more bytes are needed. What cannot become a head is
/// refused as soon as it shows. `max_head` bounds the head, in bytes.
pub fn parse_request(bytes: &[u8], max_head: usize) -> Result<Option<RequestHead>, Refusal> {
    match Scan::new(max_head).feed(bytes)? {
        Some(end) => RequestHead::parse(bytes.get(..end).unwrap_or_default()).map(Some),
        None => check_beginning(bytes).map(|()| None),
    }
}

fn check_beginning(bytes: &[u8]) -> Result<(), Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
    httparse::Request::new(&mut headers).parse(bytes).map(|_| ()).map_err(|error| refusal(error, bytes))
}

/// A version that is not served is something else than a word that is no version.
fn refusal(error: httparse::Error, bytes: &[u8]) -> Refusal {
    let mut words = bytes.get(leading_empty_lines(bytes)..).unwrap_or_default().split(|b| *b == b' ');
    match (error, words.nth(2)) {
        (httparse::Error::Version, Some(word)) if !word.starts_with(b"HTTP/") => {
            head::refusal(httparse::Error::Token)
        }
        _ => head::refusal(error),
    }
}

/// RFC 9112 §3.2: exactly one in HTTP/1.1.
fn host_field(version: Version, fields: &Fields) -> Result<Option<String>, Refusal> {
    let mut hosts = fields.all("host");
    let Some(value) = hosts.next() else {
        return match version {
            Version::Http10 => Ok(None),
            Version::Http11 => Err(Refusal::bad("no Host field")),
        };
    };
    if hosts.next().is_some() {
        return Err(Refusal::bad("several Host fields"));
    }
    let text = std::str::from_utf8(value).map_err(|_| Refusal::bad("invalid Host field"))?;
    host_of(text).map_err(|()| Refusal::bad("invalid Host field"))
}

/// Authority, if the target has one, and path (RFC 9112 §3.2.1–3.2.4).
fn split_target<'t>(method: &str, target: &'t str) -> Result<(Option<&'t str>, &'t str), Refusal> {
    let invalid = Refusal::bad("invalid request target");
    if method == "CONNECT" {
        let has_port =
            target.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && !port.is_empty());
        return if has_port { Ok((Some(target), "")) } else { Err(invalid) };
    }
    match target {
        "*" if method == "OPTIONS" => Ok((None, target)),
        _ if target.starts_with('/') => Ok((None, without_query(target))),
        _ => absolute(method, target).ok_or(invalid),
    }
}

fn absolute<'t>(method: &str, target: &'t str) -> Option<(Option<&'t str>, &'t str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|s| scheme.eq_ignore_ascii_case(s)) {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = match without_query(path) {
        // RFC 9112 §3.2.4: the whole server.
        "" if method == "OPTIONS" && path.is_empty() => "*",
        "" => "/",
        path => path,
    };
    (!authority.is_empty()).then_some((Some(authority), path))
}

fn without_query(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or(target)
}

/// RFC 9112 §6.1–6.3. What could be read in two ways is refused.
fn framing(version: Version, fields: &Fields) -> Result<RequestFraming, Refusal> {
    let length = head::content_length(fields)?;
    let Some(codings) = head::transfer_codings(fields) else {
        return Ok(length.filter(|l| *l > 0).map_or(RequestFraming::None, RequestFraming::Length));
    };
    if length.is_some() {
        return Err(Refusal::bad("Content-Length and Transfer-Encoding together"));
    }
    if version == Version::Http10 {
        return Err(Refusal::bad("Transfer-Encoding in HTTP/1.0"));
    }
    match codings.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["chunked"] => Ok(RequestFraming::Chunked),
        [others @ .., "chunked"] if !others.contains(&"chunked") && !others.contains(&"") => {
            Err(Refusal::new(501, "transfer codings other than chunked are not served"))
        }
        _ => Err(Refusal::bad("Transfer-Encoding does not end with one chunked")),
    }
}
