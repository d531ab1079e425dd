//! What a follower leaves in the directory it pulls from: `followers/<node>.json`, how far it is.
//!
//! ```text
//! {"version":1,"log":"…","node":"…","name":"copy","epoch":3,"epoch_nonce":"…",
//!  "log_byte":4096,"received":42,"durable":42,"applied":40,"time":1796000000000000000}
//! ```
//!
//! Written by [`Directory`](super::Directory) for followers that have a name, read by whoever shows the
//! state of a directory that nobody serves. Invariants:
//! - a hint for people, and for who decides what retention may drop: it acknowledges nothing, and nothing
//!   is kept or dropped because of it alone;
//! - it is written only when something changed and at most once a second; that it cannot be written
//!   is no error;
//! - whoever may write the directory may have written anything: what is not exactly a small plain file
//!   of this log, under its own node's name, is passed over.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fs::{Fs, Open};
use crate::log::files::Layout;
use crate::position::{Epoch, Id, LogByte, Offset, Position};

use super::Report;

const VERSION: u32 = 1;
/// No file is larger.
const MOST_BYTES: u64 = 4096;
/// A name is cut here.
const MOST_NAME_BYTES: usize = 200;
/// More are not read.
const MOST: usize = 1000;
/// Between two writes.
const EVERY: Duration = Duration::from_secs(1);
/// A directory that takes no writes is tried again after this.
const PAUSE: Duration = Duration::from_secs(60);

/// How far a follower of a directory was when that last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// Who.
    pub node: Id,
    /// What people call it.
    pub name: String,
    /// Behind the last record that arrived.
    pub received: Offset,
    /// Behind what it has synced.
    pub durable: Position,
    /// Behind the last record in its table.
    pub applied: Offset,
    /// When it wrote this, by its own clock: nanoseconds since the Unix epoch.
    pub time: i64,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    log: String,
    node: String,
    name: String,
    epoch: u64,
    epoch_nonce: String,
    log_byte: u64,
    received: u64,
    durable: u64,
    applied: u64,
    time: i64,
}

impl Notice {
    fn encode(&self, log: Id) -> Vec<u8> {
        let Position { epoch, log_byte, offset } = self.durable;
        let written = Written {
            version: VERSION,
            log: log.to_string(),
            node: self.node.to_string(),
            name: self.name.clone(),
            epoch: epoch.number,
            epoch_nonce: format!("{:016x}", epoch.nonce),
            log_byte: log_byte.0,
            received: self.received.0,
            durable: offset.0,
            applied: self.applied.0,
            time: self.time,
        };
        let mut bytes = serde_json::to_vec(&written).expect("plain values");
        bytes.push(b'\n');
        bytes
    }

    /// Reads what may be anything.
    fn decode(bytes: &[u8], log: Id, node: Id) -> Option<Self> {
        let written: Written = serde_json::from_slice(bytes).ok()?;
        let ids = (written.log.parse::<Id>().ok()?, written.node.parse::<Id>().ok()?);
        let nonce = u64::from_str_radix(&written.epoch_nonce, 16).ok()?;
        (written.version == VERSION && ids == (log, node)).then(|| Notice {
            node,
            name: plain(written.name),
            received: Offset(written.received),
            durable: Position {
                epoch: Epoch { number: written.epoch, nonce },
                log_byte: LogByte(written.log_byte),
                offset: Offset(written.durable),
            },
            applied: Offset(written.applied),
            time: written.time,
        })
    }

    /// Those in a directory of this log.
    pub(super) fn read_all(fs: &dyn Fs, layout: &Layout, log: Id) -> Vec<Self> {
        let directory = layout.followers();
        if !is_plain(fs, &directory) {
            return Vec::new();
        }
        let names = fs.list(&directory).unwrap_or_default();
        let nodes = names.iter().filter_map(|name| {
            let node: Id = name.strip_suffix(".json")?.parse().ok()?;
            (file_name(node) == *name).then_some(node)
        });
        let read = |node: Id| {
            let file = fs.open_plain(&directory.join(file_name(node))).ok()?;
            let mut bytes = vec![0; usize::try_from(MOST_BYTES).ok()? + 1];
            let read = file.read_full_at(&mut bytes, 0).ok()?;
            bytes.truncate(read);
            (read as u64 <= MOST_BYTES).then(|| Notice::decode(&bytes, log, node))?
        };
        nodes.take(MOST).filter_map(read).collect()
    }
}

fn file_name(node: Id) -> String {
    format!("{node}.json")
}

/// A name without what would trouble a terminal, and not too long.
fn plain(mut name: String) -> String {
    name.retain(|c| !c.is_control());
    while name.len() > MOST_NAME_BYTES {
        name.pop();
    }
    name
}

/// Whether it is a directory of its own, and not a link that leads somewhere else.
fn is_plain(fs: &dyn Fs, directory: &Path) -> bool {
    let parent = directory.parent().and_then(|parent| fs.canonical(parent).ok());
    let expected = parent.zip(directory.file_name()).map(|(parent, name)| parent.join(name));
    fs.canonical(directory).is_ok_and(|real| Some(real) == expected)
}

/// Leaves notices, for one follower.
#[derive(Debug)]
pub(super) struct Desk {
    name: String,
    /// What the file says, but for the time.
    said: Option<Notice>,
    /// No write before, on the clock that never jumps.
    due: Option<u64>,
}

impl Desk {
    pub(super) fn new(name: String) -> Self {
        Desk { name: plain(name), said: None, due: None }
    }

    /// Notes how far a follower of `log` is. When it `leaves` and has written nothing yet, at once.
    pub(super) fn note(
        &mut self,
        (fs, layout): (&dyn Fs, &Layout),
        log: Id,
        report: &Report,
        leaves: bool,
    ) {
        let Some(node) = report.node.filter(|_| report.log == Some(log)) else { return };
        let now = fs.elapsed();
        let after = |pause: Duration| {
            now.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))
        };
        let due = *self.due.get_or_insert_with(|| if leaves { now } else { after(EVERY) });
        if now < due && !(leaves && self.said.is_none()) {
            return;
        }
        let mut notice = Notice {
            node,
            name: self.name.clone(),
            received: report.received.offset,
            durable: report.durable,
            applied: report.applied.offset,
            time: 0,
        };
        if self.said.as_ref() == Some(&notice) {
            return;
        }
        let said = notice.clone();
        notice.time = fs.now();
        let written = write(fs, layout, &notice, log);
        self.due = Some(after(if written.is_ok() { EVERY } else { PAUSE }));
        if written.is_ok() {
            self.said = Some(said);
        }
    }
}

/// Replaces the file as a whole. Nothing is synced: what a power cut leaves is passed over.
fn write(fs: &dyn Fs, layout: &Layout, notice: &Notice, log: Id) -> io::Result<()> {
    let directory = layout.followers();
    fs.create_dir(&directory)?;
    if !is_plain(fs, &directory) {
        return Err(io::Error::other("a link is not followed here"));
    }
    let path = directory.join(file_name(notice.node));
    let temporary = path.with_extension("json.tmp");
    match fs.unlink(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs.open(&temporary, Open::Create)?.write_all_at(&notice.encode(log), 0)?;
    fs.rename(&temporary, &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Os;
    use crate::fs::sim::Sim;

    const LOG: Id = Id([7; 16]);
    const SECOND: Duration = Duration::from_secs(1);

    fn report(node: u8, offset: u64) -> Report {
        let at = Position {
            epoch: Epoch { number: 3, nonce: u64::MAX },
            log_byte: LogByte(offset * 10),
            offset: Offset(offset),
        };
        Report {
            log: Some(LOG),
            node: Some(Id([node; 16])),
            received: at,
            durable: at,
            applied: at,
            ..Report::default()
        }
    }

    #[test]
    fn a_notice_is_written_at_most_once_a_second_and_only_when_something_changed() {
        let sim = Sim::new(1);
        let (fs, layout) = (sim.shared(), Layout::new(Path::new("/log")));
        fs.create_dir(&layout.root).unwrap();
        let mut desk = Desk::new("edge\u{7} 1".into());
        let mut note = |report: &Report, leaves| {
            let before = sim.operations();
            desk.note((&*fs, &layout), LOG, report, leaves);
            sim.operations() > before
        };
        assert!(!note(&Report { node: None, ..report(1, 5) }, true), "nobody yet");
        assert!(!note(&Report { log: Some(Id([8; 16])), ..report(1, 5) }, true), "another log");
        assert!(!note(&report(1, 5), false), "who has just come is still on its way");
        assert!(note(&report(1, 6), true), "who goes says where it got to");
        sim.advance(SECOND / 2);
        assert!(!note(&report(1, 7), false) && !note(&report(1, 7), true));
        sim.advance(SECOND);
        assert!(note(&report(1, 7), false));
        sim.advance(60 * SECOND);
        assert!(!note(&report(1, 7), false), "nothing changed");
        let read = Notice::read_all(&*fs, &layout, LOG);
        assert_eq!((read.len(), read[0].name.as_str()), (1, "edge 1"));
        assert_eq!((read[0].durable, read[0].applied), (report(1, 7).durable, Offset(7)));
        assert!(read[0].time > 0);
        assert_eq!(Notice::read_all(&*fs, &layout, Id([8; 16])), []);
    }

    #[test]
    fn strange_files_are_passed_over_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (fs, layout) = (Os::shared(), Layout::new(&root.join("log")));
        std::fs::create_dir(&layout.root).unwrap();
        let mut desk = Desk::new("x".repeat(5000));
        desk.note((&*fs, &layout), LOG, &report(1, 5), true);
        let good = Notice::read_all(&*fs, &layout, LOG);
        assert_eq!((good.len(), good[0].name.len()), (1, MOST_NAME_BYTES));
        let path = |name: &str| layout.followers().join(name);
        let bytes = std::fs::read(path(&file_name(Id([1; 16])))).unwrap();
        let put = |node: u8, bytes: &[u8]| {
            std::fs::write(path(&file_name(Id([node; 16]))), bytes).unwrap();
        };
        // Torn anywhere, another's, of another version, too large, no text, deeply nested.
        for len in 0..bytes.len() - 1 {
            put(2, &bytes[..len]);
            assert_eq!(Notice::read_all(&*fs, &layout, LOG), good, "{len} bytes");
        }
        let text = String::from_utf8(bytes).unwrap();
        let own = |n: u8| text.replace(&Id([1; 16]).to_string(), &Id([n; 16]).to_string());
        put(2, text.as_bytes());
        put(3, own(3).replace("\"version\":1", "\"version\":2").as_bytes());
        put(4, format!("{}{}", own(4), " ".repeat(5000)).as_bytes());
        put(5, &[0xff; 300]);
        put(6, "[".repeat(4000).as_bytes());
        put(7, own(7).replace("\"applied\":5", "\"applied\":-5").as_bytes());
        put(8, own(8).replace("\"applied\":5", "\"applied\":1e300").as_bytes());
        std::fs::write(path("notes.txt"), "x").unwrap();
        std::fs::create_dir(path(&file_name(Id([9; 16])))).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path(&file_name(Id([10; 16])))).unwrap();
        assert_eq!(Notice::read_all(&*fs, &layout, LOG), good);
        // The control: this one is read.
        put(2, own(2).as_bytes());
        assert_eq!(Notice::read_all(&*fs, &layout, LOG).len(), 2);

        // A directory that is a link is neither read nor written.
        let elsewhere = root.join("elsewhere");
        std::fs::rename(layout.followers(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, layout.followers()).unwrap();
        assert_eq!(Notice::read_all(&*fs, &layout, LOG), []);
        let mut desk = Desk::new("y".into());
        desk.note((&*fs, &layout), LOG, &report(11, 5), true);
        assert!(!elsewhere.join(file_name(Id([11; 16]))).exists());
        // That it cannot be written is no error, and is not tried at each look.
        std::fs::remove_file(layout.followers()).unwrap();
        std::fs::write(layout.followers(), "a file").unwrap();
        let mut desk = Desk::new("z".into());
        desk.note((&*fs, &layout), LOG, &report(12, 5), true);
        let due = desk.due.unwrap();
        assert!(due > fs.elapsed() + 50_000_000_000, "{due}");
    }
}
