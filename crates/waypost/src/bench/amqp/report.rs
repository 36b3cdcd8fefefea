//! Printing a result: one JSON document, or aligned lines of the same figures.

use crate::output::OutputFormat;
use serde_json::Value;
use std::io::{self, Write};

/// Prints `result` to `out`.
///
/// # Errors
/// Those of writing.
pub fn print(out: &mut impl Write, result: &Value, format: OutputFormat) -> io::Result<()> {
    match format {
        OutputFormat::Json => writeln!(out, "{result:#}"),
        OutputFormat::Table => {
            let mut lines = Vec::new();
            flatten(&mut lines, "", result);
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            lines.iter().try_for_each(|(name, value)| writeln!(out, "{name:width$}  {value}"))
        }
    }
}

fn flatten(lines: &mut Vec<(String, String)>, prefix: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(lines, &name, member);
            }
        }
        Value::Null => {}
        Value::Number(number) => {
            let text = number.as_u64().map_or_else(|| number.to_string(), grouped);
            lines.push((prefix.to_owned(), text));
        }
        Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_the_same_figures() {
        let result = serde_json::json!({"mode": "x", "a": {"rate": 1_234_567, "none": null}, "f": 1.5});
        let mut table = Vec::new();
        print(&mut table, &result, OutputFormat::Table).unwrap();
        assert_eq!(String::from_utf8(table).unwrap(), "mode    x\na.rate  1 234 567\nf       1.5\n");
        let mut json = Vec::new();
        print(&mut json, &result, OutputFormat::Json).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), result);
    }
}
