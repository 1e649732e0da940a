//! Splices as conntrack's entries say them, and back.

use std::net::SocketAddr;

use netfilter::conntrack::{SpliceEntry, TcpState};
use nfq_splice::{EntryState, KernelSplice, Parked};
use nft_rules::{PARKED_MARK, SPLICED_MARK};

pub(super) fn entry_of(splice: &KernelSplice, service: SocketAddr, timeout_s: u32) -> SpliceEntry {
    SpliceEntry {
        client: splice.client,
        service,
        backend: splice.backend,
        server_offset: splice.delta,
        client_offset: 0,
        // The kernel subtracts it from the backend's TSval.
        timestamp_offset: splice.timestamps.unwrap_or(0).wrapping_neg(),
        has_timestamps: splice.timestamps.is_some(),
        mark: SPLICED_MARK,
        timeout_s,
        window_scales: splice.window_scales,
        sack_permitted: splice.sack_permitted,
    }
}

/// It translates no packet: fields that have no use are there for what else is kept.
pub(super) fn entry_to_park(parked: &Parked, service: SocketAddr, timeout_s: u32) -> SpliceEntry {
    let entry = entry_of(&parked.splice, service, timeout_s);
    let timestamp_offset = parked.clock.unwrap_or(entry.timestamp_offset);
    SpliceEntry { client_offset: parked.rest(), timestamp_offset, mark: PARKED_MARK, ..entry }
}

pub(super) fn parked_of(entry: &SpliceEntry) -> Parked {
    // 0: of a version that did not keep it.
    let clock = Some(entry.timestamp_offset).filter(|clock| *clock != 0 && !entry.has_timestamps);
    Parked { clock, ..Parked::new(splice_of(entry), entry.client_offset) }
}

pub(super) fn splice_of(entry: &SpliceEntry) -> KernelSplice {
    KernelSplice {
        client: entry.client,
        backend: entry.backend,
        delta: entry.server_offset,
        timestamps: entry.has_timestamps.then(|| entry.timestamp_offset.wrapping_neg()),
        window_scales: entry.window_scales,
        sack_permitted: entry.sack_permitted,
    }
}

pub(super) fn state(state: TcpState) -> EntryState {
    match state {
        TcpState::TimeWait | TcpState::Close => EntryState::Closed,
        _ => EntryState::Open,
    }
}
