//! What one seed means.

use std::time::Duration;

use cluster::config::{Cluster, SplicePath};
use packet::Time;

use crate::addresses::{BACKENDS, backend, router, service, set_family};
use crate::apps::{Ending, Habits};
use crate::content::{self, Request, Variant};
use crate::middlebox::Middlebox;
use crate::rng::Rng;

/// Packets that one link spoils at most: the fault budget that makes progress certain.
pub(crate) const FAULTS_PER_LINK: u32 = 60;

fn config() -> String {
    let backends = [0, 1, 2].map(|n| format!("[backend.b{n}]\naddress = \"{}\"\n", backend(n))).concat();
    format!(
        r#"
[cluster]
name = "simulation"
[service]
address = "{}"
[[route]]
pool = "web"
[pool.web]
backends = ["b0", "b1", "b2"]
{backends}
[proxy.p1]
address = "{}"
[logger.l1]
control = "{}"
"#,
        service(),
        router(),
        std::net::SocketAddr::new(router(), 7070)
    )
}

/// Per mille of packets, and delays in microseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) corruption: u64,
    pub(crate) reordering: u64,
    pub(crate) delay: (u64, u64),
    pub(crate) extra: u64,
    /// What happens to the packet of this number on the link, from 1.
    pub(crate) planned: Option<(u32, Spoil)>,
}

/// What happens to one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    Lose,
    Duplicate,
    /// So long that others overtake it.
    Delay,
}

impl Faults {
    pub(crate) fn is_clean(&self) -> bool {
        self.loss + self.duplication + self.corruption + self.reordering == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The host says nothing any more.
    Silent,
    /// The process dies, its kernel closes.
    Fin,
    /// The process dies, its kernel resets.
    Reset,
    /// Nothing happened: a wrong suspicion.
    Suspected,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    At(Time),
    /// So many bytes of some connection with it have been logged.
    Logged(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Kill {
    pub(crate) backend: usize,
    pub(crate) kind: Kind,
    pub(crate) when: When,
    /// From the failure to its report.
    pub(crate) noticed: Duration,
    /// The backend is reported down, not only its connections.
    pub(crate) down: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum CrashAt {
    Time(Time),
    /// The daemon's step: after a packet was handled and before its verdict, or before an action.
    Step(u64),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Crash {
    pub(crate) at: CrashAt,
    /// Until it is back.
    pub(crate) down: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) cluster: Cluster,
    pub(crate) v6: bool,
    pub(crate) client_timestamps: bool,
    pub(crate) backend_timestamps: [bool; BACKENDS],
    pub(crate) client_mtu: usize,
    pub(crate) receive_buffers: [usize; BACKENDS],
    pub(crate) send_buffer: usize,
    pub(crate) service_time: Duration,
    pub(crate) links: [Faults; 3],
    pub(crate) clients: Vec<Habits>,
    pub(crate) variants: Vec<Variant>,
    /// This backend's application stops after so many bytes of a connection.
    pub(crate) stalls: Option<(usize, usize)>,
    pub(crate) kills: Vec<Kill>,
    pub(crate) crashes: Vec<Crash>,
    /// Per mille of packets whose actions wait until more packets have come.
    pub(crate) batches: u64,
    /// Packets of blind attackers.
    pub(crate) forged: u64,
    /// On the accesses of client and backends.
    pub(crate) middleboxes: [Middlebox; BACKENDS + 1],
    /// Per mille of splices that the kernel refuses.
    pub(crate) refusals: u64,
    pub(crate) control_delay: Duration,
    pub(crate) fast_path: bool,
    /// The key of the proxy's secrets is lost with the daemon.
    pub(crate) secrets_lost: bool,
}

const SIZES: [u64; 12] = [0, 1, 100, 700, 1400, 3000, 9000, 20_000, 40_000, 70_000, 120_000, 250_000];

pub(crate) fn millis(n: u64) -> Time {
    Time::from_millis(n)
}

impl Scenario {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let v6 = rng.chance(250);
        set_family(v6);
        let mut cluster = Cluster::parse(&config(), "simulation").unwrap();
        let kernel = rng.chance(500);
        cluster.splice.path = if kernel { SplicePath::Kernel } else { SplicePath::Userspace };
        cluster.recovery.range_from_bytes = rng.pick(&[1000, 10_000, 60_000, 1 << 40]);
        // smoltcp repeats everything after each loss: with all the faults of a link in one recovery that takes its time.
        cluster.recovery.timeout_ms = 60_000;
        let buffer = rng.pick(&[30_000, 65_535, 130_000, 400_000]);
        let odd = rng.chance(300);
        let mut receive_buffers = [buffer; BACKENDS];
        if odd {
            receive_buffers = receive_buffers.map(|_| rng.pick(&[30_000, 65_535, 130_000, 400_000]));
        }
        cluster.splice.window_scale = if rng.chance(500) { scale(buffer) } else { rng.below(11) as u8 };
        let client_mtu = rng.pick(&[1500, 1500, 1500, 1400, if v6 { 1280 } else { 600 }]);
        // smoltcp forgets the timestamp option when it fills a segment, and drops what is too long.
        cluster.splice.mss = client_mtu as u16 - if v6 { 72 } else { 52 };
        let timestamps = rng.chance(700);
        let clients = (0..rng.pick(&[1, 1, 2, 3])).map(|_| habits(rng)).collect();
        let kills = kills(rng);
        let mut scenario = Self {
            client_timestamps: rng.chance(850),
            backend_timestamps: [(); BACKENDS].map(|()| if odd { rng.chance(600) } else { timestamps }),
            client_mtu,
            receive_buffers,
            send_buffer: rng.pick(&[5_000, 30_000, 100_000]),
            service_time: Duration::from_micros(rng.pick(&[0, 0, 200, 5_000, 60_000])),
            links: links(rng),
            clients,
            variants: variants(rng),
            stalls: None,
            crashes: crashes(rng),
            forged: rng.pick(&[0, 0, 5, 40]),
            batches: rng.pick(&[0, 100, 500, 900]),
            middleboxes: middleboxes(rng),
            refusals: rng.pick(&[0, 0, 0, 100, 500]),
            control_delay: Duration::from_micros(rng.between(50, 5000)),
            fast_path: !v6 && rng.chance(800),
            // Clocks of connections that are spliced anew would go back.
            secrets_lost: kills.is_empty() && rng.chance(100),
            kills,
            cluster,
            v6,
        };
        // Drawn apart: what else a seed means stays as it was.
        scenario.chunks(&mut rng.clone());
        scenario
    }

    /// In some runs each backend cuts what is asked for into chunks of its own.
    fn chunks(&mut self, rng: &mut Rng) {
        if !content::draw_chunks(&mut self.variants, rng) {
            return;
        }
        for request in self.clients.iter_mut().flat_map(|habits| &mut habits.requests) {
            if let Request::Get(bytes) = *request {
                *request = Request::Chunked(bytes);
            }
        }
    }

    /// One client, perfect links, nothing fails.
    pub(crate) fn plain(v6: bool, client: Habits) -> Self {
        set_family(v6);
        let mut cluster = Cluster::parse(&config(), "simulation").unwrap();
        cluster.splice.mss = 1400;
        let link = Faults { delay: (50, 50), ..Faults::default() };
        Self {
            client_timestamps: true,
            backend_timestamps: [true; BACKENDS],
            client_mtu: 1500,
            receive_buffers: [65_535; BACKENDS],
            send_buffer: 65_535,
            service_time: Duration::ZERO,
            links: [(); 3].map(|()| link.clone()),
            clients: vec![client],
            variants: vec![Variant::default(); BACKENDS],
            stalls: None,
            kills: Vec::new(),
            crashes: Vec::new(),
            forged: 0,
            batches: 0,
            middleboxes: [Middlebox::default(); BACKENDS + 1],
            refusals: 0,
            control_delay: Duration::from_micros(100),
            fast_path: false,
            secrets_lost: false,
            cluster,
            v6,
        }
    }

    /// The fast path's program answers clients (`nfq-splice/src/shell/answers.rs`).
    pub(crate) fn program_answers(&self) -> bool {
        self.fast_path && !self.v6
    }

    /// The backends cut the same content into other chunks.
    pub(crate) fn rechunks(&self) -> bool {
        content::rechunk(&self.variants)
    }

    /// The backends answer differently.
    pub(crate) fn differs(&self) -> bool {
        content::differ(&self.variants)
    }
}

/// Backends are alike, unless they are not.
fn middleboxes(rng: &mut Rng) -> [Middlebox; BACKENDS + 1] {
    let odd = rng.chance(300);
    let client = middlebox(rng);
    let all = middlebox(rng);
    let backends = [(); BACKENDS].map(|()| if odd { middlebox(rng) } else { all });
    [client, backends[0], backends[1], backends[2]]
}

fn middlebox(rng: &mut Rng) -> Middlebox {
    if rng.chance(500) {
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

fn crashes(rng: &mut Rng) -> Vec<Crash> {
    let number = rng.pick(&[0, 0, 0, 1, 2]);
    let crash = |_| Crash {
        at: if rng.chance(400) {
            CrashAt::Time(millis(rng.between(1, 1500)))
        } else {
            let among = rng.pick(&[30, 100, 300, 1000]);
            CrashAt::Step(rng.between(1, among))
        },
        down: Duration::from_micros(rng.pick(&[0, 1000, 50_000, 700_000])),
    };
    (0..number).map(crash).collect()
}

/// The scale that smoltcp offers for a buffer.
fn scale(buffer: usize) -> u8 {
    (usize::BITS - buffer.leading_zeros()).saturating_sub(16) as u8
}

fn habits(rng: &mut Rng) -> Habits {
    let slow = rng.chance(200);
    let dribble = rng.chance(200);
    let requests: Vec<Request> = (0..rng.pick(&[1, 1, 2, 3, 4])).map(|_| request(rng)).collect();
    let total: u64 = requests.iter().map(|request| request.answer(Variant::default()).len() as u64).sum();
    let sent: usize = requests.iter().map(|request| request.bytes().len()).sum();
    let ending = match rng.below(10) {
        0..=5 => Ending::Close,
        6..=8 => Ending::HalfClose,
        _ => Ending::Abort(rng.below(total) as usize),
    };
    let receive_buffer: usize = rng.pick(&[4_000, 20_000, 65_535, 65_535, 200_000]);
    Habits {
        requests,
        start: millis(rng.below(300)),
        pipelined: rng.chance(300),
        write: if dribble {
            ((rng.between(3, 60) as usize).max(sent / 60), Duration::from_millis(rng.between(1, 30)))
        } else {
            (usize::MAX, Duration::ZERO)
        },
        think: Duration::from_millis(rng.pick(&[0, 0, 5, 300])),
        read: if slow {
            // smoltcp forgets what was not read ten seconds after the end.
            (
                (rng.between(500, 20_000) as usize).max(receive_buffer / 100),
                Duration::from_millis(rng.between(1, 40)),
            )
        } else {
            (usize::MAX, Duration::ZERO)
        },
        ending,
        pause_at: None,
        receive_buffer,
        send_buffer: rng.pick(&[2_000, 40_000]),
    }
}

fn request(rng: &mut Rng) -> Request {
    if rng.chance(850) {
        let size = rng.pick(&SIZES);
        return Request::Get((size + rng.below(size / 2 + 1)) as usize);
    }
    let size = rng.pick(&SIZES).min(30_000);
    Request::Post { bytes: (size + 1) as usize, idempotent: rng.chance(700) }
}

fn kills(rng: &mut Rng) -> Vec<Kill> {
    let first = rng.below(BACKENDS as u64) as usize;
    let number = rng.pick(&[0, 1, 1, 1, 1, 2]);
    (0..number)
        .map(|n| Kill {
            backend: (first + n) % BACKENDS,
            kind: rng.pick(&[Kind::Silent, Kind::Silent, Kind::Fin, Kind::Reset, Kind::Suspected]),
            when: if rng.chance(400) { When::At(millis(rng.below(1200))) } else { When::Logged(logged(rng)) },
            noticed: Duration::from_micros(rng.pick(&[100, 1000, 10_000, 200_000])),
            down: rng.chance(800),
        })
        .collect()
}

fn logged(rng: &mut Rng) -> usize {
    let size = rng.pick(&[0, 20, 150, 400, 3000, 30_000, 100_000]);
    (size + rng.below(size + 200)) as usize
}

fn variants(rng: &mut Rng) -> Vec<Variant> {
    let mut variants = vec![Variant { no_ranges: rng.chance(100), ..Variant::default() }; BACKENDS];
    if rng.chance(150) {
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
        planned: None,
    }
}
