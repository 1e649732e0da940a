//! Resets of clients are sent more than once: a client that only waits would hang for ever if the one that it was sent is lost.
//!
//! Call order: [`Resets::handle_sent`] for each; whenever [`Resets::poll_timeout`] has passed, [`Resets::poll_due`] until it
//! returns nothing.

use std::collections::VecDeque;
use std::time::Duration;

use packet::Time;

/// From one to the next.
const DELAYS: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Resets that wait for each of the delays, at most; further ones are not sent again.
const LIMIT: usize = 4096;

/// Resets to be sent again; those with the same delay are due in their order.
#[derive(Debug, Default)]
pub(crate) struct Resets([VecDeque<(Time, Vec<u8>)>; DELAYS.len()]);

impl Resets {
    /// A reset is sent; false if it will not be sent again.
    pub(crate) fn handle_sent(&mut self, now: Time, packet: Vec<u8>) -> bool {
        self.wait(0, now, packet)
    }

    /// When one is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.0.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min()
    }

    /// One that is due.
    pub(crate) fn poll_due(&mut self, now: Time) -> Option<Vec<u8>> {
        let is_due = |queue: &VecDeque<(Time, _)>| queue.front().is_some_and(|(due, _)| *due <= now);
        let place = self.0.iter().position(is_due)?;
        let (_, packet) = self.0.get_mut(place)?.pop_front()?;
        self.wait(place + 1, now, packet.clone());
        Some(packet)
    }

    fn wait(&mut self, place: usize, now: Time, packet: Vec<u8>) -> bool {
        match self.0.get_mut(place).zip(DELAYS.get(place)) {
            Some((queue, delay)) if queue.len() < LIMIT => {
                queue.push_back((now + *delay, packet));
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_sent_again_four_times_and_then_forgotten() {
        let mut resets = Resets::default();
        assert!(resets.handle_sent(Time::from_millis(0), vec![1]));
        let mut sent = Vec::new();
        while let Some(due) = resets.poll_timeout() {
            while let Some(packet) = resets.poll_due(due) {
                sent.push((due.as_millis(), packet));
            }
        }
        assert_eq!(sent, [200, 700, 1700, 3700].map(|at| (at, vec![1])));
    }

    #[test]
    fn they_are_bounded() {
        let mut resets = Resets::default();
        let sent = (0..5000).filter(|_| resets.handle_sent(Time::from_millis(0), vec![1])).count();
        assert_eq!(sent, LIMIT);
    }
}
