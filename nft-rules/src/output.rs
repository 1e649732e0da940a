//! What the verbs print: a line for people or one JSON object.

use std::ops::Range;

use netfilter::queue::KernelCounters;
use nft_rules::check::Report;
use nft_rules::{QueueForm, Ruleset};
use serde_json::{Value, json};

/// Knows the table that is spoken of.
pub(crate) struct Output {
    table: String,
    queues: Range<u16>,
    json: bool,
}

impl Output {
    pub(crate) fn new(rules: &dyn Ruleset, json: bool) -> Self {
        Self { table: format!("{} {}", rules.family().name(), rules.table()), queues: rules.queues(), json }
    }

    fn say(&self, fields: Value, text: &str) {
        if !self.json {
            return println!("{text}");
        }
        let queues: Vec<u16> = self.queues.clone().collect();
        let mut object = json!({ "table": self.table, "queues": queues });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
        }
        println!("{object}");
    }

    pub(crate) fn printed(&self, form: QueueForm, rules: &dyn Ruleset) {
        let text = rules.render(form);
        let commented =
            format!("# table {}, {}, {} form\n{text}", self.table, self.named_queues(), form.name());
        self.say(json!({ "form": form, "rules": text }), commented.trim_end());
    }

    pub(crate) fn installed(&self, form: QueueForm) {
        let text =
            format!("installed table {} with {}, {} form", self.table, self.named_queues(), form.name());
        self.say(json!({ "form": form, "installed": true }), &text);
    }

    pub(crate) fn removed(&self, removed: bool) {
        let text = if removed { "removed table" } else { "there is no table" };
        self.say(json!({ "removed": removed }), &format!("{text} {}", self.table));
    }

    pub(crate) fn checked(&self, report: &Report) {
        let fields = json!({
            "ok": report.is_good(),
            "form": report.form,
            "installed": report.installed,
            "differences": report.differences,
            "refused": report.refused,
            "daemon": report.queues.iter().all(|(_, queue)| queue.is_some()),
            "waiting": sum(report, |queue| queue.waiting),
            "queue_dropped": sum(report, |queue| queue.queue_dropped),
            "user_dropped": sum(report, |queue| queue.user_dropped),
        });
        self.say(fields, &self.report(report));
    }

    fn report(&self, report: &Report) -> String {
        let mut lines =
            vec![format!("table {}, {} form: {}", self.table, report.form.name(), verdict(report))];
        lines.extend(report.differences.iter().map(|line| format!("  {line}")));
        lines.extend(report.queues.iter().map(|(number, queue)| match queue {
            Some(queue) => format!(
                "queue {number}: {} waiting, {} dropped because it was full, {} for want of buffer space",
                queue.waiting, queue.queue_dropped, queue.user_dropped
            ),
            None => format!("queue {number}: no daemon reads it, its packets are dropped"),
        }));
        lines.join("\n")
    }

    fn named_queues(&self) -> String {
        match self.queues.len() {
            1 => format!("queue {}", self.queues.start),
            _ => format!("queues {} to {}", self.queues.start, self.queues.end.saturating_sub(1)),
        }
    }
}

/// Over all queues; `null` without a daemon.
fn sum(report: &Report, count: fn(&KernelCounters) -> u64) -> Option<u64> {
    let counters: Vec<_> = report.queues.iter().filter_map(|(_, queue)| queue.as_ref()).collect();
    (!counters.is_empty()).then(|| counters.into_iter().map(count).sum())
}

fn verdict(report: &Report) -> String {
    match &report.refused {
        Some(why) => format!("not possible here: {why}"),
        None if !report.installed => "not installed; run `nft-rules install`".to_owned(),
        None if report.differences.is_empty() => "installed as wanted".to_owned(),
        None => "differs from what is wanted (-: installed, +: wanted); run `nft-rules install`".to_owned(),
    }
}
