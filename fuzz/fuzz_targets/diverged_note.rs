#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tidelog::fuzz::diverged_note(data));
