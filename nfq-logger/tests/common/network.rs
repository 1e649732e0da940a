//! Namespaces client – router – server, whose router hands what it forwards to a logger daemon.

#![allow(clippy::disallowed_methods, reason = "a test of real systems owns sockets and threads")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const SERVER: &str = "10.0.2.2:80";
pub(crate) const RING_BYTES: u64 = 64 << 20;
const PREFIX: &str = "rlog";

/// Gone with its namespaces and files when dropped.
pub(crate) struct Network {
    name: String,
    dir: PathBuf,
}

impl Network {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = Self { dir: std::env::temp_dir().join(&name), name };
        fs::create_dir_all(&network.dir).unwrap();
        fs::write(network.config(), network.cluster()).unwrap();
        network.build();
        network
    }

    fn build(&self) {
        let (c, r, s) = (self.ns("c"), self.ns("r"), self.ns("s"));
        for ns in [&c, &r, &s] {
            run(&format!("ip netns add {ns}"));
            run(&format!("ip -n {ns} link set lo up"));
        }
        for (end, side, net) in [(&c, "c", 1), (&s, "s", 2)] {
            run(&format!("ip link add e{side} netns {end} type veth peer name r{side} netns {r}"));
            run(&format!("ip -n {end} addr add 10.0.{net}.2/24 dev e{side}"));
            run(&format!("ip -n {r} addr add 10.0.{net}.1/24 dev r{side}"));
            run(&format!("ip -n {end} link set e{side} up"));
            run(&format!("ip -n {r} link set r{side} up"));
            // Each killed logger swallows a retransmission, and every one doubles the time until the next: from 200 ms that
            // is a minute after eight of them.
            run(&format!("ip -n {end} route add default via 10.0.{net}.1 rto_min 10ms"));
        }
        run(&format!("ip netns exec {r} sysctl -qw net.ipv4.ip_forward=1"));
        for port in ["dport", "sport"] {
            run(&format!(
                "ip netns exec {r} iptables-nft -t mangle -A FORWARD -p tcp --{port} 80 -j NFQUEUE --queue-num 10"
            ));
        }
    }

    fn ns(&self, side: &str) -> String {
        format!("{}-{side}", self.name)
    }

    fn cluster(&self) -> String {
        format!(
            "[cluster]\nname = \"{}\"\n[service]\naddress = \"10.0.9.9:80\"\n\
             [[route]]\npool = \"web\"\n[pool.web]\nbackends = [\"s\"]\n[backend.s]\naddress = \"{SERVER}\"\n\
             [proxy.c]\naddress = \"10.0.1.2\"\n\
             [logger.r]\ncontrol = \"10.0.1.1:7000\"\nring_bytes = {RING_BYTES}\n",
            self.name
        )
    }

    fn config(&self) -> PathBuf {
        self.dir.join("cluster.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        cluster::runtime::segment_log(&self.name, "r")
    }

    /// To the daemon's control socket.
    pub(crate) fn control(&self) -> UnixStream {
        UnixStream::connect(self.dir.join("run/nfq-logger.sock")).unwrap()
    }

    /// The program in the router's namespace.
    pub(crate) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("r"), env!("CARGO_BIN_EXE_nfq-logger")]);
        command.args(arguments).arg("--config").arg(self.config()).args(["--node", "r"]);
        command
    }

    pub(crate) fn run_command(&self, run_dir: &str) -> Command {
        let mut command = self.program(&["run"]);
        command.arg("--run-dir").arg(self.dir.join(run_dir));
        command
    }

    /// A daemon that is ready.
    pub(crate) fn start(&self) -> Daemon {
        let mut child = self.run_command("run").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.contains("ready")).collect();
        assert!(child.try_wait().unwrap().is_none(), "the daemon ended: {said:?}");
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        Daemon(child)
    }

    /// Runs `work` in a thread of the client's ("c") or the server's ("s") namespace.
    pub(crate) fn within<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope std::thread::Scope<'scope, '_>,
        side: &str,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> std::thread::ScopedJoinHandle<'scope, T> {
        let ns = File::open(format!("/run/netns/{}", self.ns(side))).unwrap();
        scope.spawn(move || {
            move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for side in ["c", "r", "s"] {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(side)]).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(self.log());
    }
}

/// Killed when dropped.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    /// From now on, it is killed when it begins its `nth` call of `syscall`. The tracer ends with it.
    pub(crate) fn doom(&self, syscall: &str, nth: u32) -> Tracer {
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={syscall}")]);
        strace.args(["-e", &format!("inject={syscall}:signal=KILL:when={nth}")]);
        Tracer(strace.args(["-p", &self.0.id().to_string()]).spawn().unwrap())
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ended when dropped.
pub(crate) struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Of test processes that were killed.
fn remove_leftovers() {
    for name in leftovers("/run/netns", PREFIX) {
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for name in leftovers("/dev/shm", &format!("resplice-{PREFIX}")) {
        let _ = fs::remove_file(format!("/dev/shm/{name}"));
    }
}

/// Names in `dir` that begin with `prefix` and the id of a process that is no more.
fn leftovers(dir: &str, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let process = |name: &str| name.strip_prefix(prefix)?.split('-').next()?.parse::<u32>().ok();
    let dead = |name: &String| process(name).is_some_and(|id| !PathBuf::from(format!("/proc/{id}")).exists());
    names.filter(dead).collect()
}
