//! Actions put together, so that many cost few syscalls.
//!
//! What concerns one connection keeps its order. Of different connections it does not matter; and the kernel may be changed
//! before packets leave that were decided on before: they are not tracked, and whatever answers them comes later. But nothing of a
//! connection passes by before they have left: what overtook bytes that were held for it would make its receiver drop them, as their
//! timestamps are older (RFC 7323 §5.3), and their sender, who was told that they had come, repeats them after its timer only.

use std::collections::HashMap;
use std::hash::RandomState;

use cluster::control::{Client, FromProxy};

use crate::action::{Action, KernelSplice};
use crate::key::Key;
use crate::parked::Parked;

/// Actions of one batch at most: further ones would save little, and each has its place in memory for good.
const ROOM: usize = 128;

/// What of a batch is executed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Entries are looked up.
    Inspect,
    /// It is told what passed on the fast path.
    Look,
    /// Connections leave the fast path.
    Recall,
    /// The next daemon's entries are made.
    Park,
    /// Packets are queued before conntrack.
    Suspend,
    /// Entries are deleted.
    Unsplice,
    /// What is in `first`.
    SendFirst,
    /// The kernel gets the entries, so that a daemon that dies now loses nothing.
    Splice,
    /// The fast path gets what only it translates.
    Hasten,
    /// What is in `send`, unless the kernel has refused an entry.
    Send,
    /// The fast path gets those of `splice` that the kernel took.
    SpeedUp,
    /// The fast path gets what is translated in userspace.
    Record,
    /// Packets are queued before conntrack no longer.
    Resume,
}

/// Collected actions, to be executed in the order of [`Batch::ORDER`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Clients whose entries are to be looked up, with the SYN to be handed back.
    pub inspect: Vec<(Client, Vec<u8>)>,
    /// Clients of whose connections it is to be told what passed on the fast path.
    pub look: Vec<Client>,
    /// Clients whose connections leave the fast path and are told of.
    pub recall: Vec<Client>,
    /// Entries to be kept for the next daemon.
    pub park: Vec<Parked>,
    /// Clients whose packets are to be queued before conntrack.
    pub suspend: Vec<Client>,
    /// Clients whose entries are to be deleted.
    pub unsplice: Vec<Client>,
    /// Packets to be sent before.
    pub first: Vec<Vec<u8>>,
    /// Entries to be created.
    pub splice: Vec<KernelSplice>,
    /// Connections that only the fast path translates from now on.
    pub hasten: Vec<Parked>,
    /// Packets to be sent.
    pub send: Vec<Vec<u8>>,
    /// Connections that the fast path translates as well.
    pub record: Vec<Parked>,
    /// Clients whose packets are to be queued before conntrack no longer.
    pub resume: Vec<Client>,
    /// Messages to the recovery managers.
    pub tell: Vec<FromProxy>,
    /// The last step of each client that has one.
    steps: HashMap<Key, Step, RandomState>,
    count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Inspect,
    Park,
    Suspend,
    Unsplice,
    Create,
    Resume,
}

impl Batch {
    /// In which its parts are executed.
    pub const ORDER: [Part; 13] = [
        Part::Inspect,
        Part::Look,
        Part::Recall,
        Part::Park,
        Part::Suspend,
        Part::Unsplice,
        Part::SendFirst,
        Part::Splice,
        Part::Hasten,
        Part::Send,
        Part::SpeedUp,
        Part::Record,
        Part::Resume,
    ];

    /// Takes an action in, or gives it back: the batch must be executed and cleared first.
    pub fn push(&mut self, action: Action) -> Result<(), Action> {
        if self.is_full_for(&action)
            || step(&action).is_some_and(|(client, step)| self.is_behind(client, step))
        {
            return Err(action);
        }
        self.count += 1;
        match action {
            Action::Inspect { client, syn } => self.inspect.push((client, syn)),
            Action::Suspend(client) => self.suspend.push(client),
            Action::Unsplice(client) => self.unsplice.push(client),
            Action::Splice(splice) => self.splice.push(splice),
            Action::Park(parked) => self.park.push(parked),
            Action::Record(parked) => self.record.push(parked),
            Action::Hasten(parked) => self.hasten.push(parked),
            Action::Look(client) => self.look.push(client),
            Action::Recall(client) => self.recall.push(client),
            Action::Resume(client) => self.resume.push(client),
            Action::Send(packet) => self.send.push(packet),
            Action::SendFirst(packet) => self.first.push(packet),
            Action::Tell(message) => self.tell.push(message),
        }
        Ok(())
    }

    /// Packets that follow what opens a connection's way leave before it is open, however many they are.
    fn is_full_for(&self, action: &Action) -> bool {
        let opens = !(self.splice.is_empty() && self.record.is_empty() && self.resume.is_empty());
        self.count >= ROOM && !(opens && matches!(action, Action::Send(_)))
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Empties it, after everything was executed, but for packets that are still in `send`; its memory stays.
    pub fn clear(&mut self) {
        self.inspect.clear();
        self.look.clear();
        self.recall.clear();
        self.park.clear();
        self.suspend.clear();
        self.unsplice.clear();
        self.first.clear();
        self.splice.clear();
        self.record.clear();
        self.hasten.clear();
        self.resume.clear();
        self.tell.clear();
        self.steps.clear();
        self.send.shrink_to(ROOM);
        // The next action finds room in any case.
        self.count = self.send.len().min(ROOM - 1);
    }

    /// Notes the client's step; true if a later one of the same client would be executed first, or the same one twice.
    fn is_behind(&mut self, client: Client, step: Step) -> bool {
        let key = Key::from(client);
        let behind = self.steps.get(&key).is_some_and(|last| *last >= step);
        if !behind {
            self.steps.insert(key, step);
        }
        behind
    }
}

fn step(action: &Action) -> Option<(Client, Step)> {
    match action {
        Action::Inspect { client, .. } | Action::Look(client) | Action::Recall(client) => {
            Some((*client, Step::Inspect))
        }
        Action::Park(parked) => Some((parked.splice.client, Step::Park)),
        Action::Suspend(client) => Some((*client, Step::Suspend)),
        Action::Unsplice(client) => Some((*client, Step::Unsplice)),
        Action::Splice(splice) => Some((splice.client, Step::Create)),
        Action::Record(parked) | Action::Hasten(parked) => Some((parked.splice.client, Step::Create)),
        Action::Resume(client) => Some((*client, Step::Resume)),
        Action::Send(_) | Action::SendFirst(_) | Action::Tell(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(number: u8) -> Client {
        ([10, 0, 0, number], 4000).into()
    }

    fn action(number: u8, kind: u8) -> Action {
        let client = client(number);
        match kind {
            0 => Action::Inspect { client, syn: vec![number] },
            1 => Action::Suspend(client),
            2 => Action::Unsplice(client),
            3 => Action::Resume(client),
            4 => Action::Send(vec![number]),
            _ => Action::Splice(KernelSplice {
                client,
                backend: client,
                delta: 0,
                timestamps: None,
                window_scales: None,
                sack_permitted: false,
            }),
        }
    }

    /// What an executor does to each client, and the packets, in order; they wait if something is refused. Nothing passes before they have
    /// left.
    fn execute(batch: &mut Batch, done: &mut HashMap<Client, Vec<u8>>, sent: &mut Vec<u8>, refused: bool) {
        let refused = refused && !batch.splice.is_empty();
        let mut note = |client: Client, kind| done.entry(client).or_default().push(kind);
        for part in Batch::ORDER {
            match part {
                Part::Inspect => batch.inspect.iter().for_each(|(client, _)| note(*client, 0)),
                Part::Suspend => batch.suspend.iter().for_each(|client| note(*client, 1)),
                Part::Unsplice => batch.unsplice.iter().for_each(|client| note(*client, 2)),
                Part::Splice => batch.splice.iter().for_each(|splice| note(splice.client, 5)),
                Part::Send if !refused => sent.extend(batch.send.drain(..).flatten()),
                Part::SpeedUp | Part::Record | Part::Resume => {
                    assert!(refused || batch.send.is_empty(), "{part:?}");
                    if part == Part::Resume {
                        batch.resume.iter().for_each(|client| note(*client, 3));
                    }
                }
                _ => {}
            }
        }
        batch.clear();
    }

    #[test]
    fn packets_that_follow_an_opening_are_sent_with_it() {
        for kind in [3, 5] {
            let mut batch = Batch::default();
            assert_eq!(batch.push(action(1, kind)), Ok(()));
            for _ in 0..3 * ROOM {
                assert_eq!(batch.push(action(1, 4)), Ok(()));
            }
            assert_eq!(batch.push(action(2, 1)), Err(action(2, 1)));
            // The kernel refused something: they wait.
            batch.clear();
            assert_eq!(batch.push(action(2, 1)), Ok(()));
        }
        let mut batch = Batch::default();
        let taken = (0..2 * ROOM).filter(|_| batch.push(action(1, 4)).is_ok()).count();
        assert_eq!(taken, ROOM);
    }

    proptest! {
        #[test]
        fn each_connection_keeps_its_order(actions in prop::collection::vec((0..4_u8, 0..6_u8), 0..2000)) {
            let (mut batch, mut done, mut sent) = (Batch::default(), HashMap::new(), Vec::new());
            let mut wanted: HashMap<Client, Vec<u8>> = HashMap::new();
            for (number, kind) in &actions {
                if let Err(action) = batch.push(action(*number, *kind)) {
                    execute(&mut batch, &mut done, &mut sent, number % 2 == 0);
                    prop_assert_eq!(batch.push(action), Ok(()));
                }
                if *kind != 4 {
                    wanted.entry(client(*number)).or_default().push(*kind);
                }
            }
            execute(&mut batch, &mut done, &mut sent, true);
            execute(&mut batch, &mut done, &mut sent, false);
            prop_assert!(batch.is_empty());
            prop_assert_eq!(done, wanted);
            let packets: Vec<u8> = actions.iter().filter(|(_, kind)| *kind == 4).map(|(number, _)| *number).collect();
            prop_assert_eq!(sent, packets);
        }
    }
}
