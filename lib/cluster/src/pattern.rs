//! Path patterns: `*` matches within a segment, `**` across segments, everything else itself.

/// Longest pattern, bytes.
pub(crate) const MAX_PATTERN: usize = 512;

/// A pattern, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// What stands before the first star.
    literal: Vec<u8>,
    rest: Vec<Token>,
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Self {
        let literal = pattern.split('*').next().unwrap_or_default();
        Self { literal: literal.into(), rest: tokens(pattern.get(literal.len()..).unwrap_or_default()) }
    }

    /// Whether it matches the whole of `path`. Takes time in proportion to the product of both lengths at most,
    /// whatever a client makes of its path.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let Some(path) = path.strip_prefix(self.literal.as_slice()) else { return false };
        if self.rest.as_slice() == [Token::AcrossSegments] {
            return true;
        }
        // alive[i]: the first i tokens match what has been read.
        let mut alive = begin(&self.rest);
        for byte in path {
            alive = advance(&self.rest, &alive, *byte);
            if !alive.contains(&true) {
                return false;
            }
        }
        alive.last() == Some(&true)
    }
}

/// What is wrong with a pattern, and what to do.
pub(crate) fn check(pattern: &str) -> Result<(), &'static str> {
    if !(pattern.starts_with('/') || pattern.starts_with("**")) {
        Err("begin it with / or **")
    } else if pattern.contains("***") {
        Err("write * within a segment, ** across segments")
    } else if pattern.len() > MAX_PATTERN {
        Err("shorten it to 512 bytes")
    } else if !pattern.bytes().all(|b| matches!(b, b'!'..=b'~') && !matches!(b, b'?' | b'#')) {
        Err("leave out ?, # and what a path cannot contain unencoded")
    } else {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    WithinSegment,
    AcrossSegments,
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut rest = pattern.as_bytes();
    loop {
        rest = match rest {
            [] => return tokens,
            [b'*', b'*', tail @ ..] => {
                tokens.push(Token::AcrossSegments);
                tail
            }
            [b'*', tail @ ..] => {
                tokens.push(Token::WithinSegment);
                tail
            }
            [byte, tail @ ..] => {
                tokens.push(Token::Byte(*byte));
                tail
            }
        };
    }
}

impl Token {
    fn is_star(self) -> bool {
        !matches!(self, Self::Byte(_))
    }

    /// Takes the byte and goes on.
    fn absorbs(self, byte: u8) -> bool {
        match self {
            Self::Byte(_) => false,
            Self::WithinSegment => byte != b'/',
            Self::AcrossSegments => true,
        }
    }
}

/// Before the first byte: stars may match nothing.
fn begin(tokens: &[Token]) -> Vec<bool> {
    let stars = tokens.iter().take_while(|token| token.is_star()).count();
    (0..=tokens.len()).map(|index| index <= stars).collect()
}

fn advance(tokens: &[Token], alive: &[bool], byte: u8) -> Vec<bool> {
    let mut next = Vec::with_capacity(alive.len());
    let mut entered = false;
    for (was, token) in alive.iter().zip(tokens.iter().map(Some).chain([None])) {
        let stays = *was && token.is_some_and(|token| token.absorbs(byte));
        let now = entered || stays;
        entered = match token {
            Some(Token::Byte(wanted)) => *was && *wanted == byte,
            // The star may end here.
            _ => now,
        };
        next.push(now);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &[u8]) -> bool {
        Pattern::new(pattern).matches(path)
    }

    /// The definition, word for word, in exponential time.
    fn oracle(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=path.len()).any(|taken| oracle(rest, &path[taken..])),
            [b'*', rest @ ..] => {
                let segment = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
                (0..=segment).any(|taken| oracle(rest, &path[taken..]))
            }
            [byte, rest @ ..] => path.first() == Some(byte) && oracle(rest, &path[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "/(a|b|/|\\*|\\*\\*){0,7}", path in "/[ab/]{0,10}") {
            prop_assume!(!pattern.contains("***"));
            prop_assert_eq!(matches(&pattern, path.as_bytes()), oracle(pattern.as_bytes(), path.as_bytes()));
        }

        #[test]
        fn anything_is_survived(pattern in ".{0,30}", path in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (check(&pattern), matches(&pattern, &path));
        }
    }

    #[test]
    fn examples() {
        for (pattern, path, fits) in [
            ("/files/*", "/files/1k", true),
            ("/files/*", "/files/", true),
            ("/files/*", "/files/a/b", false),
            ("/files/**", "/files/a/b", true),
            ("/files/**", "/files", false),
            ("/**/*.css", "/a/b/c.css", true),
            ("/**/*.css", "/a/b/c.css/d", false),
            ("**.png", "/x/y.png", true),
            ("/a", "/a", true),
            ("/a", "/a/", false),
        ] {
            assert_eq!(matches(pattern, path.as_bytes()), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn a_client_cannot_make_it_slow() {
        let pattern = format!("/{}", "*a**b".repeat(60));
        let path = format!("/{}c", "a/b".repeat(10_000));
        assert!(!matches(&pattern, path.as_bytes()));
    }

    #[test]
    fn patterns_are_checked() {
        for good in ["/", "/files/**", "**.css", "/%20"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "files", "*", "/a?b", "/a#b", "/a b", "/***", "/\u{e9}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
