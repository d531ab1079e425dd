//! The fuzz corpora, replayed as an ordinary test.

#[cfg(feature = "fuzz")]
#[test]
fn every_seed_of_every_fuzz_target_passes() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let (mut targets, mut files) = (0, 0);
    for target in std::fs::read_dir(&seeds).unwrap() {
        let target = target.unwrap().path();
        let name = target.file_name().unwrap().to_string_lossy().into_owned();
        targets += 1;
        for seed in std::fs::read_dir(&target).unwrap() {
            let data = std::fs::read(seed.unwrap().path()).unwrap();
            assert!(tidelog::fuzz::replay(&name, &data), "{name} is no fuzz target");
            files += 1;
        }
    }
    assert_eq!(targets, 15, "every target has a corpus");
    assert!(files >= 67, "{files} seeds");
}

#[test]
fn every_fuzz_target_has_an_entry_point_of_its_name() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_to_string(root.join("src/fuzz.rs")).unwrap();
    for target in std::fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap() {
        let name = target.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(entries.contains(&format!("pub fn {name}(")), "{name}");
        assert!(root.join("fuzz/seeds").join(&name).is_dir(), "{name} has no seeds");
    }
}
