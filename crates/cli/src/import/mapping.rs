//! Mapping files: how a line of a CSV file becomes a command.
//!
//! ```toml
//! delimiter = ","            # one ASCII character; default ,
//! quote = '"'                # default "
//! header = true              # default; without one, columns are named "1", "2", ...
//! trim = true                # default: white space around a field does not count
//!
//! [sku]
//! column = "StockCode"
//! case = "upper"             # keep (default), upper, lower
//!
//! [quantity]
//! column = "Quantity"
//!
//! [location]                 # optional; without it, or where the field is empty, --location
//! column = "Store"
//!
//! [time]                     # optional; without it, the time at which the node gets the line
//! column = "InvoiceDate"
//! format = "%Y-%m-%d %H:%M:%S" # strptime, or "rfc3339"
//! zone = "Europe/London"     # an IANA name; not needed where the format has an offset
//!
//! [[rules]]                  # tried in order; the first whose conditions all hold decides
//! when = [{ column = "InvoiceNo", starts_with = "C" }]
//! type = "return"            # receive, ship, return, adjust, count ...
//! quantity = "negated"       # as_is (default), negated, absolute
//! state = "damaged"          # optional
//! reason = "other"           # optional
//! note = "{Description}"     # optional; {Column} is that column's field, {{ a brace
//! reference = "invoice/{InvoiceNo}"
//!
//! [[rules]]
//! quarantine = "no rule for {InvoiceNo}" # ... or keep the line aside, with this reason
//! ```
//!
//! A condition names a column and one test: `equals`, `starts_with`, `matches`, `not_matches`
//! (regular expressions), `empty` (true or false), and for numbers `below`, `above`, `equal_to`
//! (false where the field is no number). A line for which no rule holds is quarantined.

use anyhow::Result;
use serde::Deserialize;

use crate::stop;

/// The largest mapping file read: a hundred times what the longest needs.
const MAPPING_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mapping {
    #[serde(default = "comma")]
    pub(crate) delimiter: char,
    #[serde(default = "double_quote")]
    pub(crate) quote: char,
    #[serde(default = "yes")]
    pub(crate) header: bool,
    #[serde(default = "yes")]
    pub(crate) trim: bool,
    pub(crate) sku: SkuMapping,
    pub(crate) quantity: ColumnMapping,
    pub(crate) location: Option<ColumnMapping>,
    pub(crate) time: Option<TimeMapping>,
    pub(crate) rules: Vec<RuleMapping>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SkuMapping {
    pub(crate) column: String,
    #[serde(default)]
    pub(crate) case: Case,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    #[default]
    Keep,
    Upper,
    Lower,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnMapping {
    pub(crate) column: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeMapping {
    pub(crate) column: String,
    pub(crate) format: String,
    pub(crate) zone: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleMapping {
    #[serde(default)]
    pub(crate) when: Vec<ConditionMapping>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<FactType>,
    pub(crate) quarantine: Option<String>,
    #[serde(default)]
    pub(crate) quantity: Sign,
    pub(crate) state: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) note: Option<String>,
    pub(crate) reference: Option<String>,
}

/// The facts that a line with one SKU, one location and one quantity can state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FactType {
    Receive,
    Ship,
    Return,
    Adjust,
    Count,
}

impl FactType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            FactType::Receive => "receive",
            FactType::Ship => "ship",
            FactType::Return => "return",
            FactType::Adjust => "adjust",
            FactType::Count => "count",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sign {
    #[default]
    AsIs,
    Negated,
    Absolute,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionMapping {
    pub(crate) column: String,
    pub(crate) equals: Option<String>,
    pub(crate) starts_with: Option<String>,
    pub(crate) matches: Option<String>,
    pub(crate) not_matches: Option<String>,
    pub(crate) empty: Option<bool>,
    pub(crate) below: Option<NumberMapping>,
    pub(crate) above: Option<NumberMapping>,
    pub(crate) equal_to: Option<NumberMapping>,
}

/// A bound of a condition: an integer, or a decimal written as a string.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum NumberMapping {
    Whole(i64),
    Decimal(String),
}

fn comma() -> char {
    ','
}

fn double_quote() -> char {
    '"'
}

fn yes() -> bool {
    true
}

impl Mapping {
    /// Reads a mapping; `name` is what errors call it.
    ///
    /// # Errors
    /// Usage, naming the line and the unknown or missing key.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Mapping> {
        let mapping: Mapping = toml::from_str(text).map_err(|error| {
            stop::usage(format!(
                "the mapping file {name} cannot be read: {}; `onhand import --help` names an \
                 example to start from",
                error.to_string().trim_end()
            ))
        })?;
        for (at, rule) in mapping.rules.iter().enumerate() {
            if rule.kind.is_some() == rule.quarantine.is_some() {
                return Err(stop::usage(format!(
                    "rule {} of the mapping file {name} must have either a type or a quarantine \
                     reason; add the one that is meant",
                    at + 1
                )));
            }
        }
        if mapping.rules.is_empty() {
            return Err(stop::usage(format!(
                "the mapping file {name} has no rules, so no line would be sent; add [[rules]] \
                 with a type"
            )));
        }
        Ok(mapping)
    }

    /// Reads a mapping file.
    pub(crate) fn open(path: &std::path::Path) -> Result<Mapping> {
        let name = path.display().to_string();
        let wrong = |error: std::io::Error| {
            stop::usage(format!(
                "the mapping file {name} cannot be read: {error}; check --map"
            ))
        };
        let size = std::fs::metadata(path).map_err(wrong)?.len();
        if size > MAPPING_BYTES_MAX {
            return Err(stop::usage(format!(
                "the mapping file {name} has {size} bytes, more than {MAPPING_BYTES_MAX}; did \
                 --map name the data file?"
            )));
        }
        Mapping::parse(&std::fs::read_to_string(path).map_err(wrong)?, &name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[sku]\ncolumn = 'S'\n[quantity]\ncolumn = 'Q'\n";

    #[test]
    fn the_shipped_mapping_reads() {
        let text = include_str!("../../mappings/online-retail.toml");
        let mapping = Mapping::parse(text, "online-retail").expect("it is ours");
        assert_eq!(mapping.rules.len(), 5);
    }

    #[test]
    fn what_is_unknown_or_missing_is_named() {
        let cases = [
            ("[[rules]]\ntype = 'ship'\nresaon = 'sale'\n", "resaon"),
            ("[[rules]]\ntype = 'teleport'\n", "teleport"),
            (
                "[[rules]]\nreason = 'sale'\n",
                "either a type or a quarantine",
            ),
            ("rules = []\n", "rules"),
        ];
        for (rules, part) in cases {
            let error = Mapping::parse(&format!("{SMALL}{rules}"), "m.toml").expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
            assert!(matches!(error.downcast_ref(), Some(stop::Stop::Usage(_))));
        }
        let error = Mapping::parse("[[rules]]\ntype = 'ship'\n", "m.toml").expect_err("no sku");
        assert!(error.to_string().contains("sku"), "{error}");
    }
}
