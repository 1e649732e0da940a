//! `[service] protocol`, `[service.lines]`, `[service.records]`: how streams fall into requests and responses.

use serde::{Deserialize, Serialize};

use super::Cluster;
use super::report::Report;

/// A protocol that is understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// HTTP/1.0 and 1.1.
    #[default]
    Http,
    /// Requests and responses with fixed ends.
    Lines,
    /// Requests and responses with their lengths before them.
    Records,
    /// IMAP4.
    Imap,
    /// SMTP.
    Smtp,
}

/// `[service.lines]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lines {
    /// Single characters, each of which ends a request.
    pub request_end: Vec<String>,
    /// What ends a response: a newline, a prompt, a line with a dot.
    pub response_end: String,
    /// The server speaks first, with something that ends as a response does.
    pub greeting: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { request_end: vec!["\n".to_owned()], response_end: "\n".to_owned(), greeting: false }
    }
}

/// `[service.records]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Bytes of the length before each record, in network order.
    pub length_bytes: u8,
    /// The length counts its own bytes, too.
    pub counts_itself: bool,
    /// Longest record, bytes; a longer one makes the connection unrecoverable.
    pub max_bytes: u64,
}

impl Default for Records {
    fn default() -> Self {
        Self { length_bytes: 4, counts_itself: false, max_bytes: 64 << 20 }
    }
}

pub(super) fn check(report: &mut Report<'_>, cluster: &Cluster) {
    let lines = &cluster.service.lines;
    if lines.request_end.is_empty() {
        report.problem("service.lines.request_end", "is empty", "name what ends a request, like \"\\n\"");
    }
    for (index, end) in lines.request_end.iter().enumerate().filter(|(_, end)| end.len() != 1) {
        let what = format!("{end:?} is not one ASCII character");
        let remedy = "write one, like \"\\n\"; lines that end in \"\\r\\n\" end in \"\\n\", too";
        report.problem(&format!("service.lines.request_end[{index}]"), what, remedy);
    }
    if !(1..=64).contains(&lines.response_end.len()) {
        let what = format!("has {} bytes", lines.response_end.len());
        report.problem("service.lines.response_end", what, "write 1 to 64 bytes, like \"\\n\"");
    }
}
