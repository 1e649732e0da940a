//! The proxies to compare resplice with: nginx and `HAProxy`, set to retry as far as they can; or, without failover,
//! as fast as they can.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::process::Process;
use crate::settings::{Front, Settings};
use crate::topology::{Node, PORT, SERVICE_PORT, VIP};

/// Time without a byte from the backend after which they give up. nginx's default would be 60 s.
pub const RESPONSE_TIMEOUT_S: u32 = 5;
/// Threads of `HAProxy`, workers of nginx: the processors that benchmarks use.
pub const THREADS: usize = 2;

/// Starts the front's program in the proxy's namespace unless it runs; true if it had to.
pub fn start(lab: &Lab, settings: &Settings) -> Result<bool> {
    let Some((program, configuration)) = configuration(lab, settings) else { return Ok(false) };
    if process(lab, settings.front).is_some() {
        return Ok(false);
    }
    let dir = lab.dir().join("front");
    fs::create_dir_all(&dir)?;
    let file = dir.join("front.conf");
    fs::write(&file, configuration)?;
    let netns = lab.netns(Node::Proxy);
    netns.run(Command::new("ip").args(["addr", "replace", &format!("{VIP}/32"), "dev", "lo"]))?;
    let mut command = Command::new(program);
    match settings.front {
        Front::Nginx => command.arg("-e").arg(dir.join("error.log")).arg("-c").arg(&file),
        _ => command.args(["-D", "-p"]).arg(dir.join("front.pid")).arg("-f").arg(&file),
    };
    netns.run(&mut command).with_context(|| format!("starting {program}: run scripts/setup"))?;
    Ok(true)
}

/// The front's process, if it runs.
pub fn process(lab: &Lab, front: Front) -> Option<Process> {
    if matches!(front, Front::Resplice | Front::None) {
        return None;
    }
    let pid = fs::read_to_string(lab.dir().join("front/front.pid")).ok()?;
    Process::running(pid.trim().parse().ok()?)
}

/// Ends the front's program.
pub fn stop(lab: &Lab, front: Front) -> Result<()> {
    let Some(process) = process(lab, front) else { return Ok(()) };
    process.signal(Signal::TERM);
    ensure!(process.wait_dead(Duration::from_secs(10)), "the front does not end");
    Ok(())
}

fn configuration(lab: &Lab, settings: &Settings) -> Option<(&'static str, String)> {
    let dir = lab.dir().join("front");
    match settings.front {
        Front::Resplice | Front::None => None,
        Front::Nginx => Some(("nginx", nginx(&dir.display().to_string(), settings))),
        Front::Haproxy | Front::HaproxyTcp => Some(("haproxy", haproxy(settings))),
    }
}

fn nginx(dir: &str, settings: &Settings) -> String {
    // One failed attempt would take a server out for ten seconds: then there is nobody to ask.
    let forget = if settings.failover { "" } else { " max_fails=0" };
    let server = |node: Node| format!("server {}:{SERVICE_PORT}{forget}; ", node.address());
    let servers: Vec<String> = settings.backends().into_iter().map(server).collect();
    let servers = servers.concat();
    let retry = if settings.failover { "error timeout http_500 http_502 http_503 http_504" } else { "off" };
    format!(
        r"user root;
worker_processes {THREADS};
pid {dir}/front.pid;
error_log {dir}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    sendfile off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_max_body_size 10m;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    upstream web {{ {servers}keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {VIP}:{PORT} backlog=4096 reuseport;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_buffer_size 8k;
            proxy_buffers 8 64k;
            proxy_max_temp_file_size 0;
            proxy_connect_timeout 1s;
            proxy_read_timeout {RESPONSE_TIMEOUT_S}s;
            proxy_next_upstream {retry};
        }}
    }}
}}
"
    )
}

/// Without `maxconn` it would refuse connections beyond half of the file limit, also those that need one file.
fn haproxy(settings: &Settings) -> String {
    let (check, http_retries) = if settings.failover {
        (" check inter 200ms fall 2", "retry-on all-retryable-errors")
    } else {
        ("", "retry-on none")
    };
    let mode = match settings.front {
        Front::HaproxyTcp => "mode tcp\n    option splice-auto".to_owned(),
        _ => format!(
            "mode http\n    option splice-auto\n    option http-keep-alive\n    http-reuse always\n    {http_retries}"
        ),
    };
    let server = |node: Node| format!("    server {node} {}:{SERVICE_PORT}{check}\n", node.address());
    let servers: Vec<String> = settings.backends().into_iter().map(server).collect();
    let servers = servers.concat();
    format!(
        "global\n    nbthread {THREADS}\n    maxconn 20000\n    no strict-limits\n\
         defaults\n    {mode}\n    retries 3\n    option redispatch\n    timeout connect 1s\n    \
         timeout client 60s\n    timeout server {RESPONSE_TIMEOUT_S}s\n\
         frontend vip\n    bind {VIP}:{PORT} backlog 4096\n    default_backend web\n\
         backend web\n    balance roundrobin\n{servers}"
    )
}
