//! The bytes of entries, owners and rollups, as docs/FORMAT.md has them.

use proptest::prelude::*;

use super::super::lease::{LeaseMark, Member, encode_paused};
use super::super::rollup;
use super::*;
use crate::position::{Epoch, Fingerprint, Id, LogByte};
use crate::table::SnapshotName;

fn epoch() -> Epoch {
    Epoch { number: 3, nonce: 0x1122_3344_5566_7788 }
}

fn head(what: What) -> EntryHead {
    EntryHead {
        log: Id(*b"an example's log"),
        n: 7,
        rollup: 2,
        previous: Hash([0xaa; 32]),
        epoch: epoch(),
        node: Id(*b"an example, node"),
        put_id: Id([0x55; 16]),
        time: 1_700_000_000_000_000_000,
        payload_bytes: 0,
        payload_hash: Hash([0; 32]),
        what,
    }
}

fn tail() -> Tail {
    Tail {
        base: LogByte(4096),
        base_offset: Offset(10),
        epoch: epoch(),
        from: LogByte(4200),
        to: LogByte(4208),
        to_offset: Offset(12),
        fingerprint: Fingerprint { head_crc: 0xc1c2_c3c4, body_crc: 0xd1d2_d3d4 },
    }
}

fn sealed() -> Sealed {
    Sealed {
        base: LogByte(4096),
        base_offset: Offset(10),
        epoch: epoch(),
        end: LogByte(8192),
        end_offset: Offset(30),
        fingerprint: Fingerprint { head_crc: 1, body_crc: 2 },
        file_bytes: 12_800,
        hash: Hash([0xbb; 32]),
        seal: Hash([0xcc; 32]),
    }
}

fn snapshot() -> SnapshotRef {
    SnapshotRef {
        name: SnapshotName { offset: Offset(30), epoch: epoch() },
        log_byte: LogByte(8152),
        bytes: 999,
        manifest: Hash([0xdd; 32]),
    }
}

fn samples() -> Vec<(EntryHead, Vec<u8>)> {
    let fence = What::Fence {
        parent: Epoch { number: 1, nonce: 9 },
        fork: LogByte(8),
        fork_offset: Offset(1),
    };
    vec![
        head(fence).with_payload(&[]),
        head(What::Tail(tail())).with_payload(b"8 bytes!"),
        head(What::Segment(sealed())).with_payload(&[]),
        head(What::Snapshot(snapshot())).with_payload(&[]),
        head(What::Rollup).with_payload(b"the state"),
        head(What::Segment(sealed())).with_payload(&[]).0.tombstone().with_payload(&[]),
    ]
}

/// The lines of a hex dump that are not zeros.
fn dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|&b| b != 0));
    lines
        .map(|(i, line)| {
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            format!("{:06} {}\n", i * 16, hex.join(" "))
        })
        .collect()
}

#[test]
fn the_documents_dumps_are_what_is_written() {
    let document = include_str!("../../../../docs/FORMAT.md");
    let chapter = document.split("\n## An archive\n").nth(1).expect("the archive's chapter");
    let mut dumps = chapter.split("```hexdump\n").skip(1).map(|rest| rest.split("```").next());
    let owner = Owner { log: Id(*b"an example's log"), epoch: epoch(), node: Id([7; 16]) };
    assert_eq!(dumps.next().flatten(), Some(&*dump(&samples()[1].1)), "a tail");
    assert_eq!(dumps.next().flatten(), Some(&*dump(&samples()[3].1)), "a snapshot");
    assert_eq!(dumps.next().flatten(), Some(&*dump(&owner.encode())), "an owner");
    assert_eq!(dumps.next().flatten(), Some(&*dump(&rollup::encode(&state()))), "a rollup");
}

/// A state with a piece of each kind, a snapshot, and something cut.
fn state() -> State {
    let held = Held { n: 4, sealed: sealed(), to: LogByte(8192), to_offset: Offset(30) };
    let mut next = tail();
    (next.base, next.base_offset) = (LogByte(8192), Offset(30));
    (next.from, next.to, next.to_offset) = (LogByte(8192), LogByte(8300), Offset(31));
    let next = TailRef {
        n: 5,
        hash: Hash([0xee; 32]),
        tail: next,
        to: next.to,
        to_offset: next.to_offset,
    };
    State {
        log: Id(*b"an example's log"),
        epoch: epoch(),
        node: Id([7; 16]),
        floor: LogByte(4096),
        floor_offset: Offset(10),
        end: LogByte(8300),
        end_offset: Offset(31),
        pieces: [(LogByte(4096), Piece::Sealed(held)), (LogByte(8192), Piece::Tails(vec![next]))]
            .into(),
        snapshots: vec![(6, snapshot())],
        cut: vec![Cut::Tail(next), Cut::Sealed(held)],
        ..State::default()
    }
}

#[test]
fn every_kind_of_entry_reads_back_and_every_flipped_bit_is_found() {
    for (head, bytes) in samples() {
        assert_eq!(EntryHead::decode(&bytes).unwrap(), head);
        head.check_payload(&bytes[HEAD_BYTES..]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match EntryHead::decode(&bad) {
                Ok(head) => assert!(head.check_payload(&bad[HEAD_BYTES..]).is_err(), "bit {bit}"),
                Err(e) => assert_eq!(e.kind(), crate::error::Kind::Corrupt, "bit {bit}"),
            }
        }
        assert!(EntryHead::decode(&bytes[..HEAD_BYTES - 1]).is_err());
    }
}

#[test]
fn a_tombstone_keeps_what_the_chain_and_the_contest_need() {
    let (head, _) = samples().swap_remove(1);
    let stone = head.tombstone();
    assert_eq!(stone.hash(), head.hash());
    assert_eq!((stone.n, stone.epoch, stone.put_id), (head.n, head.epoch, head.put_id));
    assert_eq!(EntryHead::decode(&stone.encode()).unwrap(), stone);
    assert_eq!(stone.tombstone().hash(), head.hash());
}

#[test]
fn a_rollup_reads_back_and_no_prefix_or_flip_of_it_does() {
    let bytes = rollup::encode(&state());
    assert_eq!(rollup::decode(&bytes).unwrap(), state());
    for len in 0..bytes.len() {
        assert!(rollup::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Without a checksum of its own a flip may make another state; it must hold together.
        if let Ok(state) = rollup::decode(&bad) {
            assert_eq!(rollup::encode(&state), bad);
        }
    }
}

#[test]
fn an_owner_reads_back_and_every_flipped_bit_is_found() {
    let owner = Owner { log: Id([1; 16]), epoch: epoch(), node: Id([2; 16]) };
    let bytes = owner.encode();
    assert_eq!(Owner::decode(&bytes).unwrap(), owner);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Owner::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn a_lease_a_member_and_a_pause_are_as_documented_and_every_flipped_bit_is_found() {
    let lease = LeaseMark {
        log: Id(*b"an example's log"),
        epoch: Epoch { number: 12, nonce: 0xff },
        node: Id([7; 16]),
        name: "b".into(),
        address: "http://b:7400".into(),
        counter: 3,
        taken: 1_700_000_000_000_000_000,
        ttl_ms: 10_000,
        free: false,
        degraded: Some((Epoch { number: 11, nonce: 0xaa }, LogByte(4096))),
    };
    let member =
        Member { node: lease.node, name: lease.name.clone(), address: lease.address.clone() };
    let document = include_str!("../../../../docs/FORMAT.md");
    for bytes in [lease.encode(), member.encode(), encode_paused(true)] {
        let text = String::from_utf8(bytes).unwrap();
        assert!(document.contains(&format!("```text\n{text}```")), "{text}");
    }
    let nameless =
        LeaseMark { name: String::new(), address: String::new(), degraded: None, ..lease.clone() };
    for lease in [lease, nameless] {
        let good = lease.encode();
        assert_eq!(LeaseMark::decode(&good).unwrap(), lease);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(LeaseMark::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(LeaseMark::decode(&good[..len]).is_err(), "length {len}");
        }
    }
    assert_eq!(Member::decode(&member.encode()).unwrap(), member);
}

#[test]
fn galloping_finds_the_end_from_any_hint() {
    for end in [0u64, 1, 2, 3, 9, 1000, 123_456] {
        for hint in [0, 1, 2, end / 2, end, end + 1, end + 1000, u64::MAX] {
            let mut asked = 0;
            let found = walk::find_end(hint, |n| {
                asked += 1;
                Ok(n <= end)
            });
            assert_eq!(found.unwrap(), end, "from {hint}");
            assert!(asked < 60, "{asked} questions for {end} from {hint}");
        }
    }
}

/// A chain of entries that fit each other, as a fuzzer would have to find them.
fn chain() -> Vec<u8> {
    let fence =
        What::Fence { parent: Epoch::default(), fork: LogByte(4096), fork_offset: Offset(10) };
    let mut first = tail();
    (first.from, first.to) = (first.base, LogByte(4200));
    let whats = [
        fence,
        What::Tail(first),
        What::Tail(Tail { to: LogByte(8152), ..tail() }),
        What::Segment(sealed()),
        What::Snapshot(snapshot()),
        What::Tail(Tail {
            base: LogByte(8192),
            base_offset: Offset(30),
            from: LogByte(8192),
            to: LogByte(8300),
            to_offset: Offset(31),
            ..tail()
        }),
        What::Fence { parent: epoch(), fork: LogByte(8000), fork_offset: Offset(29) },
    ];
    let mut bytes = Vec::new();
    for what in whats {
        let mut head = head(what);
        head.payload_bytes = match &head.what {
            What::Tail(tail) => tail.payload_bytes().unwrap(),
            _ => 0,
        };
        if head.payload_bytes > 0 {
            head.payload_hash = Hash([1; 32]);
        }
        if bytes.len() == 6 * HEAD_BYTES {
            head.epoch.number += 1;
        }
        bytes.extend_from_slice(&head.encode());
    }
    bytes
}

#[test]
fn the_fuzz_target_gets_behind_links_and_checksums() {
    let chain = chain();
    super::super::fuzz::archive_entry(&chain);
    // The seeds of the corpus are these: the chain, a rollup, an entry of each kind.
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/archive_entry");
    let read = |name: &str| std::fs::read(seeds.join(name)).unwrap();
    assert!(read("chain") == chain);
    assert!(read("rollup") == rollup::encode(&state()));
    assert!(read("tail") == samples()[1].1);
}

/// What the test below once came to: a fence between two pieces' log bytes, with an offset of
/// neither. Its entry was taken, and the rollup behind it was one that nobody could read.
#[test]
fn a_fork_fits_the_frames_that_it_leaves() {
    let mut base = State::default();
    let entries = chain();
    let apply = |state: &mut State, mut head: EntryHead| {
        (head.n, head.previous, head.rollup) = (state.n + 1, state.hash, state.rollup);
        state.apply(&head)
    };
    for entry in entries[..6 * HEAD_BYTES].chunks(HEAD_BYTES) {
        apply(&mut base, EntryHead::decode(entry).unwrap()).unwrap();
    }
    let fork = |(byte, offset): (u64, u64)| {
        let (fork, fork_offset) = (LogByte(byte), Offset(offset));
        let mut head = head(What::Fence { parent: epoch(), fork, fork_offset });
        head.epoch.number += 1;
        head
    };
    // One segment holds log bytes 4096 to 8192 and offsets 10 to 30; a tail goes on to 8300 and 31.
    for good in [(4096, 10), (4100, 10), (8000, 29), (8192, 30), (8256, 30), (8256, 31), (8300, 31)]
    {
        let mut state = base.clone();
        apply(&mut state, fork(good)).unwrap_or_else(|e| panic!("{good:?}: {e}"));
        rollup::decode(&rollup::encode(&state)).unwrap_or_else(|e| panic!("{good:?}: {e}"));
    }
    let bad = [(4096, 11), (8000, 9), (8000, 31), (8192, 29), (8256, 29), (8300, 30), (8301, 31)];
    for bad in bad {
        let refused = apply(&mut base.clone(), fork(bad)).expect_err("a fork that fits nothing");
        assert_eq!(refused.kind(), crate::error::Kind::Corrupt, "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn a_bent_chain_holds_together_as_far_as_it_is_taken(
        bends in prop::collection::vec((0usize..7 * 512, any::<u8>()), 1..6),
        order in prop::collection::vec(0usize..7, 1..12),
    ) {
        let mut bytes = chain();
        for (at, with) in bends {
            bytes[at] = with;
        }
        let parts: Vec<u8> =
            order.iter().flat_map(|i| bytes[i * 512..(i + 1) * 512].to_vec()).collect();
        super::super::fuzz::archive_entry(&bytes);
        super::super::fuzz::archive_entry(&parts);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_entry_or_an_error(
        mut bytes in prop::collection::vec(any::<u8>(), 0..700),
        kind in 0u32..8,
    ) {
        let _ = EntryHead::decode(&bytes);
        let _ = rollup::decode(&bytes);
        if bytes.len() >= HEAD_BYTES {
            bytes[..8].copy_from_slice(b"TIDENTRY");
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[12..16].copy_from_slice(&kind.to_le_bytes());
            let crc = crate::crc::crc32c(&bytes[..508]);
            bytes[508..512].copy_from_slice(&crc.to_le_bytes());
            if let Ok(head) = EntryHead::decode(&bytes) {
                prop_assert_eq!(&head.encode()[..], &bytes[..512]);
            }
        }
    }
}
