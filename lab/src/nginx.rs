//! A backend: Debian's nginx with the lab's documents.
//!
//! | path | answer |
//! |---|---|
//! | `/files/SIZE` | a document, with Content-Length, `ETag`, ranges |
//! | `/chunked/SIZE` | the same bytes in chunks of 32 KiB, the same on every server |
//! | `/uneven/SIZE` | the same in chunks of another length on each server |
//! | `/differs/1m`, `/differs/10m` | see [`documents`](crate::documents) |
//! | `/padded/SIZE` | a document after a head of more than 3,000 bytes |
//! | `/slow` | `slow`, after 10 ms |
//! | `/whoami` | the backend's name |
//! | `/wait?s=SECONDS` | the backend's name, after so long |
//! | `PUT /store/NAME` | stored on this backend only, see [`Nginx::stored`] |
//! | `/app/…` | in labs with PHP: see [`php`](crate::php) |
//! | `POST` to anything else, `/echo` | the request's body, up to 10 MB |

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::php::Php;
use crate::process::Process;
use crate::settings::Settings;
use crate::testing::await_condition;
use crate::topology::{DIRECT_PORT, Node, SERVICE_PORT};
use crate::{documents, netns::run};

const ECHO_MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_http_echo_module.so", "/usr/lib64/nginx/modules/ngx_http_echo_module.so"];

/// Bytes of the long field of `/padded/`; nginx takes a parameter of up to 4,096.
const PADDING: usize = 3_000;

const WORKERS: usize = 2;

/// The longest time for its start, on a busy machine.
const START: Duration = Duration::from_secs(10);

/// The nginx of one backend.
#[derive(Debug, Clone)]
pub struct Nginx {
    lab: Lab,
    node: Node,
}

impl Nginx {
    /// The nginx of `node` in `lab`, running or not.
    pub fn new(lab: &Lab, node: Node) -> Self {
        Self { lab: lab.clone(), node }
    }

    fn dir(&self) -> PathBuf {
        self.lab.dir().join(self.node.name())
    }

    /// The master process, if it runs.
    pub fn master(&self) -> Option<Process> {
        let pid = fs::read_to_string(self.dir().join("nginx.pid")).ok()?;
        let process = Process::running(pid.trim().parse().ok()?)?;
        // The file outlives a killed master, and its id may be another's by now.
        let command = fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
        let dir = self.dir();
        let needle = dir.to_str()?.as_bytes();
        command.windows(needle.len()).any(|window| window == needle).then_some(process)
    }

    /// Starts it unless it runs already; true if it had to. It listens when this returns.
    pub fn start(&self) -> Result<bool> {
        if self.master().is_some() {
            return Ok(false);
        }
        let dir = self.dir();
        fs::create_dir_all(&dir)?;
        let _ = fs::remove_file(dir.join("nginx.pid"));
        let echo = ECHO_MODULES.into_iter().find(|path| Path::new(path).exists());
        let echo = echo.context("nginx's echo module is not installed: run scripts/setup")?;
        let settings = self.lab.settings()?;
        fs::write(
            dir.join("nginx.conf"),
            configuration(&dir, &documents::tree()?, self.node, echo, &settings),
        )?;
        self.spawn(&dir).context("starting nginx; is it installed? scripts/setup")?;
        Ok(true)
    }

    /// In the session of the lab, like its daemons. Where it becomes a daemon it gets one of its own, which the kernel makes a
    /// scheduling group (`sched_autogroup_enabled`); under overload its workers then did not run for seconds although they could.
    fn spawn(&self, dir: &Path) -> Result<()> {
        let said = File::create(dir.join("start.log"))?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-e").arg(dir.join("error.log")).arg("-c").arg(dir.join("nginx.conf")).process_group(0);
        nginx.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let mut child = self.lab.netns(self.node).spawn(&mut nginx)?;
        // It listens before its workers are there, and who is not there cannot be made to fail.
        await_condition("nginx and its workers", START, || {
            if child.try_wait()?.is_some() {
                bail!("it ended: {}", fs::read_to_string(dir.join("start.log"))?.trim());
            }
            Ok(self.processes().len() > WORKERS)
        })?;
        // Thousands are killed by a benchmark: who is not waited for stays, and each look through /proc takes longer.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// What was stored on this backend under `/store/`.
    pub fn stored(&self, name: &str) -> PathBuf {
        self.dir().join("store").join(name)
    }

    /// Kills it; it is dead when this returns.
    pub fn kill(&self) -> Result<()> {
        let processes = self.processes();
        if let Some(master) = processes.first() {
            master.signal_group(Signal::KILL);
        }
        let dead = |process: &Process| process.wait_dead(Duration::from_secs(5));
        ensure!(processes.iter().all(dead), "nginx on {} survived SIGKILL", self.node);
        Ok(())
    }

    /// The master, then its workers; none if it does not run.
    fn processes(&self) -> Vec<Process> {
        let Some(master) = self.master() else { return Vec::new() };
        std::iter::once(master).chain(master.children()).collect()
    }

    /// Stops or continues all processes.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let Some(master) = self.master() else { bail!("nginx does not run on {}", self.node) };
        master.signal_group(signal);
        Ok(())
    }
}

/// Refuses, with what to do, when nginx is not installed.
pub fn check_installed() -> Result<()> {
    run(Command::new("nginx").arg("-v")).context("nginx is missing: run scripts/setup").map(drop)
}

/// The configuration file. `keepalive_*` are so high that only faults close connections. One output
/// buffer makes the chunks of `/chunked/` the same on every server, however fast the client reads. Each worker accepts for itself
/// (`reuseport`): otherwise one gets nearly all connections that come at once, or not, as their handshakes are spaced.
fn configuration(dir: &Path, documents: &Path, node: Node, echo: &str, settings: &Settings) -> String {
    let send_buffer = settings.send_buffer.map(|bytes| format!(" sndbuf={bytes}")).unwrap_or_default();
    let any = if settings.ipv6 { "[::]:" } else { "" };
    let number = Node::BACKENDS.iter().position(|other| *other == node).unwrap_or_default();
    let [chunked, uneven] =
        [("chunked", 32), ("uneven", 20 + 7 * number)].map(|(path, kib)| in_chunks(path, documents, kib));
    let padding = "padding ".repeat(PADDING / 8);
    let application = if settings.php { application(dir) } else { String::new() };
    let (dir, documents) = (dir.display(), documents.display());
    format!(
        r#"load_module {echo};
user root;
daemon off;
worker_processes {WORKERS};
worker_rlimit_nofile 65536;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 16384; multi_accept off; }}
http {{
    access_log off;
    sendfile on;
    default_type application/octet-stream;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    send_timeout 600s;
    client_header_timeout 600s;
    client_body_timeout 600s;
    client_max_body_size 10m;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen {any}{SERVICE_PORT} backlog=4096 reuseport{send_buffer};
        listen {DIRECT_PORT} backlog=4096 reuseport;
        set $echoed $request_method;
        if ($uri ~ ^/app/) {{ set $echoed no; }}
        if ($echoed = POST) {{ rewrite ^ /echo last; }}
        location /files/ {{ alias {documents}/files/; }}
{chunked}{uneven}        location /differs/ {{ alias {documents}/differs/{node}/; }}
        location /padded/ {{ alias {documents}/files/; add_header X-Padding "{padding}"; }}
        location = /slow {{ echo_sleep 0.01; echo -n slow; }}
        location = /whoami {{ return 200 "{node}\n"; }}
        location /store/ {{ root {dir}; dav_methods PUT; create_full_put_path on; client_max_body_size 1g; }}
        location /wait {{ echo_sleep $arg_s; echo {node}; }}
        location = /echo {{ echo_read_request_body; echo_request_body; }}
{application}    }}
}}
"#
    )
}

/// The documents in chunks of so many KiB.
fn in_chunks(path: &str, documents: &Path, kib: usize) -> String {
    format!(
        "        location /{path}/ {{
            alias {}/files/;
            sendfile off;
            output_buffers 1 {kib}k;
            add_after_body /files/0;
            addition_types *;
        }}
",
        documents.display()
    )
}

/// A killed application is a failure of its server, not an answer: nginx dies with it.
fn application(dir: &Path) -> String {
    let (socket, script) = (Php::socket(dir), Php::script(dir));
    format!(
        "        location /app/ {{
            client_max_body_size 64m;
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_FILENAME {};
            fastcgi_pass unix:{};
            fastcgi_read_timeout 600s;
        }}
",
        script.display(),
        socket.display()
    )
}
