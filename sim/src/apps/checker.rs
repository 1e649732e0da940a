//! What a client received against what it may receive.

use crate::content::{Request, Variant, date_range};

/// Every answer must be that of one execution, byte by byte, `Date` values aside.
pub(super) struct Checker {
    /// For each request, what each variant answers.
    answers: Vec<Vec<Vec<u8>>>,
    pub(super) index: usize,
    offset: usize,
    alive: Vec<bool>,
}

impl Checker {
    pub(super) fn new(requests: &[Request], variants: &[Variant]) -> Self {
        let mut unique = variants.to_vec();
        unique.dedup();
        let answers = requests
            .iter()
            .map(|request| unique.iter().map(|variant| request.answer(*variant)).collect())
            .collect();
        Self { answers, index: 0, offset: 0, alive: vec![true; unique.len()] }
    }

    pub(super) fn total(&self) -> usize {
        self.answers.iter().map(|answer| answer[0].len()).sum()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.index == self.answers.len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(answers) = self.answers.get(self.index) else {
                return Err(format!("{} bytes beyond the last answer", rest.len()));
            };
            let date = date_range(&answers[0]);
            let length = answers[0].len();
            let take = rest.len().min(length - self.offset);
            for (variant, answer) in answers.iter().enumerate() {
                let same = rest[..take].iter().enumerate().all(|(i, byte)| {
                    let at = self.offset + i;
                    date.contains(&at) || answer[at] == *byte
                });
                self.alive[variant] &= same;
            }
            if !self.alive.contains(&true) {
                let at = self.offset;
                let got = String::from_utf8_lossy(&rest[..take.min(80)]).into_owned();
                return Err(format!(
                    "answer {}: bytes {at}..{} are of no execution: {got:?}",
                    self.index,
                    at + take
                ));
            }
            self.offset += take;
            rest = &rest[take..];
            if self.offset == length {
                self.index += 1;
                self.offset = 0;
                self.alive.fill(true);
            }
        }
        Ok(())
    }
}
