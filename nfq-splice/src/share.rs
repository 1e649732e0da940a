//! Several engines make one proxy: each owns the clients whose packets come to its queue, and shares nothing with the others.

use cluster::control::{BackendStatus, ProxyStatus};

use crate::common::Settings;
use crate::engine::STATUS_CONNECTIONS;

impl Settings {
    /// The part of one of `engines`: limits that concern the whole proxy are divided evenly, rounded up. The clients are spread
    /// by a hash, so that an engine may reach its part a little earlier than the proxy the whole.
    pub fn share(mut self, engines: u16) -> Self {
        let engines = engines.max(1);
        self.splice.half_open = self.splice.half_open.div_ceil(usize::from(engines));
        self.splice.connections = self.splice.connections.div_ceil(usize::from(engines));
        // Never less than one client may need.
        let head = self.splice.request_head_bytes;
        self.splice.setup_bytes = self.splice.setup_bytes.div_ceil(usize::from(engines)).max(2 * head);
        self.strangers_per_second = self.strangers_per_second.div_ceil(u32::from(engines));
        self
    }
}

/// What the engines of one proxy say, as one: counts are added; what is known of a backend is the same in all.
pub fn merge(parts: impl IntoIterator<Item = ProxyStatus>) -> ProxyStatus {
    let mut whole = ProxyStatus::default();
    for part in parts {
        let room = STATUS_CONNECTIONS.saturating_sub(whole.connections.len());
        whole.connections.extend(part.connections.into_iter().take(room));
        whole.total += part.total;
        part.backends.into_iter().for_each(|backend| add_backend(&mut whole.backends, backend));
        for (name, count) in part.counters {
            *whole.counters.entry(name).or_default() += count;
        }
    }
    whole
}

fn add_backend(backends: &mut Vec<BackendStatus>, part: BackendStatus) {
    match backends.iter_mut().find(|known| known.address == part.address) {
        Some(known) => known.connections += part.connections,
        None => backends.push(part),
    }
}
