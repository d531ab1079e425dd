//! Reservations are disjoint and dense, and what does not fit says where the frames end.

use super::*;

fn base(log_byte: u64, offset: u64, carried: usize, room: usize) -> Base {
    Base { log_byte, offset, carried, room }
}

/// Publishes a frame of `len` bytes whose body is `byte`.
fn publish(mut room: Reservation<'_>, byte: u8) {
    let bytes = room.bytes();
    let len = u32::try_from(bytes.len()).unwrap();
    bytes.fill(byte);
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    room.publish();
}

#[test]
fn reservations_are_disjoint_and_dense() {
    let (staging, mut gate) = Staging::new();
    assert_eq!(staging.reserve(32, 1).unwrap_err(), NoRoom::Closed);
    gate.start(base(1000, 50, 8, 4096));
    assert_eq!(staging.reserve(32, 1).unwrap_err(), NoRoom::Closed, "not yet opened");
    gate.reopen();
    let a = staging.reserve(40, 2).unwrap();
    let b = staging.reserve(32, 1).unwrap();
    assert_eq!((a.offset, a.end), (50, 1048));
    assert_eq!((b.offset, b.end), (52, 1080));
    publish(b, 2);
    publish(a, 1);
    assert_eq!(gate.end(), (1080, 53));
    gate.close();
    assert_eq!((gate.len(), gate.records()), (80, 3));
    gate.place(48, 4, |bytes| {
        bytes.fill(9);
        bytes[..4].copy_from_slice(&41_u32.to_le_bytes());
    });
    assert_eq!(gate.end(), (1128, 57));
    let mut taken = gate.advance(base(0, 0, 0, ROOM_BYTES));
    taken.carry(&[7; 8]);
    let at = taken.origin + 8;
    assert_eq!(taken.frame(at)[4..], [1; 36]);
    assert_eq!(taken.frame(at + 40)[4..], [2; 28]);
    assert_eq!(taken.frame(at + 72).len(), 48, "a length is rounded up to 8");
    taken.pad();
    assert_eq!(taken.pages().len(), 4096);
    assert_eq!(taken.pages()[..8], [7; 8]);
    assert_eq!(taken.pages()[128..], [0; 3968]);
}

#[test]
fn what_does_not_fit_leaves_no_gap_and_takes_no_offset() {
    let (staging, mut gate) = Staging::new();
    gate.start(base(0, 0, 0, 4096));
    gate.reopen();
    publish(staging.reserve(4000, 1).unwrap(), 1);
    for _ in 0..3 {
        // The second would fit, but the first has left its mark: nothing follows it.
        assert_eq!(staging.reserve(128, 9).unwrap_err(), NoRoom::Full);
        assert_eq!(staging.reserve(32, 9).unwrap_err(), NoRoom::Full);
    }
    assert!(!staging.fits(32));
    assert_eq!(gate.end(), (4000, 1));
    gate.close();
    assert_eq!((gate.len(), gate.records()), (4000, 1));
    assert_eq!(staging.reserve(32, 1).unwrap_err(), NoRoom::Closed);
    // Taken up again, what is left can be used.
    gate.reopen();
    assert!(staging.fits(96));
    publish(staging.reserve(96, 1).unwrap(), 2);
    assert_eq!(gate.end(), (4096, 2));
}

#[test]
#[should_panic(expected = "used again only after it was written")]
fn a_buffer_that_is_not_written_is_not_opened() {
    let (_, mut gate) = Staging::new();
    gate.start(base(0, 0, 0, ROOM_BYTES));
    let _taken: Vec<_> = (0..BUFFERS).map(|_| gate.advance(base(0, 0, 0, ROOM_BYTES))).collect();
}

#[test]
fn failed_reservations_never_spill_into_the_flag_or_the_generation() {
    // A caller that tried half a megabyte again and again on a full disk carried the field of
    // bytes over after 65,536 tries: the closed buffer looked open.
    let (staging, mut gate) = Staging::new();
    gate.start(base(0, 0, 0, ROOM_BYTES));
    for _ in 0..40_000 {
        assert_eq!(staging.reserve(ROOM_BYTES, 1).unwrap_err(), NoRoom::Closed);
    }
    gate.reopen();
    publish(staging.reserve(64, 1).unwrap(), 1);
    // And on a disk that did not answer, with no buffer free.
    for _ in 0..40_000 {
        assert_eq!(staging.reserve(ROOM_BYTES, 1).unwrap_err(), NoRoom::Full);
    }
    assert!(!staging.is_closed());
    assert_eq!(gate.end(), (64, 1));
    gate.close();
    assert_eq!((gate.len(), gate.records()), (64, 1));
}

#[test]
fn many_producers_lose_no_byte_and_no_offset() {
    let (staging, mut gate) = Staging::new();
    gate.start(base(0, 0, 0, ROOM_BYTES));
    gate.reopen();
    let (producers, each) = (4, 20_000);
    let mut taken: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..producers)
            .map(|_| {
                scope.spawn(|| {
                    let mut offsets = Vec::new();
                    while offsets.len() < each {
                        match staging.reserve(40, 1) {
                            Ok(mut room) => {
                                let offset = room.offset;
                                let bytes = room.bytes();
                                bytes[..4].copy_from_slice(&40_u32.to_le_bytes());
                                bytes[32..].copy_from_slice(&offset.to_le_bytes());
                                room.publish();
                                offsets.push(offset);
                            }
                            Err(_) => std::thread::yield_now(),
                        }
                    }
                    offsets
                })
            })
            .collect();
        // The writer's part: close, open the next, check, until everybody is through.
        let (mut offset, mut log_byte) = (0, 0);
        while offset < (producers * each) as u64 {
            gate.close();
            let (len, records) = (gate.len(), gate.records());
            let next = base(log_byte + len as u64, offset + records, 0, ROOM_BYTES);
            let mut taken = gate.advance(next);
            gate.reopen();
            for i in 0..records {
                let at = taken.origin + usize_of(i) * 40;
                let frame = taken.frame(at);
                let found = u64::from_le_bytes(frame[32..].try_into().unwrap());
                assert_eq!(found, offset + i);
            }
            assert_eq!(len as u64, records * 40);
            offset += records;
            log_byte += len as u64;
            std::thread::yield_now();
        }
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    taken.sort_unstable();
    assert!(taken.iter().enumerate().all(|(i, &offset)| i as u64 == offset));
    assert_eq!(taken.len(), producers * each);
}
