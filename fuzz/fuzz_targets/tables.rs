//! Field tables and property lists from any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost_model::props::{Props, PropsOwned, scan};
use waypost_model::table::{Table, walk};

fuzz_target!(|data: &[u8]| {
    table(data);
    let mut framed = (data.len() as u32).to_be_bytes().to_vec();
    framed.extend_from_slice(data);
    table(&framed);
    props(data);
});

fn table(bytes: &[u8]) {
    let decoded = Table::decode(bytes);
    let walked = walk(bytes, |_, _, _| {});
    assert_eq!(walked, decoded.as_ref().map(|(_, read)| *read).map_err(|e| *e));
    let Ok((table, read)) = decoded else { return };
    assert!(read <= bytes.len());
    let once = table.to_bytes();
    assert_eq!(once.len(), read);
    let (again, _) = Table::decode(&once).unwrap();
    assert_eq!(again.to_bytes(), once);
}

fn props(bytes: &[u8]) {
    let _ = format!("{:?}", Props(bytes));
    let Ok(owned) = PropsOwned::decode(bytes) else { return };
    let found = scan(bytes).unwrap();
    assert_eq!(found.expiration, owned.expiration.as_deref());
    let once = owned.to_bytes();
    assert_eq!(PropsOwned::decode(&once).unwrap().to_bytes(), once);
}
