//! The format held against its golden bytes: code, `docs/FORMAT.md` and the fixture say the same.

use std::sync::Arc;

use super::*;
use crate::frame::{self, EpochStart, FrameKind};
use crate::fs::File;
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::record::{Batch, Record};

/// The segment of the worked example: an epoch's start, a batch of two, a lone delete.
fn example() -> Vec<u8> {
    let header = SegmentHeader {
        log: Id(*b"an example's log"),
        base: LogByte(0),
        base_offset: Offset(0),
        epoch: Epoch { number: 1, nonce: 0x1122_3344_5566_7788 },
        salt: 0xa1a2_a3a4_a5a6_a7a8,
        created: 1_700_000_000_000_000_000,
        previous: None,
    };
    let file: Arc<dyn File> = Arc::new(tempfile::tempfile().unwrap());
    file.write_all_at(&header.encode(), 0).unwrap();
    let start = EpochStart {
        epoch: header.epoch,
        parent: Epoch::default(),
        fork: 0,
        fork_offset: 0,
        node: Id(*b"an example, node"),
        reason: "created".into(),
        gave_up: Vec::new(),
    };
    let mut byte = HEADER_BYTES;
    let mut put = |bytes: Vec<u8>| {
        file.write_all_at(&bytes, byte).unwrap();
        byte += bytes.len() as u64;
        byte
    };
    let seed = header.seed();
    let next = put(frame::encode(
        FrameKind::EpochStart,
        0,
        0,
        header.created,
        &start.encode(),
        (seed, HEADER_BYTES),
    ));
    let mut batch = Batch::new();
    batch.push(&Record::put(b"gate", b"open")).unwrap();
    batch.push(&Record::event(b"tick")).unwrap();
    let next = put(frame::tests::frame_of(&batch, header.created + 1, 0, next - 4096, seed, next));
    let mut batch = Batch::new();
    batch.push(&Record::delete(b"gate")).unwrap();
    let end = put(frame::tests::frame_of(&batch, header.created + 2, 2, 64, seed, next));
    let mut tally = Tally::default();
    let mut window = Window::file(Arc::clone(&file));
    let walked = walk(&mut window, &header, end, &mut tally, |_, _| {}).unwrap();
    assert_eq!(walked, End { byte: end, fault: None });
    let footer = seal(&file, "example".as_ref(), &header, &tally, [0; 32]).unwrap().footer;
    assert_eq!((footer.end_offset, footer.frames), (Offset(3), 3));
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The lines of the document's dump: byte, 16 bytes in hexadecimal; runs of zeros are left out.
fn hex_dump(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (i, line) in bytes.chunks(16).enumerate() {
        if line.iter().any(|&b| b != 0) {
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            dump += &format!("{:06} {}\n", 16 * i, hex.join(" "));
        }
    }
    dump
}

#[test]
fn the_worked_example_in_the_format_document_is_what_the_code_writes() {
    let document = include_str!("../../docs/FORMAT.md");
    let dump = hex_dump(&example());
    let shown = document
        .split("```hexdump\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the document has a dump");
    assert_eq!(shown, dump, "docs/FORMAT.md shows other bytes; the code writes\n{dump}");
}

#[test]
fn the_fixture_of_version_1_still_reads_and_is_still_written() {
    let fixture = include_bytes!("../../tests/data/segment-v1.seg");
    assert!(example() == fixture, "the fixture holds other bytes than the code writes");
    assert_eq!(FORMAT_VERSION, 1, "a new version adds a fixture of its own");
}

#[test]
fn sealing_again_gives_the_same_bytes() {
    assert_eq!(example(), example());
}
