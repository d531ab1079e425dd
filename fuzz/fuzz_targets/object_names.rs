#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tidelog::fuzz::object_names(data));
