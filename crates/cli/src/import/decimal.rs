//! Numbers as files write them, compared and summed exactly.

use std::fmt;

/// Decimals kept behind the point: more than any quantity (6) or price needs.
const DECIMALS: usize = 9;
const SCALE: i128 = 1_000_000_000;
/// Digits before the point: a quantity fits 64 bits, so 19; sums of 10^15 such still fit.
const WHOLE_DIGITS_MAX: usize = 19;

/// An exact decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Decimal(i128);

impl Decimal {
    pub(crate) const ZERO: Decimal = Decimal(0);

    /// Reads `[+-]digits[.digits]`, nothing else: no exponent, no thousands marks.
    pub(crate) fn parse(text: &[u8]) -> Option<Decimal> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let mut scaled: i128 = 0;
        let mut whole = 0usize;
        let mut after: Option<usize> = None;
        for &byte in digits {
            match (byte, &mut after) {
                (b'0'..=b'9', None) => {
                    whole += 1;
                    scaled = scaled * 10 + i128::from(byte - b'0');
                }
                (b'0'..=b'9', Some(count)) => {
                    *count += 1;
                    // Zeros beyond what is kept change nothing; any other digit would be lost.
                    if *count <= DECIMALS {
                        scaled = scaled * 10 + i128::from(byte - b'0');
                    } else if byte != b'0' {
                        return None;
                    }
                }
                (b'.', None) => after = Some(0),
                _ => return None,
            }
            if whole > WHOLE_DIGITS_MAX {
                return None;
            }
        }
        let decimals = after.unwrap_or(0);
        if whole == 0 || after == Some(0) {
            return None;
        }
        for _ in decimals.min(DECIMALS)..DECIMALS {
            scaled *= 10;
        }
        Some(Decimal(if negative { -scaled } else { scaled }))
    }

    #[must_use]
    pub(crate) fn negated(self) -> Decimal {
        Decimal(-self.0)
    }

    #[must_use]
    pub(crate) fn absolute(self) -> Decimal {
        Decimal(self.0.abs())
    }

    pub(crate) fn is_whole(self) -> bool {
        self.0 % SCALE == 0
    }

    /// The number before the point.
    pub(crate) fn whole(self) -> i128 {
        self.0 / SCALE
    }

    /// Adds; a sum beyond 10^29 stays there, far above what any file can hold.
    pub(crate) fn add(&mut self, other: Decimal) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return write!(f, "{}", self.whole());
        }
        let sign = if self.0 < 0 { "-" } else { "" };
        let all = self.0.unsigned_abs();
        let scale = SCALE.unsigned_abs();
        let part = format!("{:09}", all % scale);
        write!(f, "{sign}{}.{}", all / scale, part.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_exactly_or_not_at_all() {
        let read = |text: &str| Decimal::parse(text.as_bytes()).map(|d| d.to_string());
        let cases = [
            ("6", "6"),
            ("-12", "-12"),
            ("+3", "3"),
            ("0.0", "0"),
            ("17850.0", "17850"),
            ("-0.25", "-0.25"),
            ("1.500000000000", "1.5"),
            ("9223372036854775807", "9223372036854775807"),
        ];
        for (text, said) in cases {
            assert_eq!(read(text).as_deref(), Some(said), "{text}");
        }
        for wrong in [
            "",
            "-",
            ".",
            "1.",
            ".5",
            "1e3",
            "1,000",
            "1.0000000001",
            "1 ",
            "--1",
            "1.2.3",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read("12345678901234567890"), None);
    }

    #[test]
    fn decimals_compare_by_value() {
        let d = |text: &str| Decimal::parse(text.as_bytes()).expect("a number");
        assert!(d("-0.1") < Decimal::ZERO);
        assert_eq!(d("2.50"), d("2.5"));
        let mut sum = d("0.1");
        sum.add(d("0.2"));
        assert_eq!(sum, d("0.3"));
        assert_eq!(d("-3").negated(), d("-3").absolute());
    }
}
