//! `[pool.NAME] state`: whose backends have each their own state.

use std::net::SocketAddr;

use cluster::config::{Cluster, PoolState, Problem};

const GOOD: &str = include_str!("good.toml");

/// The good configuration with these states of `web` (b1, b2) and `images` (b2, b3).
fn with(web: &str, images: &str) -> String {
    GOOD.replace("[pool.web]\n", &format!("[pool.web]\nstate = \"{web}\"\n"))
        .replace("state = \"shared\"\n", &format!("state = \"{images}\"\n"))
}

fn problems(text: &str) -> Vec<Problem> {
    Cluster::parse(text, "cluster.toml").err().map(|error| error.problems).unwrap_or_default()
}

fn state(text: &str, address: &str) -> PoolState {
    let address: SocketAddr = address.parse().unwrap_or_else(|error| panic!("{error}"));
    let cluster = Cluster::parse(text, "cluster.toml").unwrap_or_else(|error| panic!("{error}"));
    cluster.state_of(address)
}

#[test]
fn backends_share_their_state_unless_their_pool_says_otherwise() {
    assert_eq!(state(GOOD, "10.0.2.11:80"), PoolState::Shared);
    let text = with("separate", "separate");
    for known in ["10.0.2.11:80", "10.0.2.12:80", "10.0.2.13:8080"] {
        assert_eq!(state(&text, known), PoolState::Separate);
    }
    assert_eq!(state(&text, "10.9.9.9:80"), PoolState::Shared);
}

#[test]
fn pools_with_a_common_backend_must_agree() {
    let found = problems(&with("separate", "shared"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].key, "pool.web.state");
    assert!(found[0].what.contains("`b2` is in pool `images`"), "{found:?}");
    assert!(found[0].place.is_some(), "it stands in the file");
}

#[test]
fn only_http_can_be_replayed() {
    for protocol in ["lines", "records", "imap", "smtp"] {
        let other = format!("protocol = \"{protocol}\"");
        let found = problems(&with("separate", "separate").replace("protocol = \"http\"", &other));
        let state =
            |problem: &&Problem| problem.key.starts_with("pool.") && problem.what.contains("HTTP only");
        assert_eq!(found.iter().filter(state).count(), 2, "{found:?}");
    }
}

#[test]
fn another_state_is_refused_with_a_remedy() {
    let found = problems(&with("private", "shared"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].remedy.contains("\"shared\", \"separate\""), "{found:?}");
}

#[test]
fn a_reload_may_change_it() {
    let (old, new) = (Cluster::parse(GOOD, "old"), Cluster::parse(&with("separate", "separate"), "new"));
    let (Ok(old), Ok(new)) = (old, new) else { panic!("not good") };
    assert_eq!(old.check_reload(&new, "new"), Ok(()));
}
