use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> TagRules {
    #[derive(serde::Deserialize)]
    struct File {
        tag: Vec<TagRule>,
    }
    TagRules::new(&toml::from_str::<File>(text).unwrap().tag)
}

fn head(line: &str, fields: &str) -> RequestHead {
    let text = format!("{line} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
    http1::parse_request(text.as_bytes(), 4096).unwrap().unwrap()
}

/// Which rule decides, by its name.
fn decided(rules: &TagRules, line: &str, fields: &str) -> Option<String> {
    let decision = rules.decide(&Asked::from(&head(line, fields)), None);
    decision.rule.map(|rule| rule.origin.to_string())
}

fn index(rules: &TagRules, method: &str, host: Option<&str>, path: &str) -> Option<usize> {
    let decision = rules.decide(&Asked { method, host, path, query: None, head: None }, None);
    assert_eq!(decision.tags == Tags::default(), decision.rule.is_none());
    decision.rule.map(|rule| rule.origin.index)
}

#[test]
fn the_first_matching_rule_decides() {
    let rules = parsed(
        "[[tag]]\nmethod = ['GET', 'HEAD']\npath = '/files/**'\nread_only = true\n\
         [[tag]]\nhost = 'Img.example'\nread_only = true\n\
         [[tag]]\nmethod = ['GET']\npath = '/**'\nread_only = true\n",
    );
    for (method, host, path, expected) in [
        ("GET", None, "/files/a/b", Some(0)),
        ("HEAD", Some("img.example"), "/files/", Some(0)),
        ("POST", Some("IMG.EXAMPLE"), "/files/a", Some(1)),
        ("GET", Some("other"), "/x", Some(2)),
        ("get", None, "/files/a", None),
        ("POST", None, "/x", None),
        ("OPTIONS", None, "*", None),
    ] {
        assert_eq!(index(&rules, method, host, path), expected, "{method} {host:?} {path}");
    }
}

#[test]
fn what_can_be_read_as_another_path_gets_the_default() {
    let rules = parsed("[[tag]]\npath = '/static/**'\nread_only = true\n");
    for path in [
        "/static/../order",
        "/static/%2e%2e/order",
        "/static/x/../../order",
        "/static/..",
        "/static/%2E%2e%2forder",
    ] {
        assert_eq!(index(&rules, "GET", None, path), None, "{path}");
    }
    for path in ["/static/a%20b", "/static/a//b", "/static/./a", "/static/%", "/static/%zz", "/static/a/../b"]
    {
        assert_eq!(index(&rules, "GET", None, path), Some(0), "{path}");
    }
    let exception =
        parsed("[[tag]]\npath = '/order'\nread_only = true\n[[tag]]\npath = '/**'\nread_only = true\n");
    assert_eq!(index(&exception, "GET", None, "//order"), None);
    assert_eq!(index(&exception, "GET", None, "/%6frder"), None);
    assert_eq!(index(&exception, "GET", None, "/order"), Some(0));
}

#[test]
fn every_matcher_of_a_request_matches_and_fails() {
    let rules = parsed(
        "[[tag]]\npath_regex = '^/a[0-9]+$'\nread_only = true\n\
         [[tag]]\nquery = [{ name = 'q', value = 'x y' }, { name = 'r' }]\nread_only = true\n\
         [[tag]]\nheader = [{ name = 'X-Kind', prefix = 're' }]\nread_only = true\n\
         [[tag]]\ncookie = [{ name = 'c', value = '1' }]\nread_only = true\n",
    );
    for (line, fields, expected) in [
        ("GET /a12", "", Some("tag[0]")),
        ("GET /a12b", "", None),
        ("GET /?r&q=x+y", "", Some("tag[1]")),
        ("GET /?q=x%20y&r=", "", Some("tag[1]")),
        ("GET /?q=x%20y", "", None),
        ("GET /?q=x%20y&r&q=z", "", None),
        ("GET /", "x-kind: read\r\n", Some("tag[2]")),
        ("GET /", "X-Kind: xre\r\n", None),
        ("GET /", "Cookie: b=2; c=1\r\n", Some("tag[3]")),
        ("GET /", "Cookie: c=2\r\n", None),
    ] {
        assert_eq!(decided(&rules, line, fields).as_deref(), expected, "{line} {fields}");
    }
}

#[test]
fn until_the_response_is_known_only_what_holds_either_way_does() {
    let rules = parsed(
        "[[tag]]\npath = '/r'\nstatus = ['5xx']\nidempotent = true\n\
         [[tag]]\npath = '/r'\ncontent_type = ['image/*']\nread_only = true\nidempotent = true\nlarge_file = true\n\
         [[tag]]\npath = '/r'\nread_only = true\nidempotent = true\n",
    );
    let asked = head("GET /r", "");
    let tags = |answered: Option<Answered<'_>>| {
        let decision = rules.decide(&Asked::from(&asked), answered.as_ref());
        let Tags { read_only, idempotent, large_file, .. } = decision.tags;
        (
            (read_only, idempotent, large_file),
            decision.open.len(),
            decision.rule.map(|rule| rule.origin.index),
        )
    };
    assert_eq!(tags(None), ((false, true, false), 2, Some(2)));
    let answer = |status, content_type| Some(Answered { status, content_type });
    assert_eq!(tags(answer(503, None)), ((false, true, false), 0, Some(0)));
    assert_eq!(tags(answer(200, Some("Image/PNG; q=1"))), ((true, true, true), 0, Some(1)));
    assert_eq!(tags(answer(200, Some("text/html"))), ((true, true, false), 0, Some(2)));
}

#[test]
fn statuses_and_media_types_are_checked() {
    for (text, codes) in [("200", Some(200..=200)), ("4xx", Some(400..=499)), ("599", Some(599..=599))] {
        assert_eq!(status(text), codes, "{text}");
    }
    for text in ["", "20", "2000", "600", "6xx", "xxx", "2x0", "2XX", "é0"] {
        assert_eq!(status(text), None, "{text}");
    }
    assert!(media("text/html").is_some() && media("application/*+json").is_some());
    for text in ["", "text", "text/", "/html", "text/html;q=1", "a b/c"] {
        assert_eq!(media(text), None, "{text}");
    }
    assert!(regex("a{1000}{1000}").is_err() && regex("(").is_err() && regex(&"a".repeat(600)).is_err());
}

#[test]
fn shipped_sets_say_what_they_are_for() {
    let rules = parsed(
        "[[tag]]\ninclude = 'roundcube'\n[[tag]]\ninclude = 'static-files'\n[[tag]]\ninclude = 'http-semantics'\n",
    );
    assert_eq!(sets::names().map(|name| sets::rules(name).len()).filter(|rules| *rules == 0).count(), 0);
    for (line, deterministic, read_only, idempotent, large_file) in [
        ("GET /a/film.MP4?x", true, true, true, true),
        ("HEAD /style.css", true, true, true, false),
        ("POST /style.css", false, false, false, false),
        ("GET /orders", false, true, true, false),
        ("PUT /orders/1", false, false, true, false),
        ("POST /orders", false, false, false, false),
        ("PATCH /orders/1", false, false, false, false),
        ("GET /mail/?_task=mail&_action=list&_mbox=INBOX", false, true, true, false),
        ("POST /mail/?_task=mail&_action=send", false, false, false, false),
        ("GET /mail/?_task=mail&_action=show&_uid=3", false, false, true, false),
        ("POST /mail/?_task=mail&_action=mark", false, false, true, false),
        ("GET /mail/?_task=mail&_action=delete", false, false, false, false),
        ("GET /mail/?_task=mail", false, true, true, false),
        ("POST /mail/?_task=login", false, false, false, false),
        ("GET /mail/skins/elastic/ui.min.js", true, true, true, false),
    ] {
        let decision = rules.decide(&Asked::from(&head(line, "")), None);
        assert_eq!(decision.tags, Tags { deterministic, read_only, idempotent, large_file }, "{line}");
    }
}

proptest! {
    #[test]
    fn any_request_is_survived(path in ".{0,60}", query in ".{0,40}") {
        let rules = parsed("[[tag]]\npath = '/**'\nquery = [{ name = 'a' }]\n[[tag]]\ninclude = 'static-files'\n");
        let asked = Asked { method: "GET", host: Some("h"), path: &path, query: Some(&query), head: None };
        rules.decide(&asked, None);
    }
}
