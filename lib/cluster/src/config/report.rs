//! Collects what is wrong, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{ConfigError, Problem};

/// Problems found so far in one text.
#[derive(Debug)]
pub(super) struct Report<'a> {
    text: &'a str,
    places: BTreeMap<String, usize>,
    problems: Vec<Problem>,
    /// Keys whose values had to be replaced: what follows from those is not the person's mistake.
    replaced: BTreeSet<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, places: BTreeMap::new(), problems: Vec::new(), replaced: BTreeSet::new() }
    }

    /// Where `key` stands in the text.
    pub(super) fn stands_at(&mut self, key: &str, span: Range<usize>) {
        self.places.insert(key.to_owned(), span.start);
    }

    /// `key` has no usable value and was given another one.
    pub(super) fn replace(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.problem(key, what, remedy);
        self.replaced.insert(key.to_owned());
    }

    /// Something is wrong with `key`; not said of a value that was replaced.
    pub(super) fn problem(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        if self.is_given(key) {
            let place =
                enclosing(key).find_map(|key| self.places.get(key)).map(|at| line_and_column(self.text, *at));
            self.problems.push(Problem {
                key: key.to_owned(),
                place,
                what: what.into(),
                remedy: remedy.into(),
            });
        }
    }

    /// The value of `key` is the person's, not a replacement.
    pub(super) fn is_given(&self, key: &str) -> bool {
        !enclosing(key).any(|key| self.replaced.contains(key))
    }

    /// Something is wrong at a place of the text that belongs to no key.
    pub(super) fn problem_at(
        &mut self,
        at: Option<usize>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = at.map(|at| line_and_column(self.text, at));
        self.problems.push(Problem { key: String::new(), place, what: what.into(), remedy: remedy.into() });
    }

    /// All problems in the text's order, if there are any.
    pub(super) fn finish(mut self, file: &str) -> Result<(), ConfigError> {
        self.problems.sort_by_key(|problem| problem.place.unwrap_or((usize::MAX, 0)));
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError { file: file.to_owned(), problems: self.problems })
    }
}

/// The key itself, the table that it is in, and so on.
fn enclosing(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| key.rfind(['.', '[']).and_then(|end| key.get(..end)))
}

/// From 1; columns count characters.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// The name that a misspelt one was probably meant to be: one in three letters may be wrong.
pub(super) fn suggest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let near = names.into_iter().map(|name| (strsim::damerau_levenshtein(wrong, name), name)).min()?;
    (near.0 * 3 <= near.1.len()).then_some(near.1)
}
