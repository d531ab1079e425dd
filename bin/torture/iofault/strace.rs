//! The same on the real binary: strace makes the N-th system call of a kind fail.
//!
//! Each case starts from the same prepared directory, runs one command under
//! `strace -f -e inject=CALL:error=ERRNO:when=N`, or with `N+`, from then on, and then, without faults, finishes
//! the work.
//! Invariants:
//! - the command ends by itself, with a code of the command line's table, and never panics;
//! - `ingest --resume` then leads to every record exactly once, in order, and `verify` is content;
//! - N rises until the command ends as if nothing had been injected, because nothing was: strace
//!   marks what it injects in its output.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::line::{Line, Reproduction};

/// Records of the input, in batches of ten.
const RECORDS: usize = 60;
/// No command here makes so many calls of a kind that is injected.
const MOST_CALLS: u64 = 400;

/// What is injected: a call, and the errors it can give.
const CALLS: [(&str, &[&str]); 9] = [
    ("pwrite64", &["EIO", "ENOSPC", INTERRUPTED]),
    ("fdatasync", &["EIO", "ENOSPC", INTERRUPTED]),
    ("fsync", &["EIO", "ENOSPC", INTERRUPTED]),
    ("openat", &["EIO", "EMFILE", "ENOSPC", INTERRUPTED]),
    ("/^rename", &["EIO", "ENOSPC"]),
    ("/^unlink", &["EIO"]),
    ("/^mkdir", &["EIO", "ENOSPC"]),
    ("pread64", &["EIO", INTERRUPTED]),
    ("ftruncate", &["EIO", "ENOSPC", INTERRUPTED]),
];
/// Whoever is told so asks again, so that it is never told for ever.
const INTERRUPTED: &str = "EINTR";

/// What is run, in a directory where `log` holds the first part of the input.
const COMMANDS: [(&str, &str); 4] = [
    ("ingest", "ingest log in.ndjson --input ndjson --key-field id --batch 10 --resume"),
    ("append", "append log k v"),
    ("tail", "tail log -o ndjson"),
    ("follow", "follow copy --from log --once"),
];

struct Rig {
    binary: PathBuf,
    root: PathBuf,
    cases: AtomicU64,
    struck: AtomicU64,
    codes: Mutex<BTreeMap<String, u64>>,
    found: Mutex<Vec<Reproduction>>,
    seed: u64,
}

/// Runs it, or says why not.
pub fn run(binary: Option<&Path>, seed: u64, line: &mut Line) -> Result<(), String> {
    let beside = std::env::current_exe().map(|me| me.with_file_name("tidelog"));
    let binary = match (binary, beside) {
        (Some(binary), _) => binary.to_path_buf(),
        (None, Ok(beside)) => beside,
        (None, Err(e)) => return Err(e.to_string()),
    };
    let skip = |line: &mut Line, reason: String| {
        eprintln!("iofault: skipped: {reason}");
        line.count("strace_cases", 0);
        line.skip(reason);
        Ok(())
    };
    let Ok(binary) = binary.canonicalize() else {
        return skip(line, format!("{} is not there: strace has nothing to run", binary.display()));
    };
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|out| out.status.success()) {
        return skip(line, "strace is not installed, or may not trace here".to_owned());
    }
    let root = std::env::temp_dir().join(format!("tidelog-iofault-{}", std::process::id()));
    let rig = Rig {
        binary,
        root,
        cases: AtomicU64::new(0),
        struck: AtomicU64::new(0),
        codes: Mutex::default(),
        found: Mutex::default(),
        seed,
    };
    let ran = rig.all();
    let _ = fs::remove_dir_all(&rig.root);
    ran?;
    line.count("strace_cases", rig.cases.load(Relaxed));
    line.count("strace_faults_that_struck", rig.struck.load(Relaxed));
    let codes = rig.codes.lock().map_err(|e| e.to_string())?.clone();
    line.count("strace_exit_codes", serde_json::to_value(codes).map_err(|e| e.to_string())?);
    for found in rig.found.lock().map_err(|e| e.to_string())?.drain(..) {
        line.violation(found);
    }
    Ok(())
}

impl Rig {
    fn all(&self) -> Result<(), String> {
        let seed = self.root.join("seed");
        fs::create_dir_all(&seed).map_err(|e| e.to_string())?;
        let lines = |count: usize| -> String {
            (0..count).map(|i| format!("{{\"id\":\"k{i}\",\"n\":{i}}}\n")).collect()
        };
        // The first half is there already, so that there is something to recover and to read.
        fs::write(seed.join("in.ndjson"), lines(RECORDS)).map_err(|e| e.to_string())?;
        let mut faults = Vec::new();
        for (name, command) in COMMANDS {
            for (call, errors) in CALLS {
                faults.extend(errors.iter().map(|error| (name, command, call, *error, "")));
                let lasting = errors.iter().filter(|error| **error != INTERRUPTED);
                faults.extend(lasting.map(|error| (name, command, call, *error, "+")));
            }
        }
        faults.par_iter().for_each(|(name, command, call, error, lasts)| {
            for when in 1.. {
                let place = self.root.join(format!(
                    "{name}-{}-{error}-{when}{lasts}",
                    call.trim_start_matches("/^")
                ));
                let fault = format!("{call}:error={error}:when={when}{lasts}");
                if when == MOST_CALLS {
                    return self.violation(command, &fault, "there is no end of such calls".into());
                }
                let outcome = self.case(&place, name, command, &fault);
                let _ = fs::remove_dir_all(&place);
                match outcome {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(what) => self.violation(command, &fault, what),
                }
            }
        });
        Ok(())
    }

    fn violation(&self, command: &str, fault: &str, found: String) {
        eprintln!("iofault: {command}, {fault}: {found}");
        if let Ok(mut list) = self.found.lock() {
            let steps = vec![format!("strace -f -e inject={fault} tidelog {command}")];
            list.push(Reproduction { seed: self.seed, steps, found });
        }
    }

    /// One fault; `false` when nothing was injected, because there is no such call.
    fn case(&self, place: &Path, name: &str, command: &str, fault: &str) -> Result<bool, String> {
        fs::create_dir_all(place).map_err(|e| e.to_string())?;
        fs::copy(self.root.join("seed/in.ndjson"), place.join("in.ndjson"))
            .map_err(|e| e.to_string())?;
        // Made in place: a copied directory would refuse to be written to.
        self.tidelog(place, "init log --segment-bytes 65536")?;
        if name != "ingest" {
            self.tidelog(place, COMMANDS[0].1)?;
        }
        let trace = place.join("trace");
        let call = fault.split(':').next().unwrap_or_default();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(&trace);
        strace.args(["-e", &format!("trace={call}"), "-e", &format!("inject={fault}")]);
        strace.arg(&self.binary).args(command.split_whitespace());
        let out = output(&mut strace, place)?;
        let injected = fs::read_to_string(&trace).unwrap_or_default().contains("(INJECTED)");
        if !injected {
            return Ok(false);
        }
        self.cases.fetch_add(1, Relaxed);
        self.struck.fetch_add(1, Relaxed);
        let code = out.status.code();
        // The dynamic loader's own calls are hit too: it ends with 127, or the process by SIGABRT
        // before main has begun.
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let loader = text.contains("error while loading shared libraries") || code == Some(127);
        if let Ok(mut codes) = self.codes.lock() {
            let key = match code {
                _ if loader => format!("{name} loader"),
                Some(code) => format!("{name} {code}"),
                None => format!("{name} signal"),
            };
            *codes.entry(key).or_default() += 1;
        }
        if text.contains("panicked at") || text.contains("RUST_BACKTRACE") {
            return Err(format!("it panicked: {text}"));
        }
        // A full disk, I/O errors, poison and unknown outcomes; never "damaged" or a signal.
        let right = loader || matches!(code, Some(0 | 3 | 6));
        if !right {
            return Err(format!("it ended with {:?}: {text}", out.status));
        }
        self.finish(place, name)?;
        Ok(true)
    }

    /// Without faults: the work is finished, and every record is there once.
    fn finish(&self, place: &Path, name: &str) -> Result<(), String> {
        self.tidelog(place, COMMANDS[0].1)?;
        self.tidelog(place, "verify log")?;
        let text = self.tidelog(place, "tail log -o raw")?;
        let (mut next, mut others) = (0, 0);
        for line in text.lines() {
            if line == format!("{{\"id\":\"k{next}\",\"n\":{next}}}") {
                next += 1;
            } else if name == "append" && line == "v" && next == RECORDS {
                others += 1;
            } else {
                return Err(format!("expected record {next}, read {line:?}"));
            }
        }
        if next != RECORDS || others > 1 {
            return Err(format!("read {next} of {RECORDS} records and {others} others"));
        }
        if name == "follow" {
            self.tidelog(place, COMMANDS[3].1)?;
            self.tidelog(place, "verify copy")?;
            if self.tidelog(place, "tail copy -o raw")? != text {
                return Err("the copy differs".to_owned());
            }
        }
        Ok(())
    }

    /// Runs a command that must go well; returns its stdout.
    fn tidelog(&self, place: &Path, command: &str) -> Result<String, String> {
        let out = output(Command::new(&self.binary).args(command.split_whitespace()), place)?;
        if !out.status.success() {
            let text = String::from_utf8_lossy(&out.stderr);
            return Err(format!("afterwards `tidelog {command}` ends with {}: {text}", out.status));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

fn output(command: &mut Command, place: &Path) -> Result<Output, String> {
    command
        .current_dir(place)
        .env("XDG_CONFIG_HOME", place)
        .env("TIDELOG_SEGMENT_BYTES", "65536")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {command:?}: {e}"))
}
