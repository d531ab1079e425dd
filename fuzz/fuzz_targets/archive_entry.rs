#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tidelog::fuzz::archive_entry(data));
