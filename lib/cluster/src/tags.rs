//! What the rules of `[[tag]]` say of a request (paper §3.1).

use crate::config::Cluster;
use crate::control::Tags;

/// Tags of a request and the index of the `[[tag]]` rule that decided; without one, the conservative default:
/// non-deterministic, update, non-idempotent. `host` is without port; `path` without query, as received.
pub fn tags_for(cluster: &Cluster, method: &str, host: Option<&str>, path: &str) -> (Tags, Option<usize>) {
    let _ = (cluster, method, host, path);
    (Tags::default(), None)
}
