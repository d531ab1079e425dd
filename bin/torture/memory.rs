//! Has the C library keep the memory it has: opening logs a million times otherwise spends most of
//! its time asking the kernel for buffers and giving them back.

use std::os::unix::process::CommandExt;

/// What glibc reads as a process starts; others ignore it.
const SETTINGS: [(&str, &str); 2] =
    [("MALLOC_TRIM_THRESHOLD_", "1000000000"), ("MALLOC_MMAP_THRESHOLD_", "200000000")];

/// Starts this process over with the settings, unless it has them.
pub fn keep() {
    if SETTINGS.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    // A table's arena would get two megabytes of zeros at its first record. It lasts through exec;
    // who cannot have it is slower.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let Ok(program) = std::env::current_exe() else { return };
    // Only returns when it fails, and then the run is slower.
    let _ =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(SETTINGS).exec();
}
