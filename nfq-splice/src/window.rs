//! Which of a client's segments are its own: the bounds on sequence and acknowledgement numbers (RFC 9293 §3.10.7.4,
//! RFC 5961 §§3 to 5). Blind attackers meet them here, before anything is learnt, held, logged or passed on.
//!
//! On a connection that this proxy only translates, the backend judges exactly; what a middlebox can know of both sides is
//! a little wider, so that nothing is lost that the backend would take (van Rooij, *Real Stateful TCP Packet Filtering*).

use packet::{Seq, TcpSegment};

/// Segments and acknowledgements older than the newest by this are still only old, whatever the windows were, bytes.
const LEAST_WINDOW: i32 = 66_000;

/// What a segment of the client may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The next byte expected (RCV.NXT).
    pub(crate) next: Seq,
    /// One after the last byte that the client was ever allowed to send.
    pub(crate) limit: Seq,
    /// The oldest byte that the client has not acknowledged (SND.UNA).
    pub(crate) unacknowledged: Seq,
    /// The largest window that the client has offered (MAX.WND), bytes.
    pub(crate) max_window: u32,
    /// One after the last byte that the client was sent (SND.NXT).
    pub(crate) sent: Seq,
}

/// What a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Take it.
    Good,
    /// Its data lies outside the window, or is long past.
    OutsideWindow,
    /// It acknowledges what was never sent, or what is long past.
    WrongAcknowledgement,
}

impl Expected {
    /// Judges a segment that carries no RST. All but good ones are dropped and answered with an acknowledgement.
    pub(crate) fn judge(&self, segment: &TcpSegment<'_>) -> Judgement {
        let end = segment.seq() + segment.sequence_length();
        let old = self.limit.since(self.next).max(LEAST_WINDOW);
        let late = i32::try_from(self.max_window).unwrap_or(i32::MAX).max(LEAST_WINDOW);
        let behind = self.unacknowledged.since(segment.ack());
        if self.limit.before(segment.seq()) || self.next.since(end) > old {
            Judgement::OutsideWindow
        } else if !segment.flags().ack() || self.sent.before(segment.ack()) || behind > late {
            Judgement::WrongAcknowledgement
        } else {
            Judgement::Good
        }
    }
}

/// What is known of both sides of a connection that this proxy translates itself, in the client's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// What the backend has acknowledged.
    pub(crate) client_next: Seq,
    /// One after the last byte (or FIN) that the client has sent.
    pub(crate) client_end: Seq,
    /// One after the last byte that the client was ever allowed to send.
    pub(crate) client_limit: Seq,
    /// One after the last byte (or FIN) that the client was sent.
    pub(crate) server_end: Seq,
    /// The window that the client has now: the backend's latest, or at first the proxy's own, bytes.
    pub(crate) allowed: u32,
    /// How far the truth may lie beyond these numbers, in both directions, bytes: an earlier daemon saw the connection's beginning.
    pub(crate) unsure: u32,
}

impl Window {
    /// At the moment of the splice. `client_end`: behind what the backend was or will be given by the proxy; `allowed`: the
    /// window that the proxy itself offered.
    pub(crate) fn new(client_next: Seq, client_end: Seq, server_end: Seq, allowed: u32) -> Self {
        let client_limit = client_end + allowed;
        Self { client_next, client_end, client_limit, server_end, allowed, unsure: 0 }
    }

    /// Of a connection that an earlier daemon spliced: from the first segment of its backend, which nobody forges. It may be one of
    /// some time ago. `client_scale`: by which the client's window fields are shifted.
    pub(crate) fn picked_up(segment: &TcpSegment<'_>, delta: u32, scale: u8, client_scale: u8) -> Self {
        let allowed = u32::from(segment.window()) << scale;
        let server_end = segment.seq() + delta + segment.sequence_length();
        let unsure = u32::from(u16::MAX) << scale.max(client_scale);
        Self { unsure, ..Self::new(segment.ack(), segment.ack(), server_end, allowed.max(1)) }
    }

    /// A good segment of the client.
    pub(crate) fn note_client(&mut self, segment: &TcpSegment<'_>) {
        self.client_end = self.client_end.max(segment.seq() + segment.sequence_length());
    }

    /// A segment of the backend, whose window fields are shifted by `scale`. Acknowledgements of what the client has not
    /// sent, and was not allowed to, are of an earlier connection; all that it did send is not known where the fast path carries most of it.
    pub(crate) fn note_backend(&mut self, segment: &TcpSegment<'_>, delta: u32, scale: u8) {
        self.server_end = self.server_end.max(segment.seq() + delta + segment.sequence_length());
        if segment.flags().ack()
            && segment.ack().before_or_at(self.client_end.max(self.client_limit) + self.unsure)
        {
            self.client_end = self.client_end.max(segment.ack());
            self.allowed = u32::from(segment.window()) << scale;
            self.client_next = self.client_next.max(segment.ack());
            self.client_limit = self.client_limit.max(segment.ack() + self.allowed.max(1));
        }
    }

    /// A backend's reset at `seq` lies outside all that it may have sent to a client that offered `max_window` bytes, or that this one
    /// may have acknowledged of late.
    pub(crate) fn is_outside(&self, seq: Seq, max_window: u32) -> bool {
        seq.since(self.server_end).unsigned_abs() > max_window.max(self.unsure).max(LEAST_WINDOW as u32)
    }

    /// How a reset of the client is to be taken.
    pub(crate) fn judge_reset(&self, seq: Seq) -> Reset {
        if seq.before(self.client_next) || (self.client_limit + self.unsure).before(seq) {
            Reset::Outside
        } else if seq.before_or_at(self.client_end) {
            Reset::Exact
        } else {
            Reset::Inside
        }
    }
}

/// Where a reset lies (RFC 5961 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// Outside the window: ignored.
    Outside,
    /// Inside the window: the backend challenges it.
    Inside,
    /// Where the backend may expect it: it may end the connection.
    Exact,
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::{Flags, SegmentBuilder};
    use proptest::prelude::*;

    fn segment(seq: Seq, ack: Option<Seq>, window: u16, payload: &[u8]) -> Vec<u8> {
        let (client, service) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        SegmentBuilder { seq, ack, window, payload, ..SegmentBuilder::new(client, service) }.build()
    }

    proptest! {
        /// Exactly [SND.UNA − MAX.WND, SND.NXT] and what overlaps the window, wherever the numbers wrap.
        #[test]
        fn bounds_are_exact(base in any::<u32>(), peer in any::<u32>(), window in 70_000_u32..1 << 20, flight in 0_u32..100_000) {
            let (next, una) = (Seq(base), Seq(peer));
            let expected =
                Expected { next, limit: next + window, unacknowledged: una, max_window: window, sent: una + flight };
            let judge = |seq, ack| {
                let packet = segment(seq, Some(ack), 0, b"x");
                expected.judge(&TcpSegment::parse(&packet).unwrap())
            };
            for good in [una, una + flight, una - window] {
                prop_assert_eq!(judge(next, good), Judgement::Good);
            }
            for bad in [una + flight + 1, una - window - 1, una + (1 << 31)] {
                prop_assert_eq!(judge(next, bad), Judgement::WrongAcknowledgement);
            }
            for good in [next + window, next, next - 1, next - window - 1] {
                prop_assert_eq!(judge(good, una), Judgement::Good);
            }
            for bad in [next + window + 1, next - window - 2, next + (1 << 31)] {
                prop_assert_eq!(judge(bad, una), Judgement::OutsideWindow);
            }
        }

        /// Two endpoints that keep to their windows, over a path that delays and repeats: nothing of theirs is refused.
        #[test]
        fn nothing_true_is_refused(steps in prop::collection::vec((any::<bool>(), 0_u32..3000, 0_u32..4), 1..200), start in any::<u32>()) {
            const WINDOW: u32 = 60_000;
            let (mut client_sent, mut server_sent) = (Seq(start), Seq(77));
            let (mut client_got, mut server_got) = (Seq(77), Seq(start));
            let mut window = Window::new(client_sent, client_sent, server_sent, WINDOW);
            let mut old: Vec<Vec<u8>> = Vec::new();
            for (from_client, length, delay) in steps {
                let data = vec![0; length as usize];
                if from_client && client_sent.since(server_got) as u32 + length <= WINDOW {
                    old.push(segment(client_sent, Some(client_got), WINDOW as u16, &data));
                    client_sent = client_sent + length;
                    let packet = old[old.len().saturating_sub(1 + delay as usize)].clone();
                    let view = TcpSegment::parse(&packet).unwrap();
                    let expected = Expected {
                        next: window.client_next, limit: window.client_limit, unacknowledged: client_got,
                        max_window: WINDOW, sent: window.server_end,
                    };
                    prop_assert_eq!(expected.judge(&view), Judgement::Good);
                    window.note_client(&view);
                    server_got = server_got.max(view.seq() + view.sequence_length());
                } else if server_sent.since(client_got) as u32 + length <= WINDOW {
                    let packet = segment(server_sent, Some(server_got), WINDOW as u16, &data);
                    window.note_backend(&TcpSegment::parse(&packet).unwrap(), 0, 0);
                    server_sent = server_sent + length;
                    client_got = server_sent;
                }
            }
        }
    }

    #[test]
    fn a_segment_without_an_acknowledgement_is_nobodys() {
        let expected =
            Expected { next: Seq(5), limit: Seq(9), unacknowledged: Seq(0), max_window: 9, sent: Seq(0) };
        let packet = segment(Seq(5), None, 0, b"x");
        let view = TcpSegment::parse(&packet).unwrap();
        assert_eq!((view.flags(), expected.judge(&view)), (Flags(0), Judgement::WrongAcknowledgement));
    }

    #[test]
    fn a_reset_is_exact_where_the_backend_may_expect_it() {
        let window = Window::new(Seq(100), Seq(150), Seq(0), 1000);
        for (seq, reset) in [
            (99, Reset::Outside),
            (100, Reset::Exact),
            (150, Reset::Exact),
            (151, Reset::Inside),
            (1150, Reset::Inside),
            (1151, Reset::Outside),
        ] {
            assert_eq!(window.judge_reset(Seq(seq)), reset, "{seq}");
        }
    }
}
