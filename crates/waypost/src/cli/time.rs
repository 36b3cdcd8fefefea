//! Lengths of time, as every option takes them: `500ms`, `15s`, `2m`, `1h`, `7d`, or a number of seconds.

/// The units, in seconds.
const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

/// Longest time, in seconds: ten years.
const SECONDS_MAX: f64 = 315_360_000.0;

/// A length of time, in seconds.
pub fn seconds(text: &str) -> Result<f64, String> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => Some(1.0),
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor),
    };
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some(factor)) if (0.0..=SECONDS_MAX).contains(&(number * factor)) => Ok(number * factor),
        _ => Err("expected a time such as 500ms, 15s, 2m, 1h, or seconds".to_owned()),
    }
}

/// A length of time, in seconds, and not none.
pub fn positive_seconds(text: &str) -> Result<f64, String> {
    seconds(text).and_then(|s| if s > 0.0 { Ok(s) } else { Err("expected a time above zero".to_owned()) })
}

/// A length of time of whole seconds.
pub fn whole_seconds<N: TryFrom<u64>, const MIN: u64, const MAX: u64>(text: &str) -> Result<N, String> {
    let wrong = || format!("expected whole seconds, {MIN} to {MAX}");
    let given = seconds(text)?;
    let whole = (MIN..=MAX).contains(&(given as u64)) && given.fract() == 0.0;
    if whole { N::try_from(given as u64).map_err(|_| wrong()) } else { Err(wrong()) }
}

/// A length of time, as the server takes it.
pub fn span(text: &str) -> Result<String, String> {
    seconds(text).map(|s| format!("{}ms", (s * 1000.0).ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_and_without_a_unit() {
        for (text, s) in
            [("1s", 1.0), ("1", 1.0), ("0.5", 0.5), ("500ms", 0.5), ("1.5m", 90.0), ("2H", 7200.0), ("7d", 604_800.0)]
        {
            assert_eq!(seconds(text), Ok(s), "{text}");
        }
        for wrong in ["", "s", "-1s", "1 s", "1w", "1s2", "nan", "inf", "1e3s", "4000d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(span("15").as_deref(), Ok("15000ms"));
        assert_eq!(span("1h").as_deref(), Ok("3600000ms"));
        assert_eq!(whole_seconds::<u32, 1, 3600>("2m"), Ok(120));
        assert!(whole_seconds::<u32, 1, 3600>("0s").is_err() && whole_seconds::<u32, 1, 3600>("1500ms").is_err());
        assert!(whole_seconds::<u32, 1, 3600>("2h").is_err() && positive_seconds("0").is_err());
    }
}
