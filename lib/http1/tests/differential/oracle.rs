//! h11 in a process of its own.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Item, Stream};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/oracle.py");

pub(crate) struct Oracle {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Oracle {
    /// Debian's Python, for which `scripts/setup` installs h11.
    pub(crate) fn start() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(PROGRAM).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("/usr/bin/python3 (scripts/setup installs it)");
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdin, stdout }
    }

    pub(crate) fn read(&mut self, stream: &Stream) -> Vec<Item> {
        let (kind, methods) = match &stream.methods {
            None => ("requests", "-".to_owned()),
            Some(methods) => ("responses", methods.join(",")),
        };
        let mut question = format!("{kind} {methods} ");
        for byte in &stream.bytes {
            write!(question, "{byte:02x}").unwrap();
        }
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{question}").expect("h11 (python3-h11) runs");
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.split_whitespace().map(item).collect()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.process.wait();
    }
}

fn item(word: &str) -> Item {
    match word.split_once(['=', '@']) {
        Some(("head", rest)) => {
            let (head, end) = rest.split_once('@').unwrap();
            Item::Head(text(head), end.parse().unwrap())
        }
        Some(("end", at)) => Item::End(at.parse().unwrap()),
        Some(("error", reason)) => Item::Refused(text(reason)),
        _ => match word {
            "close" => Item::Close,
            "opaque" => Item::Opaque,
            "more" => Item::More,
            _ => panic!("{word}"),
        },
    }
}

/// Bytes as Latin-1, so that each stays itself.
fn text(hex: &str) -> String {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| char::from(pair[0] << 4 | pair[1])).collect()
}
