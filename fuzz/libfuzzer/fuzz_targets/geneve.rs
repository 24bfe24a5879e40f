#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pias_fuzz::geneve(bytes));
