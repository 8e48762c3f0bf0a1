//! Writing one command as a line of NDJSON into a buffer, without allocating per line.

use std::io::Write as _;

/// Appends `bytes`, which must be UTF-8, as a JSON string with its quotes.
pub(crate) fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    push_escaped(out, bytes);
    out.push(b'"');
}

/// Appends the inside of a JSON string.
pub(crate) fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.iter().any(|&b| b < 0x20 || b == b'"' || b == b'\\') {
        out.extend_from_slice(bytes);
        return;
    }
    for &byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                write!(out, "\\u{byte:04x}").expect("a buffer takes what is written to it");
            }
            _ => out.push(byte),
        }
    }
}

/// Appends a number in decimal digits.
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    // The longest u64 has 20 digits.
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        let digit = u8::try_from(number % 10).expect("a remainder of ten is one digit");
        if let Some(place) = digits.get_mut(at) {
            *place = b'0' + digit;
        }
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_as_they_were() {
        for text in [
            "plain",
            "a\"b\\c",
            "tab\there",
            "line\nbreak\r",
            "\u{1}\u{1f}é",
            "",
        ] {
            let mut out = Vec::new();
            push_string(&mut out, text.as_bytes());
            let back: String = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(back, text);
        }
    }

    #[test]
    fn numbers_are_plain_digits() {
        for number in [0, 7, 10, 320_705, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(String::from_utf8(out).expect("digits"), number.to_string());
        }
    }
}
