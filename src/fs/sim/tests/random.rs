//! Seeded operations against statements that always hold.

use super::*;
use std::collections::BTreeMap;

const PATHS: [&str; 6] = ["/d/a", "/d/b", "/d/c", "/e/a", "/e/b", "/e/c"];

/// Some operations on some files, mostly unsynced; what fails by itself is passed over.
fn step(sim: &Sim, random: &mut SplitMix) {
    let below = |random: &mut SplitMix, end: usize| usize::try_from(random.next()).unwrap() % end;
    let path = PATHS[below(random, PATHS.len())];
    let other = PATHS[below(random, PATHS.len())];
    let at = below(random, 6000);
    let file = Fs::open(sim, path.as_ref(), Open::Write).ok();
    let _ = match (below(random, 12), file) {
        (0..2, _) => Fs::open(sim, path.as_ref(), Open::Create).map(drop),
        (2, _) => Fs::unlink(sim, path.as_ref()),
        (3..5, _) => Fs::rename(sim, path.as_ref(), other.as_ref()),
        (5, _) => Fs::sync_dir(sim, ["/d", "/e"][at % 2].as_ref()),
        (6, Some(file)) => file.sync_data(),
        (7, Some(file)) => file.set_len(at as u64),
        (_, Some(file)) => {
            let fill = u8::try_from(random.next() % 256).unwrap();
            file.write_all_at(&vec![fill; below(random, 5000)], at as u64)
        }
        _ => Ok(()),
    };
}

fn contents(sim: &Sim) -> BTreeMap<String, Vec<u8>> {
    names(sim).into_iter().map(|name| (name.clone(), sim.read(&name))).collect()
}

#[test]
fn keeping_all_leaves_what_reads_saw_and_syncing_all_leaves_no_choice() {
    for seed in 0..300 {
        let (sim, mut random) = (Sim::new(0), SplitMix(seed));
        sim.create_dir("/d".as_ref()).unwrap();
        sim.create_dir("/e".as_ref()).unwrap();
        sync_dir(&sim, "/");
        for _ in 0..60 {
            step(&sim, &mut random);
        }
        let (seen, mut cut) = (contents(&sim), sim.power_cut());
        assert_eq!(contents(&sim.crash(&Crash::KeepAll)), seen, "seed {seed}");
        for torn in 0..20 {
            let left = sim.crash(&Crash::Torn { seed: torn });
            let hash = left.durable_hash();
            assert!(left.pending().is_empty(), "seed {seed}, {torn}");
            assert_eq!(left.crash(&Crash::DropAll).durable_hash(), hash, "seed {seed}, {torn}");
            let fates = Crash::Torn { seed: torn }.fates(sim.pending().len());
            assert_eq!(cut.hash(&fates), hash, "seed {seed}, {torn}");
            assert_eq!(contents(&cut.leave(&fates)), contents(&left), "seed {seed}, {torn}");
        }
        for name in seen.keys() {
            open(&sim, name, Open::Read).sync_data().unwrap();
        }
        sync_dir(&sim, "/d");
        sync_dir(&sim, "/e");
        assert_eq!(sim.pending(), [], "seed {seed}");
        assert_eq!(contents(&sim.crash(&Crash::DropAll)), seen, "seed {seed}");
    }
}

#[test]
fn what_was_synced_survives_every_choice_and_no_file_has_two_names() {
    for seed in 0..100 {
        let (sim, mut random) = (Sim::new(0), SplitMix(seed));
        sim.write("/synced/file", b"synced");
        // Every file says which it is, so that a second name would show.
        for (number, path) in PATHS.iter().enumerate() {
            sim.write(path, &[u8::try_from(number).unwrap()]);
        }
        for _ in 0..12 {
            let from = PATHS[usize::try_from(random.next() % 6).unwrap()];
            let to = PATHS[usize::try_from(random.next() % 6).unwrap()];
            let _ = Fs::rename(&sim, from.as_ref(), to.as_ref());
            if random.next().is_multiple_of(4) {
                sync_dir(&sim, "/d");
            }
        }
        let synced = sim.crash(&Crash::DropAll).durable_hash();
        assert_eq!(sim.crash(&Crash::mask(0)).durable_hash(), synced);
        for mask in 0..1 << sim.pending().len().min(8) {
            let left = sim.crash(&Crash::mask(mask));
            assert_eq!(left.read("/synced/file"), b"synced");
            let mut bytes: Vec<_> = contents(&left).into_values().collect();
            let count = bytes.len();
            bytes.sort_unstable();
            bytes.dedup();
            assert_eq!(bytes.len(), count, "seed {seed}, mask {mask:b}");
        }
    }
}
