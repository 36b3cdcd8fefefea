//! The page `docs/configuration.md`, from the declaration.

use std::fmt::Write as _;

use super::{KEYS, SECTIONS};

/// The page, Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for section in SECTIONS {
        let _ = writeln!(out, "\n## `[{}]`\n\n{}", section.name, flowing(section.doc));
        let _ = writeln!(out, "\n| key | value | default | environment | flag |\n|---|---|---|---|---|");
        for key in KEYS.iter().filter(|k| k.section == section.name) {
            let list = if key.list { "list of: " } else { "" };
            let default =
                if key.default.is_empty() { String::new() } else { format!("`{}`", key.default.replace(' ', "`, `")) };
            let _ = writeln!(
                out,
                "| `{}` | {list}{} | {default} | `{}` | `--{}` |",
                key.name,
                key.form,
                key.env(),
                key.flag()
            );
        }
        out.push('\n');
        for key in KEYS.iter().filter(|k| k.section == section.name) {
            let _ = writeln!(out, "- **`{}`**: {}", key.name, flowing(key.doc));
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from crates/server/src/config/mod.rs; a test checks that it is current.
     UPDATE_DOCS=1 cargo test -p waypost-server writes it anew. -->

Settings come from the file given by `--config` (TOML), from environment variables, and from flags of `waypost serve`;
later ones win, and a list is replaced as a whole. An unknown name is an error. `waypost serve --print-config` shows every
setting with its origin, `waypost check-config` checks without starting. A mistake ends the start with exit code 78.

Sizes have a unit (`64MiB`, `50MB`), durations too (`30s`, `500ms`). A list is an array in the file, the flag given several
times, or words separated by spaces in an environment variable.
";

/// Doc comments without their line breaks.
fn flowing(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}
