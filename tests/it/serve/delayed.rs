//! Apply held back: what arrives is kept and can be read as a log, and is in the table later.

use tidelog::ship::Http;
use tidelog::{Follower, Log, Offset, Table};

use super::*;

fn follow(copy: &Path, url: &str, delay: Duration) -> Follower {
    let table = Table::options().apply_delay(delay);
    let source = Http::open(url, Credentials::default()).unwrap();
    Follower::open_with(Log::options(), table, copy, source).unwrap()
}

#[test]
fn a_delayed_copy_holds_everything_and_shows_it_later() {
    let mut leader = Leader::new();
    leader.append(20, 100);
    let (url, copy) = (leader.server().url().to_owned(), leader.path("copy"));
    let end = leader.server().log().end();
    let hour = Duration::from_secs(3600);
    let mut follower = follow(&copy, &url, hour);
    let progress = follower.catch_up().unwrap();
    assert_eq!((progress.to, progress.applied), (end, Offset(0)));
    assert!(follower.table().view().is_empty().unwrap());
    assert_eq!(follower.log().get(Offset(0)).unwrap().unwrap().offset, Offset(0));
    follower.close().unwrap();
    // Neither closing nor opening lets it go early.
    let mut follower = follow(&copy, &url, hour);
    assert_eq!(follower.catch_up().unwrap().applied, Offset(0));
    follower.close().unwrap();
    // A shorter delay ends, whole batches at a time, while it follows and nothing else comes.
    let mut follower = follow(&copy, &url, Duration::from_millis(20));
    let (stop, mut shown) = (std::sync::atomic::AtomicBool::new(false), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    follower
        .run(&stop, |progress| {
            shown.push(progress.as_ref().unwrap().applied);
            if shown.last() == Some(&end) || Instant::now() > deadline {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        })
        .unwrap();
    assert_eq!(shown.last(), Some(&end), "{shown:?}");
    follower.close().unwrap();
    same(&leader, &copy);
}

#[cfg(feature = "cli")]
#[test]
fn a_delayed_node_answers_from_its_table_as_it_was() {
    use std::io::{BufRead, BufReader};
    let place = crate::cli::Place::new();
    place.ok("init log");
    place.expect(2, "serve log --apply-delay 1h --listen 127.0.0.1:0");
    place.ok("append log gate open");
    place.ok("follow copy --from log --once");
    place.ok("snapshot create copy");
    place.ok("append log gate --delete");
    let serve = "serve copy --follow log --apply-delay 1h --listen 127.0.0.1:0";
    let mut child = place.command(serve).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let url = line["listening"].as_str().unwrap();
    until("the delete has arrived", || place.ok(&format!("tail {url} -o csv")).lines().count() > 2);
    assert_eq!(place.ok(&format!("get {url} gate -o raw")), "open\n");
    let row: Value = serde_json::from_str(&place.ok(&format!("status {url}"))).unwrap();
    assert_eq!((&row["durable"], &row["applied"]), (&2.into(), &1.into()), "{row}");
    child.kill().unwrap();
    child.wait().unwrap();
}
