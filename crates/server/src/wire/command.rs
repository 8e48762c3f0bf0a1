//! A command line, from JSON to the ledger's [`Command`], borrowed from the line wherever it can be.
//!
//! One pass over the text fills a table of the known fields; unknown and repeated ones are noted by
//! name ([`members`]). The rules are applied to that table afterwards, type by type ([`stock`],
//! [`reservation`]).

mod members;
mod reservation;
mod stock;

use std::borrow::Cow;

use onhand_ledger::{Body, Command, Id, ReservationId, Source};
use onhand_log::Offset;
use serde_json::value::RawValue;

pub(crate) use self::members::Kind;
use self::members::{COMMON, Field, Fields, opt};
use self::reservation::{channel, line_number, line_parts, request_lines, reservation_name, ttl};
use self::stock::{Sign, fact, figure, location, place, quantity, sku};
use super::field::{self, NAME_BYTES_MAX};
use super::refusal::{Refusal, RefusalKind, nearest};
use super::value::Value;

/// The source that only the node itself writes as.
const SOURCE_OWN: &str = "onhand";

/// What is known of a command besides its own text.
#[derive(Clone, Default, Debug)]
pub(crate) struct Given<'a> {
    /// From the header that the way in has for it.
    pub(crate) id: Option<&'a str>,
    /// From the header that the way in has for it.
    pub(crate) source: Option<&'a str>,
    /// How it came.
    pub(crate) way: Way,
    /// From the route.
    pub(crate) kind: Option<Kind>,
    /// From the path.
    pub(crate) reservation: Option<&'a str>,
}

/// How a command came in: what stands in for the parts of its name that nobody gave.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Over HTTP: the id is the sender's to give, since only then sending it again is safe.
    #[default]
    Http,
    /// As a record of `stock.inbox`: its place there is a name that stays when it is read again.
    Inbox {
        /// The log's own id: in a copy of it the offsets are others.
        log: u64,
        partition: u16,
        offset: Offset,
    },
}

impl Way {
    /// The source of commands that name none.
    fn source(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Inbox { .. } => "inbox",
        }
    }

    /// What the header is called that may give the id.
    fn id_header(self) -> &'static str {
        match self {
            Self::Http => "Idempotency-Key",
            Self::Inbox { .. } => "id",
        }
    }
}

/// Types that the API keeps names for and this version does not have.
const KINDS_LATER: &[&str] = &[
    "dispatch",
    "arrive",
    "reverse",
    "expect",
    "expect_change",
    "expect_cancel",
    "policy",
    "transfer",
];

/// Reads one command. What it returns borrows from `text`.
pub(crate) fn parse<'a>(text: &'a str, given: &Given<'a>) -> Result<Command<'a>, Refusal> {
    let mut fields = Fields::new();
    fields.read(text).map_err(|error| {
        Refusal::new(
            RefusalKind::Unreadable,
            "",
            format!("cannot be read: {error}; send one JSON object"),
        )
    })?;
    command(&mut fields, given).map_err(|refusal| with_name(refusal, text, given))
}

/// The refusal with the name of the command, as far as it has one that can be shown.
fn with_name(refusal: Refusal, text: &str, given: &Given<'_>) -> Refusal {
    // The first reading's fields are used up, and few commands are refused.
    let mut fields = Fields::new();
    fields.read(text).expect("it was read before");
    let id = fields.peek_text(Field::Id).or(given.id);
    let source = fields.peek_text(Field::Source).or(given.source);
    let source = source.unwrap_or(given.way.source());
    let shown = |name: &str| (name.len() <= NAME_BYTES_MAX).then(|| name.to_owned());
    Refusal {
        id: id.and_then(shown),
        source: shown(source),
        ..refusal
    }
}

fn command<'a>(fields: &mut Fields<'a>, given: &Given<'a>) -> Result<Command<'a>, Refusal> {
    let kind = kind(fields, given)?;
    check_fields(fields, kind)?;
    let source = either(fields, Field::Source, given.source, "source")?
        .unwrap_or(Cow::Borrowed(given.way.source()));
    if source
        .strip_prefix(SOURCE_OWN)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        return Err(Refusal::invalid(
            "source",
            format!("{source:?} is the node's own; send another source"),
        ));
    }
    let id = id(fields, given)?;
    let occurred_at = opt(fields, Field::OccurredAt, |v| field::time(&v))?;
    let reason = opt(fields, Field::Reason, field::word)?;
    let note = opt(fields, Field::Note, |v| {
        field::free_text(v, field::NOTE_BYTES_MAX)
    })?;
    let reference = opt(fields, Field::Reference, |v| {
        field::name(v, field::REFERENCE_BYTES_MAX)
    })?;
    let data = fields.data.map(data).transpose()?;
    let seq = opt(fields, Field::Seq, |v| {
        let seq = field::integer(&v, 0, i64::MAX)?;
        Ok(u64::try_from(seq).expect("it is not negative"))
    })?;
    let body = body(fields, kind, given, &source, &id)?;
    Ok(Command {
        source: Source(source),
        id: Id(id),
        seq,
        occurred_at,
        reason,
        note,
        reference,
        data,
        body,
    })
}

fn kind(fields: &mut Fields<'_>, given: &Given<'_>) -> Result<Kind, Refusal> {
    let stated = match fields.take(Field::Type) {
        None => None,
        Some(Value::Text(text)) => Some(parse_kind(&text)?),
        Some(other) => {
            return Err(Refusal::invalid(
                "type",
                format!(
                    "is {}; send the name of a type, such as \"ship\"",
                    other.what()
                ),
            ));
        }
    };
    match (given.kind, stated) {
        (Some(given), Some(stated)) if given != stated => Err(Refusal::invalid(
            "type",
            format!(
                "is \"{}\" but this route takes \"{}\"; leave it out",
                stated.text(),
                given.text()
            ),
        )),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        (None, None) => Err(Refusal::invalid(
            "type",
            "is missing; send the name of a type, such as \"ship\"",
        )),
    }
}

/// The type of that name; names that the API keeps for later are told from unknown ones.
fn parse_kind(text: &str) -> Result<Kind, Refusal> {
    if let Some(kind) = Kind::parse(text) {
        return Ok(kind);
    }
    if KINDS_LATER.contains(&text) {
        return Err(Refusal::new(
            RefusalKind::NotAvailable,
            "type",
            format!(
                "\"{text}\" is not available in this version; send one of {}",
                kinds()
            ),
        ));
    }
    let shown: String = text.chars().take(64).collect();
    Err(Refusal::invalid(
        "type",
        match nearest(text, Kind::ALL.iter().map(|kind| kind.text())) {
            Some(near) => format!("{shown:?} is no type; did you mean \"{near}\"?"),
            None => format!("{shown:?} is no type; send one of {}", kinds()),
        },
    ))
}

fn kinds() -> String {
    Kind::ALL
        .iter()
        .map(|kind| kind.text())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Refuses unknown, repeated, kept and foreign fields by name.
fn check_fields(fields: &Fields<'_>, kind: Kind) -> Result<(), Refusal> {
    if let Some(unknown) = &fields.unknown {
        let shown: String = unknown.chars().take(64).collect();
        let known = COMMON.iter().chain(kind.own()).map(|field| field.text());
        let detail = match nearest(unknown, known) {
            Some(near) => format!(
                "is no field of a \"{}\"; did you mean \"{near}\"?",
                kind.text()
            ),
            None => format!("is no field of a \"{}\"; leave it out", kind.text()),
        };
        return Err(Refusal::invalid(shown, detail));
    }
    if let Some(repeated) = fields.repeated {
        return Err(Refusal::invalid(
            repeated.text(),
            "is given twice; send it once",
        ));
    }
    let own = kind.fields();
    for (field, value) in Field::ALL.iter().zip(&fields.values) {
        if value.is_none() || own & field.bit() != 0 {
            continue;
        }
        return Err(match field {
            Field::Lot | Field::Tenant => Refusal::invalid(
                field.text(),
                "is a name kept for later, positions do not carry it yet; leave it out",
            ),
            Field::Supply if kind == Kind::Receive => Refusal::new(
                RefusalKind::NotAvailable,
                field.text(),
                "is not available in this version; leave it out",
            ),
            _ => Refusal::invalid(
                field.text(),
                format!("does not belong to a \"{}\"; leave it out", kind.text()),
            ),
        });
    }
    Ok(())
}

fn id<'a>(fields: &mut Fields<'a>, given: &Given<'a>) -> Result<Cow<'a, str>, Refusal> {
    let id = either(fields, Field::Id, given.id, given.way.id_header())?;
    match (id, given.way) {
        (Some(id), _) => Ok(id),
        (
            None,
            Way::Inbox {
                log,
                partition,
                offset,
            },
        ) => Ok(Cow::Owned(format!("{log:016x}-{partition}-{offset}"))),
        (None, Way::Http) => Err(Refusal::invalid(
            "id",
            "is missing; send your own name for this command, so that sending it again is safe",
        )),
    }
}

/// A part of the command's name from its field, or from the header of that name; both alike are one.
fn either<'a>(
    fields: &mut Fields<'a>,
    field: Field,
    given: Option<&'a str>,
    header: &'static str,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    if let Some(given) = given {
        field::check_name(given, NAME_BYTES_MAX).map_err(|why| Refusal::invalid(header, why))?;
    }
    match (fields.take(field), given) {
        (None, given) => Ok(given.map(Cow::Borrowed)),
        (Some(value), None) => named(field.text(), value).map(Some),
        (Some(value), Some(given)) => {
            let stated = named(field.text(), value)?;
            if stated == given {
                return Ok(Some(stated));
            }
            Err(Refusal::invalid(
                field.text(),
                format!("differs from the header {header}; send one of them, or both alike"),
            ))
        }
    }
}

fn body<'a>(
    fields: &mut Fields<'a>,
    kind: Kind,
    given: &Given<'a>,
    source: &str,
    id: &str,
) -> Result<Body<'a>, Refusal> {
    match kind {
        Kind::Receive => Ok(Body::Receive(fact(fields, Sign::Positive)?)),
        Kind::Return => Ok(Body::Return(fact(fields, Sign::Positive)?)),
        Kind::Adjust => Ok(Body::Adjust(fact(fields, Sign::NotZero)?)),
        Kind::Ship => {
            let fact = fact(fields, Sign::Positive)?;
            let reservation = opt(fields, Field::Reservation, reservation_name)?;
            let line = opt(fields, Field::Line, |v| line_number(&v))?;
            if line.is_some() && reservation.is_none() {
                return Err(Refusal::invalid(
                    "line",
                    "is given without a reservation; send reservation, or leave line out",
                ));
            }
            Ok(Body::Ship {
                fact,
                reservation: reservation.map(ReservationId),
                line,
            })
        }
        Kind::Move => {
            let sku = sku(fields)?;
            let quantity = quantity(fields, Field::Quantity, Sign::Positive)?;
            let from = place(fields, Field::From)?;
            let to = place(fields, Field::To)?;
            if from == to {
                return Err(Refusal::invalid(
                    "to",
                    "is the same as from; send another place",
                ));
            }
            Ok(Body::Move {
                sku,
                quantity,
                from,
                to,
            })
        }
        Kind::Count => Ok(Body::Count {
            sku: sku(fields)?,
            location: location(fields)?,
            quantity: quantity(fields, Field::Quantity, Sign::NotNegative)?,
            figure: figure(fields.take(Field::State))?,
        }),
        Kind::Set => Ok(Body::Set {
            sku: sku(fields)?,
            location: location(fields)?,
            quantity: quantity(fields, Field::Quantity, Sign::NotNegative)?,
            expected: opt(fields, Field::ExpectedQuantity, |v| field::amount(&v))?,
        }),
        Kind::Item => stock::item(fields),
        Kind::Commit => {
            let lines = request_lines(fields, true)?;
            Ok(Body::Commit {
                reservation: reservation::named(fields, given, None)?,
                lines,
                channel: channel(fields)?,
            })
        }
        Kind::Reserve => {
            let lines = request_lines(fields, false)?;
            Ok(Body::Reserve {
                reservation: reservation::named(fields, given, Some((source, id)))?,
                lines,
                ttl_s: ttl(fields)?,
                channel: channel(fields)?,
                partial: opt(fields, Field::Partial, |v| field::boolean(&v))?.unwrap_or(false),
            })
        }
        Kind::Confirm => Ok(Body::Confirm {
            reservation: reservation::named(fields, given, None)?,
            lines: line_parts(fields)?,
        }),
        Kind::Release => Ok(Body::Release {
            reservation: reservation::named(fields, given, None)?,
            lines: line_parts(fields)?,
        }),
        Kind::Extend => Ok(Body::Extend {
            reservation: reservation::named(fields, given, None)?,
            ttl_s: ttl(fields)?,
        }),
    }
}

/// `data`: one flat object, kept as sent.
fn data(raw: &RawValue) -> Result<Cow<'_, str>, Refusal> {
    let text = raw.get();
    let wrong = |why: &str| Refusal::invalid("data", why.to_owned());
    if text.len() > field::DATA_BYTES_MAX {
        return Err(wrong(&format!(
            "has {} bytes; send at most {}",
            text.len(),
            field::DATA_BYTES_MAX
        )));
    }
    let value: Value<'_> = serde_json::from_str(text)
        .map_err(|error| wrong(&format!("cannot be read: {error}; send one flat object")))?;
    let Value::Object(members) = value else {
        return Err(wrong("is no object; send one flat object"));
    };
    if members
        .iter()
        .any(|(_, v)| matches!(v, Value::List(_) | Value::Object(_)))
    {
        return Err(wrong(
            "is not flat; send an object without lists and objects in it",
        ));
    }
    // Line breaks between members would break the lines of NDJSON; inside of strings there are none.
    if text.contains(['\n', '\r']) {
        return Ok(Cow::Owned(text.replace(['\n', '\r'], " ")));
    }
    Ok(Cow::Borrowed(text))
}

fn named<'a>(field: &'static str, value: Value<'a>) -> Result<Cow<'a, str>, Refusal> {
    field::name(value, NAME_BYTES_MAX).map_err(|why| Refusal::invalid(field, why))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LINE: &str = r#"{"id":"000123","source":"till-7","type":"ship","sku":"85123A","location":"london","quantity":6,"occurred_at":"2010-12-01T08:26:00Z","reason":"sale","reference":"invoice/536365"}"#;

    #[test]
    fn a_line_is_borrowed_from_and_quickly_read() {
        let given = Given::default();
        let command = parse(LINE, &given).unwrap();
        assert!(matches!(command.source.0, Cow::Borrowed("till-7")));
        let Body::Ship { fact, .. } = &command.body else {
            panic!("{command:?}")
        };
        assert!(matches!(fact.sku.0, Cow::Borrowed("85123A")));
        let began = Instant::now();
        let rounds = 20_000u32;
        for _ in 0..rounds {
            assert!(parse(std::hint::black_box(LINE), &given).is_ok());
        }
        let each = began.elapsed() / rounds;
        eprintln!("{each:?} for a line of {} B", LINE.len());
        // A slip that makes it quadratic or allocate everywhere shows even on a busy machine.
        assert!(each.as_micros() < 200, "{each:?}");
    }

    #[test]
    fn the_default_name_of_a_reservation_is_made_of_source_and_id() {
        let line =
            r#"{"id":"7","source":"web","type":"reserve","lines":[{"sku":"A","quantity":1}]}"#;
        let command = parse(line, &Given::default()).unwrap();
        let Body::Reserve {
            reservation, lines, ..
        } = command.body
        else {
            panic!()
        };
        assert_eq!(reservation.as_str(), "web/7");
        assert_eq!(lines[0].line, 1);
    }

    #[test]
    fn data_is_kept_as_sent_on_one_line() {
        let line = "{\"id\":\"7\",\"type\":\"item\",\"sku\":\"A\",\"unit\":\"kg\",\"data\":{\"a\":1.50,\n\"b\":\"x\"}}";
        let command = parse(line, &Given::default()).unwrap();
        assert_eq!(command.data.as_deref(), Some("{\"a\":1.50, \"b\":\"x\"}"));
    }
}
