//! What commands share: the runtime they run on, and sending one command to a node.

use anyhow::{Context as _, Result};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::client::{Answer, Client, Query, problem};
use crate::entropy;
use crate::output::{Columns, Output};
use crate::stop;

/// Items asked for at once when a list is read to its end.
const PAGE_ITEMS: u32 = 1_000;

/// Runs a client's work on this thread: sockets only, so one thread is enough and leaves the
/// others to the node that may share the machine.
pub(crate) fn block_on<F: Future>(work: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the client's runtime")?;
    Ok(runtime.block_on(work))
}

/// The identity of one command from the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Identity {
    /// Name of the command; a repeat under the same name has no second effect [default: a new one]
    #[arg(long, env = "ONHAND_ID", value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Who says so.
    #[arg(
        long,
        env = "ONHAND_SOURCE",
        default_value = "cli",
        value_name = "SOURCE"
    )]
    pub(crate) source: String,
}

/// A command under construction. Fields without a value are left out.
#[derive(Debug)]
pub(crate) struct Draft(Map<String, Value>);

impl Draft {
    /// A command with its name; a new id is made where none was given.
    pub(crate) fn new(identity: &Identity, kind: Option<&str>) -> Draft {
        let id = identity.id.clone().unwrap_or_else(entropy::new_id);
        let draft = Draft(Map::new())
            .with("id", id)
            .with("source", identity.source.as_str());
        match kind {
            Some(kind) => draft.with("type", kind),
            None => draft,
        }
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<FieldValue>) -> Draft {
        if let FieldValue(Some(value)) = value.into() {
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    pub(crate) fn id(&self) -> &str {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Serialize for Draft {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A field's value, or nothing.
#[derive(Debug)]
pub(crate) struct FieldValue(Option<Value>);

impl<T: Into<Value>> From<T> for FieldValue {
    fn from(value: T) -> FieldValue {
        match value.into() {
            Value::Null => FieldValue(None),
            value => FieldValue(Some(value)),
        }
    }
}

/// A quantity as users write it: an integer, or a decimal that goes out as a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quantity(Value);

impl std::str::FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Quantity, String> {
        if let Ok(whole) = text.parse::<i64>() {
            return Ok(Quantity(whole.into()));
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let decimal = digits.split_once('.').is_some_and(|(whole, part)| {
            let all = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            all(whole) && all(part)
        });
        if decimal {
            let text = text.strip_prefix('+').unwrap_or(text);
            return Ok(Quantity(text.into()));
        }
        Err(format!("{text:?} is not a quantity; write 6, -2 or 1.5"))
    }
}

impl From<Quantity> for Value {
    fn from(quantity: Quantity) -> Value {
        quantity.0
    }
}

impl From<&Quantity> for Value {
    fn from(quantity: &Quantity) -> Value {
        quantity.0.clone()
    }
}

/// Sends a command (or a request on a resource) and prints its outcome. Refused means exit code 1.
pub(crate) async fn send(client: &Client, path: &str, draft: &Draft, out: &Output) -> Result<()> {
    let answer = client.post(path, draft).await.map_err(|error| {
        error.context(format!(
            "the command with id {} may or may not have arrived",
            draft.id()
        ))
    })?;
    show_outcome(&answer, out)
}

/// Prints an outcome that came as a whole answer.
///
/// # Errors
/// Refused when the outcome (of a duplicate: the first one) is not good.
pub(crate) fn show_outcome(answer: &Answer, out: &Output) -> Result<()> {
    let Ok(outcome) = serde_json::from_slice::<Value>(&answer.body) else {
        return Err(problem::error(answer));
    };
    if outcome.get("id").is_none() && !answer.status.is_success() {
        return Err(problem::error(answer));
    }
    out.answer(&answer.body, &Columns::Outcome)?;
    if is_good(&outcome) && answer.status.is_success() {
        return Ok(());
    }
    if answer.status == StatusCode::ACCEPTED {
        // A repeat says what its first outcome said.
        let said = outcome.get("first").unwrap_or(&outcome);
        let text = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or("?");
        return Err(stop::refused(format!(
            "parked: {} (kept as {} in dead-letters)",
            text("detail"),
            text("dead_letter"),
        )));
    }
    Err(stop::refused(problem::sentence(answer)))
}

/// The word of an outcome; within a problem it stands under `outcome`, since `status` is HTTP's.
pub(crate) fn status(outcome: &Value) -> Option<&str> {
    let at = |name: &str| outcome.get(name).and_then(Value::as_str);
    at("outcome").or_else(|| at("status"))
}

/// Whether an outcome says that what was asked is so. A duplicate is judged by its first outcome.
pub(crate) fn is_good(outcome: &Value) -> bool {
    match status(outcome) {
        Some("applied" | "granted") => true,
        Some("duplicate") => outcome.get("first").is_none_or(is_good),
        // A resource (a reservation) has a state in place of a status.
        None => true,
        Some(_) => false,
    }
}

/// Reads a list to its end, page by page, and prints it as it comes; `limit` stops it earlier.
pub(crate) async fn list(
    client: &Client,
    query: Query,
    limit: Option<u64>,
    out: &Output,
    columns: &Columns,
) -> Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut cursor: Option<String> = None;
    let mut listing = out.listing(columns);
    while left > 0 {
        let page_items = left.min(u64::from(PAGE_ITEMS));
        let page = query
            .clone()
            .with("limit", &page_items.to_string())
            .maybe("cursor", cursor.as_deref());
        let answer = client.fetch(page.as_str()).await?;
        let page: Page<'_> = answer.parse()?;
        for item in page
            .items
            .iter()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
        {
            listing.item(item.get())?;
        }
        listing.end_of_page()?;
        left = left.saturating_sub(u64::try_from(page.items.len()).unwrap_or(u64::MAX));
        let at_end = page.next_cursor.is_none() || page.next_cursor == cursor;
        cursor = page.next_cursor;
        if at_end {
            break;
        }
    }
    listing.finish()
}

/// Prints the items of one answer that is a list without pages.
pub(crate) fn items(answer: &Answer, out: &Output, columns: &Columns) -> Result<()> {
    let page: Page<'_> = answer.parse()?;
    let mut listing = out.listing(columns);
    for item in &page.items {
        listing.item(item.get())?;
    }
    listing.finish()
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a serde_json::value::RawValue>,
    next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quantity_is_an_integer_or_a_decimal_string() {
        let parse = |text: &str| text.parse::<Quantity>().map(Value::from);
        assert_eq!(parse("6"), Ok(json!(6)));
        assert_eq!(parse("-2"), Ok(json!(-2)));
        assert_eq!(parse("+1.50"), Ok(json!("1.50")));
        for wrong in ["", "1.", ".5", "1e3", "1,5", "six", "--1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duplicate_is_judged_by_its_first_outcome() {
        assert!(is_good(&json!({"status": "applied"})));
        assert!(is_good(&json!({"status": "duplicate"})));
        assert!(is_good(
            &json!({"status": "duplicate", "first": {"status": "granted"}})
        ));
        assert!(!is_good(
            &json!({"status": "duplicate", "first": {"status": "rejected"}})
        ));
        assert!(!is_good(&json!({"status": "parked"})));
        assert!(!is_good(&json!({"status": 409, "outcome": "rejected"})));
    }

    #[test]
    fn a_draft_leaves_out_what_has_no_value() {
        let identity = Identity {
            id: Some("7".into()),
            source: "cli".into(),
        };
        let draft = Draft::new(&identity, Some("ship"))
            .with("sku", "A")
            .with("note", None::<String>)
            .with("quantity", "2".parse::<Quantity>().expect("a quantity"));
        assert_eq!(
            serde_json::to_value(&draft).expect("a map of values"),
            json!({"id": "7", "source": "cli", "type": "ship", "sku": "A", "quantity": 2})
        );
    }
}
