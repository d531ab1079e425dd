//! Processes that this programme starts and that must not outlive it.

use std::path::Path;
use std::process::Command;

/// A command that is killed when the thread that starts it is gone, however that came about; where
/// `setpriv` is not installed, dropping its owner has to do.
pub fn dies_with_us(program: &Path) -> Command {
    if !Path::new("/usr/bin/setpriv").exists() {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
