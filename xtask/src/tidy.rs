//! Rules about the tree that the compiler does not know: who may import whom, what pure crates must not touch, how
//! long a file may be.

use crate::run;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates each may import; a crate that is not named here may not exist. ARCHITECTURE.md has the reasons.
const IMPORTS: &[(&str, &[&str])] = &[
    ("waypost-model", &[]),
    ("waypost-dns", &[]),
    ("waypost-kafka", &[]),
    ("waypost-stream", &["waypost-model"]),
    ("waypost-amqp", &["waypost-model"]),
    ("waypost-zmtp", &["waypost-model"]),
    ("waypost-broker", &["waypost-model"]),
    ("waypost-registry", &["waypost-model"]),
    ("waypost-storage", &["waypost-model"]),
    (
        "waypost-server",
        &[
            "waypost-model",
            "waypost-amqp",
            "waypost-broker",
            "waypost-dns",
            "waypost-kafka",
            "waypost-registry",
            "waypost-storage",
            "waypost-stream",
            "waypost-zmtp",
        ],
    ),
    (
        "waypost",
        &["waypost-server", "waypost-model", "waypost-amqp", "waypost-kafka", "waypost-storage", "waypost-zmtp"],
    ),
    ("waypost-sim", &["waypost-model", "waypost-amqp", "waypost-broker", "waypost-registry", "waypost-storage"]),
    ("xtask", &[]),
];

/// No clock, no randomness, no sockets, no files: these run in the simulator as they are.
const PURE: &[&str] = &[
    "waypost-model",
    "waypost-kafka",
    "waypost-stream",
    "waypost-zmtp",
    "waypost-dns",
    "waypost-amqp",
    "waypost-broker",
    "waypost-registry",
];

/// What a pure crate must not depend on, not even through another.
const IMPURE: &[&str] = &["tokio", "mio", "rand", "getrandom", "socket2", "rustix"];

/// What a pure crate must not name.
const IMPURE_PATHS: &[&str] = &[
    "std::time::SystemTime",
    "std::time::Instant",
    "SystemTime::now",
    "Instant::now",
    "std::fs",
    // Addresses as such are data.
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::process",
    "std::env::",
];

const LINES_WARN: usize = 600;
const LINES_MAX: usize = 900;

/// # Errors
/// Everything that is not as it should be, one line each.
pub fn check() -> Result<()> {
    let metadata = metadata()?;
    let packages = packages(&metadata)?;
    let mut faults = imports(&packages);
    faults.extend(purity(&metadata, &packages)?);
    faults.extend(sources()?);
    if !faults.is_empty() {
        bail!("{} faults:\n{}", faults.len(), faults.join("\n"));
    }
    Ok(())
}

/// A member of the workspace.
struct Package {
    name: String,
    id: String,
    folder: PathBuf,
    /// Names of its normal and build dependencies; what only its tests use does not matter.
    imports: BTreeSet<String>,
}

fn metadata() -> Result<Value> {
    let output = Command::new(run::cargo_program())
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(run::root())
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("read what cargo metadata printed")
}

fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let members: BTreeSet<&str> = list(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    let all = list(metadata, "packages").iter().filter(|package| members.contains(text(package, "id")));
    all.map(|package| {
        let manifest = Path::new(text(package, "manifest_path"));
        let normal = list(package, "dependencies").iter().filter(|one| text(one, "kind") != "dev");
        Ok(Package {
            name: text(package, "name").to_owned(),
            id: text(package, "id").to_owned(),
            folder: manifest.parent().context("a manifest without a folder")?.to_path_buf(),
            imports: normal.map(|one| text(one, "name").to_owned()).collect(),
        })
    })
    .collect()
}

fn imports(packages: &[Package]) -> Vec<String> {
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == package.name) else {
            faults.push(format!("{}: not in the table of imports (xtask/src/tidy.rs)", package.name));
            continue;
        };
        for import in package.imports.iter().filter(|import| ours.contains(import.as_str())) {
            if !allowed.contains(&import.as_str()) {
                faults.push(format!("{}: must not import {import}", package.name));
            }
        }
    }
    faults
}

fn purity(metadata: &Value, packages: &[Package]) -> Result<Vec<String>> {
    let names: BTreeMap<&str, &str> =
        list(metadata, "packages").iter().map(|package| (text(package, "id"), text(package, "name"))).collect();
    let nodes = metadata.get("resolve").map(|resolve| list(resolve, "nodes")).unwrap_or_default();
    let edges: BTreeMap<&str, Vec<&str>> = nodes.iter().map(|node| (text(node, "id"), normal_edges(node))).collect();
    let mut faults = Vec::new();
    for package in packages.iter().filter(|package| PURE.contains(&package.name.as_str())) {
        for reached in reachable(&package.id, &edges) {
            let name = names.get(reached).copied().unwrap_or_default();
            if IMPURE.contains(&name) {
                faults.push(format!("{}: depends on {name}, and is to be pure", package.name));
            }
        }
        for file in rust_files(&package.folder.join("src"))? {
            faults.extend(impure_lines(&file)?);
        }
    }
    Ok(faults)
}

/// Ids that a node of the resolved graph depends on otherwise than for its tests.
fn normal_edges(node: &Value) -> Vec<&str> {
    let is_normal = |edge: &&Value| list(edge, "dep_kinds").iter().any(|kind| text(kind, "kind") != "dev");
    list(node, "deps").iter().filter(is_normal).map(|edge| text(edge, "pkg")).collect()
}

fn reachable<'a>(from: &'a str, edges: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(id) = next.pop() {
        if seen.insert(id) {
            next.extend(edges.get(id).into_iter().flatten());
        }
    }
    seen
}

fn impure_lines(file: &Path) -> Result<Vec<String>> {
    let source = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let is_test = file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs");
    if is_test {
        return Ok(Vec::new());
    }
    let code = source.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    let mut faults = Vec::new();
    for (number, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
        if let Some(path) = IMPURE_PATHS.iter().find(|path| line.contains(**path)) {
            faults.push(format!("{}:{}: {path} in a pure crate", file.display(), number + 1));
        }
    }
    Ok(faults)
}

/// Lengths of all sources, and words that must not stay. Files over the first limit are only named.
fn sources() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for folder in ["crates", "xtask"] {
        for file in rust_files(&run::root().join(folder))? {
            let source = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let lines = source.lines().count();
            if lines > LINES_MAX {
                faults.push(format!("{}: {lines} lines, at most {LINES_MAX}", file.display()));
            } else if lines > LINES_WARN {
                eprintln!("warning: {}: {lines} lines", file.display());
            }
            // In two parts, or this line would be found.
            for word in [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")] {
                if source.contains(word) {
                    faults.push(format!("{}: holds `{word}`", file.display()));
                }
            }
        }
    }
    Ok(faults)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        if let Err(error) = super::check() {
            panic!("{error:#}");
        }
    }
}
