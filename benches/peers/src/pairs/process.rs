//! Servers as child processes: started, waited for, ended with whoever started them.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// A server that runs until this is dropped.
pub struct Server {
    child: Child,
    end: Signal,
    said: PathBuf,
}

impl Server {
    /// Runs `command`. What it says goes to `<name>.out` in `dir`, except for its standard output
    /// when `piped`. It dies with this process, whatever that dies of.
    pub fn start(
        dir: &Path,
        name: &str,
        command: &[&str],
        end: Signal,
        piped: bool,
    ) -> Result<Self> {
        let said = dir.join(format!("{name}.out"));
        let out = File::create(&said)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(command)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(if piped { Stdio::piped() } else { Stdio::from(out.try_clone()?) })
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {name} by setpriv"))?;
        Ok(Server { child, end, said })
    }

    /// Waits until it answers at `port`.
    pub fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        self.wait_until("answers", || Ok(TcpStream::connect(address).is_ok()))
    }

    /// Waits until `ready` says so.
    pub fn wait_until(
        &mut self,
        what: &str,
        mut ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        while !ready()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status} before it {what}: {}", self.last_words());
            }
            if start.elapsed() > PATIENCE {
                bail!("expected that it {what} within {PATIENCE:?}: {}", self.last_words());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Its standard output, of one that was started `piped`; once.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // Best effort, as what follows: it may have ended by itself.
            let _ = kill_process(pid, self.end);
        }
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Where a program is: in one of `places`, or where programs are looked for.
pub fn find(program: &str, places: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = places.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}
