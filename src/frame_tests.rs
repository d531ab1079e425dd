use super::*;
use crate::record::Batch;

const SEED: Seed = Seed(17);

/// A data frame, as the append path makes it.
pub(crate) fn frame_of(
    batch: &Batch,
    timestamp: i64,
    rel_offset: u32,
    durable_back: u64,
    seed: Seed,
    byte: u64,
) -> Vec<u8> {
    let mut body = Vec::new();
    if batch.len() > 1 {
        for end in batch.ends() {
            body.extend_from_slice(&end.to_le_bytes());
        }
    }
    body.extend_from_slice(batch.records());
    let len = HEADER_BYTES + body.len();
    body.resize(len.next_multiple_of(ALIGN) - HEADER_BYTES, 0);
    let mut header = Draft {
        len: len as u32,
        max_timestamp: batch.max_timestamp().unwrap_or(timestamp),
        body_crc: crc::crc32c(&body),
        count: batch.len() as u16,
        kind: FrameKind::Data,
        flags: if batch.max_timestamp().is_some() { FLAG_TIMED } else { 0 },
    }
    .header();
    stamp(&mut header, seed, byte, rel_offset, (durable_back / 8) as u32);
    [&header[..], &body].concat()
}

fn data_frame(batch: &Batch, byte: u64) -> Vec<u8> {
    frame_of(batch, 5, 0, 0, SEED, byte)
}

fn sample() -> Vec<u8> {
    let mut batch = Batch::new();
    batch.push(&Record::put(b"key", b"value")).unwrap();
    batch.push(&Record::delete(b"")).unwrap();
    batch.push(&Record::event(b"tick")).unwrap();
    data_frame(&batch, 4096)
}

#[test]
fn a_batch_reads_back_record_by_record() {
    let bytes = sample();
    let frame = Frame::decode(&bytes, 4096, u64::MAX, SEED).unwrap();
    let records = frame.records().unwrap();
    let at = |r: Record<'static>| Ok(r.at(5));
    assert_eq!(records.len(), 3);
    assert_eq!(records.get(0), at(Record::put(b"key", b"value")));
    assert_eq!(records.get(1), at(Record::delete(b"")));
    assert_eq!(records.get(2), at(Record::event(b"tick")));
    assert_eq!(records.get(3), Err(Fault::Body));
}

#[test]
fn every_flipped_bit_is_found() {
    let good = sample();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::decode(&bad, 4096, u64::MAX, SEED).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_found() {
    let good = sample();
    for len in 0..good.len() {
        assert!(Frame::decode(&good[..len], 4096, u64::MAX, SEED).is_err(), "length {len}");
    }
}

#[test]
fn a_frame_elsewhere_or_of_another_segment_is_invalid() {
    let bytes = sample();
    let elsewhere = Frame::decode(&bytes, 4104, u64::MAX, SEED).unwrap_err();
    let stranger = Frame::decode(&bytes, 4096, u64::MAX, Seed(18)).unwrap_err();
    assert_eq!((elsewhere, stranger), (Fault::HeadCrc, Fault::HeadCrc));
}

#[test]
fn the_claim_reaches_back_from_the_frame() {
    assert_eq!(durable_back(4096, 4000), 12);
    assert_eq!(durable_back(8 * (1 << 40), 0), NO_CLAIM);
    let header = Header::decode(&sample(), 4096, u64::MAX, SEED).unwrap();
    assert_eq!(header.claim(100), Some(100));
    assert_eq!(Header { durable_back: 2, ..header }.claim(100), Some(84));
    assert_eq!(Header { durable_back: 20, ..header }.claim(100), None);
    assert_eq!(Header { durable_back: NO_CLAIM, ..header }.claim(100), None);
}

#[test]
fn control_bodies_read_back() {
    let start = EpochStart {
        epoch: Epoch { number: 2, nonce: 7 },
        parent: Epoch { number: 1, nonce: 3 },
        fork: 99,
        fork_offset: 4,
        node: Id([9; 16]),
        reason: "created".into(),
        gave_up: Vec::new(),
    };
    assert_eq!(EpochStart::decode(&start.encode()), Some(start.clone()));
    assert_eq!(EpochStart::decode(&start.encode()[..70]), None);
    assert_eq!(start.encode().len(), 79, "one that gave nothing up is as it always was");
    let gone = GaveUp { epoch: Epoch { number: 1, nonce: u64::MAX }, from: 77 };
    let start = EpochStart { gave_up: vec![gone; EpochStart::GAVE_UP], ..start };
    let body = start.encode();
    assert_eq!(EpochStart::decode(&body), Some(start.clone()));
    assert_eq!(EpochStart::decode(&body[..body.len() - 1]), None);
    let longer = EpochStart { gave_up: vec![gone; EpochStart::GAVE_UP + 1], ..start };
    assert_eq!(EpochStart::decode(&longer.encode()), None);
    let lost = Lost { count: 3, fingerprint: 8 };
    assert_eq!(Lost::decode(&lost.encode()), Some(lost));
}

#[test]
fn a_lone_record_costs_at_most_43_bytes_and_a_batched_one_9() {
    for len in 0..100 {
        let value = vec![1; len];
        let mut lone = Batch::new();
        lone.push(&Record::event(&value)).unwrap();
        assert!(data_frame(&lone, 0).len() <= len + 43);
        let (mut batch, mut timed) = (Batch::new(), Batch::new());
        for _ in 0..64 {
            batch.push(&Record::event(&value)).unwrap();
            timed.push(&Record::event(&value).at(1)).unwrap();
        }
        assert!(data_frame(&batch, 0).len() <= 64 * (len + 9));
        assert!(data_frame(&timed, 0).len() <= 64 * (len + 17));
    }
}
