//! A data directory that somebody else wrote: parsers first, then the whole open.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| waypost_storage::fuzz::fuzz_recover(data));
