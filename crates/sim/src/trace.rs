//! What happened: a hash of all of it, and the last steps in words.

use std::collections::VecDeque;

const KEPT: usize = 80;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    last: VecDeque<String>,
    loud: bool,
}

impl Trace {
    /// An empty trace; a loud one prints everything as it happens.
    #[must_use]
    pub fn new(loud: bool) -> Trace {
        Trace { loud, ..Trace::default() }
    }

    /// Adds a line.
    pub fn add(&mut self, line: String) {
        for b in line.bytes() {
            self.hash = (self.hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
        if self.loud {
            eprintln!("{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The hash of all lines.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    #[must_use]
    pub fn last(&self) -> String {
        self.last.iter().map(|l| format!("  {l}\n")).collect()
    }
}
