//! Did you mean …?

/// The candidate that differs least from `word`, if it differs little.
pub(crate) fn nearest<S: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    let far = 1 + word.chars().count() / 3;
    candidates
        .into_iter()
        .map(|c| (distance(word, c.as_ref()), c.as_ref().to_owned()))
        .filter(|(d, _)| *d <= far)
        .min()
        .map(|(_, c)| c)
}

/// Insertions, deletions and substitutions between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let above = row[j + 1];
            let here = (diagonal + usize::from(ca != *cb)).min(above + 1).min(left + 1);
            row[j] = left;
            diagonal = above;
            left = here;
        }
        if let Some(last) = row.last_mut() {
            *last = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn far_is_no_suggestion() {
        assert_eq!(nearest("levle", ["level", "format"]).as_deref(), Some("level"));
        assert_eq!(nearest("colour", ["level", "format"]), None);
    }
}
