//! Rules shipped by name, for `include` in a `[[tag]]`.

use serde::Deserialize;

use crate::config::TagRule;

const SETS: &[(&str, &str)] = &[
    ("http-semantics", include_str!("../../rules/http-semantics.toml")),
    ("roundcube", include_str!("../../rules/roundcube.toml")),
    ("static-files", include_str!("../../rules/static-files.toml")),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    tag: Vec<TagRule>,
}

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    SETS.iter().map(|(name, _)| *name)
}

/// The rules of a set; none if no set is called so.
pub fn rules(name: &str) -> Vec<TagRule> {
    let text = SETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    text.and_then(|text| toml::from_str::<Set>(text).ok()).map(|set| set.tag).unwrap_or_default()
}
