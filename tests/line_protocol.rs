//! Another protocol than HTTP: a shell-like server is killed in the middle of an answer, its client notices nothing.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets, files and a clock")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::settings::{Path, Settings};
use lab::testing::{await_condition, in_lab};
use lab::{Lab, Node};
use rustix::process::{Pid, Signal, kill_process_group};

const PORT: u16 = 9000;

/// Commands end in newline or semicolon, answers in a prompt. `report N` has N lines and takes its time.
const SERVER: &str = r#"
use strict; use IO::Socket::INET; $SIG{CHLD} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalPort => shift, Listen => 64, ReuseAddr => 1) or die "listen: $!";
while (1) {
    my $client = $listener->accept() or next;
    if (fork()) { close $client; next }
    $client->autoflush(1);
    my $buffer = '';
    while (sysread($client, $buffer, 4096, length $buffer)) {
        while ($buffer =~ s/^([^;\n]*)[;\n]//) {
            my $command = $1;
            next unless $command =~ /\S/;
            if ($command =~ /^\s*report (\d+)/) {
                for my $n (1 .. $1) {
                    print $client "line $n of $1, the same from every server\n";
                    select(undef, undef, undef, 0.002) unless $n % 100;
                }
            } else { print $client "done: $command\n" }
            print $client '$ ';
        }
    }
    exit;
}
"#;

/// A server and its children, killed with it.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, node: Node) -> Result<Self> {
        let mut command = Command::new("perl");
        command.args(["-e", SERVER, &PORT.to_string()]).stdin(Stdio::null()).process_group(0);
        Ok(Self(lab.netns(node).spawn(&mut command)?))
    }

    fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn address(node: Node) -> SocketAddr {
    SocketAddr::new(node.address().into(), PORT)
}

fn report(lines: usize) -> String {
    let lines: Vec<_> =
        (1..=lines).map(|n| format!("line {n} of {lines}, the same from every server\n")).collect();
    lines.concat() + "$ "
}

fn read(client: &mut TcpStream, bytes: usize) -> Result<String> {
    let mut got = vec![0; bytes];
    client.read_exact(&mut got).context("the connection ended")?;
    Ok(String::from_utf8(got)?)
}

fn killed_in_an_answer(lab: &Lab) -> Result<()> {
    let mut servers = Node::BACKENDS
        .into_iter()
        .map(|node| Ok((node, Server::start(lab, node)?)))
        .collect::<Result<Vec<_>>>()?;
    for node in Node::BACKENDS {
        await_condition("the server listens", Duration::from_secs(5), || {
            lab.netns(Node::Logger).within(|| Ok(TcpStream::connect(address(node)).is_ok()))
        })?;
    }
    let service = lab.service();
    let mut client = lab.netns(Node::Client).within(|| Ok(TcpStream::connect(service)?))?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    client.write_all(b"report 3;; \nreport 4000\n")?;
    let expected = report(3) + &report(4000);
    let mut got = read(&mut client, 20_000)?;
    let serving = lab.proxy_status()?.connections.first().and_then(|connection| connection.backend);
    let (node, server) = servers
        .iter_mut()
        .find(|(node, _)| serving == Some(address(*node)))
        .with_context(|| format!("no server is {serving:?}"))?;
    server.kill();
    got += &read(&mut client, expected.len() - got.len())?;
    ensure!(got == expected, "other bytes after {node} was killed");
    client.write_all(b"report 2\n")?;
    ensure!(read(&mut client, report(2).len())? == report(2), "the next answer is another one");
    let recovered = lab.manager_status()?.recoveries.len();
    ensure!(recovered == 1, "{recovered} recoveries");
    Ok(())
}

fn over(path: Path) -> Result<()> {
    let set = [
        "service.protocol=\"lines\"".to_owned(),
        "service.lines.request_end=[\"\\n\", \";\"]".to_owned(),
        "service.lines.response_end=\"$ \"".to_owned(),
        "tag=[{ method = [\"report\"], deterministic = true, read_only = true, idempotent = true }]"
            .to_owned(),
        format!("backend.b1.address=\"{}\"", address(Node::B1)),
        format!("backend.b2.address=\"{}\"", address(Node::B2)),
    ];
    in_lab(&Settings { path, set: set.to_vec(), ..Settings::default() }, killed_in_an_answer)
}

#[test]
fn a_shell_is_killed_in_an_answer() -> Result<()> {
    over(Path::Kernel)
}

#[test]
fn so_is_one_over_the_userspace_path() -> Result<()> {
    over(Path::Userspace)
}
