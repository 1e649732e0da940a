//! A recovery in words: one line for each of its stages.

use std::fmt;
use std::net::SocketAddr;

use cluster::control::{ConnectionReport, Evidence, Flow, Outcome, Prefix, RecoveryRecord, TakeIn};

use crate::manager::End;
use crate::plan::{Steps, p};

/// What the operator is told. Its `Display` is the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Story {
    /// A logger calls a backend down.
    BackendDown(SocketAddr),
    /// A logger calls it up again.
    BackendUp(SocketAddr),
    /// A connection's failure arrived.
    Noticed {
        /// Whose.
        flow: Flow,
        /// How it was noticed.
        evidence: Evidence,
        /// Microseconds from that to its arrival here.
        noticed_us: u64,
        /// T_L.
        t_l: u32,
        /// p.
        p: u64,
        /// Requests without a complete response, and the first of them.
        pending: (usize, Option<String>),
    },
    /// An order leaves.
    Planned {
        /// Whose.
        flow: Flow,
        /// A.
        alternate: SocketAddr,
        /// T_R.
        t_r: u64,
        /// T_SP.
        t_sp: u64,
        /// R.
        replay: u64,
        /// Logged bytes to re-send.
        resend: usize,
        /// What is taken in.
        take_in: String,
        /// Why the attempt before failed, if there was one.
        after: Option<String>,
    },
    /// It is over.
    Ended(RecoveryRecord),
    /// Another manager of this proxy started later: this one does nothing any more.
    Fenced {
        /// Its epoch.
        by: u64,
    },
    /// Our epoch is not believed: it lies far in the other host's future.
    NotBelieved {
        /// Ours.
        epoch: u64,
    },
}

impl Story {
    pub(crate) fn noticed(report: &ConnectionReport, evidence: Evidence, noticed_us: u64) -> Self {
        let first = report.pending.first().map(|request| request.summary.clone());
        Self::Noticed {
            flow: report.flow,
            evidence,
            noticed_us,
            t_l: report.t_l,
            p: p(report),
            pending: (report.pending.len(), first),
        }
    }

    pub(crate) fn planned(report: &ConnectionReport, steps: &Steps, after: Option<String>) -> Self {
        Self::Planned {
            flow: report.flow,
            alternate: steps.alternate,
            t_r: steps.t_r,
            t_sp: steps.t_sp,
            replay: (steps.replay.len() as u64).saturating_add(report.rest.map_or(0, |rest| rest.bytes)),
            resend: steps.resend.len(),
            take_in: take_in(&steps.take_in),
            after,
        }
    }

    /// The client lost its connection, or a backend is lost.
    pub fn is_bad(&self) -> bool {
        match self {
            Self::Ended(record) => !record.ok,
            Self::BackendDown(_) | Self::Fenced { .. } | Self::NotBelieved { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackendDown(backend) => write!(f, "backend {backend} is down, new connections avoid it"),
            Self::BackendUp(backend) => write!(f, "backend {backend} is up again"),
            Self::Noticed { flow, evidence, noticed_us, t_l, p, pending } => {
                write!(f, "client {}: backend {} failed: ", flow.client, flow.backend)?;
                write!(f, "{}, noticed after {}; ", evidence_in_words(*evidence), Micros(*noticed_us))?;
                match pending {
                    (_, None) => write!(f, "T_L {t_l}, idle"),
                    (1, Some(first)) => write!(f, "T_L {t_l}, p {p} of {first:?}"),
                    (n, Some(first)) => write!(f, "T_L {t_l}, p {p} of {first:?}, {} more pipelined", n - 1),
                }
            }
            Self::Planned { flow, alternate, t_r, t_sp, replay, resend, take_in, after } => {
                write!(f, "client {}: ", flow.client)?;
                if let Some(after) = after {
                    write!(f, "{after}; ")?;
                }
                write!(f, "continuing on {alternate}: T_R {t_r}, T_SP {t_sp}, replay R {replay} B, ")?;
                write!(f, "re-send {resend} B, {take_in}")
            }
            Self::Ended(record) => write_end(f, record),
            Self::Fenced { by } => write!(
                f,
                "another recovery manager of this proxy has started (epoch {by}): this one does nothing any more, stop it"
            ),
            Self::NotBelieved { epoch } => {
                write!(
                    f,
                    "epoch {epoch} is refused as too far ahead: are the clocks of proxy and logger right?"
                )
            }
        }
    }
}

fn write_end(f: &mut fmt::Formatter<'_>, record: &RecoveryRecord) -> fmt::Result {
    write!(f, "client {}: {}", record.flow.client, record.outcome)?;
    if record.steps.len() < 2 {
        // Ended at once: there is nothing to tell of the time.
        return Ok(());
    }
    let mut before = " (";
    for (name, at) in &record.steps {
        write!(f, "{before}{name} {}", Micros(*at))?;
        before = ", ";
    }
    f.write_str(")")
}

fn evidence_in_words(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::PrematureFin => "its kernel closed in mid-response (FIN)",
        Evidence::PrematureReset => "its kernel reset the connection (RST)",
        Evidence::HostSilent => "its host answers no probe",
        Evidence::ApplicationTimeout => "its application exceeded its timeout",
        Evidence::Heartbeat => "its idle heartbeat failed",
        Evidence::Unreachable => "the network calls its host unreachable",
    }
}

fn take_in(take_in: &TakeIn) -> String {
    match take_in {
        TakeIn::Nothing => "take in nothing".to_owned(),
        TakeIn::Prefix(Prefix { head, body_bytes, .. }) => {
            format!("compare {} B head and {body_bytes} B body", head.len())
        }
        TakeIn::Range { first, complete, overlap, .. } => {
            format!("range from {first} of {complete} B, compare {} B", overlap.len())
        }
    }
}

/// What is said of an alternate that says nothing.
pub(crate) const SILENT: &str = "no answer to the handshake";

/// The outcome, for the log and `resplice status`.
pub(crate) fn in_words(end: &End) -> String {
    match end {
        End::Reset(reason) => format!("reset: {reason}"),
        End::Answer(status, reason) => format!("answered {status}: {reason}"),
        End::Superseded => "superseded: the client's connection failed anew".to_owned(),
        End::Order(alternate, outcome) => outcome_in_words(*alternate, outcome),
    }
}

fn outcome_in_words(alternate: SocketAddr, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Respliced { resent, taken_in, .. } => {
            format!("re-spliced to {alternate}, {resent} B re-sent, {taken_in} B taken in and equal")
        }
        Outcome::AlternateFailed(why) => format!("alternate {alternate} failed: {why}"),
        Outcome::AlternateSilent => format!("alternate {alternate} failed: {SILENT}"),
        Outcome::Gone(why) => format!("client gone: {why}"),
        Outcome::Elsewhere(backend) => format!("the client is on {backend} already"),
        Outcome::Mismatch { at, logged, alternate: other, .. } => format!(
            "reset: {alternate} answers differently at response byte {at}: the client was sent \"{}\", it has \"{}\"",
            logged.escape_ascii(),
            other.escape_ascii()
        ),
    }
}

/// Microseconds, in a unit that fits.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us @ 0..1000 => write!(f, "{us} µs"),
            us @ 1000..1_000_000 => write!(f, "{:.1} ms", us as f64 / 1e3),
            us => write!(f, "{:.2} s", us as f64 / 1e6),
        }
    }
}
