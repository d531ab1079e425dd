//! The archive from outside: the command line over a real directory, kills, and a real S3 server.

#[cfg(feature = "object-store")]
pub(crate) mod s3;
mod snapshots;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A place with logs, archives and copies in it.
struct Place {
    dir: tempfile::TempDir,
    /// Of the environment: endpoint and credentials.
    settings: Vec<(String, String)>,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap(), settings: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.args(args.split_whitespace()).current_dir(self.dir.path());
        command.env("XDG_CONFIG_HOME", self.path("config")).env_remove("TIDELOG_OUTPUT");
        command.envs(self.settings.iter().cloned()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and holds the exit code; returns stdout and stderr.
    fn expect(&self, code: i32, args: &str) -> (String, String) {
        let out = self.run(args);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, code_found, err) = (text(out.stdout), out.status.code(), text(out.stderr));
        assert_eq!(code_found, Some(code), "tidelog {args}: {err}");
        (out, err)
    }

    fn ok(&self, args: &str) -> String {
        self.expect(0, args).0
    }

    fn json(&self, args: &str) -> Value {
        let out = self.ok(args);
        let last = out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("tidelog {args}: {e}: {out}"))
    }

    /// Appends lines to a log of small segments.
    fn ingest(&self, log: &str, from: usize, count: usize) {
        if !self.path(log).exists() {
            self.ok(&format!("init {log} --segment-bytes 64KiB"));
        }
        let lines: String = (from..from + count)
            .map(|i| {
                format!("{{\"id\":\"{}\",\"n\":{i},\"pad\":\"{}\"}}\n", i % 500, "x".repeat(90))
            })
            .collect();
        std::fs::write(self.path("rows.ndjson"), lines).unwrap();
        self.ok(&format!("ingest {log} rows.ndjson --input ndjson --key-field id --batch 50"));
    }

    fn segments(&self, log: &str) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(self.path(log).join("segments"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .filter(|(name, _)| name.ends_with(".seg"))
            .collect();
        files.sort();
        files
    }

    /// A writer dies in it: whoever opens it next begins an epoch of its own.
    fn crash(&self, log: &str, node: &str) {
        let mut writer = self
            .command(&format!("ingest {log} - --input lines {node}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = writer.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"last words\n").unwrap();
        let before = self.ok(&format!("tail {log} -o raw"));
        let started = std::time::Instant::now();
        while self.ok(&format!("tail {log} -o raw")) == before && !before.ends_with("words\n") {
            assert!(started.elapsed().as_secs() < 20, "nothing came");
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
    }

    /// A copy made from the archive holds the leader's bytes and the same table.
    fn compare(&self, log: &str, archive: &str, copy: &str) {
        self.ok(&format!("follow {copy} --from {archive} --once"));
        let (theirs, mine) = (self.segments(log), self.segments(copy));
        assert_eq!(theirs.len(), mine.len());
        for ((name, theirs), (_, mine)) in theirs.iter().zip(&mine) {
            let same = theirs.starts_with(mine) && theirs[mine.len()..].iter().all(|&b| b == 0);
            assert!(same, "{name} differs");
        }
        let digest = |of: &str| {
            let hash = self.json(&format!("hash {of}"));
            (hash["offset"].clone(), hash["digest"].clone())
        };
        assert_eq!(digest(log), digest(copy));
        self.ok(&format!("verify {copy}"));
    }
}

/// The life of an archive at `url`.
fn life(place: &Place, url: &str) {
    place.ingest("log", 0, 3000);
    let pushed = place.json(&format!("archive push log --to {url}"));
    assert_eq!((&pushed["from_offset"], &pushed["end_offset"]), (&0.into(), &3000.into()));
    assert!(pushed["segments"].as_u64().unwrap() >= 3, "{pushed}");
    assert_eq!(pushed["tails"], 1, "{pushed}");
    place.compare("log", url, "copy");

    let again = place.json(&format!("archive push log --to {url}"));
    assert_eq!((&again["entries"], &again["bytes"]), (&0.into(), &0.into()));

    // The next push replaces the tail, and the copy goes on in the middle of its segment.
    place.ingest("log", 3000, 2000);
    place.json(&format!("archive push log --to {url}"));
    place.compare("log", url, "copy");
    place.compare("log", url, "fresh");

    let rows = place.ok(&format!("archive list {url} -o ndjson"));
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let mut end = 0;
    for row in &rows {
        assert_eq!(row["first_offset"], end, "{row}");
        end = row["end_offset"].as_u64().unwrap();
    }
    assert_eq!(end, 5000);
    let report = place.json(&format!("archive verify {url}"));
    assert_eq!(report["problems"], 0, "{report}");
    assert!(report["segments"].as_u64().unwrap() >= 6, "{report}");
    // Nothing is below a rollup yet.
    let plan = place.json(&format!("archive prune {url}"));
    assert_eq!((&plan["pruned"], &plan["entries"]), (&false.into(), &0.into()));
}

#[test]
fn an_archive_in_a_directory_lives_its_life() {
    let place = Place::new();
    let url = format!("file://{}", place.path("shelf").display());
    life(&place, &url);
    // A path is as good as a URL.
    place.compare("log", "shelf", "other");
    let report = place.json("archive verify shelf");
    assert_eq!(report["problems"], 0);
}

#[test]
fn every_example_of_the_archive_runs() {
    let place = Place::new();
    place.ok("init mylog");
    place.ok("append mylog gate open");
    let help = place.ok("archive --help");
    let examples: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Examples:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .collect();
    assert!(examples.len() >= 5, "{help}");
    for example in examples {
        place.ok(example.trim().strip_prefix("tidelog ").unwrap());
    }
}

#[test]
fn a_push_that_is_killed_is_pushed_again_without_loss() {
    let place = Place::new();
    place.ingest("log", 0, 12_000);
    let whole = place.json("archive push log --to whole");
    for millis in [1, 3, 5, 8, 12, 17, 23, 30, 45, 70] {
        let shelf = format!("shelf{millis}");
        let mut child = place
            .command(&format!("archive push log --to {shelf}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // When it is killed decides what is half done; every outcome must do.
        std::thread::sleep(std::time::Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        let pushed = place.json(&format!("archive push log --to {shelf}"));
        assert_eq!(pushed["end_offset"], whole["end_offset"], "killed after {millis} ms");
        let report = place.json(&format!("archive verify {shelf}"));
        assert_eq!(report["problems"], 0, "killed after {millis} ms");
        if millis % 5 == 0 {
            place.compare("log", &shelf, &format!("copy{millis}"));
        }
    }
}

#[test]
fn damage_in_an_archive_is_found_named_and_not_copied() {
    let place = Place::new();
    place.ingest("log", 0, 3000);
    place.ok("archive push log --to shelf");
    let data = place.path("shelf/data");
    let object = std::fs::read_dir(&data).unwrap().next().unwrap().unwrap();
    let mut bytes = std::fs::read(object.path()).unwrap();
    bytes[9000] ^= 1;
    std::fs::write(object.path(), bytes).unwrap();
    let (out, err) = place.expect(1, "archive verify shelf");
    assert!(out.contains(object.file_name().to_str().unwrap()), "{out}");
    assert!(err.contains("1 problem"), "{err}");
    place.expect(4, "follow copy --from shelf --once");
}

#[test]
fn wrong_names_of_archives_have_their_exit_codes() {
    let place = Place::new();
    place.ingest("log", 0, 10);
    for args in [
        "archive push log --to http://somewhere",
        "archive push log --to s3://buc\u{20ac}ket/x",
        "archive list file://relative",
        "follow copy --from ftp://somewhere --once",
    ] {
        place.expect(2, args);
    }
    place.expect(3, "archive list missing");
    place.expect(3, "archive verify missing");
    place.expect(3, "archive prune missing --yes");
    assert!(!place.path("missing").exists(), "only push makes an archive");
    // A follower's directory is not published, another log's archive is not touched.
    place.ok("follow copy --from log --once");
    place.expect(6, "archive push copy --to shelf");
    place.ok("archive push log --to shelf");
    place.ingest("other", 0, 10);
    place.expect(4, "archive push other --to shelf");
}

#[test]
fn a_leader_that_was_replaced_is_fenced_off_the_archive() {
    let place = Place::new();
    place.ingest("log", 0, 500);
    place.crash("log", "");
    place.ok("archive push log --to shelf");
    // Whoever opens what is left begins an epoch of its own: the new leader, elsewhere; and the
    // old one.
    let line = |log: &str, text: &str, node: &str| {
        std::fs::write(place.path("line"), text).unwrap();
        place.ok(&format!("ingest {log} line --input lines {node}"));
    };
    copy_tree(&place.path("log"), &place.path("new"));
    copy_tree(&place.path("log"), &place.path("third"));
    line("new", "open\n", "--new-node");
    place.ok("archive push new --to shelf");
    line("log", "closed\n", "");
    let (_, err) = place.expect(6, "archive push log --to shelf");
    assert!(err.contains("has taken over"), "{err}");
    place.compare("new", "shelf", "copy");
    // Another took over from the same place: the epoch's number has its owner already.
    line("third", "ajar\n", "--new-node");
    let (_, err) = place.expect(6, "archive push third --to shelf");
    assert!(err.contains("has taken over"), "{err}");
    // With a newer epoch it leads, but what it never had needs consent.
    copy_tree(&place.path("third"), &place.path("fourth"));
    place.crash("fourth", "--new-node");
    line("fourth", "shut\n", "");
    let (_, err) = place.expect(1, "archive push fourth --to shelf");
    assert!(err.contains("--accept-loss"), "{err}");
    place.ok("archive push fourth --to shelf --accept-loss");
    place.compare("fourth", "shelf", "copy4");
    assert!(place.ok("archive list shelf -o ndjson").contains("cut by a fence"));
    assert_eq!(place.json("archive verify shelf")["problems"], 0);
    place.expect(6, "archive push new --to shelf");
}

#[test]
fn pins_keep_an_archive_from_being_pruned_and_are_listed_and_dropped() {
    let place = Place::new();
    place.ingest("log", 0, 100);
    place.ok("archive push log --to shelf");
    let pin = place.json("archive pin shelf --owner restore --for 2h");
    assert_eq!((&pin["owner"], &pin["counts"]), (&"restore".into(), &true.into()), "{pin}");
    let id = pin["id"].as_str().unwrap();
    assert_eq!(place.json("archive pins shelf -o ndjson"), pin);
    let plan = place.json("archive prune shelf --yes");
    assert_eq!((&plan["pins"], &plan["pruned"]), (&1.into(), &false.into()), "{plan}");
    place.ok(&format!("archive unpin shelf {id}"));
    place.expect(1, &format!("archive unpin shelf {id}"));
    place.expect(2, "archive unpin shelf nothing");
    assert_eq!(place.ok("archive pins shelf -o ndjson"), "");
    place.expect(3, "archive pin missing --owner restore --for 2h");
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
