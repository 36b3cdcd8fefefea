//! What the machine has: memory, disk, files.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::error::ServeError;

/// What was last seen of the machine. Bytes; 0 where it cannot be known.
#[derive(Debug)]
pub struct Gauges {
    /// Resident memory of this process.
    pub resident: AtomicU64,
    /// Memory above which publishers are held back.
    pub resident_limit: u64,
    /// Free space on the disk of the data directory.
    pub disk_free: AtomicU64,
    /// Free space below which publishers are held back.
    pub disk_free_limit: u64,
}

impl Gauges {
    pub(super) fn new(config: &Config) -> Gauges {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share"
        )]
        let limit = (memory_available() as f64 * config.memory.high_watermark.0) as u64;
        let gauges = Gauges {
            resident: AtomicU64::new(0),
            resident_limit: limit,
            disk_free: AtomicU64::new(0),
            disk_free_limit: config.disk.free_limit.0,
        };
        gauges.look(&config.server.data_dir);
        gauges
    }

    /// Looks again.
    pub(super) fn look(&self, data_dir: &Path) {
        self.resident.store(resident_memory().unwrap_or(0), Relaxed);
        self.disk_free.store(disk_free(data_dir).unwrap_or(0), Relaxed);
    }
}

/// Resident memory of this process, bytes. Linux only.
fn resident_memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Memory that this process may use: the machine's, or its control group's if that is less. 0 if unknown.
fn memory_available() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    });
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = groups.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    machine.into_iter().chain(group).min().unwrap_or(0)
}

/// Bytes that an ordinary user may still write to the disk under `path`.
fn disk_free(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Open files of this process, and how many it may open. Linux only.
pub(crate) fn open_files() -> (Option<u64>, Option<u64>) {
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as u64);
    (open, getrlimit(Resource::Nofile).current)
}

/// Every connection is a file: takes as many as the system lets us have.
pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Without it there are fewer connections, which `accept` will say.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Bytes that nobody can guess.
pub(super) fn seed() -> Result<[u8; 32], ServeError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| ServeError::Io {
        what: "the system gives no random bytes",
        error: std::io::Error::other(e.to_string()),
    })?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_seen() {
        assert!(resident_memory().unwrap() > 100_000);
        assert!(memory_available() > 1 << 20);
        assert!(disk_free(Path::new("/")).unwrap() > 0);
        assert!(disk_free(Path::new("/nonexistent")).is_none());
        assert!(open_files().0.unwrap() > 2);
    }
}
