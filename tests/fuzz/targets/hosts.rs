#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rmq_audit::fuzzing::hosts(bytes));
