//! What cargo-fuzz does to runs and manifests (feature `fuzz`): any bytes, also behind checksums
//! that hold.

use std::path::Path;
use std::sync::Arc;

use super::manifest::Manifest;
use super::row::Version;
use super::run::{self, Run, Writer};
use crate::fs::Fs;
use crate::fs::sim::Sim;
use crate::log::files::CHECKPOINT;
use crate::position::{Id, Offset};

const LOG: Id = Id([7; 16]);

/// Any bytes as a run; and a run that the bytes damage, its checksums made to hold again: nothing
/// panics, whatever is asked of it, and a walk ends.
pub(crate) fn run_open(data: &[u8]) {
    let sim = Sim::new(1);
    ask(&sim, data);
    let mut good = whole(&sim);
    for step in data.chunks_exact(4).take(16) {
        let at = usize::from(u16::from_le_bytes([step[0], step[1]])) % good.len();
        good[at] = step[2];
        if step[3] & 1 == 1 && at + 4 < good.len() {
            good[at..at + 4].copy_from_slice(&u32::from_le_bytes([step[2]; 4]).to_le_bytes());
        }
    }
    run::mend(&mut good);
    ask(&sim, &good);
}

/// A small run of two sections.
fn whole(sim: &Sim) -> Vec<u8> {
    let tmp = Path::new("/whole");
    let _ = sim.unlink(tmp);
    let mut writer = Writer::small(sim, tmp, LOG).expect("an empty disk");
    for n in 0..90u64 {
        let value = [b'v'; 300];
        let value = (n % 7 > 0).then_some(&value[..usize::try_from(n * 3).unwrap_or(0)]);
        let version = Version { value, offset: Offset(n), timestamp: -1 };
        writer.push(format!("key/{n:04}").as_bytes(), version).expect("room");
    }
    writer.finish().expect("room");
    sim.read(tmp)
}

fn ask(sim: &Sim, bytes: &[u8]) {
    let path = Path::new("/run");
    sim.write(path, bytes);
    let Ok(run) = Run::open(sim, path, LOG, false) else { return };
    let run = Arc::new(run);
    for key in [&b""[..], b"key/0000", b"key/0033", b"key/0089", b"key/00890", b"z"] {
        if let Ok(Some(found)) = run.get(key, run::hash(key)) {
            let _ = found.version();
        }
        for reverse in [false, true] {
            let mut cursor = run.cursor(reverse);
            let mut steps = 0;
            let mut outcome = cursor.seek(Some(key));
            while outcome.is_ok() && cursor.current().is_some() {
                steps += 1;
                assert!(steps <= bytes.len(), "a walk ends");
                outcome = cursor.advance();
            }
        }
    }
    let _ = run.verify(sim);
}

/// Any bytes as a manifest of this kind: what decodes encodes to the same again.
fn manifest(data: &[u8], name: &'static str) {
    // A checksum keeps random bytes out; adding one lets the fuzzer behind it.
    let mut fixed = data.to_vec();
    fixed.extend_from_slice(format!("crc {:08x}\n", crate::crc::crc32c(data)).as_bytes());
    for bytes in [data, &fixed] {
        if let Ok(manifest) = Manifest::parse(bytes, name) {
            let again = Manifest::parse(&manifest.meta(name).encode(), name);
            assert_eq!(again.expect("what was written is read"), manifest);
        }
    }
}

/// Any bytes as a checkpoint's manifest.
pub(crate) fn checkpoint_manifest(data: &[u8]) {
    manifest(data, CHECKPOINT);
}

/// Any bytes as a snapshot's manifest.
pub(crate) fn snapshot_manifest(data: &[u8]) {
    manifest(data, super::snapshot::SNAPSHOT);
}
