//! Requests and replies: there and back, every flipped bit, every cut, every limit.

use super::*;

fn position(n: u64) -> Position {
    let epoch = Epoch { number: n, nonce: u64::MAX - n };
    Position { epoch, log_byte: LogByte(n * 100), offset: Offset(n) }
}

fn request() -> (Request, Report) {
    let report = Report {
        log: Some(Id([1; 16])),
        node: Some(Id([2; 16])),
        promise: Some(Epoch { number: 3, nonce: u64::MAX }),
        received: position(7),
        durable: position(6),
        applied: position(5),
        committed: Some(LogByte(550)),
        last: Some(LastFrame {
            growing: Some(LogByte(64)),
            start: LogByte(500),
            fingerprint: Fingerprint { head_crc: 1, body_crc: u32::MAX },
        }),
        unclean: true,
    };
    let request = Request {
        version: PROTOCOL_VERSION,
        name: "edge".into(),
        address: Some("http://127.0.0.1:1".into()),
        report: WireReport::from(&report),
        wait_ms: 1000,
        part_bytes: 4 << 20,
    };
    (request, report)
}

fn reply() -> Vec<u8> {
    let part = |byte, bytes| Part { segment: 64, byte, bytes, file_bytes: None };
    let head = Head {
        log: Id([1; 16]).to_string(),
        node: Id([3; 16]).to_string(),
        name: "leader".into(),
        upstream: vec![Id([4; 16]).to_string()],
        leader: None,
        epoch: Epoch { number: 3, nonce: 9 }.into(),
        time: 17,
        stale_ms: Some(250),
        committed: WireEnd::default(),
        durable: WireEnd::new(LogByte(900), Offset(9)),
        floor: WireEnd::default(),
        floor_seal: Some("5e".repeat(32)),
        slot: "reserved".into(),
        answer: Answer::Offer {
            segments: vec![0, 64],
            more: false,
            growing_sealed: false,
            repairs: vec![("aa".into(), "bb".into())],
        },
        parts: vec![part(4096, 5), part(5000, 3)],
    };
    let parts = b"abcdefgh";
    let mut bytes = encode_head(&head, crc32c(parts));
    bytes.extend_from_slice(parts);
    bytes
}

#[test]
fn a_request_and_a_reply_read_back() {
    let (request, report) = request();
    let (back, its) = Request::decode(&request.encode()).unwrap();
    assert_eq!((back, its), (request, report));
    let empty = Report::default();
    assert_eq!(WireReport::from(&empty).read(), Some(empty));
    let bytes = reply();
    let (head, parts) = decode_reply(&bytes).unwrap();
    assert_eq!((head.parts.len(), parts), (2, &b"abcdefgh"[..]));
    assert_eq!(head.epoch.read(), Some(Epoch { number: 3, nonce: 9 }));
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_reply_is_refused() {
    let good = reply();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_reply(&bad).unwrap_err().kind(), Kind::Io, "bit {bit}");
    }
    for cut in 0..good.len() {
        assert_eq!(decode_reply(&good[..cut]).unwrap_err().kind(), Kind::Io, "cut at {cut}");
    }
    let mut longer = good;
    longer.push(0);
    assert!(decode_reply(&longer).is_err());
}

#[test]
fn a_newer_version_is_named_on_both_sides() {
    let error = Request::decode(br#"{"version":2,"shape":"other"}"#).unwrap_err();
    assert_eq!(error.kind(), Kind::NewerVersion);
    assert!(error.message().contains("found 2"), "{error}");
    let mut bytes = reply();
    bytes[8] = 2;
    let error = decode_reply(&bytes).unwrap_err();
    assert!(error.message().contains("version 1") && error.message().contains("found 2"));
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_anything_is_made_of_them() {
    let mut huge = reply();
    huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decode_reply(&huge).unwrap_err().message().contains("limits"));
    let mut huge = reply();
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(decode_reply(&huge).unwrap_err().message().contains("limits"));
    let long = vec![b' '; MAX_REQUEST_BYTES + 1];
    assert_eq!(Request::decode(&long).unwrap_err().kind(), Kind::InvalidInput);
    for bad in ["", "{}", "[]", r#"{"version":1}"#, r#"{"version":"1"}"#] {
        assert_eq!(Request::decode(bad.as_bytes()).unwrap_err().kind(), Kind::InvalidInput);
    }
}

/// Above the highest number there is no other, so that nobody could lead any more.
#[test]
fn a_number_above_which_hardly_any_are_left_is_no_epoch() {
    let nonce = "0".repeat(16);
    for (number, is_one) in [(u64::MAX / 2, true), (u64::MAX / 2 + 1, false), (u64::MAX, false)] {
        assert_eq!(WireEpoch { number, nonce: nonce.clone() }.read().is_some(), is_one, "{number}");
    }
}
