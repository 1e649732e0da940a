//! The logger and the transactionalizer, as an oracle: each connection with a backend from its SYN on, kept whole,
//! so that a report is computed from first principles whenever one is needed.

use std::net::SocketAddr;

use cluster::control::{
    ChunkedContent, ClientWindow, ConnectionReport, Flow, PartialResponse, PendingRequest, Stretch,
    TAIL_BYTES, Tags,
};
use http1::{Chunked, RequestFraming, ResponseFraming, ResponseHead};
use packet::{Reassembly, Seq, SynOptions, TcpSegment};
use xxhash_rust::xxh3::xxh3_128;

const ENOUGH: usize = 64 << 20;
/// No window is larger, and no forged number as near, bytes.
const FAR: u32 = 1 << 24;

pub(crate) struct FlowLog {
    flow: Flow,
    irs: Seq,
    options: SynOptions,
    requests: Vec<u8>,
    from_client: Reassembly,
    server: Option<(Seq, Reassembly)>,
    pub(crate) responses: Vec<u8>,
    ack_cl: Seq,
    client_window: ClientWindow,
    /// Where the client's FIN is, perhaps beyond a hole.
    client_fin: Option<Seq>,
    /// One after the FIN with which the backend closed in good order.
    server_fin: Option<Seq>,
    /// The client reset, and the backend has not rejected that by going on.
    pub(crate) client_reset: bool,
    /// The client has acknowledged that FIN, or the backend has reset: nothing to recover any more.
    pub(crate) ended: bool,
    /// Highest right edge that the backend gave the client.
    pub(crate) granted: Option<Seq>,
    server_scale: u8,
    /// Both sides offered window scales.
    scaled: bool,
    t_l_before: u32,
}

struct Parsed {
    requests: Vec<(usize, bool, Tags, String)>,
    answered: usize,
    answered_bytes: usize,
}

impl FlowLog {
    pub(crate) fn new(syn: &TcpSegment<'_>, t_l_before: u32) -> Self {
        let next = syn.seq() + 1;
        Self {
            flow: Flow { client: syn.source(), backend: syn.destination() },
            irs: syn.seq(),
            options: syn.syn_options(),
            requests: Vec::new(),
            from_client: Reassembly::new(next, ENOUGH),
            server: None,
            responses: Vec::new(),
            ack_cl: Seq(0),
            client_window: ClientWindow::default(),
            client_fin: None,
            server_fin: None,
            client_reset: false,
            ended: false,
            granted: None,
            server_scale: 0,
            scaled: false,
            t_l_before,
        }
    }

    pub(crate) fn irs(&self) -> Seq {
        self.irs
    }

    /// An acknowledgement that the backend ignores, with all that comes with it (RFC 5961 §5).
    fn is_forged(&self, ack: Seq) -> bool {
        let Some((_, stream)) = &self.server else { return false };
        let sent = stream.pieces().last().map_or(stream.next(), |(seq, data)| seq + data.len() as u32) + 1;
        sent.before(ack) || sent.since(ack) > 1 << 24
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ended || self.client_reset
    }

    pub(crate) fn note_client(&mut self, segment: &TcpSegment<'_>) {
        if segment.flags().rst() {
            self.client_reset |= segment.seq() == self.from_client.next();
            return;
        }
        if segment.flags().ack() && !segment.flags().syn() && self.is_forged(segment.ack()) {
            return;
        }
        let Self { requests, from_client, .. } = self;
        from_client.push(segment.seq(), segment.payload(), &mut |bytes| requests.extend_from_slice(bytes));
        let end = segment.seq() + segment.payload().len() as u32;
        if segment.flags().fin() {
            self.client_fin = Some(end);
        }
        let Some((isn, stream)) = &self.server else { return };
        if segment.flags().ack() && self.ack_cl.before_or_at(segment.ack()) {
            let now =
                u32::from(segment.window()) << self.options.window_scale.filter(|_| self.scaled).unwrap_or(0);
            self.client_window = ClientWindow { now, most: now.max(self.client_window.most) };
        }
        if segment.flags().ack()
            && self.ack_cl.before(segment.ack())
            && segment.ack().before_or_at(stream.next() + 1)
        {
            self.ack_cl = segment.ack().max(*isn + 1);
            if stream.next().before(self.ack_cl) {
                self.ack_cl = stream.next();
            }
            self.ended |= self.server_fin.is_some_and(|fin| fin.before_or_at(segment.ack()));
        }
    }

    /// A SYN-ACK of another number, before anything was said, is that of a handshake begun anew.
    fn takes_answer(&self, isn: Seq) -> bool {
        let silent = self.requests.is_empty() && self.responses.is_empty();
        self.server.as_ref().is_none_or(|(known, _)| *known != isn && silent)
    }

    /// `judged`: the segment's FIN or RST is the backend's failure and does not count.
    pub(crate) fn note_server(&mut self, segment: &TcpSegment<'_>, judged: bool) {
        let flags = segment.flags();
        self.client_reset &= flags.rst() || flags.syn();
        if flags.syn() && self.takes_answer(segment.seq()) && segment.ack() == self.irs + 1 {
            self.server = Some((segment.seq(), Reassembly::new(segment.seq() + 1, ENOUGH)));
            self.ack_cl = segment.seq() + 1;
            let scale = segment.syn_options().window_scale;
            self.scaled = scale.is_some() && self.options.window_scale.is_some();
            self.server_scale = scale.filter(|_| self.scaled).unwrap_or(0);
        }
        if flags.ack() && !flags.rst() {
            let scale = if flags.syn() { 0 } else { self.server_scale };
            let edge = segment.ack() + (u32::from(segment.window()) << scale);
            self.granted = Some(self.granted.map_or(edge, |known| known.max(edge)));
        }
        if flags.syn() {
            return;
        }
        let Self { responses, server, .. } = self;
        let Some((_, stream)) = server else { return };
        stream.push(segment.seq(), segment.payload(), &mut |bytes| responses.extend_from_slice(bytes));
        let end = segment.seq() + segment.payload().len() as u32;
        if flags.fin() && end == stream.next() && !judged {
            self.server_fin = Some(end + 1);
        }
        // One that answers a forged segment has that one's numbers.
        let believed = segment.seq().since(stream.next()).unsigned_abs() < FAR;
        self.ended |= !judged && flags.rst() && believed;
    }

    fn parse(&self) -> Parsed {
        let mut requests = Vec::new();
        let mut rest = &self.requests[..];
        while !rest.is_empty() {
            let parsed = http1::parse_request(rest, 1 << 20).unwrap();
            let (length, complete, safe) = match &parsed {
                None => (rest.len(), false, false),
                Some(head) => {
                    let body =
                        if let RequestFraming::Length(bytes) = head.framing { bytes as usize } else { 0 };
                    let all = head.head_bytes + body;
                    (all.min(rest.len()), rest.len() >= all, head.method() == "GET" || head.path() == "/safe")
                }
            };
            let read_only = parsed.as_ref().is_some_and(|head| head.method() == "GET");
            let tags = Tags { deterministic: true, read_only, idempotent: safe, large_file: false };
            let method = parsed.map_or_else(|| "GET".to_owned(), |head| head.method().to_owned());
            requests.push((length, complete, tags, method));
            rest = &rest[length..];
        }
        let (mut answered, mut answered_bytes) = (0, 0);
        while let Some((_, complete, _, method)) = requests.get(answered) {
            let Ok(Some(head)) = http1::parse_response(&self.responses[answered_bytes..], 1 << 20, method)
            else {
                break;
            };
            let all =
                head.head_bytes + body_bytes(&head, &self.responses[answered_bytes + head.head_bytes..]);
            if self.responses.len() - answered_bytes < all || !complete {
                break;
            }
            answered += 1;
            answered_bytes += all;
        }
        Parsed { requests, answered, answered_bytes }
    }

    pub(crate) fn report(&self) -> ConnectionReport {
        let parsed = self.parse();
        let isn = self.server.as_ref().map_or(Seq(0), |(isn, _)| *isn);
        let mut at: usize = parsed.requests.iter().take(parsed.answered).map(|request| request.0).sum();
        let mut pending = Vec::new();
        for (index, (length, complete, tags, method)) in
            parsed.requests.iter().enumerate().skip(parsed.answered)
        {
            let ordinal = self.t_l_before + index as u32 + 1;
            let bytes = self.requests[at..at + length].to_vec();
            at += length;
            pending.push(PendingRequest {
                volatile_headers: None,
                ordinal,
                summary: method.clone(),
                tags: *tags,
                complete: *complete,
                bytes,
            });
        }
        let method = parsed.requests.get(parsed.answered).map_or("GET", |request| request.3.as_str());
        let unacked = self.ack_cl.since(isn + 1).max(0) as usize;
        ConnectionReport {
            flow: self.flow,
            client_isn: self.irs.0,
            options: Some(self.options),
            t_l: self.t_l_before + parsed.answered as u32,
            ack_tl: (isn + 1 + parsed.answered_bytes as u32).0,
            ack_cl: self.ack_cl.0,
            client_window: self.client_window,
            client_next: self.from_client.next().0,
            client_fin: self.client_fin == Some(self.from_client.next()),
            updates: None,
            rest: None,
            pending,
            partial: partial(&self.responses[parsed.answered_bytes..], method),
            unacked: self.responses[unacked.min(self.responses.len())..].to_vec(),
            beyond: self.beyond(),
            unrecoverable: self.server.is_none().then(|| "no handshake was logged".to_owned()),
        }
    }

    /// The pieces behind a hole.
    fn beyond(&self) -> Vec<(u64, Vec<u8>)> {
        let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
        let Some((_, stream)) = &self.server else { return joined };
        for (seq, data) in stream.pieces() {
            let at = seq.since(stream.next()) as u64;
            match joined.last_mut() {
                Some((start, last)) if *start + last.len() as u64 == at => last.extend_from_slice(data),
                _ => joined.push((at, data.to_vec())),
            }
        }
        joined
    }

    pub(crate) fn backend(&self) -> SocketAddr {
        self.flow.backend
    }
}

fn partial(bytes: &[u8], method: &str) -> PartialResponse {
    let Ok(Some(head)) = http1::parse_response(bytes, 1 << 20, method) else {
        return PartialResponse { head: bytes.to_vec(), ..PartialResponse::default() };
    };
    let chunked = head.framing == ResponseFraming::Chunked;
    let (head, body) = bytes.split_at(head.head_bytes);
    PartialResponse {
        head: head.to_vec(),
        head_complete: true,
        body_bytes: body.len() as u64,
        hashes: vec![Stretch { bytes: body.len() as u64, hash: xxh3_128(body) }],
        tail: body[body.len().saturating_sub(TAIL_BYTES)..].to_vec(),
        content: chunked.then(|| content(body)).flatten(),
        left_out: 0,
    }
}

/// More than there are, as long as not all have come.
fn body_bytes(head: &ResponseHead, rest: &[u8]) -> usize {
    match head.framing {
        ResponseFraming::Length(bytes) => bytes as usize,
        ResponseFraming::Chunked => {
            let mut chunks = Chunked::new();
            let bytes = chunks.feed_content(rest, &mut |_| {}).unwrap();
            bytes + usize::from(!chunks.complete())
        }
        _ => 0,
    }
}

fn content(body: &[u8]) -> Option<ChunkedContent> {
    let (mut chunks, mut content) = (Chunked::new(), Vec::new());
    chunks.feed_content(body, &mut |run| content.extend_from_slice(run)).ok()?;
    let place = chunks.place()?;
    Some(ChunkedContent { content: Stretch { bytes: content.len() as u64, hash: xxh3_128(&content) }, place })
}
