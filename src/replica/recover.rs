//! Opening a follower's directory: what is whole stays, what is not is set aside and fetched again.
//!
//! A follower's frames carry its leader's watermarks, which prove nothing about this disk. So
//! whatever lies behind the last whole frame goes to quarantine and is cut off; what lies between
//! the end that this node's own STATE and footers prove and the last whole frame is written again
//! in place and synced, because the page cache may show bytes that never landed. Losing what
//! STATE called durable is reported, and healed the same way: the leader has it.
//!
//! CONTROL remembers such a loss, from before the evidence of it goes until all of it is here again:
//! however often the node starts meanwhile, it counts for nothing.

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{HEADER_BYTES as FRAME_HEADER, Header};
use crate::fs::{Fs, Open};
use crate::log::cut;
use crate::log::files::{Control, Epochs, Layout, LogFile, State, UNKNOWN, missing};
use crate::log::promises::Promises;
use crate::log::scan::{Beyond, Found, Known, Scan};
use crate::log::start::{copy_over, set_aside, settle};
use crate::position::{Id, LogByte};
use crate::segment::{
    HEADER_BYTES, Index, PAGE_BYTES, SegmentHeader, SegmentName, Tally, Window, seal,
};

use crate::table::SnapshotName;

use super::copy::{Active, Copy, Mark};
use super::hashing::{HashBeside, SoFar};
use super::rejoin::Rejoined;

/// What opening a follower found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerReport {
    /// Bytes that were set aside in quarantine, to be fetched again.
    pub bytes_cut: u64,
    /// Whether anything that was durable here has been lost, now or before an earlier opening, and
    /// has not been fetched again.
    pub unclean: bool,
    /// The snapshot that this copy began with just now.
    pub snapshot: Option<SnapshotName>,
    /// What was cut from this copy just now, because its source's history is another behind there.
    pub rejoined: Option<Rejoined>,
    /// What else was found, in words.
    pub findings: Vec<String>,
}

/// Brings the directory in order. The caller holds its lock.
pub(super) fn recover(
    fs: Arc<dyn Fs>,
    layout: Layout,
    node: Id,
    mut control: Control,
) -> Result<(Copy, FollowerReport)> {
    let mut report = FollowerReport::default();
    let segments = layout.segments();
    // Lost, perhaps, with a directory that was never synced: then it was empty.
    fs.create_dir(&segments).map_err(|e| Error::io("create", &segments, e))?;
    sweep(&*fs, &layout)?;
    let log = LogFile::read(&*fs, &layout)?;
    if control.belongs_to(log.id) {
        cut::finish(&*fs, &layout, &mut control)?;
    }
    let epochs = Epochs::read(&*fs, &layout)?;
    let state = State::read(&*fs, &layout);
    let before = control.clone();
    let known = Known {
        fs: &fs,
        layout: &layout,
        log,
        node,
        control: &before,
        epochs: &epochs,
        state,
        footers: None,
    };
    let mut scan = scan(&known, &mut control, &mut report)?;
    // What this node dropped when it led, and was interrupted.
    for path in &scan.leftovers {
        fs.unlink(path).map_err(|e| Error::io("remove", path, e))?;
    }
    let committed = match before.holds_commits() {
        true => known.committed(&scan),
        false => (scan.end, scan.end_offset),
    };
    report.findings.append(&mut scan.findings);
    if scan.durable > reached(&scan) {
        report.unclean = true;
        remember(&*fs, &layout, &mut control, scan.durable)?;
        report.findings.push(format!(
            "log bytes {} to {} were durable here ({} proves it) and are damaged or gone; they \
             are fetched again",
            scan.end, scan.durable, scan.proof
        ));
    }
    drop_behind(&*fs, &layout, &mut scan, &mut report)?;
    let sealed = scan.found.iter().filter_map(|found| Some((found.header.base, found.footer?)));
    let footers = Arc::new(sealed.collect());
    let promises = Promises::open(&fs, &layout)?;
    // An epoch is promised before it is copied: what this node was bound to is not known any more.
    if !scan.found.is_empty() && promises.get().is_none() {
        return Err(missing(&layout.promise(), "PROMISE"));
    }
    let mut copy = Copy {
        log: log.id,
        promises,
        node,
        control,
        epochs,
        sealed: None,
        footers,
        active: None,
        committed,
        failed: None,
        state_seq: state.map_or(0, |state| state.seq),
        state_file: None,
        threads: false,
        early: None,
        under_way: None,
        hasher: HashBeside::default(),
        buffer: Vec::new(),
        spare: Vec::new(),
        fs,
        layout,
    };
    // A set whose frame did not come as far as this disk is fetched again with it.
    let end = scan.end;
    copy.control.cut_sets(end);
    adopt(&mut copy, scan, state.map_or(LogByte(0), |state| state.durable))?;
    if copy.control.lost_below == Some(UNKNOWN) {
        // Something new is to be fetched before it counts.
        copy.control.lost_below = Some(LogByte(copy.end().log_byte.0 + 1));
        copy.control.write(&*copy.fs, &copy.layout)?;
    }
    copy.take_back(copy.end().log_byte)?;
    copy.mend()?;
    match copy.control.lost_below {
        Some(lost) if !report.unclean => report.findings.push(format!(
            "log bytes {} to {lost} were durable here, were lost, and have not been fetched again \
             since",
            copy.end().log_byte
        )),
        _ => {}
    }
    report.unclean |= copy.control.lost_below.is_some();
    // Sealing takes the end a little further, and with it what was committed as a whole.
    let sealed = copy.end();
    if !copy.control.holds_commits() {
        copy.committed = (sealed.log_byte, sealed.offset);
    }
    Ok((copy, report))
}

/// Notes durably that everything below `lost` was here. What proved it may go after that.
fn remember(fs: &dyn Fs, layout: &Layout, control: &mut Control, lost: LogByte) -> Result<()> {
    if control.lost_below.is_some_and(|known| known >= lost) {
        return Ok(());
    }
    control.lost_below = Some(lost);
    control.write(fs, layout)
}

/// Where what is whole ends. A SEAL counts even if its footer was lost: sealing again gives both.
fn reached(scan: &Scan) -> LogByte {
    match scan.found.last() {
        Some(Found { header, unsealed: Some(last), .. })
            if last.end.fault.is_none() && last.end.byte < last.file_bytes =>
        {
            scan.end.max(LogByte(last.tally.sealed_end(header)))
        }
        _ => scan.end,
    }
}

/// Removes what an interrupted run was making.
fn sweep(fs: &dyn Fs, layout: &Layout) -> Result<()> {
    for directory in [layout.root.clone(), layout.segments()] {
        let names = fs.list(&directory).map_err(|e| Error::io("list", &directory, e))?;
        for name in names.iter().filter(|name| name.ends_with(".tmp")) {
            let path = directory.join(name);
            fs.unlink(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Scans; a segment that cannot even be told what it is goes to quarantine, with those behind it.
fn scan(known: &Known<'_>, control: &mut Control, report: &mut FollowerReport) -> Result<Scan> {
    loop {
        let error = match known.scan() {
            Err(error) if error.kind() == Kind::Corrupt => error,
            other => return other,
        };
        let segments = known.layout.segments();
        let name_of = |path: &std::path::Path| SegmentName::parse(path.file_name()?.to_str()?);
        let bad = error.file().filter(|path| path.parent() == Some(&segments)).and_then(name_of);
        let Some(bad) = bad else { return Err(error) };
        report.unclean = true;
        report.findings.push(format!("{error}: set aside with what follows, and fetched again"));
        let names = known.fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
        let (mut beyond, mut newest) = (Vec::new(), bad);
        for name in names.iter().filter_map(|name| SegmentName::parse(name)) {
            if name >= bad {
                let path = name.path(&segments);
                let io = |e| Error::io("read", &path, e);
                let bytes = known.fs.open(&path, Open::Read).map_err(io)?.len().map_err(io)?;
                report.bytes_cut += bytes;
                newest = newest.max(name);
                beyond.push(Beyond { path, from: 0, bytes });
            }
        }
        if beyond.is_empty() {
            return Err(error);
        }
        // A segment has its name once its first frame is durable, and so all that lies before it.
        remember(&**known.fs, known.layout, control, LogByte(newest.0.0.saturating_add(1)))?;
        set_aside(&**known.fs, known.layout, &mut beyond, REASON)?;
    }
}

const REASON: &str = "behind the last whole frame of a follower: fetched again from its source";

/// Sets aside what lies behind the last whole frame.
fn drop_behind(
    fs: &dyn Fs,
    layout: &Layout,
    scan: &mut Scan,
    report: &mut FollowerReport,
) -> Result<()> {
    report.bytes_cut += scan.beyond.iter().map(|beyond| beyond.bytes).sum::<u64>();
    set_aside(fs, layout, &mut scan.beyond, REASON)?;
    if let Some(last) = scan.found.last().and_then(|found| found.unsealed.as_ref())
        && last.end.fault.is_some()
        && last.file_bytes > last.tally.end
    {
        // Whatever stands where frames were to come goes too, and the page is filled up again.
        let path = &scan.found.last().expect("looked at just now").path;
        let file = fs.open(path, Open::Write).map_err(|e| Error::io("open", path, e))?;
        let page_end = last.tally.end.next_multiple_of(PAGE_BYTES);
        file.set_len(last.tally.end)
            .and_then(|()| file.set_len(page_end))
            .map_err(|e| Error::io("cut", path, e))?;
    }
    Ok(())
}

/// Takes over what is whole: makes it durable, seals what was about to be sealed.
fn adopt(copy: &mut Copy, scan: Scan, told: LogByte) -> Result<()> {
    let durable = scan.durable.min(scan.end);
    let fs = Arc::clone(&copy.fs);
    let count = scan.found.len();
    let mut settled = false;
    for (i, found) in scan.found.into_iter().enumerate() {
        let Some(unsealed) = found.unsealed else {
            let newest = found.footer.filter(|footer| i + 1 == count && footer.end() > told);
            if newest.is_some() {
                // Closes the crash that takes back a seal which a process wrote, died before it had synced, and
                // this one acknowledges. Sealed, it may be mapped: another file takes its place.
                let io = |e| Error::io("read", &found.path, e);
                let file = fs.open(&found.path, Open::Read).map_err(io)?;
                copy_over(&*fs, &*file, &found.path, file.len().map_err(io)?)?;
                settled = true;
            }
            copy.sealed = found.footer;
            continue;
        };
        settle(&*fs, &found.path, &found.header, unsealed.tally.end, durable)?;
        settled = true;
        let io = |e| Error::io("open", &found.path, e);
        let file = fs.open(&found.path, Open::Write).map_err(io)?;
        if i + 1 < count {
            // What follows it says that it is complete.
            let previous = copy.previous_hash();
            let sealed = seal(&file, &found.path, &found.header, &unsealed.tally, previous)?;
            copy.sealed = Some(sealed.footer);
            continue;
        }
        let mut page = vec![0; 4096];
        file.read_exact_at(&mut page, 0).map_err(io)?;
        let mut window = Window::file(Arc::clone(&file));
        let last_frame = last_frame(&mut window, &found.header, &unsealed.tally).map_err(io)?;
        copy.active = Some(Active {
            path: found.path,
            file,
            header: found.header,
            page,
            tally: unsealed.tally,
            last_frame,
            hash: SoFar::Unknown,
            unsynced: false,
            synced: Mark::default(),
            dirty: 0,
        });
    }
    if settled {
        let segments = copy.layout.segments();
        // Closes the crash that forgets the names of segments whose frames are now durable.
        fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e))?;
    }
    Ok(())
}

/// Where the last frame starts: found by hopping from the last index entry.
fn last_frame(window: &mut Window, header: &SegmentHeader, tally: &Tally) -> std::io::Result<u64> {
    let index = tally.index.as_bytes();
    let entry = Index::entries(index).checked_sub(1).and_then(|last| Index::entry(index, last));
    let mut byte = entry.map_or(HEADER_BYTES, |entry| entry.byte);
    loop {
        let bytes = window.bytes(byte, FRAME_HEADER, tally.end)?;
        let head = Header::decode(bytes, byte, tally.end, header.seed())
            .map_err(|fault| std::io::Error::other(fault.as_str()))?;
        let next = byte + head.stride() as u64;
        if next >= tally.end {
            return Ok(byte);
        }
        byte = next;
    }
}
