//! `cargo xtask test`, `ci` and `tidy`: what a developer and CI run, by the same commands.

mod count;
mod interop;
mod run;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <test [--long] | ci [--long] | tidy>

  test   unit tests of the workspace, then the interop tests with stock clients
  ci     format check, lints, then test
  tidy   import rules between crates, file lengths
  --long more rounds of the crash tests";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => test(Length::Usual),
        ["test", "--long"] => test(Length::Long),
        ["ci"] => ci(Length::Usual),
        ["ci", "--long"] => ci(Length::Long),
        ["tidy"] => tidy::check(),
        _ => bail!("{USAGE}"),
    }
}

/// How many rounds the crash tests take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Usual,
    Long,
}

fn ci(length: Length) -> Result<()> {
    run::cargo(&["fmt", "--all", "--check"])?;
    run::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    test(length)
}

/// Runs both suites even when the first fails, so that one run tells all.
fn test(length: Length) -> Result<()> {
    let unit = run::tests("unit tests", &["test", "--workspace", "--no-fail-fast"])?;
    let interop = interop::run(length)?;
    let total = unit + interop;
    println!("\n{total}");
    if !total.good() {
        bail!("tests failed");
    }
    Ok(())
}
