//! A number of bytes as people write it.

use std::str::FromStr;

use super::InvalidValue;

/// A number of bytes: `4MiB`, `16KiB`, `1MB`, `512B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl FromStr for Size {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = |why: String| InvalidValue(format!("{text:?} is not a size: {why}"));
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if unit.is_empty() && !number.is_empty() {
            return Err(invalid(format!("a unit is missing; did you mean {text}B, {text}KiB or {text}MiB?")));
        }
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
            return Err(invalid("write a whole number with B, KiB, MiB, GiB, KB or MB, such as 4MiB".into()));
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| invalid("it is too large".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_decimal_units_differ() {
        for (text, bytes) in
            [("4MiB", 4 << 20), ("16KiB", 16 << 10), ("1MB", 1_000_000), ("512B", 512), ("1GiB", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_what_to_write() {
        for (text, part) in [
            ("4", "did you mean 4B, 4KiB or 4MiB?"),
            ("4 MiB", "such as 4MiB"),
            ("4mib", "such as 4MiB"),
            ("", "such as 4MiB"),
            ("99999999999999GiB", "too large"),
        ] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
