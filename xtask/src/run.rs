//! Running other programs, with their output passed on.

use crate::count::Count;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cargo that runs us.
pub fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs cargo in the workspace; an error when it fails.
pub fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(cargo_program());
    command.args(arguments).current_dir(root());
    checked(&mut command)
}

/// Runs a command without input; an error when it fails.
pub fn checked(command: &mut Command) -> Result<()> {
    println!("+ {}", shown(command));
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("run {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs cargo's tests and counts them.
pub fn tests(what: &str, arguments: &[&str]) -> Result<Count> {
    println!("# {what}");
    let mut command = Command::new(cargo_program());
    command.args(arguments).current_dir(root());
    counted(&mut command)
}

/// Runs a test runner, passes its standard output on, and counts what its closing lines say.
pub fn counted(command: &mut Command) -> Result<Count> {
    println!("+ {}", shown(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", shown(command)))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            count.read_line(&line);
        }
    }
    count.broken = !child.wait()?.success();
    Ok(count)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
