//! Snapshots in an archive, from outside: published, listed, verified, restored from; processes killed in
//! the middle; a copy that begins with one.

use std::process::Stdio;
use std::time::Duration;

use super::Place;

impl Place {
    pub(super) fn digest(&self, of: &str) -> (u64, String) {
        let hash = self.json(&format!("hash {of}"));
        (hash["offset"].as_u64().unwrap(), hash["digest"].as_str().unwrap().to_owned())
    }

    /// Starts it and kills it after a while.
    fn killed(&self, args: &str, millis: u64) {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Leaves the log nothing but its newest segment, and the table.
    fn drop_old(&self, log: &str) {
        // Two checkpoints are kept: both must be young.
        for _ in 0..2 {
            self.ok(&format!("append {log} marker here"));
            self.ok(&format!("snapshot create {log}"));
        }
        self.ok(&format!("retain {log} --keep-bytes 1 --table-is-only-copy --yes"));
        let first = self.json(&format!("info {log} -o ndjson"));
        assert_ne!(first["start_offset"], 0, "{first}");
    }
}

/// The life of snapshots in the archive at `url`.
pub(super) fn life(place: &Place, url: &str) {
    place.ingest("log", 0, 3000);
    let first = place.json(&format!("snapshot create log --to {url}"));
    assert_eq!(first["offset"], 3000, "{first}");
    assert!(first["copied_runs"].as_u64().unwrap() >= 1, "{first}");
    let digest = place.digest("log");
    // The same again sends nothing.
    let again = place.json(&format!("snapshot create log --to {url}"));
    assert_eq!((&again["name"], &again["copied_runs"]), (&first["name"], &0.into()), "{again}");
    place.ingest("log", 3000, 500);
    let second = place.json(&format!("snapshot create log --to {url}"));
    assert!(second["copied_bytes"].as_u64() <= second["bytes"].as_u64(), "{second}");
    place.ingest("log", 3500, 100);
    place.ok(&format!("archive push log --to {url}"));

    let pushed = place.json(&format!("archive push log --to {url} --snapshot"));
    let third = pushed["snapshot"].as_str().unwrap().to_owned();
    let plan = place.json(&format!("archive prune {url} --keep-snapshots 1"));
    // Nothing that a walk from the newest rollup meets may be a tombstone, and there is none yet.
    assert_eq!(plan["snapshots"], 0, "{plan}");
    place.expect(2, &format!("archive prune {url} --keep-snapshots 0"));

    let listed = place.ok(&format!("snapshot list {url} -o ndjson"));
    assert!(listed.contains(&third), "{listed}");
    let names: Vec<&str> = [&first, &second].iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(names.iter().all(|name| listed.contains(name)), "{listed}");
    let verified = place.ok(&format!("snapshot verify {url}"));
    assert_eq!(verified.matches("\"problems\":[]").count(), 3, "{verified}");
    let report = place.json(&format!("archive verify {url}"));
    assert_eq!((&report["problems"], &report["snapshots"]), (&0.into(), &3.into()), "{report}");
    assert!(place.ok(&format!("archive list {url} -o ndjson")).contains("\"what\":\"snapshot\""));

    // To the end, to a point between, to one before the first snapshot.
    let end = place.json(&format!("restore whole --from {url}"));
    assert_eq!((&end["end_offset"], &end["snapshot"]), (&3600.into(), &third.into()), "{end}");
    assert_eq!(place.digest("whole"), place.digest("log"));
    let between = place.json(&format!("restore between --from {url} --at 3000"));
    assert_eq!((&between["end_offset"], &between["snapshot"]), (&3000.into(), &first["name"]));
    assert_eq!(place.digest("between"), digest);
    let early = place.json(&format!("restore early --from {url} --at 1000"));
    assert_eq!((&early["end_offset"], early["snapshot"].is_null()), (&1000.into(), true));
    for made in ["whole", "between", "early"] {
        place.ok(&format!("verify {made}"));
        place.ok(&format!("append {made} one more"));
    }
    place.expect(2, &format!("restore whole --from {url}"));
    place.expect(2, &format!("restore late --from {url} --at 9999"));
}

#[test]
fn snapshots_in_an_archive_live_their_life() {
    let place = Place::new();
    let url = format!("file://{}", place.path("shelf").display());
    life(&place, &url);
    // A point in time stands for the first record of then.
    let first = place.ok("tail log --range 3500:3501 -o ndjson");
    let first: serde_json::Value = serde_json::from_str(first.trim()).unwrap();
    let at = first["ts"].as_str().unwrap();
    let then = place.json(&format!("restore then --from shelf --at @{at}"));
    assert_eq!(then["end_offset"], 3500, "{then}");
    // Damage is named, and found by both.
    let run = std::fs::read_dir(place.path("shelf/snap"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "run"))
        .unwrap();
    let mut bytes = std::fs::read(&run).unwrap();
    bytes[150] ^= 1;
    std::fs::write(&run, bytes).unwrap();
    let name = run.file_name().unwrap().to_str().unwrap();
    for verb in ["archive", "snapshot"] {
        let (out, _) = place.expect(1, &format!("{verb} verify shelf"));
        assert!(out.contains(name), "{out}");
    }
}

#[test]
fn publishing_and_restoring_are_killed_and_done_again() {
    let place = Place::new();
    place.ingest("log", 0, 20_000);
    place.ok("archive push log --to shelf");
    for millis in [2, 5, 9, 14, 20, 35, 60, 100] {
        place.killed("snapshot create log --to shelf", millis);
        // What the dead one left is of no meaning: what is listed is whole.
        assert_eq!(place.json("archive verify shelf")["problems"], 0, "killed after {millis} ms");
    }
    place.ok("snapshot create log --to shelf");
    assert_eq!(place.json("archive verify shelf")["snapshots"], 1);
    for millis in [2, 5, 9, 14, 20, 35, 60, 100] {
        place.killed("restore back --from shelf", millis);
    }
    if !place.run("restore back --from shelf").status.success() {
        // The last one was done before it was killed.
        place.expect(2, "restore back --from shelf");
    }
    assert_eq!(place.digest("back"), place.digest("log"));
    place.ok("append back one more");
}

#[test]
fn a_copy_of_an_archive_begins_with_its_snapshot_however_often_it_is_killed_and_then_unpins_it() {
    let place = Place::new();
    place.ingest("log", 0, 20_000);
    place.ok("archive push log --to shelf --snapshot");
    place.ingest("log", 20_000, 500);
    place.ok("archive push log --to shelf");
    for millis in [2, 5, 9, 14, 20, 35, 60, 100] {
        place.killed("follow copy --from shelf --once --begin snapshot", millis);
    }
    place.ok("follow copy --from shelf --once --begin snapshot");
    assert_ne!(place.json("info copy -o ndjson")["start_offset"], 0);
    assert_eq!(place.digest("copy"), place.digest("log"));
    // What a killed one pinned stays pinned until it ends; a whole one leaves nothing.
    let before = place.ok("archive pins shelf -o ndjson");
    place.ok("follow other --from shelf --once --begin snapshot");
    assert_eq!(place.ok("archive pins shelf -o ndjson"), before);
}

#[test]
fn a_copy_whose_log_is_gone_begins_with_a_snapshot_however_often_it_is_killed() {
    let place = Place::new();
    place.ingest("log", 0, 12_000);
    place.ok("follow old --from log --once");
    place.ingest("log", 12_000, 12_000);
    place.drop_old("log");
    for copy in ["new", "old"] {
        let (_, err) = place.expect(1, &format!("follow {copy} --from log --once --begin log"));
        assert!(err.contains("offset"), "{err}");
        for millis in [2, 5, 9, 14, 20, 35, 60, 100] {
            place.killed(&format!("follow {copy} --from log --once"), millis);
        }
        place.ok(&format!("follow {copy} --from log --once"));
        assert_eq!(place.digest(copy), place.digest("log"), "{copy}");
        place.ok(&format!("verify {copy}"));
        assert_ne!(place.json(&format!("info {copy} -o ndjson"))["start_offset"], 0);
        // It goes on like any other.
        place.ingest("log", 24_000, 3000);
        place.ok(&format!("follow {copy} --from log --once"));
        assert_eq!(place.digest(copy), place.digest("log"), "{copy}");
        let (theirs, mine) = (place.segments("log"), place.segments(copy));
        for (name, bytes) in &mine {
            let Some((_, same)) = theirs.iter().find(|(other, _)| other == name) else { continue };
            let shared = bytes.len().min(same.len());
            assert_eq!(bytes[..shared], same[..shared], "{name}");
        }
    }
}

/// What `info` says: where the log begins and ends.
fn span(place: &Place, log: &str) -> Option<(u64, u64)> {
    let out = place.run(&format!("info {log} -o ndjson"));
    let info: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
    Some((info["start_offset"].as_u64()?, info["end_offset"].as_u64()?))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_copy_that_runs_while_its_log_goes_begins_anew_by_itself() {
    let place = Place::new();
    place.ingest("log", 0, 3000);
    for (i, args) in ["follow copy0 --from log", "serve copy1 --follow log --listen 127.0.0.1:0"]
        .iter()
        .enumerate()
    {
        let copy = format!("copy{i}");
        let mut command = place.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let signal = |what: &str| {
            let sent = std::process::Command::new("kill").arg(what).arg(pid.to_string()).status();
            assert!(sent.unwrap().success());
        };
        let end = span(&place, "log").unwrap().1;
        until("it has copied all", || span(&place, &copy).is_some_and(|(_, to)| to == end));
        let before = span(&place, &copy).unwrap().0;
        signal("-STOP");
        place.ingest("log", 3000 + 12_000 * i, 12_000);
        place.drop_old("log");
        signal("-CONT");
        let end = span(&place, "log").unwrap().1;
        until("it has begun anew", || {
            assert!(child.try_wait().unwrap().is_none(), "{args} has ended");
            span(&place, &copy).is_some_and(|(from, to)| from > before && to == end)
        });
        signal("-TERM");
        child.wait().unwrap();
        assert_eq!(place.digest(&copy), place.digest("log"));
    }
}
