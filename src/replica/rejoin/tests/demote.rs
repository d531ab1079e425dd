//! Demotion, who may follow whom, and damage to what was kept.

use super::*;

#[test]
fn a_demotion_cut_anywhere_leaves_a_leader_or_a_follower_and_is_done_again() {
    let (a, _) = parted(3, 3, 1, 100, true);
    let before = image(&a, "segments");
    let whole = a.deep_copy();
    assert!(demote(&whole.shared(), Path::new(NODE), "there").unwrap());
    assert!(!demote(&whole.shared(), Path::new(NODE), "there").unwrap());
    assert!(!demote(&whole.shared(), Path::new(NODE), "elsewhere").unwrap());
    let error = options(&whole).create(false).open(NODE).unwrap().append(&Record::event(b"x"));
    assert_eq!(error.unwrap_err().kind(), Kind::NotLeader);
    for n in 0..whole.operations() {
        let disk = a.deep_copy();
        disk.stop_after(n);
        let _ = demote(&disk.shared(), Path::new(NODE), "there");
        for choice in [Crash::DropAll, Crash::KeepAll] {
            let left = disk.crash(&choice);
            demote(&left.shared(), Path::new(NODE), "there").unwrap();
            let control = Control::need(&*left.shared(), &layout()).unwrap();
            assert_eq!(control.follows.as_deref(), Some("there"));
            assert!(image(&left, "segments") == before, "cut after {n}");
        }
    }
    let log = options(&a).open(NODE).unwrap();
    let error = demote(&a.shared(), Path::new(NODE), "there").unwrap_err();
    assert_eq!(error.kind(), Kind::Locked, "{error}");
    drop(log);
}

#[test]
fn a_leaders_directory_follows_only_when_told_and_only_its_own_log() {
    let (a, b) = parted(3, 3, 1, 100, true);
    let error = open_with(&a, &b, |options| options.rejoin(false)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
    assert!(error.to_string().contains("--rejoin"), "{error}");
    let other = Sim::new(9);
    lead(&other, "other", 1, 100, true);
    let error = open(&a, &other).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog, "{error}");
    assert_eq!(Control::need(&*a.shared(), &layout()).unwrap().follows, None);
}

#[test]
fn notes_and_kept_frames_that_are_damaged_are_errors_that_name_the_file() {
    let (a, b) = parted(3, 5, 1, 1000, true);
    follow(&a, &b).unwrap();
    let files = image(&a, "diverged");
    assert_eq!(files.len(), 2);
    for (path, good) in files {
        for byte in (0..good.len()).step_by(97).chain([good.len() - 1]) {
            a.flip(&path, byte as u64 * 8);
            let found = diverged::list_on(&a.shared(), Path::new(NODE)).unwrap();
            for kept in found {
                let read = kept.and_then(|kept| {
                    let mut batches = kept.batches();
                    let mut values = Vec::new();
                    while let Some(batch) = batches.next()? {
                        values.extend(batch.iter().map(|e| e.record().value.to_vec()));
                    }
                    Ok(values)
                });
                match read {
                    Ok(read) => assert_eq!(read, values("alone", 5, 1000), "byte {byte}"),
                    Err(e) => assert_eq!(e.file(), Some(&*path), "byte {byte}: {e}"),
                }
            }
            a.flip(&path, byte as u64 * 8);
        }
    }
    assert_eq!(kept(&a), values("alone", 5, 1000));
}
