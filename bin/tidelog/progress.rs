//! Progress on stderr, when that is a terminal; and Ctrl-C as a flag.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes done; hidden when nobody looks.
pub(crate) fn bytes(total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left, {msg}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {binary_bytes_per_sec}, {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a constant template"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A sign of life for work that does not say how far it is; hidden when nobody looks.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a constant template"),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Seconds since `started`, to the microsecond.
pub(crate) fn seconds(started: Instant) -> f64 {
    rounded(started.elapsed())
}

/// Seconds, to the microsecond.
pub(crate) fn rounded(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e6
}

static INTERRUPTED: OnceLock<AtomicBool> = OnceLock::new();

/// Makes Ctrl-C and a polite kill set a flag, so that the verb ends between two steps.
pub(crate) fn catch_interrupts() {
    let flag = INTERRUPTED.get_or_init(|| AtomicBool::new(false));
    // A second one ends the process at once: the log survives that.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, AcqRel) {
            std::process::exit(130);
        }
    });
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Acquire))
}

/// The flag itself, for library calls that watch one.
pub(crate) fn interrupt_flag() -> &'static AtomicBool {
    INTERRUPTED.get_or_init(|| AtomicBool::new(false))
}
