//! `dump`: a file as it is: a segment or a run frame by frame, a manifest line by line.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use tidelog::fs::Os;
use tidelog::segment::{DumpLine, dump};
use tidelog::table::{ManifestLines, RunLine, dump_manifest, dump_run, is_run};
use tidelog::text::format_time;

use crate::exit::{Failure, Outcome};
use crate::output;

/// Print a segment's or run's frames and checksums as NDJSON, a checkpoint's or snapshot's lines as
/// one object
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog dump mylog/segments/00000000000000000000.seg

Files of a table (mylog/table/*.run, *.checkpoint) and of a directory of snapshots are shown, too. Exit 1 when a frame does not hold.")]
pub(crate) struct Dump {
    /// A segment, or a run, a checkpoint or a snapshot of a table
    file: PathBuf,
}

impl Dump {
    pub(crate) fn run(self) -> Outcome {
        if let Some(manifest) = dump_manifest(&Os, &self.file)? {
            return output::line(describe_manifest(&manifest));
        }
        let mut out = BufWriter::new(std::io::stdout().lock());
        let mut damaged = false;
        let mut failed = None;
        let mut print = |line: Value| {
            damaged |= line["what"] == "damage";
            if let Err(e) = writeln!(out, "{line}") {
                failed = Some(Failure::from(e));
                return Err(tidelog::Error::new(tidelog::Kind::Io, "stdout is closed"));
            }
            Ok(())
        };
        let dumped = if is_run(&Os, &self.file)? {
            dump_run(&Os, &self.file, &mut |line| print(describe_run(&line)))
        } else {
            dump(&Os, &self.file, &mut |line| print(describe(&line)))
        };
        if let Some(failure) = failed {
            return Err(failure);
        }
        dumped?;
        out.flush()?;
        if damaged { Err(Failure::silent_no()) } else { Ok(()) }
    }
}

/// One object: keys that may stand on several lines are lists, numbers are numbers.
fn describe_manifest(manifest: &ManifestLines) -> Value {
    let mut object = Map::new();
    object.insert("what".into(), manifest.what.into());
    for (key, text) in &manifest.lines {
        let value = match key.as_str() {
            "nonce" => text.parse().map(|nonce: u64| format!("{nonce:016x}").into()).ok(),
            "log" | "digest" | "fingerprint" => None,
            _ => serde_json::from_str(text).ok().filter(Value::is_number),
        };
        let value = value.unwrap_or_else(|| text.as_str().into());
        if ["history", "producer", "lost", "run"].contains(&key.as_str()) {
            let list = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            list.as_array_mut().expect("made just now").push(value);
        } else {
            object.insert(key.clone(), value);
        }
    }
    Value::Object(object)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn describe(line: &DumpLine) -> Value {
    match line {
        DumpLine::Header(h) => json!({
            "what": "header", "byte": 0, "log": h.log.to_string(), "log_byte": h.base.0,
            "base_offset": h.base_offset.0, "epoch": h.epoch.number,
            "nonce": format!("{:016x}", h.epoch.nonce), "salt": format!("{:016x}", h.salt),
            "created": format_time(h.created),
            "previous": h.previous.map(|link| json!({
                "log_byte": link.base.0, "end": link.end.0,
                "fingerprint": link.fingerprint.to_string(),
            })),
        }),
        DumpLine::Frame { byte, log_byte, offset, header, claim, producer, epoch_start, lost } => {
            let mut value = json!({
                "what": "frame", "byte": byte, "log_byte": log_byte, "kind": header.kind.as_str(),
                "len": header.len, "offset": offset, "count": header.count,
                "ts": format_time(header.max_timestamp), "durable": claim,
                "flags": header.flags, "head_crc": format!("{:08x}", header.head_crc),
                "body_crc": format!("{:08x}", header.body_crc),
            });
            if let Some(p) = producer {
                value["producer"] = json!({ "id": p.id.to_string(), "sequence": p.sequence });
            }
            if let Some(e) = epoch_start {
                value["epoch_start"] = json!({
                    "epoch": e.epoch.number, "nonce": format!("{:016x}", e.epoch.nonce),
                    "parent": e.parent.number, "fork": e.fork, "fork_offset": e.fork_offset,
                    "node": e.node.to_string(), "reason": e.reason,
                });
                if !e.gave_up.is_empty() {
                    let gone = e.gave_up.iter().map(|gone| {
                        let nonce = format!("{:016x}", gone.epoch.nonce);
                        json!({ "epoch": gone.epoch.number, "nonce": nonce, "from": gone.from })
                    });
                    value["epoch_start"]["gave_up"] = gone.collect();
                }
            }
            if let Some(l) = lost {
                value["lost"] =
                    json!({ "count": l.count, "fingerprint": format!("{:08x}", l.fingerprint) });
            }
            value
        }
        DumpLine::Damage { byte, end, fault } => json!({
            "what": "damage", "byte": byte, "end": end, "found": fault.as_str(),
        }),
        DumpLine::End { byte } => json!({ "what": "end", "byte": byte }),
        DumpLine::Footer(f) => json!({
            "what": "footer", "log_byte": f.base.0, "data_end": f.data_end,
            "base_offset": f.base_offset.0, "end_offset": f.end_offset.0, "frames": f.frames,
            "index_byte": f.index_byte, "index_entries": f.index_entries,
            "producers": f.producers_count, "hash": hex(&f.hash),
            "previous_hash": hex(&f.previous_hash),
        }),
        _ => Value::Null,
    }
}

fn describe_run(line: &RunLine) -> Value {
    let key = |key: &[u8]| key.escape_ascii().to_string();
    match line {
        RunLine::Head { log } => json!({ "what": "head", "byte": 0, "log": log.to_string() }),
        RunLine::Frame { byte, header, first_key, last_key } => json!({
            "what": "frame", "byte": byte, "kind": header.kind.as_str(), "len": header.len,
            "row": header.rel_offset, "count": header.count,
            "ts": format_time(header.max_timestamp), "first_key": key(first_key),
            "last_key": key(last_key), "head_crc": format!("{:08x}", header.head_crc),
            "body_crc": format!("{:08x}", header.body_crc),
        }),
        RunLine::Index { byte, bytes, blocks, rows, filter_lines } => json!({
            "what": "index", "byte": byte, "len": bytes, "blocks": blocks, "rows": rows,
            "filter_lines": filter_lines,
        }),
        RunLine::Damage { byte, end, what } => json!({
            "what": "damage", "byte": byte, "end": end, "found": what,
        }),
        RunLine::Footer { rows, deletes, offsets, blocks, sections, top_byte, hash } => json!({
            "what": "footer", "rows": rows, "deletes": deletes,
            "min_offset": offsets.map(|(min, _)| min.0),
            "max_offset": offsets.map(|(_, max)| max.0), "blocks": blocks, "sections": sections,
            "top_byte": top_byte, "hash": hex(hash),
        }),
        _ => Value::Null,
    }
}
