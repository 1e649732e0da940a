//! What is seen of a connection that makes no progress, while it does not: for a test that is about to fail.

use std::process::Command;

use crate::lab::Lab;
use crate::topology::Node;

const SOCKETS: &[&str] = &["ss", "-tnoimH"];
const ENTRIES: &[&str] = &["conntrack", "-L", "-p", "tcp"];
const QUEUES: &[&str] = &["cat", "/proc/thread-self/net/netfilter/nfnetlink_queue"];
const STALLED: [(Node, &[&str]); 6] = [
    (Node::Client, SOCKETS),
    (Node::B1, SOCKETS),
    (Node::B2, SOCKETS),
    (Node::Proxy, ENTRIES),
    (Node::Proxy, QUEUES),
    (Node::Logger, QUEUES),
];

impl Lab {
    /// Sockets, conntrack entries, queues and what the splice daemon counted, printed to standard error.
    pub fn show_evidence(&self, why: &str) {
        eprintln!("==== {}: {why}", self.name());
        for (node, command) in STALLED {
            let Some((program, arguments)) = command.split_first() else { continue };
            let said = self.netns(node).output(Command::new(program).args(arguments));
            let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            eprintln!(
                "---- {node}: {}\n{}",
                command.join(" "),
                said.unwrap_or_else(|error| format!("{error:#}"))
            );
        }
        eprintln!("---- nfq-splice: {:#?}", self.proxy_status());
    }
}
