//! The interop tests: stock AMQP clients, driven by pytest, against the binary built here.

use crate::count::Count;
use crate::{Length, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the binary, prepares the clients, runs the suite.
pub fn run(length: Length) -> Result<Count> {
    println!("# interop tests");
    run::cargo(&["build", "--release", "--package", "waypost"])?;
    let folder = run::root().join("tests/interop");
    let python = environment(&folder)?;
    let mut command = Command::new(python);
    command
        .args(["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"])
        .current_dir(&folder)
        .env("WAYPOST_BIN", binary());
    if length == Length::Long {
        command.arg("--long");
    }
    run::counted(&mut command)
}

fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| run::root().join("target"), PathBuf::from);
    run::root().join(target).join("release/waypost")
}

/// The Python of a virtual environment that holds what requirements.txt pins; made when absent, renewed when that
/// file has changed.
fn environment(folder: &Path) -> Result<PathBuf> {
    let wanted = fs::read_to_string(folder.join("requirements.txt")).context("read tests/interop/requirements.txt")?;
    let venv = folder.join(".venv");
    let python = venv.join("bin/python");
    let stamp = venv.join("requirements.installed");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run::checked(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))
        .context("make a virtual environment (Debian has this in the package python3-venv)")?;
    run::checked(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"])
            .current_dir(folder),
    )?;
    fs::write(&stamp, wanted).context("note what is installed")?;
    Ok(python)
}
