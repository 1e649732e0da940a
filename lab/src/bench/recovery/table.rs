//! The rows of the outcome.

#![deny(clippy::disallowed_methods)]

use cluster::control::Evidence;

use super::case::Condition;
use super::record::{Fate, Record, Recovered, Transferred};
use super::transfer::Kind;
use crate::bench::rows::{Bound, Row, Samples};
use crate::faults::Fault;
use crate::settings::Front;

/// The client's stall on a LAN, milliseconds: fault, share of the stalls below it, must, aim.
const STALLS: [(Fault, f64, f64, f64); 4] = [
    (Fault::Kill, 0.5, 5.0, 2.0),
    (Fault::Kill, 0.99, 20.0, 10.0),
    (Fault::Silent, 0.5, 100.0, 60.0),
    (Fault::Silent, 0.99, 250.0, 150.0),
];

/// All of them.
pub(super) fn rows(records: &[Record]) -> Vec<Row> {
    let ours = || records.iter().filter(|record| record.front == Front::Resplice);
    let transfers = || ours().flat_map(Record::transfers);
    let mut rows = Vec::new();
    for fault in [Fault::Kill, Fault::Silent] {
        let count = ours().filter(|record| record.fault == fault && record.outcome.is_ok()).count();
        rows.push(plain(&format!("failures, {}", word(fault)), count as f64, ""));
    }
    rows.push(never(
        "failures that could not be run",
        ours().filter(|record| record.outcome.is_err()).count(),
    ));
    rows.push(plain("transfers", transfers().count() as f64, ""));
    rows.push(plain(
        "transfers that were re-spliced",
        transfers().filter(|t| respliced(t)).count() as f64,
        "",
    ));
    let count =
        |wanted: &dyn Fn(&Transferred) -> bool| transfers().filter(|transfer| wanted(transfer)).count();
    rows.push(never("wrong bytes", count(&|t| matches!(t.fate, Fate::Wrong(_)))));
    rows.push(never("updates lost or applied twice", count(&|t| !t.miscounted.is_empty())));
    rows.push(never("hangs", count(&|t| matches!(t.fate, Fate::Hung(_)))));
    let cut = |t: &Transferred| matches!(t.fate, Fate::Reset { recoverable: true, .. } | Fate::Refused(_));
    rows.push(never("recoverable transfers reset", count(&cut)));
    let rightly = |t: &Transferred| matches!(t.fate, Fate::Reset { recoverable: false, .. });
    rows.push(plain("updates in flight reset, by the rules", count(&rightly) as f64, ""));
    let other = |t: &Transferred| t.fate == Fate::OtherChunks;
    rows.push(plain("reset because the servers chose different chunks", count(&other) as f64, ""));
    let unprovoked = |t: &Transferred| t.recoveries.iter().any(|recovered| recovered.unprovoked);
    rows.push(plain("recoveries from the server that had not failed", count(&unprovoked) as f64, ""));
    rows.extend(STALLS.map(|(fault, share, must, aim)| {
        let what = format!("client's stall, {}, LAN, p{:.0}", word(fault), share * 100.0);
        quantile(&what, "ms", &added(records, fault), share, Some((must, aim)))
    }));
    rows.extend(STALLS.map(|(fault, share, ..)| {
        let what =
            format!("longest wait, application's time included, {}, LAN, p{:.0}", word(fault), share * 100.0);
        quantile(&what, "ms", &stalls(records, fault, Condition::Lan), share, None)
    }));
    rows.extend(added_by_distance(records));
    rows.extend(breakdown(records));
    rows.extend(kinds(records));
    rows.extend(broken_shares(records));
    rows
}

fn word(fault: Fault) -> &'static str {
    if fault == Fault::Kill { "kill" } else { "silent" }
}

fn respliced(transfer: &Transferred) -> bool {
    transfer.recoveries.iter().any(|recovered| recovered.ok)
}

/// What re-spliced clients waited at most after the failure, milliseconds, ascending.
pub(super) fn stalls(records: &[Record], fault: Fault, condition: Condition) -> Vec<f64> {
    sorted(waiting(records, fault, condition).map(|transfer| transfer.stall_ms).collect())
}

/// What failures on a LAN add to the waits of re-spliced clients, ascending.
fn added(records: &[Record], fault: Fault) -> Vec<f64> {
    sorted(waiting(records, fault, Condition::Lan).map(|transfer| transfer.added_ms).collect())
}

fn waiting(records: &[Record], fault: Fault, condition: Condition) -> impl Iterator<Item = &Transferred> {
    let of = move |record: &&Record| {
        record.front == Front::Resplice && record.fault == fault && record.condition == condition
    };
    records.iter().filter(of).flat_map(Record::transfers).filter(|transfer| respliced(transfer))
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of ascending values lies.
fn at(values: &[f64], share: f64) -> Option<f64> {
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.saturating_sub(1)).copied()
}

fn quantile(what: &str, unit: &'static str, values: &[f64], share: f64, bound: Option<(f64, f64)>) -> Row {
    let value = at(values, share);
    let keeps = |(must, _): (f64, f64)| value.is_some_and(|value| value <= must);
    Row {
        what: what.to_owned(),
        value,
        unit,
        low: values.first().copied(),
        high: values.last().copied(),
        must: bound.map(|(must, _)| must),
        aim: bound.map(|(_, aim)| aim),
        ok: bound.is_none_or(keeps),
        reason: value.is_none().then(|| "there was none".to_owned()),
    }
}

fn plain(what: &str, value: f64, unit: &'static str) -> Row {
    one(what, value, unit, None)
}

fn never(what: &str, count: usize) -> Row {
    one(what, count as f64, "", Some(Bound { must: 0.0, aim: 0.0, least: false }))
}

fn one(what: &str, value: f64, unit: &'static str, bound: Option<Bound>) -> Row {
    let mut samples = Samples::default();
    samples.push(Ok(value));
    samples.row(what, unit, bound)
}

/// The medians' difference to the LAN's, in round trips.
fn added_by_distance(records: &[Record]) -> Vec<Row> {
    let mut rows = Vec::new();
    for fault in [Fault::Kill, Fault::Silent] {
        let near = at(&stalls(records, fault, Condition::Lan), 0.5);
        for condition in Condition::ALL.into_iter().filter(|condition| condition.far()) {
            let rtt = condition.rtt().as_secs_f64() * 1e3;
            let added = |stall: f64| near.map(|near| ((stall - near) / rtt).max(0.0));
            let all: Vec<f64> = stalls(records, fault, condition).into_iter().filter_map(added).collect();
            let what = format!("stall beyond the LAN's, {}, {}, p50", word(fault), condition.name());
            rows.push(quantile(&what, "RTT", &all, 0.5, Some((1.0, 0.0))));
        }
    }
    rows
}

/// Where the time of a recovery on a LAN goes, by the manager's own account.
fn breakdown(records: &[Record]) -> Vec<Row> {
    let of = |fault: Fault| {
        let wanted = move |record: &&Record| {
            record.front == Front::Resplice && record.fault == fault && record.condition == Condition::Lan
        };
        let transfers = records.iter().filter(wanted).flat_map(Record::transfers);
        transfers.flat_map(|transfer| &transfer.recoveries).filter(|recovered| recovered.ok)
    };
    let mut rows = Vec::new();
    for fault in [Fault::Kill, Fault::Silent] {
        let noticed = of(fault).filter(|recovered| by_the_fault(fault, recovered));
        let noticed = sorted(noticed.map(|recovered| recovered.noticed_us as f64 / 1e3).collect());
        for share in [0.5, 0.99] {
            let what = format!("noticed, {}, LAN, p{:.0}", word(fault), share * 100.0);
            rows.push(quantile(&what, "ms", &noticed, share, None));
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in of(Fault::Kill).flat_map(|recovered| &recovered.steps) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names {
        let steps = of(Fault::Kill).flat_map(|recovered| &recovered.steps).filter(|(step, _)| step == name);
        let times = sorted(steps.map(|(_, us)| *us as f64 / 1e3).collect());
        for share in [0.5, 0.99] {
            let what = format!("notice to {name}, kill, LAN, p{:.0}", share * 100.0);
            rows.push(quantile(&what, "ms", &times, share, None));
        }
    }
    rows
}

/// A silent host whose kernel comes back with a FIN is not what is asked about.
fn by_the_fault(fault: Fault, recovered: &Recovered) -> bool {
    let closed = matches!(recovered.evidence, Evidence::PrematureFin | Evidence::PrematureReset);
    closed == (fault == Fault::Kill)
}

/// Transfers and re-splices of each kind of load, so that none is missing unseen.
fn kinds(records: &[Record]) -> Vec<Row> {
    let of = |kind: Kind| {
        let transfers =
            records.iter().filter(|record| record.front == Front::Resplice).flat_map(Record::transfers);
        transfers.filter(move |transfer| transfer.kind == kind && respliced(transfer)).count() as f64
    };
    Kind::ALL.into_iter().map(|kind| plain(&format!("re-spliced, {kind:?}"), of(kind), "")).collect()
}

/// The share of the transfers that did not end as they should, of those cases that all contenders had.
fn broken_shares(records: &[Record]) -> Vec<Row> {
    let mut rows = Vec::new();
    let compared: Vec<u64> =
        records.iter().filter(|record| record.front == Front::Nginx).map(|record| record.number).collect();
    for fault in [Fault::Kill, Fault::Silent] {
        for (front, name) in
            [(Front::Resplice, "resplice"), (Front::Nginx, "nginx"), (Front::Haproxy, "HAProxy")]
        {
            let of = |record: &&Record| {
                record.front == front && record.fault == fault && compared.contains(&record.number)
            };
            let transfers: Vec<&Transferred> =
                records.iter().filter(of).flat_map(Record::transfers).collect();
            let broken = transfers.iter().filter(|transfer| transfer.fate != Fate::Right).count();
            if !transfers.is_empty() {
                let what = format!("broken transfers, the same {} cases, {name}", word(fault));
                rows.push(plain(&what, 100.0 * broken as f64 / transfers.len() as f64, "%"));
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(fate: Fate, stall_ms: f64) -> Transferred {
        let recovered = Recovered {
            evidence: Evidence::PrematureFin,
            unprovoked: false,
            noticed_us: 70,
            steps: vec![("ordered".to_owned(), 40), ("connected".to_owned(), 400)],
            ok: true,
            outcome: String::new(),
        };
        Transferred {
            kind: Kind::Static,
            client: String::new(),
            fate,
            bytes: 1,
            took_ms: 1.0,
            stall_ms,
            added_ms: stall_ms,
            miscounted: Vec::new(),
            recoveries: vec![recovered],
        }
    }

    fn record(front: Front, condition: Condition, transfers: Vec<Transferred>) -> Record {
        Record { number: 1, front, condition, fault: Fault::Kill, seconds: 1.0, outcome: Ok(transfers) }
    }

    fn value<'a>(rows: &'a [Row], what: &str) -> &'a Row {
        rows.iter().find(|row| row.what == what).unwrap_or_else(|| panic!("no row {what}"))
    }

    #[test]
    fn failures_are_counted_and_break_their_bounds() {
        let cut = Fate::Reset { recoverable: true, after: String::new() };
        let kept = Fate::Reset { recoverable: false, after: String::new() };
        let transfers = vec![transfer(Fate::Right, 2.0), transfer(cut, 1.0), transfer(kept, 1.0)];
        let rows = rows(&[record(Front::Resplice, Condition::Lan, transfers)]);
        assert_eq!(value(&rows, "failures, kill").value, Some(1.0));
        let row = value(&rows, "recoverable transfers reset");
        assert_eq!((row.value, row.ok), (Some(1.0), false));
        assert_eq!(value(&rows, "updates in flight reset, by the rules").value, Some(1.0));
        assert!(value(&rows, "wrong bytes").ok);
        assert_eq!(value(&rows, "notice to connected, kill, LAN, p50").value, Some(0.4));
    }

    #[test]
    fn distance_is_told_in_round_trips() {
        let near = record(Front::Resplice, Condition::Lan, vec![transfer(Fate::Right, 2.0)]);
        let far = record(Front::Resplice, Condition::Rtt79, vec![transfer(Fate::Right, 2.0 + 79.0 * 1.5)]);
        let rows = rows(&[near, far]);
        let row = value(&rows, "stall beyond the LAN's, kill, 79 ms, p50");
        assert!((row.value.unwrap() - 1.5).abs() < 1e-9 && !row.ok);
    }

    #[test]
    fn others_are_compared_by_the_same_cases() {
        let cut = Fate::Reset { recoverable: true, after: String::new() };
        let records = [
            record(Front::Resplice, Condition::Lan, vec![transfer(Fate::Right, 2.0)]),
            record(Front::Nginx, Condition::Lan, vec![transfer(cut, 2.0)]),
        ];
        let rows = rows(&records);
        assert_eq!(value(&rows, "broken transfers, the same kill cases, nginx").value, Some(100.0));
        assert_eq!(value(&rows, "broken transfers, the same kill cases, resplice").value, Some(0.0));
        assert_eq!(value(&rows, "transfers").value, Some(1.0));
    }

    #[test]
    fn quantiles_are_taken_from_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((at(&values, 0.5), at(&values, 0.99), at(&[], 0.5)), (Some(50.0), Some(99.0), None));
    }
}
