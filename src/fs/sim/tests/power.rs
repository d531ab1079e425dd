//! What a power cut leaves of files.

use super::*;

#[test]
fn unsynced_data_is_lost_or_kept_and_synced_data_stays() {
    let (sim, file) = disk();
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"SYN", 0).unwrap();
    assert_eq!(sim.read(A), b"SYNced");
    assert_eq!(left(&sim, Crash::DropAll), b"synced");
    assert_eq!(left(&sim, Crash::KeepAll), b"SYNced");
    assert!(sim.crash(&Crash::KeepAll).pending().is_empty());
}

#[test]
fn data_and_length_of_one_write_are_lost_apart() {
    let (sim, file) = disk();
    file.write_all_at(b"abc", 0).unwrap();
    let data = PendingChange::Data { byte: 0, len: 3, sectors: 1 };
    assert_eq!(changes(&sim), [data, PendingChange::Length { from: 0, to: 3 }]);
    assert_eq!(left(&sim, Crash::mask(0b00)), b"");
    assert_eq!(left(&sim, Crash::mask(0b01)), b"", "data beyond the length is out of reach");
    assert_eq!(left(&sim, Crash::mask(0b10)), b"\0\0\0", "a length without data reads as zeros");
    assert_eq!(left(&sim, Crash::mask(0b11)), b"abc");
}

#[test]
fn a_later_length_brings_earlier_data_back_and_holes_read_as_zeros() {
    let (sim, file) = disk();
    file.write_all_at(&[1; 512], 0).unwrap();
    file.write_all_at(&[2; 512], 512).unwrap();
    file.write_all_at(&[3; 512], 1024).unwrap();
    // Pending: data, length, data, length, data, length.
    let bytes = left(&sim, Crash::mask(0b11_00_01));
    assert_eq!(bytes, [[1; 512], [0; 512], [3; 512]].concat());
    assert_eq!(left(&sim, Crash::mask(0b01_10_01)), [[1; 512], [0; 512]].concat());
}

#[test]
fn the_later_of_two_kept_writes_has_the_last_word() {
    let (sim, file) = disk();
    file.write_all_at(b"first", 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"other", 0).unwrap();
    file.write_all_at(b"third", 0).unwrap();
    assert_eq!(left(&sim, Crash::mask(0b01)), b"other");
    assert_eq!(left(&sim, Crash::mask(0b10)), b"third");
    assert_eq!(left(&sim, Crash::mask(0b11)), b"third");
}

#[test]
fn a_sector_is_wholly_old_or_as_reads_saw_it_after_the_write() {
    let (sim, file) = disk();
    file.write_all_at(&[b'-'; 1024], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"11", 511).unwrap();
    file.write_all_at(b"2", 510).unwrap();
    // The second write alone brings the first sector with the first write's byte in it, and
    // leaves the second sector alone.
    assert_eq!(&left(&sim, Crash::mask(0b10))[508..514], b"--21--");
    assert_eq!(&left(&sim, Crash::mask(0b01))[508..514], b"---11-");
}

#[test]
fn a_write_is_torn_at_sectors() {
    let (sim, file) = disk();
    file.write_all_at(&[1; 5 * 512], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 3 * 512 + 100], 412).unwrap();
    assert_eq!(changes(&sim), [PendingChange::Data { byte: 412, len: 1636, sectors: 4 }]);
    let torn = left(&sim, Crash::Fates(vec![Fate::Torn(0b1010)]));
    let sectors: Vec<(u8, u8)> = torn.chunks(512).map(|s| (s[0], s[511])).collect();
    assert_eq!(sectors, [(1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]);
    let torn = left(&sim, Crash::Fates(vec![Fate::Torn(0b0001)]));
    assert_eq!((torn[411], torn[412], torn[512]), (1, 2, 1));
}

#[test]
fn torn_by_seed_is_repeatable_and_reaches_every_mix_of_sectors() {
    let (sim, file) = disk();
    file.write_all_at(&[1; 3 * 512], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 3 * 512], 0).unwrap();
    let mut mixes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let bytes = left(&sim, Crash::Torn { seed });
        assert_eq!(bytes, left(&sim, Crash::Torn { seed }));
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        mixes.insert([bytes[0], bytes[512], bytes[1024]]);
    }
    assert_eq!(mixes.len(), 8);
}

#[test]
fn a_longer_length_may_stop_at_a_sector_on_its_way() {
    let (sim, file) = disk();
    file.set_len(100).unwrap();
    file.sync_data().unwrap();
    file.set_len(1600).unwrap();
    let len = |bits| left(&sim, Crash::Fates(vec![Fate::Torn(bits)])).len();
    assert_eq!([len(0), len(1), len(2), len(3)], [512, 1024, 1536, 512]);
    file.set_len(100).unwrap();
    file.set_len(101).unwrap();
    let torn = |bits| Crash::Fates(vec![Fate::Lost, Fate::Lost, Fate::Torn(bits)]);
    assert_eq!(left(&sim, torn(0)).len(), 100);
    assert_eq!(left(&sim, torn(1)).len(), 101);
}

#[test]
fn a_cut_may_be_lost_and_what_it_took_does_not_come_back() {
    let (sim, file) = disk();
    file.write_all_at(b"abcdef", 0).unwrap();
    file.sync_data().unwrap();
    file.set_len(2).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(sim.read(A), b"ab\0\0");
    assert_eq!(left(&sim, Crash::mask(0b00)), b"abcdef");
    assert_eq!(left(&sim, Crash::mask(0b01)), b"ab");
    assert_eq!(left(&sim, Crash::mask(0b10)), b"abcd");
    assert_eq!(left(&sim, Crash::mask(0b11)), b"ab\0\0");
    file.sync_data().unwrap();
    assert_eq!(left(&sim, Crash::DropAll), b"ab\0\0");
}

#[test]
fn power_goes_off_after_any_operation_and_nothing_more_takes_effect() {
    let run = |stop: usize| {
        let (sim, file) = disk();
        sim.stop_after(stop);
        let steps: [&dyn Fn() -> io::Result<()>; 4] = [
            &|| file.write_all_at(b"one", 0),
            &|| file.sync_data(),
            &|| Fs::rename(&sim, A.as_ref(), B.as_ref()),
            &|| Fs::sync_dir(&sim, "/d".as_ref()),
        ];
        let done = steps.iter().take_while(|step| step().is_ok()).count();
        assert_eq!((done, sim.operations()), (stop.min(4), stop.min(4)));
        if stop < 4 {
            let error = file.read_at(&mut [0], 0).unwrap_err();
            assert_eq!(error.to_string(), "power is off");
            assert!(file.len().is_err() && sim.list("/d".as_ref()).is_err());
        }
        sim
    };
    assert_eq!(Sim::read(&run(1), A), b"one", "inspection needs no power");
    assert_eq!(left(&run(1), Crash::DropAll), b"");
    assert_eq!(left(&run(2), Crash::DropAll), b"one");
    assert_eq!(names(&run(3).crash(&Crash::DropAll)), [A]);
    assert_eq!(names(&run(4).crash(&Crash::DropAll)), [B]);
    assert!(run(0).crash(&Crash::DropAll).shared().list("/d".as_ref()).is_ok());
}
