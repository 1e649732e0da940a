//! The application of a backend: PHP-FPM behind its nginx, with sessions that all backends share, or, in labs with [`SEPARATE`],
//! that each keeps for itself.
//!
//! | request | answer |
//! |---|---|
//! | `GET /app/view` | the session's counter and `X-Filling` bytes, with Content-Length |
//! | `GET /app/stream` | the same in chunks |
//! | `POST /app/increment` | the same, after counting up by one; recorded as `X-Update` in [`Php::updates`] |
//! | `PUT /app/store/NAME` | length and SHA-256 of the body |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::process::Process;
use crate::topology::Node;

/// The setting with which each backend keeps its own sessions.
pub const SEPARATE: &str = "pool.web.state=\"separate\"";

const APPLICATION: &str = include_str!("app.php");
/// Processes of each backend that run the application.
const WORKERS: usize = 3;

/// The PHP-FPM of one backend.
#[derive(Debug, Clone)]
pub struct Php {
    lab: Lab,
    node: Node,
}

impl Php {
    /// The PHP-FPM of `node` in `lab`, running or not.
    pub fn new(lab: &Lab, node: Node) -> Self {
        Self { lab: lab.clone(), node }
    }

    fn dir(&self) -> PathBuf {
        self.lab.dir().join(self.node.name())
    }

    /// Where nginx reaches it.
    pub fn socket(dir: &Path) -> PathBuf {
        dir.join("php.sock")
    }

    /// The program that nginx asks it to run.
    pub fn script(dir: &Path) -> PathBuf {
        dir.join("app.php")
    }

    /// What all backends of a lab share: sessions, stored bodies, the record of updates.
    fn shared(lab: &Lab) -> PathBuf {
        lab.dir().join("sessions")
    }

    /// Where this one keeps them.
    fn state(&self) -> Result<PathBuf> {
        let separate = self.lab.settings()?.set.iter().any(|setting| setting == SEPARATE);
        Ok(if separate { self.dir().join("sessions") } else { Self::shared(&self.lab) })
    }

    /// Every update that was applied where backends share their state, whichever did: session and name.
    pub fn updates(lab: &Lab) -> Vec<(String, String)> {
        recorded(&Self::shared(lab))
    }

    /// Those that were applied where this backend keeps its state, in order.
    pub fn updates_here(&self) -> Result<Vec<(String, String)>> {
        Ok(recorded(&self.state()?))
    }

    /// Forgets sessions, stored bodies and updates.
    pub fn forget(lab: &Lab) -> Result<()> {
        for entry in fs::read_dir(Self::shared(lab))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// The master process, if it runs.
    fn master(&self) -> Option<Process> {
        let pid = fs::read_to_string(self.dir().join("php.pid")).ok()?;
        let process = Process::running(pid.trim().parse().ok()?)?;
        // The file outlives a killed master, and its id may be another's by now. Masters are titled with their configuration.
        let title = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).ok()?;
        title.contains(self.dir().to_str()?).then_some(process)
    }

    /// Starts it unless it runs already. It listens when this returns.
    pub fn start(&self) -> Result<bool> {
        if self.master().is_some() {
            return Ok(false);
        }
        let (dir, state) = (self.dir(), self.state()?);
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&state)?;
        let _ = fs::remove_file(dir.join("php.pid"));
        fs::write(Self::script(&dir), APPLICATION)?;
        let file = dir.join("php.conf");
        fs::write(&file, configuration(&dir, &state))?;
        let mut php = Command::new(program()?);
        php.args(["--allow-to-run-as-root", "--daemonize", "--fpm-config"]).arg(&file);
        self.lab.netns(self.node).run(&mut php).context("starting php-fpm")?;
        Ok(true)
    }

    /// Kills the processes at once, the master first so that it cannot start new workers.
    pub fn kill(&self) -> Result<()> {
        let Some(master) = self.master() else { return Ok(()) };
        let workers = master.children();
        for process in std::iter::once(&master).chain(&workers) {
            process.signal(Signal::KILL);
        }
        let dead = |process: &Process| process.wait_dead(Duration::from_secs(5));
        ensure!(dead(&master) && workers.iter().all(dead), "php-fpm on {} survived SIGKILL", self.node);
        Ok(())
    }
}

/// Debian names it after its version.
fn program() -> Result<PathBuf> {
    let named = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("php-fpm"))
    };
    let programs = fs::read_dir("/usr/sbin")?.flatten().map(|entry| entry.path()).filter(named);
    programs.max().context("php-fpm is not installed: run scripts/setup")
}

fn recorded(state: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(state.join("updates")).unwrap_or_default();
    let pair = |line: &str| line.split_once(' ').map(|(session, name)| (session.to_owned(), name.to_owned()));
    text.lines().filter_map(pair).collect()
}

fn configuration(dir: &Path, state: &Path) -> String {
    let (socket, state) = (Php::socket(dir), state.display());
    let (dir, socket) = (dir.display(), socket.display());
    format!(
        "[global]\npid = {dir}/php.pid\nerror_log = {dir}/php.log\n\
         [app]\nuser = root\ngroup = root\nlisten = {socket}\nlisten.backlog = 1024\n\
         pm = static\npm.max_children = {WORKERS}\n\
         php_admin_value[session.save_path] = {state}\n\
         php_admin_value[session.use_strict_mode] = 0\n\
         php_admin_value[session.gc_probability] = 0\n\
         php_admin_value[post_max_size] = 64M\n"
    )
}
