//! Any octets as record batches: first as they come, then with the right checksum, so that the records are reached too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost_stream::batch::{Batch, stamp};
use waypost_stream::records::{Records, first_of_time, have_keys};

/// Most that is looked at of a batch: what it decompresses to is bounded, and still long.
const RECORDS: usize = 10_000;

fn look(batch: &Batch<'_>) {
    let _ = (batch.last_offset(), batch.control_kind(), batch.delete_horizon());
    let _ = (first_of_time(batch, 1), have_keys(batch));
    if let Ok(records) = Records::of(batch) {
        let _ = records.take(RECORDS).take_while(Result::is_ok).count();
    }
}

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok((batch, behind)) = Batch::split(rest) {
        if batch.check().is_ok() {
            look(&batch);
        }
        let mut own = batch.bytes().to_vec();
        // Writes the checksum anew.
        stamp(&mut own, 7, 0, Some(1));
        if let Ok((batch, _)) = Batch::split(&own)
            && batch.check().is_ok()
        {
            look(&batch);
        }
        rest = behind;
    }
});
