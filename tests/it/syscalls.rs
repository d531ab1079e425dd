//! Nothing bypasses the seam: what a real process asks of the kernel about its log directory is
//! what the engine asked of `Fs`.
//!
//! The same fixed work is done twice: by this test's own binary, started again under strace, on a
//! real directory; and here, on the simulated disk, whose trace of operations is the record of the
//! seam. Calls that change or sync something must agree in kind, order, path and bytes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tidelog::fs::sim::{OpKind, Sim};
use tidelog::fs::{Fs, Os};
use tidelog::{Batch, Durability, Log, Preallocate, Record};

/// Where the started process works; unset in an ordinary run.
const PLACE: &str = "TIDELOG_TEST_SYSCALLS";

/// The work: a new log, every durability, rolls and seals, retention, a close and a second life.
/// One thread, no clock in any decision.
fn work(fs: Arc<dyn Fs>, dir: &Path) {
    let options = || {
        Log::options()
            .fs(Arc::clone(&fs))
            .create(true)
            .worker(false)
            .segment_bytes(64 << 10)
            .preallocate(Preallocate::Grow)
    };
    for life in 0..2 {
        let log = options().open(dir).unwrap();
        for i in 0..24u64 {
            let mut batch = Batch::new();
            for n in 0..=i % 3 {
                let value = (i + n).to_le_bytes().repeat(700);
                batch.push(&Record::put(b"key", &value).at(i64::try_from(i).unwrap())).unwrap();
            }
            let durability = match i % 4 {
                0 => Durability::Buffered,
                1 => Durability::Written,
                _ => Durability::Durable,
            };
            let how = tidelog::Append { durability: Some(durability), ..Default::default() };
            log.append_with(&batch, &how).unwrap();
        }
        if life == 1 {
            let policy =
                tidelog::log::Retention { keep_bytes: Some(100_000), ..Default::default() };
            log.retain(&policy).unwrap();
        }
        log.close().unwrap();
    }
}

/// One call: kind, path below the log directory, where, how much.
type Call = (OpKind, PathBuf, u64, u64);

/// STATE is a hint that is rewritten when some milliseconds have passed: the one thing that the
/// clock decides. The lengths of small text files hold times and paths.
fn comparable(mut calls: Vec<Call>) -> Vec<Call> {
    calls.retain(|call| !call.1.ends_with("STATE"));
    for (kind, path, _, len) in &mut calls {
        let of_file = matches!(kind, OpKind::Write | OpKind::Sync | OpKind::SetLen);
        if of_file && path.starts_with("segments") {
            // The kernel names a descriptor's file as it is called now, the simulated disk as it
            // was opened; at a roll it is renamed in between.
            *path = PathBuf::from("segments/file");
        } else if *kind == OpKind::Write {
            *len = (*len).min(1);
        }
    }
    calls
}

fn simulated(dir: &Path) -> Vec<Call> {
    let sim = Sim::new(1);
    // Directories above the log's are there in both worlds.
    sim.write(dir.with_file_name("beside"), b"");
    sim.record(true);
    work(sim.shared(), dir);
    let below = |path: &Path| path.strip_prefix(dir).map(Path::to_path_buf).ok();
    sim.trace()
        .into_iter()
        .filter_map(|op| {
            let path = below(&op.path)?;
            let len =
                if op.kind == OpKind::Write || op.kind == OpKind::SetLen { op.len } else { 0 };
            Some((op.kind, path, op.byte, len))
        })
        .collect()
}

/// Calls that change or sync a file, too, and that the seam has no name for.
const FOREIGN: [&str; 16] = [
    "creat",
    "truncate",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "fallocate",
    "pwritev2",
    "copy_file_range",
    "sendfile",
    "splice",
    "sync_file_range",
    "syncfs",
    "sync",
    "msync",
    "rmdir",
];

/// What strace printed, as calls. Descriptors carry their paths (`-y`).
fn traced(text: &str, dir: &Path) -> Vec<Call> {
    let below = |path: &str| Path::new(path).strip_prefix(dir).map(Path::to_path_buf).ok();
    let mut calls = Vec::new();
    for line in text.lines() {
        // With -f each line begins with the process; a failed call ends with -1.
        let Some((_, call)) = line.split_once(' ') else { continue };
        let Some((name, rest)) = call.trim_start().split_once('(') else { continue };
        if rest.contains(" = -1 ") {
            continue;
        }
        let of_descriptor = || {
            rest.split_once('<').and_then(|(_, path)| path.split_once('>')).map(|(path, _)| path)
        };
        let quoted = || rest.split('"').nth(1);
        let result = || rest.rsplit(" = ").next().and_then(|n| n.trim().parse::<u64>().ok());
        let arguments: Vec<&str> =
            rest.rsplit_once(')').map_or(rest, |(args, _)| args).split(", ").collect();
        let last = || arguments.last().and_then(|n| n.trim().parse::<u64>().ok()).unwrap();
        let (kind, path, byte, len) = match name {
            "pwrite64" => (OpKind::Write, of_descriptor(), last(), result().unwrap()),
            "write" | "pwritev" | "writev" => (OpKind::Write, of_descriptor(), u64::MAX, 0),
            "ftruncate" => (OpKind::SetLen, of_descriptor(), 0, last()),
            "fdatasync" => (OpKind::Sync, of_descriptor(), 0, 0),
            "fsync" => (OpKind::SyncDir, of_descriptor(), 0, 0),
            "rename" | "renameat" | "renameat2" => (OpKind::Rename, quoted(), 0, 0),
            "unlink" | "unlinkat" => (OpKind::Unlink, quoted(), 0, 0),
            "mkdir" | "mkdirat" => (OpKind::CreateDir, quoted(), 0, 0),
            "openat" if rest.contains("O_CREAT") => (OpKind::Create, quoted(), 0, 0),
            // Nobody asks this way: whoever does goes past the seam, or it learns of it here.
            name if FOREIGN.contains(&name) => {
                let all = ["sync", "syncfs", "msync"].contains(&name);
                assert!(
                    !all && !line.contains(dir.to_str().unwrap()),
                    "nothing of the seam does this: {line}"
                );
                continue;
            }
            _ => continue,
        };
        if let Some(path) = path.and_then(below) {
            calls.push((kind, path, byte, len));
        }
    }
    calls
}

#[test]
fn a_process_asks_of_the_kernel_what_the_engine_asked_of_the_seam() {
    if let Some(dir) = std::env::var_os(PLACE) {
        return work(Os::shared(), Path::new(&dir));
    }
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|out| out.status.success()) {
        println!("skipped: strace is not installed, or may not trace here");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().canonicalize().unwrap();
    let (dir, trace) = (root.join("log"), root.join("trace"));
    let status = Command::new("strace")
        .args(["-f", "-y", "-qq", "-s", "0", "-o"])
        .arg(&trace)
        .args(["-e", "trace=%file,%desc,msync,sync"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1"])
        .arg("syscalls::a_process_asks_of_the_kernel_what_the_engine_asked_of_the_seam")
        .env(PLACE, &dir)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let real = comparable(traced(&std::fs::read_to_string(&trace).unwrap(), &dir));
    let seam = comparable(simulated(&dir));
    for (at, (real, seam)) in real.iter().zip(&seam).enumerate() {
        assert_eq!(real, seam, "call {at}: the kernel was asked the first, the seam the second");
    }
    assert_eq!(real.len(), seam.len(), "calls of the kernel, calls of the seam");
    assert!(real.len() > 200, "only {} calls were seen", real.len());
    println!("{} calls agree", real.len());
}
