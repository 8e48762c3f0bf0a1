//! The rules of single fields, each with a message that says what to do.

use std::borrow::Cow;

use jiff::civil::Date;
use onhand_ledger::{Amount, Time};
use unicode_normalization::is_nfc;

use super::value::Value;

/// Bytes of a SKU, location, source, id or channel.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Bytes of a reservation's name: a source, a slash and an id fit.
pub(crate) const RESERVATION_BYTES_MAX: usize = 512;
/// Bytes of `note`: a sentence or two, not a document.
pub(crate) const NOTE_BYTES_MAX: usize = 1_000;
/// Bytes of `reference`.
pub(crate) const REFERENCE_BYTES_MAX: usize = 512;
/// Bytes of `data` as sent.
pub(crate) const DATA_BYTES_MAX: usize = 2_048;
/// Letters of `reason`: it is a label of reports.
pub(crate) const REASON_BYTES_MAX: usize = 32;
/// Decimals that any item may declare.
pub(crate) const DECIMALS_MAX: u8 = 6;

/// What is wrong with a value, ending with what to send instead.
pub(crate) type Wrong = String;

/// A name: 1 to `max` bytes, NFC, no control characters, no white space around it.
pub(crate) fn name<'a>(value: Value<'a>, max: usize) -> Result<Cow<'a, str>, Wrong> {
    let Value::Text(text) = value else {
        return Err(format!(
            "is {}; send a string of 1 to {max} bytes",
            value.what()
        ));
    };
    check_name(&text, max)?;
    Ok(text)
}

/// The rule of [`name`] for text that came another way than in a field.
pub(crate) fn check_name(text: &str, max: usize) -> Result<(), Wrong> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(format!("is empty; send 1 to {max} bytes"));
    }
    if bytes.len() > max {
        return Err(format!("has {} bytes; send at most {max}", bytes.len()));
    }
    let plain = bytes.iter().all(|b| (0x20..0x7f).contains(b));
    let spaced = bytes.first() == Some(&b' ') || bytes.last() == Some(&b' ');
    if plain && !spaced {
        return Ok(());
    }
    if text.chars().any(char::is_control) {
        return Err("has control characters; send it without them".to_owned());
    }
    if text.trim() != text {
        return Err("begins or ends with white space; send it trimmed".to_owned());
    }
    if !is_nfc(text) {
        return Err("is not in Unicode normal form C; normalise it to NFC".to_owned());
    }
    Ok(())
}

/// Free text of at most `max` bytes.
pub(crate) fn free_text<'a>(value: Value<'a>, max: usize) -> Result<Cow<'a, str>, Wrong> {
    match value {
        Value::Text(text) if text.len() <= max => Ok(text),
        Value::Text(text) => Err(format!("has {} bytes; send at most {max}", text.len())),
        other => Err(format!(
            "is {}; send a string of at most {max} bytes",
            other.what()
        )),
    }
}

/// A short word: `[a-z0-9_]{1,32}`.
pub(crate) fn word<'a>(value: Value<'a>) -> Result<Cow<'a, str>, Wrong> {
    let Value::Text(text) = value else {
        return Err(format!(
            "is {}; send a short word of a-z, 0-9 and _",
            value.what()
        ));
    };
    let fits = (1..=REASON_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if fits {
        Ok(text)
    } else {
        Err(format!(
            "is no short word; send 1 to {REASON_BYTES_MAX} of a-z, 0-9 and _"
        ))
    }
}

/// An integer, or a decimal string with at most six decimals; never a float.
pub(crate) fn amount(value: &Value<'_>) -> Result<Amount, Wrong> {
    match value {
        Value::Int(n) => Ok(Amount::whole(*n)),
        Value::Text(text) => decimal(text),
        Value::Float => Err(
            "is a number with a fraction or an exponent, which cannot be kept exactly; send an \
             integer, or a decimal string such as \"1.5\""
                .to_owned(),
        ),
        Value::Large => Err("is above the range of 64 bits; send a smaller one".to_owned()),
        other => Err(format!(
            "is {}; send an integer or a decimal string",
            other.what()
        )),
    }
}

fn decimal(text: &str) -> Result<Amount, Wrong> {
    let shape = || {
        format!(
            "{text:?} is no decimal string; send digits with at most {DECIMALS_MAX} decimals, such as \"1.5\""
        )
    };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(shape()),
        None => (digits, ""),
    };
    let decimals = u8::try_from(fraction.len()).map_err(|_| shape())?;
    if whole.is_empty() || decimals > DECIMALS_MAX {
        return Err(shape());
    }
    let mut mantissa: i64 = 0;
    for byte in whole.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return Err(shape());
        }
        let digit = i64::from(byte - b'0');
        mantissa = mantissa
            .checked_mul(10)
            .and_then(|m| {
                if negative {
                    m.checked_sub(digit)
                } else {
                    m.checked_add(digit)
                }
            })
            .ok_or_else(|| format!("{text:?} is above the range of 64 bits; send a smaller one"))?;
    }
    Ok(Amount { mantissa, decimals })
}

/// An integer between the bounds, both included.
pub(crate) fn integer(value: &Value<'_>, least: i64, most: i64) -> Result<i64, Wrong> {
    match value {
        Value::Int(n) if (least..=most).contains(n) => Ok(*n),
        Value::Int(n) => Err(format!("is {n}; send an integer from {least} to {most}")),
        other => Err(format!(
            "is {}; send an integer from {least} to {most}",
            other.what()
        )),
    }
}

pub(crate) fn boolean(value: &Value<'_>) -> Result<bool, Wrong> {
    match value {
        Value::Bool(value) => Ok(*value),
        other => Err(format!("is {}; send true or false", other.what())),
    }
}

/// RFC 3339 with an offset, years 0001 to 9999.
pub(crate) fn time(value: &Value<'_>) -> Result<Time, Wrong> {
    match value {
        Value::Text(text) => parse_time(text),
        other => Err(format!(
            "is {}; send a string such as \"2026-01-31T08:26:00Z\"",
            other.what()
        )),
    }
}

/// The rule of [`time`] for text that came another way than in a field. Finer parts than
/// milliseconds are cut off, towards the past.
///
/// Read here and not by a general parser: that one also takes forms which RFC 3339 does not have, and
/// its instants end a day before the year 9999 does, whose last second many systems send for "never".
pub(crate) fn parse_time(text: &str) -> Result<Time, Wrong> {
    let wrong = |why: &str| {
        format!("{text:?} {why}; send RFC 3339 with an offset, such as \"2026-01-31T08:26:00Z\"")
    };
    let parts = TimeParts::read(text.as_bytes())
        .ok_or_else(|| wrong("is no time of the years 0001 to 9999 with an offset"))?;
    let time = parts
        .time()
        .ok_or_else(|| wrong("is no time that exists"))?;
    if time < TIME_MIN {
        return Err(wrong("is before the year 0001"));
    }
    if time > TIME_MAX {
        return Err(wrong("is after the year 9999"));
    }
    Ok(time)
}

/// Times count from here.
const EPOCH: Date = Date::constant(1970, 1, 1);
/// 0001-01-01T00:00:00Z.
const TIME_MIN: Time = Time(-62_135_596_800_000);
/// 9999-12-31T23:59:59.999Z.
const TIME_MAX: Time = Time(253_402_300_799_999);

/// The numbers of `YYYY-MM-DDTHH:MM:SS`, an optional fraction, `Z` or an offset of hours and minutes.
struct TimeParts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millisecond: i64,
    /// Minutes that the clock is ahead of UTC.
    offset: i64,
}

impl TimeParts {
    /// `None` for every other form.
    fn read(text: &[u8]) -> Option<Self> {
        let (
            [
                y1,
                y2,
                y3,
                y4,
                b'-',
                mo1,
                mo2,
                b'-',
                d1,
                d2,
                b'T' | b't' | b' ',
                h1,
                h2,
                b':',
                mi1,
                mi2,
                b':',
                s1,
                s2,
            ],
            mut rest,
        ) = text.split_first_chunk()?
        else {
            return None;
        };
        let mut millisecond = 0;
        if let [b'.', fraction @ ..] = rest {
            let length = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=9).contains(&length) {
                return None;
            }
            let digit = |at: usize| fraction.get(at).filter(|_| at < length).unwrap_or(&b'0');
            millisecond = digits(&[*digit(0), *digit(1), *digit(2)])?;
            rest = fraction.get(length..).unwrap_or_default();
        }
        let offset = match rest {
            [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
                // None exists beyond a day.
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let ahead = hours * 60 + minutes;
                if *sign == b'-' { -ahead } else { ahead }
            }
            _ => return None,
        };
        Some(Self {
            year: digits(&[*y1, *y2, *y3, *y4])?,
            month: digits(&[*mo1, *mo2])?,
            day: digits(&[*d1, *d2])?,
            hour: digits(&[*h1, *h2])?,
            minute: digits(&[*mi1, *mi2])?,
            second: digits(&[*s1, *s2])?,
            millisecond,
            offset,
        })
    }

    /// `None` where the calendar or the clock has no such time.
    fn time(&self) -> Option<Time> {
        // A leap second is the second before it: log time has none.
        if self.hour > 23 || self.minute > 59 || self.second > 60 {
            return None;
        }
        let date = Date::new(
            self.year.try_into().ok()?,
            self.month.try_into().ok()?,
            self.day.try_into().ok()?,
        );
        let days = date.ok()?.duration_since(EPOCH).as_hours() / 24;
        let minutes = (days * 24 + self.hour) * 60 + self.minute - self.offset;
        Some(Time(
            (minutes * 60 + self.second.min(59)) * 1_000 + self.millisecond,
        ))
    }
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |n, byte| {
        byte.is_ascii_digit()
            .then(|| n * 10 + i64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn text(s: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(s))
    }

    #[test]
    fn names_are_bounded_trimmed_normal_and_printable() {
        for good in ["A", "85123A", "a b", "é", "日本", &"x".repeat(255)] {
            assert!(name(text(good), NAME_BYTES_MAX).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "is empty"),
            (" a", "white space"),
            ("a ", "white space"),
            ("a\u{a0}", "white space"),
            ("a\tb", "control"),
            ("a\u{85}b", "control"),
            ("a\0", "control"),
            ("e\u{301}", "NFC"),
            (&"x".repeat(256), "256 bytes"),
        ] {
            let wrong = name(text(bad), NAME_BYTES_MAX).unwrap_err();
            assert!(wrong.contains(why), "{bad:?}: {wrong}");
        }
        assert!(
            name(Value::Int(1), NAME_BYTES_MAX)
                .unwrap_err()
                .contains("an integer")
        );
    }

    #[test]
    fn amounts_are_integers_or_decimal_strings() {
        assert_eq!(amount(&Value::Int(-3)).unwrap(), Amount::whole(-3));
        assert_eq!(
            amount(&text("1.50")).unwrap(),
            Amount {
                mantissa: 150,
                decimals: 2
            }
        );
        assert_eq!(
            amount(&text("-0.000001")).unwrap(),
            Amount {
                mantissa: -1,
                decimals: 6
            }
        );
        assert_eq!(
            amount(&text("-9223372036854775808")).unwrap(),
            Amount::whole(i64::MIN)
        );
        for bad in [
            "",
            "-",
            "1.",
            ".5",
            "1.2.3",
            "+1",
            "1e3",
            " 1",
            "0x1",
            "1.0000000",
            "٣",
        ] {
            assert!(amount(&text(bad)).is_err(), "{bad}");
        }
        assert!(
            amount(&text("9223372036854775808"))
                .unwrap_err()
                .contains("64 bits")
        );
        assert!(
            amount(&Value::Float)
                .unwrap_err()
                .contains("decimal string")
        );
    }

    #[test]
    fn times_agree_with_a_general_parser_wherever_that_one_has_them() {
        let mut checked = 0;
        for year in [
            1, 1582, 1899, 1900, 1969, 1970, 1972, 2000, 2010, 2024, 2100, 9999,
        ] {
            for month in 1..=12 {
                for day in [1, 2, 27, 28, 29, 30, 31] {
                    for rest in [
                        "00:00:00Z",
                        "23:59:58.123Z",
                        "12:30:00+05:30",
                        "12:30:60-23:59",
                    ] {
                        let text = format!("{year:04}-{month:02}-{day:02}T{rest}");
                        // Its calendar ends earlier.
                        if year == 9999 && month == 12 && day > 29 {
                            continue;
                        }
                        let general: Option<i64> = text
                            .parse::<Timestamp>()
                            .ok()
                            .map(|at| at.as_nanosecond().div_euclid(1_000_000).try_into().unwrap());
                        let read = parse_time(&text).ok().map(|time| time.0);
                        assert_eq!(read, general, "{text}");
                        checked += 1;
                    }
                }
            }
        }
        assert_eq!(checked, (12 * 12 * 7 - 2) * 4);
    }

    #[test]
    fn times_need_an_offset_and_a_year_that_can_be_kept() {
        assert_eq!(
            parse_time("2010-12-01T08:26:00Z").unwrap(),
            Time(1_291_191_960_000)
        );
        assert_eq!(
            parse_time("2010-12-01T09:26:00+01:00").unwrap(),
            Time(1_291_191_960_000)
        );
        assert_eq!(
            parse_time("2010-12-01T08:26:00.5Z").unwrap(),
            Time(1_291_191_960_500)
        );
        assert_eq!(parse_time("1969-12-31T23:59:59.9999Z").unwrap(), Time(-1));
        assert!(parse_time("2024-02-29T00:00:00Z").is_ok());
        // What many systems send for "never", and the first second there is.
        assert_eq!(
            parse_time("9999-12-31T23:59:59Z").unwrap(),
            Time(253_402_300_799_000)
        );
        assert_eq!(parse_time("0001-01-01T00:00:00Z").unwrap(), TIME_MIN);
        for bad in [
            "",
            "2010-12-01",
            "2010-12-01T08:26:00",
            "2010-12-01T08:26Z",
            "99999-01-01T00:00:00Z",
            "+099999-01-01T00:00:00Z",
            "-000001-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2010-12-01T08:26:00+24:00",
            "2010-12-01T08:60:00Z",
            "2010-12-01T08:26:61Z",
            "2010-00-01T08:26:00Z",
            "2010-12-00T08:26:00Z",
            "2010-12-01T08:26:00.1234567890Z",
            "2023-02-29T00:00:00Z",
            "2023-02-30T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2010-12-01T24:26:00Z",
            "2010-12-01T08:26:00+1",
            "2010-12-01T08:26:00Z[UTC]",
            "2010-12-01T08:26:00.Z",
            "1291191960000",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reasons_are_short_words() {
        assert!(word(text("stock_take2")).is_ok());
        for bad in ["", "Sale", "a b", "é", &"x".repeat(33)] {
            assert!(word(text(bad)).is_err(), "{bad}");
        }
    }
}
