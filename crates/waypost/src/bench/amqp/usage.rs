//! What processes use, as Linux tells in `/proc`, and how many files this one may open.

use super::fault::Fault;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the memory of the broker is looked at.
const SAMPLE_TIME: Duration = Duration::from_millis(100);

/// Descriptors that are not connections.
const OTHER_FILES: u64 = 64;

/// Processor time that the calling thread has taken so far, in nanoseconds.
pub fn thread_cpu_ns() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// `VmRSS`: all resident pages.
    pub rss_kib: u64,
    /// `RssAnon`: those that are not of a file.
    pub anon_kib: u64,
}

/// A broker whose use is watched.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: u32,
    children: bool,
}

impl Process {
    /// Watches `pid`, and its descendants too if `children`.
    ///
    /// # Errors
    /// No such process, or no `/proc`.
    pub fn new(pid: u32, children: bool) -> Result<Self, Fault> {
        let process = Self { pid, children };
        process.cpu_seconds()?;
        Ok(process)
    }

    fn pids(self) -> Vec<u32> {
        let mut found = vec![self.pid];
        let mut at = 0;
        while let (true, Some(pid)) = (self.children, found.get(at).copied()) {
            at += 1;
            let path = format!("/proc/{pid}/task/{pid}/children");
            let text = fs::read_to_string(path).unwrap_or_default();
            found.extend(text.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        found
    }

    /// User and system time of all threads, ended ones too, in seconds with the resolution of a clock tick (10 ms).
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_seconds(self) -> Result<f64, Fault> {
        let mut ticks = 0;
        for pid in self.pids() {
            match cpu_ticks(pid) {
                Ok(found) => ticks += found,
                Err(source) if pid == self.pid => return Err(self.gone(source)),
                Err(_) => {}
            }
        }
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory now.
    ///
    /// # Errors
    /// The process is gone.
    pub fn memory(self) -> Result<Memory, Fault> {
        let mut sum = Memory::default();
        for pid in self.pids() {
            match fs::read_to_string(format!("/proc/{pid}/status")) {
                Ok(text) => {
                    sum.rss_kib += status_kib(&text, "VmRSS:");
                    sum.anon_kib += status_kib(&text, "RssAnon:");
                }
                Err(source) if pid == self.pid => return Err(self.gone(source)),
                Err(_) => {}
            }
        }
        Ok(sum)
    }

    fn gone(self, source: io::Error) -> Fault {
        Fault::Io { doing: format!("read the use of process {}", self.pid), source }
    }
}

fn cpu_ticks(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat_ticks(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown format"))
}

/// utime and stime of a line of `/proc/PID/stat`; the name in parentheses may hold anything.
fn stat_ticks(line: &str) -> Option<u64> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn status_kib(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// What a broker used during a measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BrokerUse {
    /// Processor time, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Memory before.
    pub before: Memory,
    /// The highest of the samples, taken every 100 ms.
    pub peak: Memory,
    /// Memory after.
    pub after: Memory,
}

/// Watches a broker while a measurement runs.
#[derive(Debug)]
pub struct Watch {
    process: Option<Process>,
    cpu_before: f64,
    before: Memory,
    peak: Mutex<Memory>,
    done: AtomicBool,
}

impl Watch {
    /// Takes the first look at `process`, if one is named.
    ///
    /// # Errors
    /// The process is gone.
    pub fn start(process: Option<Process>) -> Result<Self, Fault> {
        let (cpu_before, before) = match process {
            Some(process) => (process.cpu_seconds()?, process.memory()?),
            None => (0.0, Memory::default()),
        };
        let (peak, done) = (Mutex::new(before), AtomicBool::new(false));
        Ok(Self { process, cpu_before, before, peak, done })
    }

    /// Takes a sample of the memory for the peak.
    pub fn sample(&self) {
        if let (Some(Ok(now)), Ok(mut peak)) = (self.process.map(Process::memory), self.peak.lock()) {
            peak.rss_kib = peak.rss_kib.max(now.rss_kib);
            peak.anon_kib = peak.anon_kib.max(now.anon_kib);
        }
    }

    /// Runs `work` while another thread samples the memory.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                while self.process.is_some() && !self.done.load(Ordering::Relaxed) {
                    self.sample();
                    std::thread::park_timeout(SAMPLE_TIME);
                }
            });
            let result = work();
            self.done.store(true, Ordering::Relaxed);
            sampler.thread().unpark();
            result
        })
    }

    /// Takes the last look.
    ///
    /// # Errors
    /// The process is gone.
    pub fn finish(&self) -> Result<Option<BrokerUse>, Fault> {
        let Some(process) = self.process else {
            return Ok(None);
        };
        self.sample();
        Ok(Some(BrokerUse {
            cpu_seconds: process.cpu_seconds()? - self.cpu_before,
            before: self.before,
            peak: self.peak.lock().map_or_else(|poisoned| *poisoned.into_inner(), |peak| *peak),
            after: process.memory()?,
        }))
    }
}

/// Raises the limit of open files of this process so that it can hold so many connections.
///
/// # Errors
/// The hard limit is lower.
pub fn allow_sockets(sockets: u64) -> Result<(), Fault> {
    let wanted = sockets.saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|_| {
        Fault::Usage(format!(
            "{wanted} open files are needed, the limit is {}: see ulimit -n",
            limit.maximum.unwrap_or(u64::MAX)
        ))
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_no_trouble() {
        let line = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(stat_ticks(line), Some(200));
        assert_eq!(stat_ticks("nonsense"), None);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let process = Process::new(std::process::id(), true).unwrap();
        assert!(process.memory().unwrap().rss_kib > 100);
        assert!(thread_cpu_ns().unwrap() > 0);
        assert!(Process::new(u32::MAX, false).is_err());
        let watch = Watch::start(Some(process)).unwrap();
        let used = watch.during(|| watch.finish()).unwrap().unwrap();
        assert!(used.peak.rss_kib >= used.before.rss_kib && used.cpu_seconds >= 0.0);
    }
}
