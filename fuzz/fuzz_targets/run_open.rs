#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tidelog::fuzz::run_open(data));
