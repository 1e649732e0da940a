//! Everything that helps to understand what is wrong in a lab.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::lab::Lab;
use crate::topology::Node;

/// Lines of each log that are shown.
const LOG_LINES: usize = 40;

/// One piece of the dump.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// Where it is from.
    pub node: String,
    /// What it is: a command or a file.
    pub what: String,
    /// Its text, or why there is none.
    pub text: String,
}

const COMMANDS: [&[&str]; 6] = [
    &["ip", "-brief", "address"],
    &["ip", "route"],
    &["nft", "list", "ruleset"],
    &["conntrack", "-L"],
    &["cat", "/proc/thread-self/net/netfilter/nfnetlink_queue"],
    &["ss", "-tanpi"],
];

/// All of it. What cannot be had says why in its place.
pub fn dump(lab: &Lab) -> Result<Vec<Section>> {
    let settings = lab.settings()?;
    let mut sections = vec![
        Section {
            node: "lab".into(),
            what: "settings".into(),
            text: serde_json::to_string_pretty(&settings)?,
        },
        file("lab", &lab.cluster_file(), usize::MAX),
    ];
    for node in &settings.nodes {
        sections.extend(COMMANDS.iter().map(|command| command_section(lab, *node, command)));
    }
    for dir in ["log", "b1", "b2", "front"] {
        for entry in fs::read_dir(lab.dir().join(dir)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                sections.push(file(dir, &entry.path(), LOG_LINES));
            }
        }
    }
    Ok(sections)
}

fn command_section(lab: &Lab, node: Node, command: &[&str]) -> Section {
    let (program, arguments) = command.split_first().unwrap_or((&"true", &[]));
    let text = lab.netns(node).run(Command::new(program).args(arguments));
    let text = text.unwrap_or_else(|error| format!("{error:#}"));
    Section { node: node.name().to_owned(), what: command.join(" "), text }
}

fn file(node: &str, path: &std::path::Path, lines: usize) -> Section {
    let text = match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let skip = text.lines().count().saturating_sub(lines);
            text.lines().skip(skip).collect::<Vec<_>>().join("\n")
        }
        Err(error) => error.to_string(),
    };
    Section { node: node.to_owned(), what: path.display().to_string(), text }
}
