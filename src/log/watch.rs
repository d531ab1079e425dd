//! Waiting for another process to write: file events as a hint, the time as the truth.

use std::time::Duration;

use super::files::Layout;

/// Wakes when something happens in a log's directory, as far as the system says so.
#[derive(Debug)]
pub(crate) struct Watch {
    #[cfg(feature = "notify")]
    events: Option<Events>,
}

#[cfg(feature = "notify")]
#[derive(Debug)]
struct Events {
    received: std::sync::mpsc::Receiver<()>,
    /// Dropping it ends the watch.
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Watches the directory's STATE and its segments.
    pub(crate) fn new(layout: &Layout) -> Self {
        #[cfg(feature = "notify")]
        {
            Watch { events: events(layout) }
        }
        #[cfg(not(feature = "notify"))]
        {
            let _ = layout;
            Watch {}
        }
    }

    /// Waits for an event, at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        #[cfg(feature = "notify")]
        if let Some(events) = &self.events {
            if events.received.recv_timeout(timeout).is_ok() {
                // One look serves all that have come meanwhile.
                while events.received.try_recv().is_ok() {}
                return;
            }
            return;
        }
        std::thread::sleep(timeout);
    }
}

#[cfg(feature = "notify")]
fn events(layout: &Layout) -> Option<Events> {
    use notify::{EventKind, RecursiveMode, Watcher};
    // A full channel holds a wake-up already; more would only pile up.
    let (sender, received) = std::sync::mpsc::sync_channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = sender.try_send(());
        }
    })
    .ok()?;
    watcher.watch(&layout.root, RecursiveMode::NonRecursive).ok()?;
    watcher.watch(&layout.segments(), RecursiveMode::NonRecursive).ok()?;
    Some(Events { received, _watcher: watcher })
}
