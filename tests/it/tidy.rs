//! Tidiness, held by tests: allowed edges, unsafe in its named files, file length, docs that agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_path_buf(), text));
            }
        }
    }
    found.sort();
    found
}

/// What is left of a source when tests and comments are taken away.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn modules_use_only_what_the_architecture_allows() {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let table = document.split("```edges\n").nth(1).unwrap().split("```").next().unwrap();
    let mut allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in table.lines() {
        let (module, users) = line.split_once("->").expect("module -> users");
        allowed.insert(module.trim(), users.split_whitespace().collect());
    }
    let mut used = BTreeSet::new();
    for (path, text) in sources("src") {
        let name = path.strip_prefix("src").unwrap();
        let first = name.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let user = first.trim_end_matches(".rs").to_owned();
        // The root names everything, the fuzz entry points call everything.
        if ["lib", "fuzz"].contains(&user.as_str())
            || path.to_string_lossy().contains("tests")
            || path.to_string_lossy().ends_with("_tests.rs")
        {
            continue;
        }
        for (at, _) in code(&text).match_indices("crate::") {
            let code = code(&text);
            let rest = &code[at + 7..];
            let module: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if module.is_empty() || module == user {
                continue;
            }
            let users = allowed.get(module.as_str()).unwrap_or_else(|| {
                panic!("{}: module {module} is not in docs/ARCHITECTURE.md", path.display())
            });
            assert!(
                users.contains(user.as_str()),
                "{}: {user} uses {module}, which docs/ARCHITECTURE.md does not allow",
                path.display()
            );
            used.insert((module, user.clone()));
        }
    }
    assert!(used.len() >= 20, "only {} edges were found: the check sees nothing", used.len());
}

#[test]
fn unsafe_code_stands_in_its_named_files_alone() {
    // The last one is the torture programme's, not the library's: the ioctl that shuts an ext4
    // down, for which there is no safe call.
    let named = [
        "src/fs/mmap.rs",
        "src/log/staging.rs",
        "src/crc.rs",
        "src/table/delta/arena.rs",
        "src/sql/vtab.rs",
        "bin/torture/powercut/shutdown.rs",
    ];
    let mut seen = BTreeSet::new();
    for (path, text) in sources("src").into_iter().chain(sources("bin")) {
        let path = path.to_string_lossy().into_owned();
        let code = code(&text);
        let has = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"]
            .iter()
            .any(|word| code.contains(word));
        if has {
            assert!(named.contains(&path.as_str()), "{path} has unsafe code");
            seen.insert(path);
        }
    }
    assert_eq!(seen.len(), named.len(), "the list names a file without unsafe code");
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    assert!(named.iter().all(|name| document.contains(name)));
}

#[test]
fn only_the_file_system_module_touches_the_operating_system() {
    for (path, text) in sources("src") {
        let path = path.to_string_lossy().into_owned();
        let tests = path.contains("tests") || path.contains("loom_models");
        if path.starts_with("src/fs") || tests || path == "src/fuzz.rs" {
            continue;
        }
        for word in ["std::fs::", "use std::fs", "SystemTime", "std::env", "println!"] {
            assert!(!code(&text).contains(word), "{path} uses {word}");
        }
    }
}

#[test]
fn files_stay_short_enough_to_hold_one_concept() {
    for (path, text) in sources("src").into_iter().chain(sources("bin")) {
        let lines = text.lines().count();
        assert!(lines <= 700, "{} has {lines} lines", path.display());
        assert!(
            text.starts_with("//!") || path.to_string_lossy().contains("tests"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in sources("src").into_iter().chain(sources("bin")).chain(sources("tests")) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for word in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn the_documents_give_the_constants_of_the_code() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let format = read("docs/FORMAT.md");
    assert!(format.contains(&format!("Version {}.", tidelog::segment::FORMAT_VERSION)));
    assert!(format.contains("32 to 16,777,216") && tidelog::record::MAX_FRAME_BYTES == 16_777_216);
    assert!(format.contains("a key of 65,536 bytes") && tidelog::record::MAX_KEY_BYTES == 65_536);
    assert!(format.contains("65,535 records") && tidelog::record::MAX_BATCH_RECORDS == 65_535);
    assert!(format.contains("in each 32 KiB") && tidelog::segment::STEP_BYTES == 32 << 10);
    assert!(read("docs/DURABILITY.md").contains("10 ms unless set"));
    assert!(read("src/log/options.rs").contains("flush_after: Duration::from_millis(10)"));
}
