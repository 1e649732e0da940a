//! The proxy's engine under any list of operations: packets of clients and backends (most of them nearly right), orders,
//! timeouts, refusals of the kernel, crashes. What must hold afterwards is in `checks`.

mod checks;
mod peers;
mod world;

use cluster::control::{ClientWindow, Flow, Prefix, RecoveryOrder, Stretch, TakeIn};
use nfq_splice::{EntryState, Stage};
use std::time::Duration;

use crate::Input;
use peers::{BACKENDS, CLIENTS, REQUESTS, backend, client};
use world::World;

/// Operations of one input at most, so that none is slow.
const OPERATIONS: usize = 120;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut world = World::new(input.byte());
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        operate(&mut world, &mut input);
        world.check();
    }
    world.run_out();
}

fn operate(world: &mut World, input: &mut Input<'_>) {
    let (operation, who) = (input.byte(), input.byte());
    let (from, to) = (usize::from(who) % CLIENTS, usize::from(who >> 4) % BACKENDS);
    match operation {
        232..=239 => return world.piece(input),
        248.. => return world.too_long(),
        240..=247 => return world.icmp_error(input),
        _ => {}
    }
    match operation % 24 {
        0 | 1 => world.client_syn(from, input),
        2..=7 => world.client_segment(from, input),
        8..=10 => world.backend_syn_ack(from, to, input),
        11..=14 => world.backend_segment(from, to, input),
        15 | 16 => world.pass_time(Duration::from_millis(1 << input.choose(18))),
        17 => world.order(order(world, from, to, input)),
        18 => world.order_again(),
        19 => {
            let failed = Flow { client: client(from), backend: backend(to) };
            let ack = input.flag().then(|| world.backend_number(from, to, input));
            world.reset(failed, ack);
        }
        20 => world.backend_state(to, input.flag()),
        21 => match input.choose(4) {
            0 => world.refuse_splice(from),
            1 => world.end_entry(from),
            2 => world.end_entry_twice(from),
            _ => world.answer_inspections([EntryState::Open, EntryState::Closed][usize::from(who >> 7)]),
        },
        22 => world.restart(),
        _ => {
            let stage = if input.flag() { Stage::Raw } else { Stage::Tracked };
            world.packet(input.blob().to_vec(), stage);
        }
    }
}

/// A plan as the manager might make it, from what the log might have, or something worse.
fn order(world: &World, from: usize, to: usize, input: &mut Input<'_>) -> RecoveryOrder {
    let choices = input.byte();
    let replay = if choices & 1 == 0 { REQUESTS[0].to_vec() } else { input.blob().to_vec() };
    let take_in = match choices >> 1 & 3 {
        0 => TakeIn::Nothing,
        1 => TakeIn::Range {
            first: number(input),
            complete: number(input),
            overlap: input.blob().to_vec(),
            whole: prefix(choices, input),
        },
        _ => TakeIn::Prefix(prefix(choices, input)),
    };
    let client_next = world.client_number(from, input);
    let back = if choices & 0x90 == 0x90 { 700 } else { 0 };
    RecoveryOrder {
        id: world.next_order(),
        flow: Flow { client: client(from), backend: world.backend_of(from).unwrap_or(backend(to)) },
        alternate: backend(to),
        options: (choices & 32 != 0).then(|| peers::syn_options(input.byte())),
        client_window: if choices & 128 == 0 {
            ClientWindow::default()
        } else {
            ClientWindow { now: 9, most: 1200 }
        },
        client_next: client_next.0,
        client_known: (client_next + back).0,
        client_fin: choices & 64 != 0,
        replayed: Vec::new(),
        replay,
        rest: (choices & 0x60 == 0x60).then(|| world.rest(from, to)),
        resend_from: world.backend_number(from, to, input).0,
        resend: input.blob().to_vec(),
        take_in,
        beyond: if choices & 16 == 0 { Vec::new() } else { vec![(3, b"beyond".to_vec())] },
        left_out: if choices & 32 == 0 { 0 } else { 2 },
    }
}

fn prefix(choices: u8, input: &mut Input<'_>) -> Prefix {
    Prefix {
        head: input.blob().to_vec(),
        head_complete: choices & 8 != 0,
        volatile: vec!["date".to_owned()],
        body_bytes: number(input),
        hashes: vec![Stretch { bytes: 3, hash: if choices & 16 == 0 { 0 } else { 0x9d1f_0000 } }],
        content: None,
        tail: Vec::new(),
    }
}

/// A small number, or the greatest.
fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        u8::MAX => u64::MAX,
        small => u64::from(small),
    }
}
