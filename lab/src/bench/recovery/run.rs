//! One case in one lab: the clients start, the server fails, the clients end, the server comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use cluster::control::RecoveryRecord;

use super::case::{Case, Condition};
use super::client::{Observer, Performed, perform};
use super::record::{Fate, Record, Recovered, Transferred};
use super::transfer::{Kind, Transfer};
use crate::faults::Fault;
use crate::http::Wait;
use crate::lab::Lab;
use crate::php::Php;
use crate::settings::Front;
use crate::topology::{Node, SERVICE_PORT};

/// Time in which a healed server must be in use again.
const RETURN: Duration = Duration::from_secs(20);
/// Time in which a recovery that the client has seen end is on record.
const ON_RECORD: Duration = Duration::from_secs(2);

/// Shorter stalls are not compared with the waits of the same transfer where nothing fails.
const WORTH_COMPARING: Duration = Duration::from_millis(3);

/// The documents, whole: they are compared with in many threads.
#[derive(Debug, Default)]
pub(super) struct Documents(BTreeMap<&'static str, Vec<u8>>);

impl Documents {
    /// Those that transfers ask for.
    pub(super) fn load() -> Result<Self> {
        let tree = crate::documents::tree()?.join("files");
        let names = ["0", "1k", "64k", "1m", "10m"];
        names
            .into_iter()
            .map(|name| Ok((name, std::fs::read(tree.join(name))?)))
            .collect::<Result<_>>()
            .map(Self)
    }

    fn get(&self, name: &str) -> Vec<u8> {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// The first client tells when its server shall fail.
struct Trigger {
    at: u64,
    tell: Option<Sender<Told>>,
}

enum Told {
    Client(SocketAddr),
    Now,
}

/// When the server was made to fail, from the first moment to the last, and which one.
#[derive(Debug, Clone, Copy)]
struct Failed {
    node: Node,
    since: Instant,
}

impl Observer for Trigger {
    fn connected(&mut self, client: SocketAddr) {
        self.say(Told::Client(client));
    }

    fn progressed(&mut self, bytes: u64) {
        if bytes >= self.at {
            self.say(Told::Now);
            self.tell = None;
        }
    }
}

impl Trigger {
    fn say(&self, what: Told) {
        if let Some(tell) = &self.tell {
            // Nobody listens any more: there was an error, and it is reported.
            let _ = tell.send(what);
        }
    }
}

/// Runs a case; both servers serve again afterwards. What goes wrong in the lab itself is the record's outcome.
pub(super) fn run(lab: &Lab, front: Front, case: &Case, documents: &Documents) -> Record {
    let started = Instant::now();
    let outcome = outcome(lab, front, case, documents).map_err(|error| format!("{error:#}"));
    let Case { number, condition, fault, .. } = *case;
    Record { number, front, condition, fault, seconds: started.elapsed().as_secs_f64(), outcome }
}

fn outcome(lab: &Lab, front: Front, case: &Case, documents: &Documents) -> Result<Vec<Transferred>> {
    if front == Front::Resplice {
        await_backends(lab)?;
    }
    Php::forget(lab)?;
    let since_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let (performed, failed) = fail_under(lab, front, case, documents)?;
    lab.heal(failed.node)?;
    let recoveries = recoveries(lab, front, since_ms, &performed)?;
    let applied = Php::updates(lab);
    let judged = case.transfers.iter().zip(performed).map(|(transfer, performed)| {
        let recoveries = of_client(&recoveries, performed.client, failed.node);
        let waits = after(&performed.waits, failed.since);
        let stall = longest(&waits);
        // Only near clients are asked about to the millisecond.
        let usual = if case.condition == Condition::Lan && stall > WORTH_COMPARING && !recoveries.is_empty() {
            usual(lab, transfer, documents)
        } else {
            Vec::new()
        };
        Transferred {
            kind: transfer.kind,
            client: performed.client.map(|client| client.to_string()).unwrap_or_default(),
            bytes: performed.bytes,
            took_ms: millis(performed.took),
            stall_ms: millis(stall),
            added_ms: millis(beyond(&waits, &usual)),
            miscounted: miscounted(&transfer.session, &performed, &applied),
            fate: explained(transfer.kind, performed.fate, &recoveries),
            recoveries,
        }
    });
    Ok(judged.collect())
}

/// Both servers in use, all daemons connected.
fn await_backends(lab: &Lab) -> Result<()> {
    let end = Instant::now() + RETURN;
    loop {
        let (manager, proxy) = (lab.manager_status()?, lab.proxy_status()?);
        let connected = manager.proxy_connected && manager.loggers.iter().all(|(_, connected)| *connected);
        let up = proxy.backends.iter().filter(|backend| backend.serves()).count();
        if connected && manager.down.is_empty() && up == Node::BACKENDS.len() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("a healed server is not in use again after {RETURN:?}: down {:?}, {up} up", manager.down);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn fail_under(
    lab: &Lab,
    front: Front,
    case: &Case,
    documents: &Documents,
) -> Result<(Vec<Performed>, Failed)> {
    let (tell, told) = channel();
    let (_, others) = case.transfers.split_at(1);
    let first = case.transfers.first().context("a case without transfers")?;
    thread::scope(|scope| {
        let failing = scope.spawn(move || fail(lab, front, case.fault, &told));
        let others: Vec<_> = others
            .iter()
            .map(|transfer| {
                scope.spawn(move || {
                    let mut nobody = Trigger { at: u64::MAX, tell: None };
                    perform(lab, transfer, &|name| documents.get(name), &mut nobody)
                })
            })
            .collect();
        let mut trigger = Trigger { at: case.at, tell: Some(tell) };
        let mut performed = vec![perform(lab, first, &|name| documents.get(name), &mut trigger)];
        drop(trigger);
        for other in others {
            performed.push(other.join().map_err(|_| anyhow!("a client panicked"))?);
        }
        let failed = failing.join().map_err(|_| anyhow!("the failing thread panicked"))?;
        let met = performed.first().map(|first| first.fate.clone());
        Ok((performed, failed.with_context(|| format!("no failure; the first client met {met:?}"))?))
    })
}

/// Makes the first client's server fail when told to, or when that client has ended before.
fn fail(lab: &Lab, front: Front, fault: Fault, told: &Receiver<Told>) -> Result<Failed> {
    let Ok(Told::Client(client)) = told.recv() else { bail!("the first client got no connection") };
    // Known beforehand, the moment of the failure is exact; but a proxy may choose another one for each request.
    let known = if front == Front::Resplice { lab.serving(client).ok() } else { None };
    let _ = told.recv();
    // A transfer may be so short that nobody has seen its connection.
    let node = known.map_or_else(|| lab.serving_any(), Ok).unwrap_or(Node::B1);
    let since = Instant::now();
    lab.fail(node, fault)?;
    Ok(Failed { node, since })
}

/// The longest wait of each exchange of those that ended after a moment.
fn after(waits: &[Vec<Wait>], moment: Instant) -> Vec<Duration> {
    let longest = |waits: &Vec<Wait>| {
        let later = waits.iter().filter(|wait| wait.since + wait.length > moment);
        later.map(|wait| wait.length).max().unwrap_or_default()
    };
    waits.iter().map(longest).collect()
}

fn longest(waits: &[Duration]) -> Duration {
    waits.iter().copied().max().unwrap_or_default()
}

/// What the waits have beyond the usual ones of the same exchanges.
fn beyond(waits: &[Duration], usual: &[Duration]) -> Duration {
    let usual = usual.iter().copied().chain(std::iter::repeat(Duration::ZERO));
    waits.iter().zip(usual).map(|(wait, usual)| wait.saturating_sub(usual)).max().unwrap_or_default()
}

/// How long the answers of a transfer are waited for where nothing fails.
fn usual(lab: &Lab, transfer: &Transfer, documents: &Documents) -> Vec<Duration> {
    let since = Instant::now();
    let mut nobody = Trigger { at: u64::MAX, tell: None };
    let performed = perform(lab, &transfer.again(), &|name| documents.get(name), &mut nobody);
    // What goes wrong here is no usual wait.
    if performed.fate == Fate::Right { after(&performed.waits, since) } else { Vec::new() }
}

fn millis(duration: Duration) -> f64 {
    // Microseconds are enough.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What the manager has recorded since; it may be a moment behind the clients.
fn recoveries(
    lab: &Lab,
    front: Front,
    since_ms: u64,
    performed: &[Performed],
) -> Result<Vec<RecoveryRecord>> {
    if front != Front::Resplice {
        return Ok(Vec::new());
    }
    let cut = |performed: &&Performed| matches!(performed.fate, Fate::Reset { .. });
    let wanted: Vec<SocketAddr> =
        performed.iter().filter(cut).filter_map(|performed| performed.client).collect();
    let end = Instant::now() + ON_RECORD;
    loop {
        let mut records = lab.manager_status()?.recoveries;
        records.retain(|record| record.at_ms >= since_ms);
        let there = |client: &SocketAddr| records.iter().any(|record| record.flow.client == *client);
        if wanted.iter().all(there) || Instant::now() > end {
            return Ok(records);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn of_client(records: &[RecoveryRecord], client: Option<SocketAddr>, failed: Node) -> Vec<Recovered> {
    let ours = records.iter().filter(|record| Some(record.flow.client) == client);
    let recovered = |record: &RecoveryRecord| Recovered {
        evidence: record.evidence,
        unprovoked: record.flow.backend != SocketAddr::from((failed.address(), SERVICE_PORT)),
        noticed_us: record.noticed_us,
        steps: record.steps.clone(),
        ok: record.ok,
        outcome: record.outcome.clone(),
    };
    ours.map(recovered).collect()
}

/// Where nginx ends a chunk of what PHP sends depends on the moment: no two servers agree. Behind a hole in the log that is refused.
fn explained(kind: Kind, fate: Fate, recoveries: &[Recovered]) -> Fate {
    let differs = || recoveries.iter().any(|recovered| recovered.outcome.contains("answers differently"));
    if kind == Kind::Stream && matches!(fate, Fate::Reset { .. }) && differs() {
        Fate::OtherChunks
    } else {
        fate
    }
}

/// Updates of a session that were applied twice, or answered and not applied, or applied without having been asked for.
fn miscounted(session: &str, performed: &Performed, applied: &[(String, String)]) -> Vec<String> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, name) in applied.iter().filter(|(of, _)| of == session) {
        *times.entry(name).or_default() += 1;
    }
    let asked = || performed.acknowledged.iter().chain(&performed.unanswered).map(String::as_str);
    let twice =
        times.iter().filter(|(_, times)| **times > 1).map(|(name, times)| format!("{name}: {times} times"));
    let lost = performed.acknowledged.iter().filter(|name| !times.contains_key(name.as_str()));
    let unasked = times.keys().filter(|name| asked().all(|asked| asked != **name));
    twice
        .chain(lost.map(|name| format!("{name}: answered, not applied")))
        .chain(unasked.map(|name| format!("{name}: applied, not asked for")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn performed(acknowledged: &[&str], unanswered: Option<&str>) -> Performed {
        Performed {
            client: None,
            fate: Fate::Right,
            bytes: 0,
            waits: Vec::new(),
            acknowledged: acknowledged.iter().map(|name| (*name).to_owned()).collect(),
            unanswered: unanswered.map(str::to_owned),
            took: Duration::ZERO,
        }
    }

    fn applied(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ("s".to_owned(), (*name).to_owned())).collect()
    }

    #[test]
    fn an_unanswered_update_may_have_been_applied_or_not() {
        for times in [&["u1"][..], &["u1", "u2"]] {
            assert!(miscounted("s", &performed(&["u1"], Some("u2")), &applied(times)).is_empty());
        }
    }

    #[test]
    fn twice_lost_and_unasked_updates_are_found() {
        let found = miscounted("s", &performed(&["u1", "u2"], None), &applied(&["u1", "u1", "u3"]));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(miscounted("t", &performed(&[], None), &applied(&["u1", "u1"])).is_empty());
    }

    #[test]
    fn waits_that_end_after_a_failure_are_found() {
        let now = Instant::now();
        let wait = |at: u64, length: u64| Wait {
            since: now + Duration::from_millis(at),
            length: Duration::from_millis(length),
        };
        let waits = [vec![wait(0, 5), wait(10, 3)], vec![wait(14, 9), wait(30, 2)], vec![wait(40, 7)]];
        let moment = now + Duration::from_millis(20);
        assert_eq!(after(&waits, moment), [0, 9, 7].map(Duration::from_millis));
        assert_eq!(longest(&after(&waits, moment)), Duration::from_millis(9));
    }

    #[test]
    fn only_what_the_same_answer_does_not_usually_take_is_added() {
        let [waits, usual] = [[0, 9, 7], [3, 8, 1]].map(|each| each.map(Duration::from_millis));
        assert_eq!(beyond(&waits, &usual), Duration::from_millis(6));
        assert_eq!(beyond(&waits, &usual[..1]), Duration::from_millis(9));
    }
}
