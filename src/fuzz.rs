//! Entry points for cargo-fuzz (feature `fuzz`), and the replay of their corpora as ordinary tests.
//!
//! Each takes any bytes and may only return or reject: a panic, an endless loop, an allocation
//! beyond a limit, or a wrong answer is a finding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::frame::{EpochStart, Frame, Lost, Seed};
use crate::fs::Fs;
use crate::fs::sim::Sim;
use crate::log::{Durability, Log};
use crate::position::{Id, Offset};
use crate::record::{Batch, Record};
use crate::segment::{DumpLine, FOOTER_BYTES, Footer, Index, Producers, SegmentHeader, dump};
use crate::text::{Fields, Format, Next, Range, Reader, parse_envelope, write_envelope};

/// A frame from bytes: whatever decodes must also give up its records one by one.
pub fn frame(data: &[u8]) {
    let seed = Seed::new(Id([7; 16]), 9);
    // A checksum keeps random bytes out; fixing it up lets the fuzzer behind it.
    let mut fixed = data.to_vec();
    fix_frame(&mut fixed, seed);
    for bytes in [data, &fixed] {
        let Ok(frame) = Frame::decode(bytes, 4096, u64::MAX, seed) else { continue };
        let _ = frame.producer();
        let _ = EpochStart::decode(frame.body);
        let _ = Lost::decode(frame.body);
        let Ok(records) = frame.records() else { continue };
        for i in 0..records.len() + 1 {
            let Ok(record) = records.get(i) else { break };
            assert!(record.value.len() <= frame.body.len());
        }
    }
}

/// The note beside what a rejoin kept.
pub fn diverged_note(data: &[u8]) {
    let _ = crate::replica::rejoin::diverged::fuzz(data);
}

fn fix_frame(bytes: &mut [u8], seed: Seed) {
    let Some((header, body)) = bytes.split_first_chunk_mut::<32>() else { return };
    let len = 32 + body.len() / 8 * 8;
    header[..4].copy_from_slice(&u32::try_from(len).unwrap_or(0).to_le_bytes());
    let crc = crate::crc::crc32c(&body[..len - 32]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = seed.head_crc(4096, header);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Any bytes as a segment file: dumped to the end without a panic.
pub fn segment_open(data: &[u8]) {
    let sim = Sim::new(1);
    let path = Path::new("/segment");
    sim.write(path, data);
    let _ = SegmentHeader::decode(data);
    let mut lines = 0;
    let _ = dump(&sim, path, &mut |line| {
        lines += 1;
        if let DumpLine::Frame { header, .. } = line {
            assert!(header.len as usize <= data.len());
        }
        Ok(())
    });
    assert!(lines <= data.len() / 8 + 4);
}

/// Any bytes as a footer, an index block and a producers block.
pub fn footer_index(data: &[u8]) {
    if let Some(footer) = data.last_chunk::<FOOTER_BYTES>() {
        let mut fixed = *footer;
        fixed[..8].copy_from_slice(b"TIDEFOOT");
        fixed[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        let crc = crate::crc::crc32c(&fixed[..252]);
        fixed[252..].copy_from_slice(&crc.to_le_bytes());
        for footer in [footer, &fixed] {
            if let Ok(Some(footer)) = Footer::decode(footer, data.len() as u64) {
                assert!(footer.index_byte <= data.len() as u64);
                assert!(footer.producers_byte <= footer.index_byte);
            }
        }
    }
    for i in 0..Index::entries(data) + 1 {
        let _ = Index::entry(data, i);
    }
    let _ = Index::find_offset(data, 5);
    let _ = Index::find_time(data, 5);
    let _ = Producers::decode(data);
}

/// A log on the simulated disk whose files the input damages: opening, reading and verifying
/// never panic, and no record comes back other than it was written.
pub fn recovery_image(data: &[u8]) {
    let sim = Sim::new(7);
    let fs: Arc<dyn Fs> = Arc::new(sim.clone());
    let path = PathBuf::from("/log");
    let options = || {
        Log::options()
            .fs(Arc::clone(&fs))
            .worker(false)
            .segment_bytes(64 << 10)
            .durability(Durability::Durable)
    };
    let value = |i: u64| i.to_le_bytes().repeat(64);
    {
        let log = options().create(true).open(&path).expect("an undamaged disk");
        let mut batch = Batch::new();
        for i in 0..300 {
            batch.push(&Record::put(&[b'k', (i % 7) as u8], &value(i))).expect("small");
            if batch.len() == 3 {
                log.append_batch(&batch).expect("an undamaged disk");
                batch.clear();
            }
        }
        if data.first().is_some_and(|b| b & 1 == 1) {
            log.close().expect("an undamaged disk");
        } else {
            // The process dies; the machine does not.
            sim.kill();
            drop(log);
        }
    }
    let disk = sim.crash(&crate::fs::sim::Crash::KeepAll);
    let files: Vec<PathBuf> = disk.paths();
    // Each six bytes: which file, where, what.
    for step in data.get(1..).unwrap_or_default().chunks_exact(6) {
        let path = &files[usize::from(step[0]) % files.len()];
        let mut bytes = disk.read(path);
        let at = usize::from(u16::from_le_bytes([step[1], step[2]])) * 2;
        match step[3] % 4 {
            0 if at < bytes.len() => bytes[at] ^= step[4] | 1,
            1 => bytes.truncate(at),
            2 => bytes.extend_from_slice(step),
            _ if at < bytes.len() => {
                let end = bytes.len().min(at + usize::from(step[4]) * 16);
                bytes[at..end].fill(step[5]);
            }
            _ => {}
        }
        disk.write(path, &bytes);
    }
    let fs: Arc<dyn Fs> = Arc::new(disk);
    let options = || Log::options().fs(Arc::clone(&fs)).worker(false).segment_bytes(64 << 10);
    for options in [options().read_only(true), options()] {
        let Ok(log) = options.open(&path) else { continue };
        let Ok(mut cursor) = log.read(log.start()) else { continue };
        while let Ok(Some(entry)) = cursor.next() {
            assert!(entry.offset < Offset(300));
            assert_eq!(entry.record.value, value(entry.offset.0), "a wrong record came back");
        }
    }
}

/// Any bytes as a table's run: opened, read both ways, verified, without a panic.
pub fn run_open(data: &[u8]) {
    crate::table::fuzz_run(data);
}

/// Any bytes as NDJSON, envelopes and lines.
pub fn ingest_ndjson(data: &[u8]) {
    let fields = Fields { key: Some("id".into()), ts: Some("t".into()), ..Fields::default() };
    for format in [
        Format::Ndjson(fields),
        Format::Ndjson(Fields::default()),
        Format::Envelope,
        Format::Lines { key_delim: Some("=".into()) },
    ] {
        ingest(data, format);
    }
    // What an envelope says survives the way there and back.
    if let Ok(record) = parse_envelope(data) {
        let timestamp = record.timestamp.unwrap_or(0);
        let entry = crate::log::Entry {
            offset: Offset(0),
            epoch: 1,
            timestamp,
            record: record.as_record(),
        };
        let mut line = Vec::new();
        write_envelope(&entry, &mut line);
        let back = parse_envelope(&line).expect("what was written is read");
        assert_eq!((back.op, &back.key, &back.value), (record.op, &record.key, &record.value));
    }
}

/// Any bytes as CSV.
pub fn ingest_csv(data: &[u8]) {
    ingest(data, Format::Csv(Fields { key: Some("id".into()), ..Fields::default() }));
    ingest(data, Format::Csv(Fields::default()));
}

fn ingest(data: &[u8], format: Format) {
    let mut reader = Reader::new(data, format);
    let mut byte = 0;
    loop {
        match reader.next().expect("memory does not fail") {
            Next::End => break,
            Next::Record | Next::Bad(_) => {
                assert!(reader.byte() > byte, "every step gets on");
                byte = reader.byte();
            }
        }
    }
    assert!(reader.byte() <= data.len() as u64);
}

/// Any text as a range, a size, a duration.
pub fn range_parse(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Range::parse(text, 1_700_000_000_000_000_000);
    let _ = crate::text::parse_bytes(text);
    let _ = crate::text::parse_duration(text);
    let _ = text.parse::<crate::position::Token>();
}

/// Any bytes as the manifest of a checkpoint.
pub fn checkpoint_manifest(data: &[u8]) {
    crate::table::fuzz::checkpoint_manifest(data);
}

/// Any bytes as the manifest of a snapshot.
pub fn snapshot_manifest(data: &[u8]) {
    crate::table::fuzz::snapshot_manifest(data);
}

/// Any bytes as entries of an archive.
pub fn archive_entry(data: &[u8]) {
    crate::ship::archive::fuzz::archive_entry(data);
}

/// Any bytes as the name of an archive's object.
pub fn object_names(data: &[u8]) {
    crate::ship::archive::fuzz::object_names(data);
}

/// Any bytes as a fetch and as the reply to one; a checksum that is set right lets the fuzzer
/// behind it.
pub fn fetch_protocol(data: &[u8]) {
    use crate::ship::protocol::{PREFIX_BYTES, Request, WireReport, decode_reply};
    if let Ok((request, report)) = Request::decode(data) {
        let again = Request { report: WireReport::from(&report), ..request.clone() };
        let (_, back) = Request::decode(&again.encode()).expect("what was written is read");
        assert_eq!(back, report);
    }
    let mut fixed = data.to_vec();
    if let Some((prefix, rest)) = fixed.split_first_chunk_mut::<PREFIX_BYTES>() {
        prefix[..8].copy_from_slice(b"TIDFETCH");
        prefix[8..12].copy_from_slice(&1u32.to_le_bytes());
        let head = u32::from_le_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]) as usize;
        let head = head % (rest.len() + 1);
        prefix[12..16].copy_from_slice(&u32::try_from(head).unwrap_or(0).to_le_bytes());
        prefix[16..24].copy_from_slice(&((rest.len() - head) as u64).to_le_bytes());
        prefix[24..28].copy_from_slice(&crate::crc::crc32c(&rest[head..]).to_le_bytes());
        let crc = crate::crc::joined(&[&prefix[..28], &rest[..head]]);
        prefix[28..].copy_from_slice(&crc.to_le_bytes());
    }
    for bytes in [data, &fixed] {
        let Ok((head, parts)) = decode_reply(bytes) else { continue };
        let sum: u64 = head.parts.iter().map(|part| part.bytes).sum();
        assert_eq!(sum, parts.len() as u64);
    }
}

/// Any text as a range header: what is served lies inside the file.
pub fn http_request(data: &[u8]) {
    use crate::ship::range::{Ranged, parse_range};
    let Ok(text) = std::str::from_utf8(data) else { return };
    for file_bytes in [0, 1, 4096, u64::MAX] {
        if let Ranged::Part { from, bytes } = parse_range(text, file_bytes) {
            assert!(bytes > 0 && from < file_bytes && bytes <= file_bytes - from, "{text}");
        }
    }
}

/// Reads a file of the seed corpus through the target it belongs to.
pub fn replay(target: &str, data: &[u8]) -> bool {
    match target {
        "frame" => frame(data),
        "segment_open" => segment_open(data),
        "footer_index" => footer_index(data),
        "recovery_image" => recovery_image(data),
        "run_open" => run_open(data),
        "ingest_ndjson" => ingest_ndjson(data),
        "ingest_csv" => ingest_csv(data),
        "range_parse" => range_parse(data),
        "checkpoint_manifest" => checkpoint_manifest(data),
        "diverged_note" => diverged_note(data),
        "snapshot_manifest" => snapshot_manifest(data),
        "archive_entry" => archive_entry(data),
        "object_names" => object_names(data),
        "fetch_protocol" => fetch_protocol(data),
        "http_request" => http_request(data),
        _ => return false,
    }
    true
}
