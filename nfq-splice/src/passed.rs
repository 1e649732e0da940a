//! What went past this daemon on a connection that it translates itself: the fast path translates most of it, and records the
//! numbers that the daemon must know before it judges a segment, an ICMP error or the end.

use cluster::control::Client;
use packet::icmp::IcmpError;
use packet::{TcpSegment, Time};

use crate::common::Core;
use crate::engine::Engine;
use crate::flow::{Flow, State};
use crate::parked::Parked;
use crate::splice::note_backend;
use crate::window::Judgement;

impl Parked {
    /// The window scales as they come and as they leave, of what the client sends and of what it gets.
    pub fn rescale(&self) -> [(u8, u8); 2] {
        let (client_scale, server_scale) = self.splice.window_scales.unwrap_or((0, 0));
        let offered = self.options.window_scale.unwrap_or(0);
        [(offered, client_scale), (server_scale, self.announced_scale)]
    }
}

impl Engine {
    /// Whose connection a packet concerns, if any.
    fn client_of(&self, packet: &[u8]) -> Option<Client> {
        if let Ok(segment) = TcpSegment::parse(packet) {
            return Some(self.core.side_of(&segment).0);
        }
        let service = self.core.settings.service;
        let quoted = IcmpError::parse(packet).ok()?.quoted();
        Some(if quoted.source == service { quoted.destination } else { quoted.source })
    }

    /// The client of a packet about a connection of which more may have gone past.
    pub fn passed_by(&self, packet: &[u8]) -> Option<Client> {
        self.client_of(packet).filter(|client| self.table.is_in_userspace(*client))
    }

    /// The latest of one side that went past: a segment without data behind all that was sent, or that side's FIN, in the numbers
    /// of that side, between client and service. The server's is to be told before the client's, which acknowledges it.
    pub fn handle_passed(&mut self, now: Time, packet: &[u8]) {
        self.core.now = now;
        let Ok(segment) = TcpSegment::parse(packet) else { return };
        let (client, from_client) = self.core.side_of(&segment);
        self.table.with(&mut self.core, client, |core, flow| {
            if from_client {
                core.note_passed_client(flow, &segment);
            } else {
                note_passed_server(flow, &segment);
            }
            core.note_close(flow);
        });
    }
}

impl Core {
    /// It may be forged: then the client's next one counts.
    fn note_passed_client(&mut self, flow: &mut Flow, segment: &TcpSegment<'_>) {
        let good = self.expected(flow).is_some_and(|expected| expected.judge(segment) == Judgement::Good);
        let State::Spliced(splice) = &mut flow.state else { return };
        if let Some(window) = splice.window.as_mut().filter(|_| good && !splice.kernel) {
            window.note_client(segment);
            flow.leg.learn(segment);
            splice.closing.client_fin |= segment.flags().fin();
        }
    }
}

/// Nobody forges it: the client has sent what it acknowledges.
fn note_passed_server(flow: &mut Flow, segment: &TcpSegment<'_>) {
    let State::Spliced(splice) = &mut flow.state else { return };
    if splice.kernel {
        return;
    }
    splice.unheard = false;
    if let Some(window) = &mut splice.window {
        window.client_end = window.client_end.max(segment.ack());
    }
    splice.closing.server_fin |= segment.flags().fin();
    note_backend(splice, &flow.leg, segment);
    if let (Some((value, _)), Some(offset)) = (segment.timestamps(), splice.ts) {
        flow.leg.raise_floor(value.wrapping_add(offset));
    }
}
