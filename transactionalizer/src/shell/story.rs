//! One readable line per failure.

use cluster::control::{ConnectionReport, Evidence, Flow, FromLog};

fn words(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::PrematureFin => "closed the connection too early (FIN)",
        Evidence::PrematureReset => "reset the connection or refuses new ones",
        Evidence::HostSilent => "answers no probe",
        Evidence::ApplicationTimeout => "exceeded its adaptive timeout",
        Evidence::Heartbeat => "answers no heartbeat",
        Evidence::Unreachable => "is unreachable",
    }
}

/// A failure that the managers have been told of.
pub(crate) fn tell(message: &FromLog) {
    let FromLog::Failed { evidence, noticed_us, backend_down, backend, connections, .. } = message else {
        return;
    };
    if *backend_down {
        tracing::warn!(
            "backend {backend} is down: it {}; {} connections reported {noticed_us} us after the evidence",
            words(*evidence),
            connections.len()
        );
    }
    for report in connections {
        tell_connection(report, *evidence, *noticed_us);
    }
}

fn tell_connection(report: &ConnectionReport, evidence: Evidence, noticed_us: u64) {
    let Flow { client, backend } = report.flow;
    let p = report.partial.head.len() as u64 + report.partial.body_bytes;
    let request = report.pending.first().map_or("no request", |request| request.summary.as_str());
    let state =
        report.unrecoverable.as_ref().map_or_else(String::new, |why| format!(", not recoverable: {why}"));
    tracing::warn!(
        "{client}: {backend} {}; T_L={} p={p} ({request}), Ack_CL={} with {} bytes unacknowledged, reported after \
         {noticed_us} us{state}",
        words(evidence),
        report.t_l,
        report.ack_cl,
        report.unacked.len(),
    );
}

/// A failure while no manager listened.
pub(crate) fn tell_unreported(flow: &Flow, evidence: Evidence) {
    tracing::error!(
        "{}: {} {}, but no recovery manager listens: the client gets what the backend sent. Start recovery-manager on the \
         proxies",
        flow.client,
        flow.backend,
        words(evidence)
    );
}
