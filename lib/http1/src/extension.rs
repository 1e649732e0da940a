//! Chunk extensions (RFC 9112 §7.1.1): nobody needs them, but where one recipient stops reading a malformed one and another does
//! not, requests are smuggled. So all but the grammar is refused.

use crate::chunked::is_token;

/// Where in a chunk's extensions a parser is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extension {
    /// Behind a semicolon: a name must come.
    Start,
    Name,
    /// Blanks behind a name: a value or another extension must come.
    NameBlank,
    /// Behind an equals sign: a value must come.
    ValueStart,
    Token,
    Quoted,
    /// Behind a backslash in a quoted string.
    Escaped,
    QuotedEnd,
    /// Blanks behind a value: another extension must come.
    ValueBlank,
}

impl Extension {
    /// Behind `byte`; `None` if it is none that may come here.
    pub(crate) fn step(self, byte: u8) -> Option<Self> {
        let blank = matches!(byte, b' ' | b'\t');
        match self {
            Self::Start if blank => Some(Self::Start),
            Self::Start | Self::Name if is_token(byte) => Some(Self::Name),
            Self::Name | Self::NameBlank if blank => Some(Self::NameBlank),
            Self::Name | Self::NameBlank if byte == b'=' => Some(Self::ValueStart),
            Self::ValueStart if blank => Some(Self::ValueStart),
            Self::ValueStart if byte == b'"' => Some(Self::Quoted),
            Self::ValueStart | Self::Token if is_token(byte) => Some(Self::Token),
            Self::Quoted if byte == b'"' => Some(Self::QuotedEnd),
            Self::Quoted if byte == b'\\' => Some(Self::Escaped),
            Self::Quoted | Self::Escaped if is_text(byte) => Some(Self::Quoted),
            Self::Token | Self::QuotedEnd | Self::ValueBlank if blank => Some(Self::ValueBlank),
            Self::Name | Self::NameBlank | Self::Token | Self::QuotedEnd | Self::ValueBlank
                if byte == b';' =>
            {
                Some(Self::Start)
            }
            _ => None,
        }
    }

    /// The line may end here.
    pub(crate) fn complete(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::QuotedEnd)
    }
}

/// HTAB, SP, VCHAR, obs-text (RFC 9110 §5.6.4).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(text: &str) -> bool {
        let mut bytes = text.bytes();
        let begun = (bytes.next() == Some(b';')).then_some(Extension::Start);
        begun.and_then(|start| bytes.try_fold(start, Extension::step)).is_some_and(Extension::complete)
    }

    #[test]
    fn what_the_grammar_has_is_taken() {
        for text in [
            ";a",
            ";a=b",
            ";a=b;c",
            "; a = b ;c",
            ";a=\"\"",
            ";a=\"x\\\"; y\\\\\"",
            ";a=\"\u{e9}\t\";b",
            ";a ;b",
        ] {
            assert!(valid(text), "{text:?}");
        }
    }

    #[test]
    fn what_it_has_not_is_refused() {
        for text in [
            ";",
            ";;a",
            ";a;",
            ";=b",
            ";a=",
            ";a= ",
            ";a ",
            ";a=b ",
            ";a=b c",
            ";a b",
            ";a=\"b",
            ";a=\"b\"c",
            ";a=\"\\",
            ";a=(b)",
            ";a=\"\n\"",
            ";a\n",
            ";a=b=c",
            ";a\u{7f}",
        ] {
            assert!(!valid(text), "{text:?}");
        }
    }
}
