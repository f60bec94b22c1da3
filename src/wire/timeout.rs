//! The `grpc-timeout` header (gRPC `doc/PROTOCOL-HTTP2.md`): at most 8 digits and a unit.

use std::time::Duration;

/// Reads a `grpc-timeout` value such as `100m` or `5S`. Units: H, M, S, m, u, n.
pub fn decode(value: &[u8]) -> Result<Duration, InvalidTimeout> {
    let invalid = || InvalidTimeout { value: String::from_utf8_lossy(value).chars().take(SHOWN).collect() };
    let Some((&unit, digits)) = value.split_last() else { return Err(invalid()) };
    if !(1..=MAX_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    // Eight digits of hours are 3.6e11 seconds: nothing below can overflow.
    let n = digits.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(n * 3600)),
        b'M' => Ok(Duration::from_secs(n * 60)),
        b'S' => Ok(Duration::from_secs(n)),
        b'm' => Ok(Duration::from_millis(n)),
        b'u' => Ok(Duration::from_micros(n)),
        b'n' => Ok(Duration::from_nanos(n)),
        _ => Err(invalid()),
    }
}

/// Writes a `grpc-timeout` value: the finest unit that fits in 8 digits, rounded up so that a deadline is never
/// shortened. The value is at least `1n` (gRPC wants a positive number) and at most `99999999H`.
pub fn encode(timeout: Duration) -> String {
    let nanos = timeout.as_nanos().max(1);
    for (unit, per_unit) in UNITS {
        let n = nanos.div_ceil(per_unit);
        if n <= MAX_VALUE {
            return format!("{n}{unit}");
        }
    }
    format!("{MAX_VALUE}H")
}

const MAX_DIGITS: usize = 8;
const MAX_VALUE: u128 = 99_999_999;

/// How many characters of a wrong value an error shows.
const SHOWN: usize = 32;

/// Each unit in nanoseconds, finest first.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60_000_000_000),
    ('H', 3_600_000_000_000),
];

/// The value is not 1 to 8 digits and a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout {value:?} is not valid: expected 1 to 8 digits and one of the units H, M, S, m, u, n")]
pub struct InvalidTimeout {
    /// What was there, cut to 32 characters, lossily decoded.
    pub value: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("100m", Duration::from_millis(100)),
            ("5u", Duration::from_micros(5)),
            ("00000007n", Duration::from_nanos(7)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(decode(value.as_bytes()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_not_digits_and_a_unit_is_refused() {
        for value in
            ["", "S", "1", "1s", "1h", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "0x1S"]
        {
            assert_eq!(decode(value.as_bytes()), Err(InvalidTimeout { value: value.into() }), "{value:?}");
        }
        assert!(decode(b"\xff\xfeS").is_err());
    }

    #[test]
    fn an_error_shows_only_the_beginning_of_a_long_value() {
        let error = decode(&[b'9'; 5000]).unwrap_err();
        assert_eq!(error.value.len(), SHOWN);
    }

    #[test]
    fn the_finest_unit_that_fits_is_written() {
        for (timeout, expected) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_001), "100001u"),
            (Duration::from_secs(1), "1000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(encode(timeout), expected, "{timeout:?}");
        }
    }

    proptest! {
        #[test]
        fn a_written_timeout_is_never_shorter_and_hardly_longer(
            secs in prop_oneof![0u64..10, 0u64..100_000_000, 0u64..359_999_996_400],
            nanos in 0u32..1_000_000_000,
        ) {
            let asked = Duration::new(secs, nanos);
            let value = encode(asked);
            let read = decode(value.as_bytes()).unwrap();
            prop_assert!(read >= asked, "{} is shorter than {:?}", value, asked);
            // Where a unit no longer fits, 100,000 of the next are left at least.
            let slack = (asked / 100_000).max(Duration::from_nanos(1));
            prop_assert!(read - asked <= slack, "{} is much longer than {:?}", value, asked);
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(timeout) = decode(&value) {
                prop_assert!(decode(encode(timeout).as_bytes()).unwrap() >= timeout);
            }
        }
    }
}
