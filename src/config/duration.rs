//! A length of time as people write it.

use std::{str::FromStr, time};

use super::InvalidValue;

/// A length of time: `30s`, `1m30s`, `500ms`. Units: `ms`, `s`, `m`, `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub time::Duration);

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl FromStr for Duration {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = |why: String| InvalidValue(format!("{text:?} is not a duration: {why}"));
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(invalid("write for example 30s, 1m30s or 500ms".into()));
        }
        let mut millis: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            if unit.is_empty() {
                return Err(invalid(format!("a unit is missing; did you mean {text}s or {text}ms?")));
            }
            let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
            let (Ok(number), Some(factor)) = (number.parse::<u64>(), factor) else {
                return Err(invalid("write whole numbers with ms, s, m or h, such as 30s or 1m30s".into()));
            };
            millis = number
                .checked_mul(factor)
                .and_then(|part| part.checked_add(millis))
                .ok_or_else(|| invalid("it is too long".into()))?;
            rest = tail;
        }
        Ok(Self(time::Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        for (text, millis) in
            [("30s", 30_000), ("1m30s", 90_000), ("500ms", 500), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(text.parse(), Ok(Duration(time::Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_what_to_write() {
        for (text, part) in [
            ("30", "did you mean 30s or 30ms?"),
            ("", "write for example"),
            ("1.5s", "whole numbers"),
            ("30 s", "whole numbers"),
            ("-1s", "whole numbers"),
            ("30sec", "ms, s, m or h"),
            ("99999999999999999999h", "whole numbers"),
            ("9999999999999999h", "too long"),
        ] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
