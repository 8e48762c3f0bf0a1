//! The rules of a mapping, resolved against a file's columns and ready to run line by line.

use anyhow::Result;
use regex_lite::Regex;

use super::decimal::Decimal;
use super::mapping::{ConditionMapping, NumberMapping, RuleMapping, Sign};
use super::tally::Kind;
use crate::stop;

/// The fields of one line, trimmed if the mapping says so.
pub(crate) trait Fields {
    fn field(&self, column: usize) -> &[u8];
}

/// Finds a column's place by its name.
pub(crate) type FindColumn<'a> = &'a dyn Fn(&str) -> Result<usize>;

/// A rule that decides a line when all its conditions hold.
#[derive(Debug)]
pub(crate) struct Rule {
    when: Vec<Condition>,
    pub(crate) then: Then,
}

/// What a rule makes of its lines.
#[derive(Debug)]
pub(crate) enum Then {
    Quarantine(Template),
    Command(CommandRule),
}

#[derive(Debug)]
pub(crate) struct CommandRule {
    pub(crate) name: &'static str,
    pub(crate) sign: Sign,
    pub(crate) reason: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) note: Option<Template>,
    pub(crate) reference: Option<Template>,
}

impl CommandRule {
    pub(crate) fn kind(&self, quantity: Decimal) -> Kind {
        Kind::of(self.name, quantity)
    }
}

#[derive(Debug)]
struct Condition {
    column: usize,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equals(Vec<u8>),
    StartsWith(Vec<u8>),
    Matches { regex: Regex, wanted: bool },
    Empty(bool),
    Below(Decimal),
    Above(Decimal),
    EqualTo(Decimal),
}

impl Test {
    fn holds(&self, field: &[u8]) -> bool {
        let number = |holds: &dyn Fn(Decimal) -> bool| Decimal::parse(field).is_some_and(holds);
        match self {
            Test::Equals(text) => field == text.as_slice(),
            Test::StartsWith(text) => field.starts_with(text),
            // Regular expressions are about text; what is no UTF-8 matches none.
            Test::Matches { regex, wanted } => {
                std::str::from_utf8(field).is_ok_and(|text| regex.is_match(text)) == *wanted
            }
            Test::Empty(wanted) => field.is_empty() == *wanted,
            Test::Below(bound) => number(&|n| n < *bound),
            Test::Above(bound) => number(&|n| n > *bound),
            Test::EqualTo(bound) => number(&|n| n == *bound),
        }
    }
}

/// Text with columns in it: `invoice/{InvoiceNo}`.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    Column(usize),
}

impl Template {
    fn compile(text: &str, find: FindColumn<'_>) -> Result<Template> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain.extend_from_slice(before.as_bytes());
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                plain.extend(from.bytes().take(1));
                rest = after;
                continue;
            }
            let Some((column, after)) = from.strip_prefix('{').and_then(|r| r.split_once('}'))
            else {
                return Err(stop::usage(format!(
                    "{text:?} in the mapping has a brace without its other half; write {{{{ or \
                     }}}} where a brace is meant"
                )));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Column(find(column)?));
            rest = after;
        }
        plain.extend_from_slice(rest.as_bytes());
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template(parts))
    }

    /// Writes the text with this line's fields into `out`.
    pub(crate) fn render(&self, line: &impl Fields, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Column(column) => out.extend_from_slice(line.field(*column)),
            }
        }
    }
}

impl Rule {
    pub(crate) fn holds(&self, line: &impl Fields) -> bool {
        self.when
            .iter()
            .all(|condition| condition.test.holds(line.field(condition.column)))
    }

    /// Resolves a rule's columns.
    ///
    /// # Errors
    /// Usage, naming what is wrong.
    pub(crate) fn compile(rule: &RuleMapping, find: FindColumn<'_>) -> Result<Rule> {
        let when = rule
            .when
            .iter()
            .map(|c| condition(c, find))
            .collect::<Result<Vec<_>>>()?;
        let template = |text: &Option<String>| -> Result<Option<Template>> {
            text.as_deref()
                .map(|text| Template::compile(text, find))
                .transpose()
        };
        let then = match (&rule.quarantine, rule.kind) {
            (Some(reason), _) => Then::Quarantine(Template::compile(reason, find)?),
            (None, Some(kind)) => Then::Command(CommandRule {
                name: kind.name(),
                sign: rule.quantity,
                reason: rule.reason.clone(),
                state: rule.state.clone(),
                note: template(&rule.note)?,
                reference: template(&rule.reference)?,
            }),
            (None, None) => {
                return Err(stop::usage("a rule of the mapping has no type; add one"));
            }
        };
        Ok(Rule { when, then })
    }
}

fn condition(mapping: &ConditionMapping, find: FindColumn<'_>) -> Result<Condition> {
    let regex = |pattern: &str, wanted: bool| -> Result<Test> {
        let regex = Regex::new(pattern).map_err(|error| {
            stop::usage(format!(
                "{pattern:?} in the mapping is no regular expression: {error}; correct it"
            ))
        })?;
        Ok(Test::Matches { regex, wanted })
    };
    let number = |number: &NumberMapping| -> Result<Decimal> {
        let text = match number {
            NumberMapping::Whole(n) => n.to_string(),
            NumberMapping::Decimal(text) => text.clone(),
        };
        Decimal::parse(text.as_bytes()).ok_or_else(|| {
            stop::usage(format!(
                "{text:?} in the mapping is no number; write 0 or \"1.5\""
            ))
        })
    };
    let mut tests = Vec::new();
    tests.extend(
        mapping
            .equals
            .as_ref()
            .map(|t| Ok(Test::Equals(t.as_bytes().to_vec()))),
    );
    tests.extend(
        mapping
            .starts_with
            .as_ref()
            .map(|t| Ok(Test::StartsWith(t.as_bytes().to_vec()))),
    );
    tests.extend(mapping.matches.as_ref().map(|pattern| regex(pattern, true)));
    tests.extend(
        mapping
            .not_matches
            .as_ref()
            .map(|pattern| regex(pattern, false)),
    );
    tests.extend(mapping.empty.map(|wanted| Ok(Test::Empty(wanted))));
    tests.extend(mapping.below.as_ref().map(|n| number(n).map(Test::Below)));
    tests.extend(mapping.above.as_ref().map(|n| number(n).map(Test::Above)));
    tests.extend(
        mapping
            .equal_to
            .as_ref()
            .map(|n| number(n).map(Test::EqualTo)),
    );
    let column = find(&mapping.column)?;
    match (tests.pop(), tests.is_empty()) {
        (Some(test), true) => Ok(Condition {
            column,
            test: test?,
        }),
        _ => Err(stop::usage(format!(
            "the condition on column {:?} in the mapping must have exactly one test; write one \
             condition for each",
            mapping.column
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::mapping::Mapping;

    struct Line(Vec<&'static str>);

    impl Fields for Line {
        fn field(&self, column: usize) -> &[u8] {
            self.0[column].as_bytes()
        }
    }

    fn find(name: &str) -> Result<usize> {
        ["S", "Q", "N"]
            .iter()
            .position(|column| *column == name)
            .ok_or_else(|| stop::usage(format!("no column {name}")))
    }

    fn rules(text: &str) -> Result<Vec<Rule>> {
        let text = format!("[sku]\ncolumn = 'S'\n[quantity]\ncolumn = 'Q'\n{text}");
        let mapping = Mapping::parse(&text, "test")?;
        mapping
            .rules
            .iter()
            .map(|rule| Rule::compile(rule, &find))
            .collect()
    }

    #[test]
    fn each_test_of_a_condition_means_what_it_says() {
        let cases = [
            ("equals = 'ab'", "ab", "abc"),
            ("starts_with = 'a'", "ab", "ba"),
            ("matches = '^[0-9]{2}$'", "12", "123"),
            ("not_matches = '^[0-9]{2}$'", "123", "12"),
            ("empty = true", "", "x"),
            ("empty = false", "x", ""),
            ("below = 0", "-0.5", "0"),
            ("below = 0", "-1", "x"),
            ("above = '1.5'", "1.6", "1.5"),
            ("equal_to = 0", "0.00", "zero"),
        ];
        for (test, yes, no) in cases {
            let text = format!("[[rules]]\nwhen = [{{ column = 'N', {test} }}]\ntype = 'ship'\n");
            let rules = rules(&text).expect(test);
            assert!(rules[0].holds(&Line(vec!["", "", yes])), "{test} {yes}");
            assert!(!rules[0].holds(&Line(vec!["", "", no])), "{test} {no}");
        }
    }

    #[test]
    fn a_template_takes_columns_and_braces() {
        let template = Template::compile("{{{N}}} of {S}", &find).expect("well formed");
        let mut out = Vec::new();
        template.render(&Line(vec!["sku", "", "note"]), &mut out);
        assert_eq!(String::from_utf8(out).expect("text"), "{note} of sku");
        for wrong in ["{N", "N}", "{X}"] {
            assert!(Template::compile(wrong, &find).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_condition_needs_exactly_one_test() {
        for when in [
            "{ column = 'N' }",
            "{ column = 'N', empty = true, equals = '' }",
        ] {
            let text = format!("[[rules]]\nwhen = [{when}]\ntype = 'ship'\n");
            let error = rules(&text).expect_err(when).to_string();
            assert!(error.contains("exactly one test"), "{error}");
        }
        let text = "[[rules]]\nwhen = [{ column = 'N', matches = '(' }]\ntype = 'ship'\n";
        assert!(
            rules(text)
                .expect_err("open group")
                .to_string()
                .contains("regular expression")
        );
    }
}
