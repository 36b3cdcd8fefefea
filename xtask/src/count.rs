//! How many tests passed and failed, read from the closing lines of the runners.

use std::fmt;
use std::ops::Add;

/// Totals of one or more runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    /// A runner ended with an error that no failed test explains, such as code that does not build.
    pub broken: bool,
}

impl Count {
    pub fn good(self) -> bool {
        self.failed == 0 && !self.broken && self.passed > 0
    }

    /// Adds a closing line of `cargo test` or pytest; other lines change nothing.
    pub fn read_line(&mut self, line: &str) {
        let line = line.trim().trim_matches('=').trim();
        let closing =
            line.starts_with("test result:") || (line.contains(" in ") && line.ends_with('s')) || line.ends_with(')');
        if !closing {
            return;
        }
        let words: Vec<&str> = line.split([' ', ',', ';', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if let [number, what] = pair
                && let Ok(number) = number.parse::<u64>()
            {
                match *what {
                    "passed" => self.passed += number,
                    "failed" | "error" | "errors" => self.failed += number,
                    "ignored" | "skipped" => self.skipped += number,
                    _ => {}
                }
            }
        }
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            broken: self.broken || other.broken,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What ended without naming a failed test counts as one failure.
        let failed = self.failed + u64::from(self.broken && self.failed == 0);
        write!(f, "{} passed, {} failed", self.passed, failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    fn counted(lines: &[&str]) -> Count {
        let mut count = Count::default();
        lines.iter().for_each(|line| count.read_line(line));
        count
    }

    #[test]
    fn cargo_closing_lines_add_up() {
        let line = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(counted(&[line, line]).to_string(), "10 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn pytest_closing_line() {
        let line = "===== 2 failed, 130 passed, 3 skipped, 1 error in 61.20s (0:01:01) =====";
        assert_eq!(counted(&[line]).to_string(), "130 passed, 3 failed, 3 skipped");
    }

    #[test]
    fn other_lines_do_not_count() {
        assert_eq!(counted(&["running 5 passed things", "test a::b ... ok"]), Count::default());
    }

    #[test]
    fn nothing_passed_is_not_good() {
        assert!(!Count::default().good());
    }
}
