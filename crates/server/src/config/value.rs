//! Kinds of values and how they are written.

use std::path::PathBuf;
use std::time::Duration;

use super::sources::ConfigError;
use crate::push::Allowed;

/// A kind of value that a setting can have.
pub trait Setting: Sized {
    /// What it is called in the documentation.
    const FORM: &'static str;
    /// Whether it takes several values.
    const LIST: bool = false;

    /// Reads it from what a source gave.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn read(values: &[String]) -> Result<Self, String>;

    /// Writes it so that [`Setting::read`] takes it.
    fn show(&self) -> Vec<String>;
}

/// One element of a list, or a value on its own.
pub trait Scalar: Sized {
    /// What it is called in the documentation.
    const FORM: &'static str;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes it so that [`Scalar::parse`] takes it.
    fn write(&self) -> String;
}

impl<T: Scalar> Setting for T {
    const FORM: &'static str = T::FORM;

    fn read(values: &[String]) -> Result<Self, String> {
        match values {
            [one] => T::parse(one.trim()),
            _ => Err(format!("takes one value, got {}", values.len())),
        }
    }

    fn show(&self) -> Vec<String> {
        vec![self.write()]
    }
}

/// An element type whose lists can be switched off as a whole.
pub trait Unset {
    /// The word that stands for an empty list, if there is one.
    const WORD: Option<&'static str>;
}

impl Unset for String {
    const WORD: Option<&'static str> = None;
}

impl<T: Scalar + Unset> Setting for Vec<T> {
    const FORM: &'static str = T::FORM;
    const LIST: bool = true;

    fn read(values: &[String]) -> Result<Self, String> {
        match values {
            [word] if T::WORD == Some(word.trim()) => Ok(Vec::new()),
            many => many.iter().map(|one| T::parse(one.trim())).collect(),
        }
    }

    fn show(&self) -> Vec<String> {
        match T::WORD {
            Some(word) if self.is_empty() => vec![word.to_owned()],
            _ => self.iter().map(Scalar::write).collect(),
        }
    }
}

/// Reads a default.
pub(super) fn default<T: Setting>(path: &str, text: &str) -> Result<T, ConfigError> {
    let values = split(text, T::LIST);
    T::read(&values).map_err(|why| ConfigError::Value { key: path.to_owned(), origin: "default".to_owned(), why })
}

/// One string for all values of a list: separated by white space.
pub(super) fn split(text: &str, list: bool) -> Vec<String> {
    if list { text.split_whitespace().map(str::to_owned).collect() } else { vec![text.to_owned()] }
}

/// A number of bytes, written with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Scalar for ByteSize {
    const FORM: &'static str = "size";

    fn parse(text: &str) -> Result<Self, String> {
        with_unit(text, &BYTE_UNITS, "a size such as 64MiB").map(ByteSize)
    }

    fn write(&self) -> String {
        write_unit(self.0, &BYTE_UNITS[..4], "B")
    }
}

const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Scalar for Duration {
    const FORM: &'static str = "duration";

    fn parse(text: &str) -> Result<Self, String> {
        with_unit(text, &TIME_UNITS, "a duration such as 30s").map(Duration::from_millis)
    }

    fn write(&self) -> String {
        let ms = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
    }
}

/// `12MiB`: a whole number and one of the units.
fn with_unit(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not {example}");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim();
    if unit.is_empty() && number == 0 {
        return Ok(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(|| {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        format!("{}: it needs a unit ({})", wrong(), names.join(", "))
    })?;
    number.checked_mul(*factor).ok_or_else(|| format!("`{text}` is too large"))
}

fn write_unit(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    match units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("{value}{smallest}"),
    }
}

/// A share between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Fraction(pub f64);

impl Scalar for Fraction {
    const FORM: &'static str = "fraction";

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(f) if f > 0.0 && f <= 1.0 => Ok(Fraction(f)),
            _ => Err(format!("`{text}` is not a fraction above 0 and up to 1")),
        }
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Scalar for $ty {
            const FORM: &'static str = "number";

            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("`{text}` is not a whole number up to {}", <$ty>::MAX))
            }

            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

number!(u16, u32, u64, usize);

impl Scalar for bool {
    const FORM: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Scalar for String {
    const FORM: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn write(&self) -> String {
        self.clone()
    }
}

impl Scalar for Allowed {
    const FORM: &'static str = "network or host";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Unset for Allowed {
    const WORD: Option<&'static str> = None;
}

impl Scalar for PathBuf {
    const FORM: &'static str = "path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path must not be empty".to_owned()) } else { Ok(PathBuf::from(text)) }
    }

    fn write(&self) -> String {
        self.display().to_string()
    }
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),* }

        impl Scalar for $name {
            const FORM: &'static str = concat!("one of", $(" `", $word, "`"),*);

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err(format!("`{text}` is not {}", <$name as Scalar>::FORM)),
                }
            }

            fn write(&self) -> String {
                match self { $($name::$variant => $word),* }.to_owned()
            }
        }
    };
}

words! {
    /// Who may use the HTTP API.
    HttpAuth {
        /// Anybody on loopback, users elsewhere.
        Auto = "auto",
        /// Users only.
        Always = "always",
        /// Anybody.
        Never = "never",
    }
}

words! {
    /// How the log looks.
    LogFormat {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One object per line.
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(ByteSize::parse("64MiB"), Ok(ByteSize(64 << 20)));
        assert_eq!(ByteSize::parse("50MB"), Ok(ByteSize(50_000_000)));
        assert_eq!(ByteSize::parse("64 mib"), Ok(ByteSize(64 << 20)));
        assert!(ByteSize::parse("64").unwrap_err().contains("needs a unit"));
        assert!(ByteSize::parse("99999999999TiB").unwrap_err().contains("too large"));
        assert_eq!(<Duration as Scalar>::parse("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(<Duration as Scalar>::parse("0"), Ok(Duration::ZERO));
        assert!(<Duration as Scalar>::parse("soon").is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["1TiB", "64MiB", "1025B", "0B"] {
            assert_eq!(ByteSize::parse(text).unwrap().write(), text);
        }
        assert_eq!(<Duration as Scalar>::parse("2m").unwrap().write(), "120s");
    }

    #[test]
    fn fractions_end_at_one() {
        assert!(Fraction::parse("1.0").is_ok());
        for bad in ["0", "1.1", "NaN", "-1"] {
            assert!(Fraction::parse(bad).is_err(), "{bad}");
        }
    }
}
