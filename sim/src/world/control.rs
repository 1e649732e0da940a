//! Messages between the daemons.

use cluster::control::ToLogger;

use super::*;
use crate::scenario::{Break, DOUBLED_MESSAGES};

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);

/// Who connects, and who listens.
fn ends(channel: Channel) -> (Daemon, Daemon) {
    match channel {
        Channel::Judge => (Daemon::Transactionalizer, Daemon::Logger),
        Channel::Reports => (Daemon::Manager, Daemon::Transactionalizer),
        Channel::Orders => (Daemon::Manager, Daemon::Proxy),
    }
}

impl World {
    pub(super) fn line(&mut self, channel: Channel) -> &mut Line {
        self.lines.entry(channel).or_default()
    }

    fn alive(&self, daemon: Daemon) -> bool {
        match daemon {
            Daemon::Proxy => !self.proxy.down,
            Daemon::Logger => !self.logger.down,
            Daemon::Transactionalizer => !self.reader.down,
            Daemon::Manager => !self.manager.down,
        }
    }

    pub(super) fn life(&self, daemon: Daemon) -> u64 {
        match daemon {
            Daemon::Proxy => self.proxy.life,
            Daemon::Logger => self.logger.life,
            Daemon::Transactionalizer => self.reader.life,
            Daemon::Manager => self.manager.life,
        }
    }

    pub(super) fn connect(&mut self, channel: Channel, life: u64) {
        let (client, server) = ends(channel);
        if self.life(client) != life || !self.alive(client) || self.line(channel).client.is_some() {
            return;
        }
        if !self.alive(server) {
            return self.after(RETRY, Event::Connect(channel, life));
        }
        let line = self.line(channel);
        line.session += 1;
        let session = line.session;
        line.client = Some(session);
        line.server.insert(session);
        self.note(|| format!("{channel:?} connected, session {session}"));
        self.connected(channel);
    }

    fn connected(&mut self, channel: Channel) {
        match channel {
            Channel::Judge => {
                for message in [ToLogger::Judge, ToLogger::Fences] {
                    self.send(channel, End::Server, &Message::ToLogger(message));
                }
                self.fence_again();
            }
            Channel::Reports => {
                self.manager.engine.handle_log_connected(recovery_manager::LoggerId(0));
                self.manage();
            }
            Channel::Orders => {
                self.manager.engine.handle_proxy_connected(self.now);
                self.manage();
            }
        }
    }

    /// From the other end's daemon, on its present session or, a server, on all it has.
    pub(super) fn send(&mut self, channel: Channel, to: End, message: &Message) {
        let line = self.line(channel);
        let sessions: Vec<u64> = match to {
            End::Server => line.client.into_iter().collect(),
            End::Client => line.server.iter().copied().collect(),
        };
        for session in sessions {
            self.send_on(channel, to, session, message.clone());
        }
    }

    pub(super) fn send_on(&mut self, channel: Channel, to: End, session: u64, message: Message) {
        let at = self.control_moment();
        let at = self.line(channel).in_order(to, at);
        let doubles = channel != Channel::Judge
            && self.doubled < DOUBLED_MESSAGES
            && self.rng.chance(self.scenario.control.doubled);
        if doubles {
            self.doubled += 1;
            let again = at + Duration::from_micros(self.rng.below(50_000));
            self.events.push(again, Event::Deliver(channel, to, session, message.clone()));
        }
        self.events.push(at, Event::Deliver(channel, to, session, message));
    }

    fn control_moment(&mut self) -> Time {
        let (least, most) = self.scenario.control.delay;
        self.now + Duration::from_micros(self.rng.between(least, most))
    }

    pub(super) fn deliver(&mut self, channel: Channel, to: End, session: u64, message: Message) {
        if !self.line(channel).is_open(to, session) {
            return self.note(|| format!("lost: {message:?}"));
        }
        match message {
            Message::ToLogger(message) => self.logger_told(session, &message),
            Message::FencesHold => self.fences_hold(),
            Message::Fenced(flows) => self.fenced(&flows),
            Message::ToLog(message) => self.reader_told(session, &message),
            Message::FromLog(message) => self.manager_hears_log(message),
            Message::ToProxy(message) => self.proxy_told(session, message),
            Message::FromProxy(message) => self.manager_hears_proxy(message),
        }
    }

    /// One end is closed; the other will learn of it, unless `silently` it cannot, because it is gone, too.
    pub(super) fn break_line(&mut self, broken: Break) {
        let Some(session) = self.line(broken.channel).client else { return };
        self.note(|| format!("{:?} breaks", broken.channel));
        for end in [End::Client, End::Server] {
            self.lose_session(broken.channel, end, session, broken.loses);
        }
    }

    /// `end` learns that this session is over: at once, and what is under way to it is lost, or after all that.
    fn lose_session(&mut self, channel: Channel, end: End, session: u64, loses: bool) {
        let at = self.control_moment();
        let at = if loses { at } else { self.line(channel).in_order(end, at) };
        if loses {
            self.line(channel).close(end, session);
            self.events.push(at, Event::Hangup(channel, end, session));
            // It stays open for `hang_up` to see, but nothing is delivered on it any more.
            self.line(channel).dying.insert((end, session));
        } else {
            self.events.push(at, Event::Hangup(channel, end, session));
        }
    }

    /// A daemon dies: its ends are closed, the others learn of it after what is under way.
    pub(super) fn close_ends(&mut self, daemon: Daemon) {
        for channel in crate::control::CHANNELS {
            let (client, server) = ends(channel);
            let line = self.line(channel);
            if client == daemon {
                line.dying.retain(|(end, _)| *end != End::Client);
                if let Some(session) = line.client.take() {
                    self.lose_session(channel, End::Server, session, false);
                }
            }
            if server == daemon {
                let line = self.line(channel);
                line.dying.retain(|(end, _)| *end != End::Server);
                for session in std::mem::take(&mut line.server) {
                    self.lose_session(channel, End::Client, session, false);
                }
            }
        }
    }

    pub(super) fn hang_up(&mut self, channel: Channel, end: End, session: u64) {
        let line = self.line(channel);
        let closed = line.close(end, session);
        if !line.dying.remove(&(end, session)) && !closed {
            return;
        }
        self.note(|| format!("{channel:?}: the {end:?} knows that session {session} is over"));
        match (channel, end) {
            (Channel::Judge, End::Client) => self.judge_link_lost(),
            (Channel::Judge, End::Server) => self.judge_gone(session),
            (Channel::Reports, End::Client) => {
                self.manager.engine.handle_log_disconnected(recovery_manager::LoggerId(0));
                self.manage();
            }
            (Channel::Reports, End::Server) => self.manager_gone(session),
            (Channel::Orders, End::Client) => {
                self.manager.engine.handle_proxy_disconnected(self.now);
                self.manage();
            }
            (Channel::Orders, End::Server) => {
                self.proxy.subscribers.remove(&session);
            }
        }
        if end == End::Client {
            let life = self.life(ends(channel).0);
            self.after(RETRY, Event::Connect(channel, life));
        }
    }
}
