//! Writing JSON straight into a byte buffer: no tree, no allocation per value.

use jiff::Timestamp;
use onhand_ledger::Time;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What stands encoded in one segment of a path: all but what no reader of paths looks at.
pub(crate) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An object being written. Keys are literals of this crate and need no escaping.
#[derive(Debug)]
pub(crate) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    pub(crate) fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Writes the key and gives the buffer for its value.
    #[inline]
    pub(crate) fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        // Once for all of it and for what is short behind it.
        self.out.reserve(key.len() + 32);
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        text(self.key(key), value);
        self
    }

    pub(crate) fn some_text(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(key, value);
        }
        self
    }

    pub(crate) fn int(&mut self, key: &str, value: i64) -> &mut Self {
        int(self.key(key), value);
        self
    }

    pub(crate) fn uint(&mut self, key: &str, value: u64) -> &mut Self {
        uint(self.key(key), value);
        self
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        let word: &[u8] = if value { b"true" } else { b"false" };
        self.key(key).extend_from_slice(word);
        self
    }

    pub(crate) fn null(&mut self, key: &str) -> &mut Self {
        self.key(key).extend_from_slice(b"null");
        self
    }

    /// An amount in smallest units of an item with that many decimals.
    pub(crate) fn amount(&mut self, key: &str, units: i64, decimals: u8) -> &mut Self {
        amount(self.key(key), units, decimals);
        self
    }

    pub(crate) fn time(&mut self, key: &str, at: Time) -> &mut Self {
        time(self.key(key), at);
        self
    }

    /// A member that is JSON already.
    pub(crate) fn raw(&mut self, key: &str, json: &[u8]) -> &mut Self {
        self.key(key).extend_from_slice(json);
        self
    }

    pub(crate) fn close(self) {
        self.out.push(b'}');
    }
}

/// Writes `[`, each item, `]`.
pub(crate) fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        each(out, item);
    }
    out.push(b']');
}

/// A string with its quotes, escaped.
pub(crate) fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let bytes = value.as_bytes();
    if bytes
        .iter()
        .all(|b| *b >= 0x20 && *b != b'"' && *b != b'\\')
    {
        out.extend_from_slice(bytes);
    } else {
        for byte in bytes {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 => {
                    out.extend_from_slice(b"\\u00");
                    out.push(hex(byte >> 4));
                    out.push(hex(byte & 0xf));
                }
                other => out.push(*other),
            }
        }
    }
    out.push(b'"');
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + (nibble - 10)
    }
}

pub(crate) fn int(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    uint(out, value.unsigned_abs());
}

pub(crate) fn uint(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Decimal digits, at least `width` of them.
fn digits(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut written = itoa::Buffer::new();
    let written = written.format(value).as_bytes();
    let missing = width.saturating_sub(written.len());
    out.resize(out.len() + missing, b'0');
    out.extend_from_slice(written);
}

/// The decimal digits of a value below 100.
fn two(value: u64) -> [u8; 2] {
    let digit = |value: u64| b'0' + u8::try_from(value % 10).expect("a remainder by ten fits");
    [digit(value / 10), digit(value)]
}

/// An integer, or a decimal string where the item has decimals.
pub(crate) fn amount(out: &mut Vec<u8>, units: i64, decimals: u8) {
    if decimals == 0 {
        int(out, units);
        return;
    }
    let scale = 10u64.pow(u32::from(decimals.min(18)));
    out.push(b'"');
    if units < 0 {
        out.push(b'-');
    }
    let magnitude = units.unsigned_abs();
    uint(out, magnitude / scale);
    out.push(b'.');
    digits(out, magnitude % scale, usize::from(decimals.min(18)));
    out.push(b'"');
}

/// RFC 3339 in UTC, with its quotes; milliseconds only where there are any.
pub(crate) fn time(out: &mut Vec<u8>, at: Time) {
    out.push(b'"');
    if !common(out, at) {
        out.extend_from_slice(rfc3339(at).as_bytes());
    }
    out.push(b'"');
}

/// Writes a time of the years 1970 to 9891 as [`rfc3339`] does, without what it costs to serve all
/// others. Whether it is such a time.
fn common(out: &mut Vec<u8>, at: Time) -> bool {
    const DAY_MS: u64 = 86_400_000;
    /// Days of 400 years.
    const ERA: u64 = 146_097;
    const LAST_MS: u64 = 250_000_000_000_000;
    let ms = match u64::try_from(at.0) {
        Ok(ms) if ms <= LAST_MS => ms,
        _ => return false,
    };
    // From 1 March 1600, so that a leap day ends its year and its 400 years.
    let day = ms / DAY_MS + 135_080;
    let (era, of_era) = (day / ERA, day % ERA);
    let of_years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * of_years + of_years / 4 - of_years / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, later) = match month_from_march {
        0..=9 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    let year = 1600 + era * 400 + of_years + later;
    let rest = ms % DAY_MS;
    let ([y0, y1], [y2, y3]) = (two(year / 100), two(year % 100));
    let ([m0, m1], [d0, d1]) = (two(month), two(of_month));
    let [h0, h1] = two(rest / 3_600_000);
    let ([n0, n1], [s0, s1]) = (two(rest / 60_000 % 60), two(rest / 1_000 % 60));
    out.extend_from_slice(&[
        y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1,
    ]);
    let mut fraction = rest % 1_000;
    if fraction > 0 {
        // As many digits as it has.
        let mut width = 3;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        out.push(b'.');
        digits(out, fraction, width);
    }
    out.push(b'Z');
    true
}

/// RFC 3339 in UTC. Times beyond the calendar's ends show as its ends.
pub(crate) fn rfc3339(at: Time) -> String {
    let timestamp = Timestamp::from_millisecond(at.0).unwrap_or(if at.0 < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    });
    timestamp.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(f: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers_are_written_to_both_ends_of_their_range() {
        assert_eq!(written(|o| int(o, 0)), "0");
        assert_eq!(written(|o| int(o, -7)), "-7");
        assert_eq!(written(|o| int(o, i64::MIN)), i64::MIN.to_string());
        assert_eq!(written(|o| uint(o, u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn amounts_with_decimals_are_strings() {
        assert_eq!(written(|o| amount(o, 1500, 3)), "\"1.500\"");
        assert_eq!(written(|o| amount(o, -5, 2)), "\"-0.05\"");
        assert_eq!(written(|o| amount(o, 12, 0)), "12");
    }

    #[test]
    fn strings_are_escaped_so_that_they_read_back() {
        let text_in = "a\"b\\c\n\r\t\u{1}é\u{1f600}";
        let json = written(|o| text(o, text_in));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text_in);
    }

    #[test]
    fn times_show_milliseconds_only_where_there_are_any() {
        assert_eq!(
            written(|o| time(o, Time(1_291_191_960_000))),
            "\"2010-12-01T08:26:00Z\""
        );
        assert_eq!(
            written(|o| time(o, Time(1))),
            "\"1970-01-01T00:00:00.001Z\""
        );
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let days = (0..160_000).map(|day| day * 86_400_000 + day % 997 * 86_381);
        let last = 250_000_000_000_000;
        let ends = [i64::MIN, -1, 0, 1, 10, 120, last, last + 1, i64::MAX];
        for at in days.chain(ends).map(Time) {
            let text = written(|o| time(o, at));
            assert_eq!(text, format!("\"{}\"", rfc3339(at)));
        }
    }

    #[test]
    fn an_object_separates_its_members() {
        let json = written(|o| {
            let mut object = Object::open(o);
            object
                .text("a", "x")
                .uint("b", 2)
                .flag("c", true)
                .null("d")
                .raw("e", b"[1]");
            object.close();
        });
        assert_eq!(json, r#"{"a":"x","b":2,"c":true,"d":null,"e":[1]}"#);
    }
}
