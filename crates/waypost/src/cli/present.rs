//! How results are printed: aligned columns on a terminal, one line per item elsewhere, JSON on demand.

use std::io::{IsTerminal as _, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::exit::Failure;

/// `-o`, for everything that prints results.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// What to print; by default a table on a terminal, else one line per item with tabs between the columns
    #[arg(short, long, value_enum, global = true)]
    pub output: Option<Format>,
}

/// What goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns with a heading
    Table,
    /// One line per item, tabs between the columns, no heading
    Lines,
    /// One JSON document, as the server gave it
    Json,
}

impl OutputArgs {
    /// The format in force.
    pub fn format(&self) -> Format {
        self.output.unwrap_or(if std::io::stdout().is_terminal() { Format::Table } else { Format::Lines })
    }

    /// Prints a list: each column is a heading and the path of its value in an item, dots between the keys.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub fn list(&self, items: &Value, columns: &[(&str, &str)]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if self.format() == Format::Json {
            return json(&mut out, items);
        }
        let one = std::slice::from_ref(items);
        let rows = items.as_array().map_or(one, Vec::as_slice);
        let rows = rows.iter().map(|item| columns.iter().map(|(_, path)| cell(at(item, path))).collect());
        let headings = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        print_rows(&mut out, self.format(), headings, rows.collect())
    }

    /// Prints one thing: a line per value, nested ones by their path.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub fn item(&self, item: &Value) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if self.format() == Format::Json {
            return json(&mut out, item);
        }
        let mut rows = Vec::new();
        flatten(String::new(), item, &mut rows);
        print_rows(&mut out, self.format(), vec!["FIELD".to_owned(), "VALUE".to_owned()], rows)
    }

    /// Says what was done: on standard error, or the server's answer as JSON if asked for.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub fn done(&self, answer: &Value, text: &str) -> Result<(), Failure> {
        if self.output == Some(Format::Json) {
            let nothing = Value::Object(serde_json::Map::new());
            return json(&mut std::io::stdout().lock(), if answer.is_null() { &nothing } else { answer });
        }
        if std::io::stderr().is_terminal() {
            eprintln!("{text}");
        }
        Ok(())
    }
}

fn json(out: &mut impl Write, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::new)?;
    writeln!(out, "{text}")?;
    Ok(())
}

fn at<'a>(item: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(item, |value, key| value.get(key)).unwrap_or(&Value::Null)
}

/// A value in a column. Control characters would let a queue's name rewrite the terminal.
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn flatten(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(path, value, rows);
            }
        }
        Value::Object(_) => {}
        other => rows.push(vec![path, cell(other)]),
    }
}

/// Prints rows of equal length.
fn print_rows(
    out: &mut impl Write,
    format: Format,
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
) -> Result<(), Failure> {
    if format == Format::Lines {
        for row in rows {
            writeln!(out, "{}", row.join("\t"))?;
        }
        return Ok(());
    }
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    for row in std::iter::once(&headings).chain(&rows) {
        let padded = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        let rows = vec![vec!["q".to_owned(), "10".to_owned()], vec!["longer".to_owned(), String::new()]];
        print_rows(&mut out, format, vec!["NAME".to_owned(), "READY".to_owned()], rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tables_are_aligned_and_lines_are_bare() {
        assert_eq!(printed(Format::Table), "NAME    READY\nq       10\nlonger\n");
        assert_eq!(printed(Format::Lines), "q\t10\nlonger\t\n");
    }

    #[test]
    fn values_become_text_that_cannot_move_the_cursor() {
        assert_eq!(cell(&json!(["a", "b"])), "a,b");
        assert_eq!(cell(&json!("x\u{1b}[2J\n")), "x\u{fffd}[2J\u{fffd}");
        assert_eq!(cell(&json!({"a": 1})), "{\"a\":1}");
        assert_eq!(cell(at(&json!({"a": {"b": 2}}), "a.b")), "2");
    }
}
