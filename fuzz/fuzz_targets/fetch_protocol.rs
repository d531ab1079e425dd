#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tidelog::fuzz::fetch_protocol(data));
