//! What changed between two versions.

use std::fmt::Write as _;
use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput};

/// Unchanged lines that are shown around a change.
const CONTEXT: usize = 3;

/// Lines of both sides together, where they differ, that are aligned. Beyond it the one is shown as taken out and the
/// other as put in: aligning takes time that grows faster than what a client sends.
const ALIGNED_LINES_MAX: usize = 20_000;

/// What two values differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Nothing.
    Same,
    /// Lines, in the unified form; the two header lines included.
    Text(String),
    /// At least one of them is no text.
    Binary,
}

/// Compares two values as text, line by line.
#[must_use]
pub fn difference(before: (&str, &[u8]), after: (&str, &[u8])) -> Difference {
    if before.1 == after.1 {
        return Difference::Same;
    }
    let (Some(old), Some(new)) = (text(before.1), text(after.1)) else { return Difference::Binary };
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let mut out = format!("--- {}\n+++ {}\n", before.0, after.0);
    let changes = changes(&old, &new);
    for group in grouped(&changes) {
        print(&mut out, &old, &new, group);
    }
    Difference::Text(out)
}

/// Text, as tools see it: UTF-8 without zero bytes.
fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|t| !t.contains('\0'))
}

/// Lines `old` that lines `new` stand for.
#[derive(Debug)]
struct Change {
    old: Range<usize>,
    new: Range<usize>,
}

fn changes(old: &[&str], new: &[&str]) -> Vec<Change> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tails = old[head..].iter().rev().zip(new[head..].iter().rev());
    let tail = tails.take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    if old.len() + new.len() > ALIGNED_LINES_MAX {
        return vec![Change { old: head..head + old.len(), new: head..head + new.len() }];
    }
    let mut input = InternedInput::default();
    input.update_before(old.iter().copied());
    input.update_after(new.iter().copied());
    let diff = Diff::compute(Algorithm::Histogram, &input);
    let shift = |range: Range<u32>| head + range.start as usize..head + range.end as usize;
    diff.hunks().map(|hunk| Change { old: shift(hunk.before), new: shift(hunk.after) }).collect()
}

/// Changes whose context touches are shown together.
fn grouped(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    changes.chunk_by(|a, b| b.old.start - a.old.end <= 2 * CONTEXT)
}

fn print(out: &mut String, old: &[&str], new: &[&str], group: &[Change]) {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
    let before = first.old.start.min(CONTEXT);
    let after = (old.len() - last.old.end).min(CONTEXT);
    let (from, to) = (first.old.start - before..last.old.end + after, first.new.start - before..last.new.end + after);
    // An empty side stands before its first line.
    let start = |r: &Range<usize>| if r.is_empty() { r.start } else { r.start + 1 };
    // Writing to a string does not fail.
    let _ = writeln!(out, "@@ -{},{} +{},{} @@", start(&from), from.len(), start(&to), to.len());
    let mut at = from.start;
    for change in group {
        lines(out, ' ', &old[at..change.old.start]);
        lines(out, '-', &old[change.old.clone()]);
        lines(out, '+', &new[change.new.clone()]);
        at = change.old.end;
    }
    lines(out, ' ', &old[at..from.end]);
}

fn lines(out: &mut String, sign: char, lines: &[&str]) {
    for line in lines {
        out.push(sign);
        out.push_str(line);
        if !line.ends_with('\n') {
            out.push_str("\n\\ No newline at end of file\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(before: &str, after: &str) -> Difference {
        difference(("a", before.as_bytes()), ("b", after.as_bytes()))
    }

    #[test]
    fn unified_with_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        let expected = "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n";
        assert_eq!(lines(old, new), Difference::Text(expected.into()));
    }

    #[test]
    fn a_missing_last_newline_is_told() {
        let expected = "--- a\n+++ b\n@@ -1,1 +1,1 @@\n-x\n+x\n\\ No newline at end of file\n";
        assert_eq!(lines("x\n", "x"), Difference::Text(expected.into()));
    }

    #[test]
    fn from_nothing() {
        assert_eq!(lines("", "x\n"), Difference::Text("--- a\n+++ b\n@@ -0,0 +1,1 @@\n+x\n".into()));
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert_eq!(difference(("a", b"\xff"), ("b", b"x")), Difference::Binary);
        assert_eq!(difference(("a", b"x\0"), ("b", b"x")), Difference::Binary);
        assert_eq!(difference(("a", b"\xff"), ("b", b"\xff")), Difference::Same);
    }

    #[test]
    fn changes_far_apart_are_shown_apart() {
        let numbers =
            |skip: &[usize]| (1..=20).filter(|n| !skip.contains(n)).map(|n| format!("{n}\n")).collect::<String>();
        let Difference::Text(diff) = lines(&numbers(&[]), &numbers(&[2, 19])) else { panic!("a text") };
        let hunks: Vec<_> = diff.lines().filter(|l| l.starts_with("@@")).collect();
        assert_eq!(hunks, ["@@ -1,5 +1,4 @@", "@@ -16,5 +15,4 @@"]);
        let Difference::Text(diff) = lines(&numbers(&[]), &numbers(&[8, 15])) else { panic!("a text") };
        assert_eq!(diff.lines().filter(|l| l.starts_with("@@")).count(), 1, "six lines between them: {diff}");
    }

    /// As many lines as fit, the same ones all over: it ends, and soon.
    #[test]
    fn the_worst_input_does_not_hang() {
        for (odd, even) in [(260_000, 170_000), (5_000, 3_000)] {
            let (odd, even) = ("a\nb\n".repeat(odd), "b\na\nc\n".repeat(even));
            assert!(matches!(lines(&odd, &even), Difference::Text(_)));
        }
    }
}
