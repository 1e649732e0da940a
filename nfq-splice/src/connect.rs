//! The handshake with the backend, in the client's name (design §3, step 3), and the first splice (step 4).

use std::net::SocketAddr;
use std::time::Duration;

use http1::RequestHead;
use packet::{Flags, SegmentBuilder, Seq, TcpSegment};

use crate::common::Core;
use crate::flow::{Closing, Connect, Debts, Flow, Repeat, Setup, Splice, State};
use crate::held::Held;
use crate::leg::{self, BackendLeg, ClientLeg};
use crate::pass::Shortfall;
use crate::routing::{NoBackend, Unusable};
use crate::sender::{Piece, Sender};
use crate::setup::SETUP_WINDOW;
use crate::window::Window;

/// First distance of repeated SYNs to a backend: it is near.
pub(crate) const SYN_TIMEOUT: Duration = Duration::from_millis(100);
/// SYNs to one backend before the next one is tried.
pub(crate) const SYN_TRIES: u32 = 4;
/// First retransmission timeout towards a backend.
pub(crate) const BACKEND_TIMEOUT: Duration = Duration::from_millis(50);

impl Core {
    /// Chooses a backend that was not tried yet and sends it a SYN, or answers the client.
    pub(crate) fn connect(
        &mut self,
        flow: &mut Flow,
        request: Option<&RequestHead>,
        mut tried: Vec<SocketAddr>,
    ) {
        let State::Setup(setup) = &mut flow.state else { return };
        match self.settings.routing.choose(request, flow.leg.client.ip(), &tried) {
            Ok(backend) => {
                let asks_for_ecn = self.asks_for_ecn(&flow.leg, backend);
                let packet = leg::syn(&flow.leg, backend, setup.irs, asks_for_ecn);
                tried.push(backend);
                setup.connect = Some(Connect { backend, tried, asks_for_ecn, withdrawn: None });
                setup.repeat = Some(Repeat::after(self.now, SYN_TIMEOUT));
                self.send(packet);
            }
            Err(NoBackend::NoRoute) => self.answer(flow, 404, "no route matches this request"),
            Err(NoBackend::NoneUsable(why)) => self.answer(flow, 503, in_words(why)),
            Err(NoBackend::NoneAnswers) => self.answer(flow, 502, "no backend answers"),
        }
    }

    /// Routes anew, by the routes of now: they may have been changed meanwhile.
    pub(crate) fn connect_next(&mut self, flow: &mut Flow) {
        let State::Setup(setup) = &mut flow.state else { return };
        let Some(Connect { tried, .. }) = setup.connect.take() else { return };
        self.counters.count("backend_connect_failed");
        if !self.settings.http {
            return self.connect(flow, None, tried);
        }
        match http1::parse_request(&setup.request, self.settings.splice.request_head_bytes) {
            Ok(Some(head)) => self.connect(flow, Some(&head), tried),
            // The limit was lowered meanwhile.
            Ok(None) | Err(_) => self.answer(flow, 502, "no backend answers"),
        }
    }

    pub(crate) fn handle_connect_timeout(&mut self, flow: &mut Flow) {
        let now = self.now;
        let State::Setup(setup) = &mut flow.state else { return };
        let Some(repeat) = setup.repeat.filter(|repeat| now >= repeat.at) else { return };
        if repeat.tries >= SYN_TRIES {
            return self.connect_next(flow);
        }
        setup.repeat = Some(repeat.again(now, SYN_TIMEOUT));
        if let Some(connect) = &setup.connect {
            let packet = leg::syn(&flow.leg, connect.backend, setup.irs, false);
            self.send(packet);
        }
    }

    /// A backend's segment while its SYN-ACK is awaited.
    pub(crate) fn handle_connecting(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let State::Setup(setup) = &mut flow.state else { return };
        let flags = segment.flags();
        if !flags.ack() || segment.ack() != setup.irs + 1 {
            self.counters.count("backend_handshake_wrong_ack");
            self.refuse(segment);
        } else if flags.rst() {
            self.connect_next(flow);
        } else if flags.syn() && !self.withdraws_ecn(flow, segment) {
            self.counters.count("connections_spliced");
            if let State::Setup(setup) = std::mem::replace(&mut flow.state, State::Gone) {
                self.establish(flow, &setup, segment);
            }
        }
    }

    fn establish(&mut self, flow: &mut Flow, setup: &Setup, segment: &TcpSegment<'_>) {
        let to = BackendLeg::new(&flow.leg, segment);
        self.learnt.note_mss(to.backend, to.mss());
        if flow.leg.options.window_scale.is_some() {
            self.learn_scale(to.server_scale);
        }
        let first = setup.irs + 1;
        let debts = self.request_debts(&flow.leg, &to, setup);
        let backend_next = to.irs + 1;
        let delta = (setup.iss + 1).0.wrapping_sub(backend_next.0);
        let window = Window::new(first, first + setup.request.len() as u32, setup.iss + 1, SETUP_WINDOW);
        let ts = to.has_timestamps(&flow.leg).then(|| flow.leg.align_first(self.now, &to));
        self.splice(flow, &to, (delta, ts), debts, window);
        let State::Spliced(splice) = &mut flow.state else { return };
        if let Some(debts) = &mut splice.debts {
            self.pay_backend(&flow.leg, debts);
        } else {
            let window = flow.leg.window.unwrap_or(0);
            self.forward_client_bytes(&flow.leg, &to, first, &setup.request, backend_next, window);
        }
    }

    /// Request bytes that the proxy acknowledged are its own to deliver.
    fn request_debts(&self, leg: &ClientLeg, to: &BackendLeg, setup: &Setup) -> Option<Box<Debts>> {
        (setup.acknowledged > 0).then(|| {
            let (mss, first) = (to.payload_bytes(self.mss()), setup.irs + 1);
            let request = setup.request.clone();
            let client_next = first + request.len() as u32;
            Box::new(Debts {
                to_client: Sender::new(
                    setup.iss + 1,
                    Vec::new(),
                    false,
                    leg.payload_bytes(self.mss()),
                    0,
                    BACKEND_TIMEOUT,
                ),
                to_backend: Sender::new(first, request, false, mss, to.window as usize, BACKEND_TIMEOUT),
                leg: to.clone(),
                point: setup.iss + 1,
                client_next,
                absorbed: 0,
                held: Held::new(client_next, self.settings.splice.hold_bytes),
            })
        })
    }

    /// Client bytes go to the backend once, as if forwarded: the client still owns and repeats them.
    pub(crate) fn forward_client_bytes(
        &mut self,
        leg: &ClientLeg,
        to: &BackendLeg,
        first: Seq,
        bytes: &[u8],
        ack: Seq,
        window: u32,
    ) {
        let mss = to.payload_bytes(self.mss());
        let mut seq = first;
        for data in bytes.chunks(mss) {
            self.send_to_backend(leg, to, &Piece { seq, data, fin: false }, ack, window);
            seq = seq + data.len() as u32;
        }
        if bytes.is_empty() {
            let packet = SegmentBuilder { flags: Flags(0), ..to.segment(leg, first, ack, window) }.build();
            self.send(packet);
        }
    }

    /// Makes the connection a splice, by the kernel if it can express it. `delta`, `ts`: what is added to the backend's sequence
    /// numbers and timestamps.
    pub(crate) fn splice(
        &mut self,
        flow: &mut Flow,
        to: &BackendLeg,
        (delta, ts): (u32, Option<u32>),
        debts: Option<Box<Debts>>,
        window: Window,
    ) {
        flow.state = State::Spliced(Splice {
            backend: to.backend,
            delta,
            ts,
            server_scale: to.server_scale,
            client_scale: to.client_scale,
            lacks: Shortfall::of(&flow.leg, to),
            kernel: false,
            unheard: flow.resplices > 0 && !to.has_spoken,
            debts,
            closing: Closing::default(),
            window: Some(window),
            idle: self.busy(),
            young: None,
        });
        if !self.leave_to_fast_path(flow) {
            self.settle(flow);
        }
    }
}

fn in_words(why: Unusable) -> &'static str {
    match why {
        Unusable::Down => "no backend is usable: all are down",
        Unusable::Drained => "no backend is usable: all are drained",
        Unusable::DownOrDrained => "no backend is usable: some are down, the others drained",
    }
}
