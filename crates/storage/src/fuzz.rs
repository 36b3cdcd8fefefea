//! The body of the fuzz target for recovery.

use std::sync::Arc;

use crate::config::{EngineConfig, SEGMENT_BYTES_MIN};
use crate::disk::fault::FaultDisk;
use crate::engine::Engine;
use crate::segment::{FRAMES_AT, SegmentHeader, SegmentId};
use crate::table::ChunkTable;
use crate::{chunk, frame};

/// Recovers from a directory whose checkpoint or first segment holds these bytes. Must neither panic nor hang, nor allocate
/// far beyond their number.
pub fn fuzz_recover(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    // The parsers themselves, which behind checksums would hardly ever be reached.
    let _ = frame::read_ops(bytes);
    let _ = ChunkTable::default().read(bytes, Some(bytes.len() as u64));
    let _ = chunk::decode(bytes.to_vec(), chunk::CHUNK_ENTRIES_MAX);
    let _ = crate::recovery::read_footer_entries(bytes, |_, _, _| Ok(()));
    let _ = crate::checkpoint::decode(bytes);
    let disk = FaultDisk::new(1);
    let open = |disk: &FaultDisk| Engine::open(Arc::new(disk.clone()), EngineConfig::small());
    if open(&disk).is_err() {
        return;
    }
    disk.kill();
    match kind % 3 {
        0 => disk.put(crate::checkpoint::CHECKPOINT, bytes.to_vec()),
        1 => disk.put(&SegmentId(1).file_name(), bytes.to_vec()),
        _ => {
            // A good header, so that the frames are looked at.
            let mut header = SegmentHeader { id: SegmentId(1), epoch: 1, capacity: SEGMENT_BYTES_MIN, crc: 0 };
            let mut file = header.encode().to_vec();
            file.resize(FRAMES_AT as usize, 0);
            file.extend_from_slice(bytes);
            disk.put(&SegmentId(1).file_name(), file);
        }
    }
    if let Ok((engine, _)) = open(&disk) {
        let _ = engine.close();
    }
}
