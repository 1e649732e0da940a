//! A scenario drawn by lot.

use std::time::Duration;

use cluster::config::SplicePath;

use super::{Break, Control, Crash, CrashAt, DAEMONS, Failure, Faults, Kind, Scenario, When, millis};
use crate::addresses::BACKENDS;
use crate::apps::{Ending, Habits};
use crate::content::{self, Request, Variant};
use crate::control::CHANNELS;
use crate::middlebox::Middlebox;
use crate::rng::Rng;

const SIZES: [u64; 11] = [0, 1, 100, 700, 1400, 3000, 9000, 20_000, 40_000, 70_000, 120_000];

impl Scenario {
    pub fn new(rng: &mut Rng) -> Self {
        let v6 = rng.chance(200);
        let mut scenario = Self::plain(v6, Habits::plain(Vec::new()));
        scenario.clients = (0..rng.pick(&[1, 1, 2, 3])).map(|_| habits(rng)).collect();
        scenario.settings(rng);
        scenario.hosts(rng);
        scenario.links = links(rng);
        scenario.variants = variants(rng);
        scenario.middleboxes = middleboxes(rng);
        scenario.failures = failures(rng);
        // Trouble of the machinery itself comes in a part of the runs, and more than one kind of it in few.
        scenario.crashes = crashes(rng);
        scenario.breaks = breaks(rng);
        scenario.control = Control {
            delay: rng.pick(&[(20, 60), (50, 400), (500, 5000), (10, 20_000)]),
            doubled: rng.pick(&[0, 0, 0, 100]),
            reading: rng.pick(&[(1, 10), (20, 200), (100, 3000)]),
        };
        scenario.refusals = rng.pick(&[0, 0, 0, 100, 500]);
        // Drawn apart: what else a seed means stays as it was.
        let mut apart = rng.clone();
        scenario.cluster.recovery.request_bytes = apart.pick(&[1 << 20, 1 << 20, 0, 300, 5_000]);
        content::draw_chunks(&mut scenario.variants, &mut apart);
        scenario
    }

    fn settings(&mut self, rng: &mut Rng) {
        let cluster = &mut self.cluster;
        if rng.chance(350) {
            cluster.splice.path = SplicePath::Userspace;
        }
        cluster.recovery.range_from_bytes = rng.pick(&[1000, 10_000, 60_000, 1 << 40]);
        // smoltcp repeats everything after each loss: with all the faults of a link in one recovery that takes its time.
        cluster.recovery.timeout_ms = 60_000;
        self.client_mtu = rng.pick(&[1500, 1500, 1500, 1400, if self.v6 { 1280 } else { 600 }]);
        // smoltcp forgets the timestamp option when it fills a segment, and drops what is too long.
        cluster.splice.mss = self.client_mtu as u16 - if self.v6 { 72 } else { 52 };
    }

    fn hosts(&mut self, rng: &mut Rng) {
        let buffer = rng.pick(&[30_000, 65_535, 130_000, 400_000]);
        let odd = rng.chance(200);
        let timestamps = rng.chance(700);
        self.receive_buffers = [buffer; BACKENDS];
        self.backend_timestamps = [timestamps; BACKENDS];
        if odd {
            self.receive_buffers =
                self.receive_buffers.map(|_| rng.pick(&[30_000, 65_535, 130_000, 400_000]));
            self.backend_timestamps = self.backend_timestamps.map(|_| rng.chance(600));
        }
        self.cluster.splice.window_scale = if rng.chance(500) { scale(buffer) } else { rng.below(11) as u8 };
        self.client_timestamps = rng.chance(850);
        self.send_buffer = rng.pick(&[5_000, 30_000, 100_000]);
        self.service_time = Duration::from_micros(rng.pick(&[0, 0, 200, 5_000, 60_000]));
    }
}

/// The scale that smoltcp offers for a buffer.
fn scale(buffer: usize) -> u8 {
    (usize::BITS - buffer.leading_zeros()).saturating_sub(16) as u8
}

fn middleboxes(rng: &mut Rng) -> [Middlebox; BACKENDS + 1] {
    let all = middlebox(rng);
    let client = middlebox(rng);
    [client, all, all, all]
}

fn middlebox(rng: &mut Rng) -> Middlebox {
    if rng.chance(700) {
        return Middlebox::default();
    }
    Middlebox {
        no_scale: rng.chance(200),
        no_sack: rng.chance(200),
        odd_options: rng.chance(300),
        ecn: rng.chance(300),
        cut: rng.pick(&[0, 0, 20, 200]),
    }
}

fn moment(rng: &mut Rng) -> packet::Time {
    millis(rng.between(1, 1500))
}

fn crashes(rng: &mut Rng) -> Vec<Crash> {
    let number = rng.pick(&[0, 0, 0, 0, 1, 1, 2]);
    let crash = |_| Crash {
        daemon: rng.pick(&DAEMONS),
        at: if rng.chance(300) {
            CrashAt::Time(moment(rng))
        } else {
            let among = rng.pick(&[5, 30, 100, 300]);
            CrashAt::Step(rng.between(1, among))
        },
        down: Duration::from_micros(rng.pick(&[100, 1000, 50_000, 700_000])),
    };
    (0..number).map(crash).collect()
}

fn breaks(rng: &mut Rng) -> Vec<Break> {
    let number = rng.pick(&[0, 0, 0, 0, 0, 1, 3]);
    (0..number)
        .map(|_| Break { channel: rng.pick(&CHANNELS), at: moment(rng), loses: rng.chance(500) })
        .collect()
}

fn habits(rng: &mut Rng) -> Habits {
    let slow = rng.chance(200);
    let dribble = rng.chance(200);
    let mut requests: Vec<Request> = (0..rng.pick(&[1, 1, 2, 3, 4])).map(|_| request(rng)).collect();
    if rng.chance(50) {
        requests.push(Request::UntilClose(size(rng)));
    }
    let total: u64 = requests.iter().map(|request| request.answer(Variant::default()).len() as u64).sum();
    let sent: usize = requests.iter().map(|request| request.bytes().len()).sum();
    let ending = match rng.below(10) {
        0..=5 => Ending::Close,
        6..=8 => Ending::HalfClose,
        _ => Ending::Abort(rng.below(total) as usize),
    };
    let receive_buffer: usize = rng.pick(&[4_000, 20_000, 65_535, 65_535, 200_000]);
    let write = ((rng.between(3, 60) as usize).max(sent / 60), Duration::from_millis(rng.between(1, 30)));
    // smoltcp forgets what was not read ten seconds after the end.
    let read = (
        (rng.between(500, 20_000) as usize).max(receive_buffer / 100),
        Duration::from_millis(rng.between(1, 40)),
    );
    let at_once = (usize::MAX, Duration::ZERO);
    Habits {
        start: millis(rng.below(300)),
        pipelined: rng.chance(300),
        write: if dribble { write } else { at_once },
        think: Duration::from_millis(rng.pick(&[0, 0, 5, 300])),
        read: if slow { read } else { at_once },
        ending,
        receive_buffer,
        send_buffer: rng.pick(&[2_000, 40_000]),
        ..Habits::plain(requests)
    }
}

fn size(rng: &mut Rng) -> usize {
    let size = rng.pick(&SIZES);
    (size + rng.below(size / 2 + 1)) as usize
}

fn request(rng: &mut Rng) -> Request {
    let bytes = size(rng);
    if rng.chance(650) {
        return Request::Get(bytes);
    }
    if rng.chance(500) {
        return Request::Chunked(bytes);
    }
    Request::Post { bytes: bytes.min(60_000) + 1, idempotent: rng.chance(700) }
}

fn failures(rng: &mut Rng) -> Vec<Failure> {
    let first = rng.below(BACKENDS as u64) as usize;
    let number = rng.pick(&[0, 1, 1, 1, 1, 2]);
    (0..number)
        .map(|n| Failure {
            backend: (first + n) % BACKENDS,
            kind: rng.pick(&[Kind::Silent, Kind::Silent, Kind::Fin, Kind::Reset, Kind::Frozen]),
            when: if rng.chance(400) { When::At(millis(rng.below(1200))) } else { When::Logged(logged(rng)) },
            back: rng
                .pick(&[None, None, Some(1), Some(100), Some(700), Some(5000)])
                .map(Duration::from_millis),
        })
        .collect()
}

fn logged(rng: &mut Rng) -> usize {
    let size = rng.pick(&[0, 20, 150, 400, 3000, 30_000, 100_000]);
    (size + rng.below(size + 200)) as usize
}

fn variants(rng: &mut Rng) -> Vec<Variant> {
    let mut variants = vec![Variant { no_ranges: rng.chance(100), ..Variant::default() }; BACKENDS];
    if rng.chance(100) {
        let flipped = (rng.chance(500)).then(|| rng.below(3000) as usize);
        let version = u8::from(flipped.is_none());
        let which = rng.below(BACKENDS as u64) as usize;
        variants[which] = Variant { flipped, version, ..variants[which] };
    }
    variants
}

fn links(rng: &mut Rng) -> [Faults; 3] {
    let far = Faults {
        delay: rng.pick(&[(50, 200), (1000, 3000), (10_000, 12_000), (39_000, 41_000)]),
        ..faults(rng)
    };
    let near = Faults { delay: rng.pick(&[(5, 30), (50, 300), (500, 5000)]), ..faults(rng) };
    let next = Faults { delay: rng.pick(&[(5, 30), (50, 300), (500, 5000)]), ..faults(rng) };
    [far, near, next]
}

fn faults(rng: &mut Rng) -> Faults {
    if rng.chance(350) {
        return Faults::default();
    }
    Faults {
        loss: rng.pick(&[0, 5, 20, 60]),
        duplication: rng.pick(&[0, 0, 10, 50]),
        corruption: rng.pick(&[0, 0, 5, 20]),
        reordering: rng.pick(&[0, 0, 20, 100]),
        extra: rng.pick(&[500, 5_000, 50_000]),
        delay: (0, 0),
    }
}
