//! Routes that no request can reach are recognised, and only those.

use cluster::config::{Cluster, Problem};

const GOOD: &str = include_str!("good.toml");

fn problems(text: &str) -> Vec<Problem> {
    Cluster::parse(text, "cluster.toml").err().map(|error| error.problems).unwrap_or_default()
}

/// The good configuration with `ROUTES` in the place of its routes.
fn with_other_routes() -> String {
    let place = |text| GOOD.find(text).unwrap_or_else(|| panic!("{text} is not there"));
    format!("{}ROUTES\n{}", &GOOD[..place("[[route]]")], &GOOD[place("[pool.web]")..])
}

#[test]
fn unreachable_routes_are_recognised_only_if_unreachable() {
    let route = |host: Option<&str>, prefix: Option<&str>| {
        let key =
            |name: &str, value: Option<&str>| value.map(|v| format!("{name} = {v:?}\n")).unwrap_or_default();
        format!("[[route]]\n{}{}pool = \"web\"\n", key("host", host), key("path_prefix", prefix))
    };
    let base = with_other_routes();
    for (first, second, unreachable) in [
        ((None, None), (Some("a"), Some("/x")), true),
        ((None, Some("/")), (None, Some("/x")), true),
        ((None, Some("/")), (Some("a"), None), true),
        ((None, Some("/a")), (None, Some("/a/b")), true),
        ((None, Some("/a")), (None, Some("/a")), true),
        ((Some("H"), Some("/a")), (Some("h"), Some("/a/b")), true),
        ((None, Some("/a")), (None, Some("/ab")), false),
        ((None, Some("/a/")), (None, Some("/a")), false),
        ((None, Some("/a/b")), (None, Some("/a")), false),
        ((Some("h"), None), (Some("i"), None), false),
        ((Some("h"), None), (None, None), false),
    ] {
        let text = base.replace("ROUTES", &[route(first.0, first.1), route(second.0, second.1)].concat());
        let found = problems(&text);
        assert_eq!(
            found.iter().any(|p| p.what.contains("never reached")),
            unreachable,
            "{first:?} {second:?} {found:?}"
        );
    }
}

#[test]
fn conditions_make_a_route_narrower() {
    let base = with_other_routes();
    let header = |rest: &str| format!("header = [{{ name = \"X-A\"{rest} }}]");
    let cookie = |rest: &str| format!("cookie = [{{ name = \"c\"{rest} }}]");
    let text = str::to_owned;
    for (first, second, unreachable) in [
        (text("host = \"*.a.org\""), text("host = \"b.A.org\""), true),
        (text("host = \"*.a.org\""), text("host = \"*.b.a.org\""), true),
        (text("host = \"*.a.org\""), text("host = \"a.org\""), false),
        (text("host = \"b.a.org\""), text("host = \"*.a.org\""), false),
        (text("method = [\"GET\", \"HEAD\"]"), text("method = [\"HEAD\"]"), true),
        (text("method = [\"GET\"]"), text("method = [\"GET\", \"HEAD\"]"), false),
        (text("method = [\"GET\"]"), text(""), false),
        (header(""), header(", value = \"1\""), true),
        (header(""), text(""), false),
        (header(", prefix = \"ab\""), header(", value = \"abc\""), true),
        (header(", prefix = \"ab\""), header(", prefix = \"abc\""), true),
        (header(", prefix = \"ab\""), header(", prefix = \"a\""), false),
        (header(", value = \"ab\""), header(", prefix = \"ab\""), false),
        (header(", value = \"1\""), header(", value = \"2\""), false),
        (cookie(""), cookie(", value = \"1\""), true),
        (cookie(", value = \"1\""), cookie(""), false),
        (text(""), cookie(""), true),
    ] {
        let route = |conditions: &str| format!("[[route]]\n{conditions}\npool = \"web\"\n");
        let found = problems(&base.replace("ROUTES", &[route(&first), route(&second)].concat()));
        let never = found.iter().any(|p| p.what.contains("never reached"));
        assert_eq!(never, unreachable, "{first} then {second}: {found:?}");
        assert_eq!(found.len(), usize::from(unreachable), "{found:?}");
    }
}
