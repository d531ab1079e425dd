//! Several sources in order: falling on, and going back.

use std::path::{Path, PathBuf};

use tidelog::ship::{Chain, Directory, Http, Source};
use tidelog::{Follower, Kind, Log, Result};

use super::*;
use crate::cli::Place;

fn node(url: &str) -> impl FnMut() -> Result<Box<dyn Source>> + Send + 'static {
    let url = url.to_owned();
    move || Ok(Box::new(Http::open(&url, Credentials::default())?) as Box<dyn Source>)
}

fn directory(path: &Path) -> impl FnMut() -> Result<Box<dyn Source>> + Send + 'static {
    let path = PathBuf::from(path);
    move || Ok(Box::new(Directory::open(&path)?) as Box<dyn Source>)
}

fn chain(url: &str, path: &Path) -> Chain {
    Chain::default().link(url, node(url)).link(path.display().to_string(), directory(path))
}

#[test]
fn a_source_that_dies_is_left_for_the_next_and_gone_back_to() {
    let mut leader = Leader::new();
    leader.append(20, 100);
    let (url, address) = (leader.server().url().to_owned(), leader.server().address());
    let (peer, copy) = (leader.path("peer"), leader.path("copy"));
    let from_leader = Http::open(&url, Credentials::default()).unwrap();
    let mut peers = Follower::open(Log::options(), &peer, from_leader).unwrap();
    peers.catch_up().unwrap();

    let mut follower = Follower::open(Log::options(), &copy, chain(&url, &peer)).unwrap();
    follower.catch_up().unwrap();
    assert_eq!(follower.source(), url);
    assert!(follower.gauge().read().sources.iter().all(|link| link.trouble.is_none()));

    // The peer has more than the copy when the leader dies.
    leader.append(20, 100);
    peers.catch_up().unwrap();
    leader.stop();
    let progress = follower.catch_up().unwrap();
    assert!(progress.to > progress.from);
    assert_eq!(follower.end(), peers.end());
    let shown = follower.gauge().read();
    assert_eq!(shown.source, peer.canonicalize().unwrap().display().to_string());
    assert!(shown.sources[1].in_use && !shown.sources[0].in_use);
    assert!(shown.sources[0].trouble.as_ref().unwrap().contains("cannot reach"), "{shown:?}");

    // It comes back, with more than the peer has.
    leader.start(options().listen(address));
    leader.append(20, 100);
    let end = leader.server().log().end();
    until("the leader is followed again", || {
        follower.catch_up().unwrap();
        follower.end() == end
    });
    assert_eq!(follower.source(), url);
    assert!(follower.gauge().read().sources[0].trouble.is_none());
    follower.close().unwrap();
    peers.close().unwrap();
    same(&leader, &copy);
}

#[test]
fn a_source_that_lacks_what_the_copy_has_is_never_pulled_from() {
    let mut leader = Leader::new();
    leader.append(20, 100);
    let url = leader.server().url().to_owned();
    let (peer, copy) = (leader.path("peer"), leader.path("copy"));
    let from_leader = Http::open(&url, Credentials::default()).unwrap();
    let mut peers = Follower::open(Log::options(), &peer, from_leader).unwrap();
    peers.catch_up().unwrap();
    peers.close().unwrap();
    leader.append(5, 100);
    let mut follower = Follower::open(Log::options(), &copy, chain(&url, &peer)).unwrap();
    follower.catch_up().unwrap();
    let end = follower.end();
    leader.stop();
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    let text = error.to_string();
    assert!(text.contains("cannot reach") && text.contains("before this copy does"), "{text}");
    assert_eq!(follower.end(), end, "nothing was cut");
    follower.close().unwrap();

    // Another log is no help, and no reason to go on looking.
    let strange = leader.path("strange");
    Log::options().create(true).open(&strange).unwrap().close().unwrap();
    let chain =
        Chain::default().link("strange", directory(&strange)).link("peer", directory(&peer));
    let error = Follower::open(Log::options(), &copy, chain).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog, "{error}");
}

#[test]
fn what_the_leader_dropped_comes_from_the_archive_and_the_rest_from_the_leader() {
    let place = Place::new();
    place.ok("init log --segment-bytes 64KiB");
    place.write("lines", "a line of some length to fill segments with\n".repeat(5000));
    place.ok("ingest log lines --input lines --batch 100");
    place.ok("append log gate open");
    place.ok("archive push log --to shelf");
    place.ok("snapshot create log --to snapshots");
    place.ok("append log gate shut");
    let before = place.ok("tail log -o ndjson");
    place.ok("retain log --keep-bytes 64KiB --table-is-only-copy --yes");

    place.expect(1, "follow alone --from log --once --begin log");
    let out = place.ok("follow copy --from log --from shelf --once");
    let step: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&step["from_offset"], &step["to_offset"]), (&0.into(), &5002.into()), "{step}");
    assert!(step["source"].as_str().unwrap().ends_with("/log"), "{step}");
    assert_eq!(place.ok("tail copy -o ndjson"), before);
    assert_eq!(place.ok("get copy gate -o raw"), "shut\n");
    // A node says which of its sources it follows, and why not the first.
    std::fs::rename(place.path("log"), place.path("away")).unwrap();
    let (mut child, url) = {
        use std::io::{BufRead, BufReader};
        let serve = "serve copy --follow log --follow shelf --follow away --listen 127.0.0.1:0";
        let mut command = place.command(serve);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        (child, line["listening"].as_str().unwrap().to_owned())
    };
    let client = client(&url);
    until("the third source is in use", || {
        let (_, status) = get(&client, "/v1/status");
        let sources = status["sources"].as_array().unwrap();
        assert_eq!(sources.len(), 3, "{status}");
        sources[2]["in_use"] == true && sources[0]["trouble"].is_string()
    });
    let row: serde_json::Value = serde_json::from_str(&place.ok(&format!("status {url}"))).unwrap();
    assert!(row["source"].as_str().unwrap().ends_with("/away"), "{row}");
    child.kill().unwrap();
    child.wait().unwrap();
}
