//! The proxies to compare resplice with: nginx and `HAProxy`, set to retry as far as they can.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::process::Process;
use crate::settings::Front;
use crate::topology::{Node, PORT, SERVICE_PORT, VIP};

/// Time without a byte from the backend after which they give up. nginx's default would be 60 s.
pub const RESPONSE_TIMEOUT_S: u32 = 5;

/// Starts the front's program in the proxy's namespace unless it runs; true if it had to.
pub fn start(lab: &Lab, front: Front) -> Result<bool> {
    let Some((program, configuration)) = configuration(lab, front) else { return Ok(false) };
    if process(lab, front).is_some() {
        return Ok(false);
    }
    let dir = lab.dir().join("front");
    fs::create_dir_all(&dir)?;
    let file = dir.join("front.conf");
    fs::write(&file, configuration)?;
    let netns = lab.netns(Node::Proxy);
    netns.run(Command::new("ip").args(["addr", "replace", &format!("{VIP}/32"), "dev", "lo"]))?;
    let mut command = Command::new(program);
    match front {
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

fn configuration(lab: &Lab, front: Front) -> Option<(&'static str, String)> {
    let dir = lab.dir().join("front");
    let dir = dir.display();
    let [b1, b2] = Node::BACKENDS.map(Node::address);
    match front {
        Front::Resplice | Front::None => None,
        Front::Nginx => Some((
            "nginx",
            format!(
                r"user root;
worker_processes 2;
pid {dir}/front.pid;
error_log {dir}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 10m;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    upstream web {{ server {b1}:{SERVICE_PORT}; server {b2}:{SERVICE_PORT}; keepalive 64; }}
    server {{
        listen {VIP}:{PORT} backlog=4096;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_max_temp_file_size 0;
            proxy_connect_timeout 1s;
            proxy_read_timeout {RESPONSE_TIMEOUT_S}s;
            proxy_next_upstream error timeout http_500 http_502 http_503 http_504;
        }}
    }}
}}
"
            ),
        )),
        Front::Haproxy | Front::HaproxyTcp => Some((
            "haproxy",
            format!(
                "global\n    maxconn 4096\n\
                 defaults\n    {mode}\n    retries 3\n    option redispatch\n    timeout connect 1s\n    \
                 timeout client 60s\n    timeout server {RESPONSE_TIMEOUT_S}s\n\
                 frontend vip\n    bind {VIP}:{PORT}\n    default_backend web\n\
                 backend web\n    balance roundrobin\n    \
                 server b1 {b1}:{SERVICE_PORT} check inter 200ms fall 2\n    \
                 server b2 {b2}:{SERVICE_PORT} check inter 200ms fall 2\n",
                mode = if front == Front::Haproxy {
                    "mode http\n    retry-on all-retryable-errors"
                } else {
                    "mode tcp\n    option splice-auto"
                }
            ),
        )),
    }
}
