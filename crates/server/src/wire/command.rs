//! A command line, from JSON to the ledger's [`Command`], borrowed from the line wherever it can be.
//!
//! One pass over the text fills a table of the known fields; unknown and repeated ones are noted by
//! name. The rules are applied to that table afterwards, type by type.

use std::borrow::Cow;
use std::fmt;

use onhand_ledger::{
    Amount, Body, Command, Fact, Figure, Id, LinePart, Location, RequestLine, ReservationId, Sku,
    Source, StateName, StockPlace,
};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::field::{self, NAME_BYTES_MAX, RESERVATION_BYTES_MAX};
use super::refusal::{Refusal, RefusalKind, nearest};
use super::value::{Key, Value};

/// Lines of one reservation: a basket, not a catalogue. Every line costs its SKU's owner a record.
pub(crate) const LINES_MAX: usize = 100;
/// Seconds that a reservation may last without being extended: 30 days.
pub(crate) const TTL_S_MAX: i64 = 30 * 24 * 3_600;
/// The source of commands that name none.
pub(crate) const SOURCE_DEFAULT: &str = "http";
/// The source that only the node itself writes as.
const SOURCE_OWN: &str = "onhand";

/// What is known of a command besides its own text.
#[derive(Clone, Default, Debug)]
pub(crate) struct Given<'a> {
    /// From the header `Idempotency-Key`.
    pub(crate) id: Option<&'a str>,
    /// From the route.
    pub(crate) kind: Option<Kind>,
    /// From the path.
    pub(crate) reservation: Option<&'a str>,
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum $name { $($variant,)* }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub(crate) fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }

            pub(crate) fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

names! {
    /// The types of command that this version takes.
    Kind {
        Receive = "receive",
        Ship = "ship",
        Return = "return",
        Adjust = "adjust",
        Move = "move",
        Count = "count",
        Set = "set",
        Item = "item",
        Commit = "commit",
        Reserve = "reserve",
        Confirm = "confirm",
        Release = "release",
        Extend = "extend",
    }
}

/// Types that the surface names and this version does not have.
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

names! {
    /// The fields of all types together.
    Field {
        Id = "id",
        Source = "source",
        Type = "type",
        OccurredAt = "occurred_at",
        Reason = "reason",
        Note = "note",
        Reference = "reference",
        Data = "data",
        Seq = "seq",
        Sku = "sku",
        Location = "location",
        Quantity = "quantity",
        State = "state",
        Reservation = "reservation",
        Line = "line",
        Lines = "lines",
        From = "from",
        To = "to",
        ExpectedQuantity = "expected_quantity",
        Decimals = "decimals",
        Unit = "unit",
        Name = "name",
        Channel = "channel",
        TtlS = "ttl_s",
        Partial = "partial",
        Lot = "lot",
        Tenant = "tenant",
        Supply = "supply",
        Shipment = "shipment",
        Final = "final",
        Due = "due",
        Of = "of",
        Fact = "fact",
        Scope = "scope",
        Values = "values",
    }
}

const FIELDS: usize = Field::ALL.len();

/// Fields that every type has.
const COMMON: &[Field] = &[
    Field::Id,
    Field::Source,
    Field::Type,
    Field::OccurredAt,
    Field::Reason,
    Field::Note,
    Field::Reference,
    Field::Data,
];

impl Kind {
    /// The fields of this type besides the common ones.
    fn own(self) -> &'static [Field] {
        use Field as F;
        match self {
            Self::Receive | Self::Return | Self::Adjust | Self::Count => {
                &[F::Seq, F::Sku, F::Location, F::Quantity, F::State]
            }
            Self::Ship => &[
                F::Seq,
                F::Sku,
                F::Location,
                F::Quantity,
                F::State,
                F::Reservation,
                F::Line,
            ],
            Self::Move => &[F::Seq, F::Sku, F::Quantity, F::From, F::To],
            Self::Set => &[
                F::Seq,
                F::Sku,
                F::Location,
                F::Quantity,
                F::ExpectedQuantity,
            ],
            Self::Item => &[F::Seq, F::Sku, F::Decimals, F::Unit, F::Name],
            Self::Commit => &[F::Reservation, F::Lines, F::Channel],
            Self::Reserve => &[F::Reservation, F::Lines, F::TtlS, F::Channel, F::Partial],
            Self::Confirm | Self::Release => &[F::Reservation, F::Lines],
            Self::Extend => &[F::Reservation, F::TtlS],
        }
    }

    fn has(self, field: Field) -> bool {
        COMMON.contains(&field) || self.own().contains(&field)
    }
}

/// The known fields of a line, and what else stood in it.
struct Fields<'a> {
    values: [Option<Value<'a>>; FIELDS],
    data: Option<&'a RawValue>,
    /// The first unknown one.
    unknown: Option<String>,
    /// The first one given twice.
    repeated: Option<Field>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, field: Field) -> Option<Value<'a>> {
        self.values.get_mut(field as usize).and_then(Option::take)
    }

    fn peek(&self, field: Field) -> Option<&Value<'a>> {
        self.values.get(field as usize).and_then(Option::as_ref)
    }

    fn peek_text(&self, field: Field) -> Option<&str> {
        match self.peek(field) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields {
                    values: [const { None }; FIELDS],
                    data: None,
                    unknown: None,
                    repeated: None,
                };
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    let Some(field) = Field::parse(&key.0) else {
                        map.next_value::<IgnoredAny>()?;
                        fields.unknown.get_or_insert_with(|| key.0.into_owned());
                        continue;
                    };
                    let value = if field == Field::Data {
                        fields.data = Some(map.next_value()?);
                        Value::Null
                    } else {
                        map.next_value()?
                    };
                    if let Some(slot) = fields.values.get_mut(field as usize)
                        && slot.replace(value).is_some()
                    {
                        fields.repeated.get_or_insert(field);
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Reads one command. What it returns borrows from `text`.
pub(crate) fn parse<'a>(text: &'a str, given: &Given<'a>) -> Result<Command<'a>, Refusal> {
    let mut fields: Fields<'a> = serde_json::from_str(text).map_err(|error| {
        Refusal::new(
            RefusalKind::Unreadable,
            "",
            format!("cannot be read: {error}; send one JSON object"),
        )
    })?;
    let id = fields.peek_text(Field::Id).or(given.id).map(str::to_owned);
    let source = fields
        .peek_text(Field::Source)
        .unwrap_or(SOURCE_DEFAULT)
        .to_owned();
    command(&mut fields, given).map_err(|refusal| Refusal {
        id: id.filter(|id| id.len() <= NAME_BYTES_MAX),
        source: Some(source).filter(|source| source.len() <= NAME_BYTES_MAX),
        ..refusal
    })
}

fn command<'a>(fields: &mut Fields<'a>, given: &Given<'a>) -> Result<Command<'a>, Refusal> {
    let kind = kind(fields, given)?;
    check_fields(fields, kind)?;
    let source = match fields.take(Field::Source) {
        None => Cow::Borrowed(SOURCE_DEFAULT),
        Some(value) => named("source", value)?,
    };
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

/// The type of that name; names of the surface that are not built yet are told from unknown ones.
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
    for (field, value) in Field::ALL.iter().zip(&fields.values) {
        if value.is_none() || kind.has(*field) {
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
    let header = given.id.map(|id| {
        field::check_name(id, NAME_BYTES_MAX)
            .map(|()| id)
            .map_err(|why| Refusal::invalid("Idempotency-Key", why))
    });
    match (fields.take(Field::Id), header.transpose()?) {
        (Some(value), Some(header)) => {
            let id = named("id", value)?;
            if id == header {
                Ok(id)
            } else {
                Err(Refusal::invalid(
                    "id",
                    "differs from the header Idempotency-Key; send one of them, or both alike",
                ))
            }
        }
        (Some(value), None) => named("id", value),
        (None, Some(header)) => Ok(Cow::Borrowed(header)),
        (None, None) => Err(Refusal::invalid(
            "id",
            "is missing; send your own name for this command, so that sending it again is safe",
        )),
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
        Kind::Item => item(fields),
        Kind::Commit => {
            let lines = request_lines(fields, true)?;
            Ok(Body::Commit {
                reservation: reservation(fields, given, None)?,
                lines,
                channel: channel(fields)?,
            })
        }
        Kind::Reserve => {
            let lines = request_lines(fields, false)?;
            Ok(Body::Reserve {
                reservation: reservation(fields, given, Some((source, id)))?,
                lines,
                ttl_s: ttl(fields)?,
                channel: channel(fields)?,
                partial: opt(fields, Field::Partial, |v| field::boolean(&v))?.unwrap_or(false),
            })
        }
        Kind::Confirm => Ok(Body::Confirm {
            reservation: reservation(fields, given, None)?,
            lines: line_parts(fields)?,
        }),
        Kind::Release => Ok(Body::Release {
            reservation: reservation(fields, given, None)?,
            lines: line_parts(fields)?,
        }),
        Kind::Extend => Ok(Body::Extend {
            reservation: reservation(fields, given, None)?,
            ttl_s: ttl(fields)?,
        }),
    }
}

fn item<'a>(fields: &mut Fields<'a>) -> Result<Body<'a>, Refusal> {
    let sku = sku(fields)?;
    let decimals = opt(fields, Field::Decimals, |v| {
        let decimals = field::integer(&v, 0, i64::from(field::DECIMALS_MAX))?;
        Ok(u8::try_from(decimals).expect("it is at most six"))
    })?;
    let unit = opt(fields, Field::Unit, |v| field::name(v, NAME_BYTES_MAX))?;
    let name = opt(fields, Field::Name, |v| field::name(v, NAME_BYTES_MAX))?;
    if decimals.is_none() && unit.is_none() && name.is_none() {
        return Err(Refusal::invalid(
            "decimals",
            "is missing; send decimals, unit or name",
        ));
    }
    Ok(Body::Item {
        sku,
        decimals,
        unit,
        name,
    })
}

/// What a quantity may be.
#[derive(Clone, Copy)]
enum Sign {
    Positive,
    NotNegative,
    NotZero,
}

impl Sign {
    fn check(self, amount: Amount) -> Result<Amount, field::Wrong> {
        match self {
            Self::Positive if amount.mantissa <= 0 => {
                Err("is not above 0; send a positive quantity".to_owned())
            }
            Self::NotNegative if amount.mantissa < 0 => {
                Err("is below 0; send what was counted, 0 or more".to_owned())
            }
            Self::NotZero if amount.mantissa == 0 => {
                Err("is 0; send the difference, positive or negative".to_owned())
            }
            _ => Ok(amount),
        }
    }
}

fn fact<'a>(fields: &mut Fields<'a>, sign: Sign) -> Result<Fact<'a>, Refusal> {
    Ok(Fact {
        sku: sku(fields)?,
        location: location(fields)?,
        quantity: quantity(fields, Field::Quantity, sign)?,
        state: state("state", fields.take(Field::State))?,
    })
}

fn sku<'a>(fields: &mut Fields<'a>) -> Result<Sku<'a>, Refusal> {
    need(fields, Field::Sku, |v| field::name(v, NAME_BYTES_MAX)).map(Sku)
}

fn location<'a>(fields: &mut Fields<'a>) -> Result<Location<'a>, Refusal> {
    need(fields, Field::Location, |v| field::name(v, NAME_BYTES_MAX)).map(Location)
}

fn quantity(fields: &mut Fields<'_>, which: Field, sign: Sign) -> Result<Amount, Refusal> {
    need(fields, which, |v| {
        field::amount(&v).and_then(|amount| sign.check(amount))
    })
}

fn channel<'a>(fields: &mut Fields<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
    opt(fields, Field::Channel, |v| field::name(v, NAME_BYTES_MAX))
}

fn ttl(fields: &mut Fields<'_>) -> Result<Option<u32>, Refusal> {
    opt(fields, Field::TtlS, |v| {
        let seconds = field::integer(&v, 1, TTL_S_MAX)?;
        Ok(u32::try_from(seconds).expect("30 days of seconds fit"))
    })
}

fn reservation_name<'a>(value: Value<'a>) -> Result<Cow<'a, str>, field::Wrong> {
    field::name(value, RESERVATION_BYTES_MAX)
}

/// The reservation of the path, of the field, or `{source}/{id}` where that is the default.
fn reservation<'a>(
    fields: &mut Fields<'a>,
    given: &Given<'a>,
    default: Option<(&str, &str)>,
) -> Result<ReservationId<'a>, Refusal> {
    let stated = opt(fields, Field::Reservation, reservation_name)?;
    if let Some(path) = given.reservation {
        field::check_name(path, RESERVATION_BYTES_MAX)
            .map_err(|why| Refusal::invalid("reservation", why))?;
        if stated.is_some_and(|stated| stated != path) {
            return Err(Refusal::invalid(
                "reservation",
                "differs from the one in the path; leave it out",
            ));
        }
        return Ok(ReservationId(Cow::Borrowed(path)));
    }
    match (stated, default) {
        (Some(stated), _) => Ok(ReservationId(stated)),
        (None, Some((source, id))) => Ok(ReservationId(Cow::Owned(format!("{source}/{id}")))),
        (None, None) => Err(Refusal::invalid(
            "reservation",
            "is missing; send the reservation that this is about",
        )),
    }
}

fn state(field: &str, value: Option<Value<'_>>) -> Result<StateName, Refusal> {
    let wrong = |what: &str| {
        Refusal::invalid(
            field.to_owned(),
            format!("is {what}; send available, damaged or quality_control"),
        )
    };
    match value {
        None => Ok(StateName::Available),
        Some(Value::Text(text)) => match text.as_ref() {
            "available" => Ok(StateName::Available),
            "damaged" => Ok(StateName::Damaged),
            "quality_control" => Ok(StateName::QualityControl),
            _ => Err(wrong("no state that a fact may name")),
        },
        Some(other) => Err(wrong(other.what())),
    }
}

fn figure(value: Option<Value<'_>>) -> Result<Figure, Refusal> {
    let wrong = |what: &str| {
        Refusal::invalid(
            "state",
            format!("is {what}; send on_hand, damaged or quality_control"),
        )
    };
    match value {
        None => Ok(Figure::OnHand),
        Some(Value::Text(text)) => match text.as_ref() {
            "on_hand" => Ok(Figure::OnHand),
            "damaged" => Ok(Figure::Damaged),
            "quality_control" => Ok(Figure::QualityControl),
            _ => Err(wrong("nothing that is counted")),
        },
        Some(other) => Err(wrong(other.what())),
    }
}

/// `from` or `to` of a move.
fn place<'a>(fields: &mut Fields<'a>, which: Field) -> Result<StockPlace<'a>, Refusal> {
    let side = which.text();
    let members = match fields.take(which) {
        Some(Value::Object(members)) => members,
        Some(other) => {
            return Err(Refusal::invalid(
                side,
                format!(
                    "is {}; send an object with location and state",
                    other.what()
                ),
            ));
        }
        None => {
            return Err(Refusal::invalid(
                side,
                "is missing; send an object with location and state",
            ));
        }
    };
    let (mut location, mut stated) = (None, None);
    for (key, value) in members {
        let slot = match key.as_ref() {
            "location" => &mut location,
            "state" => &mut stated,
            other => return Err(unknown_member(side, other, &["location", "state"])),
        };
        put(slot, value, side, &key)?;
    }
    let at = format!("{side}/location");
    let location = match location {
        None => return Err(Refusal::invalid(at, "is missing; send the location")),
        Some(value) => {
            field::name(value, NAME_BYTES_MAX).map_err(|why| Refusal::invalid(at, why))?
        }
    };
    Ok(StockPlace {
        location: Location(location),
        state: state(&format!("{side}/state"), stated)?,
    })
}

fn put<'a>(
    slot: &mut Option<Value<'a>>,
    value: Value<'a>,
    within: &str,
    key: &str,
) -> Result<(), Refusal> {
    if slot.replace(value).is_some() {
        return Err(Refusal::invalid(
            format!("{within}/{key}"),
            "is given twice; send it once",
        ));
    }
    Ok(())
}

fn unknown_member(within: &str, key: &str, known: &[&str]) -> Refusal {
    let shown: String = key.chars().take(64).collect();
    let detail = match nearest(key, known.iter().copied()) {
        Some(near) => format!("is no field here; did you mean \"{near}\"?"),
        None => format!("is no field here; send only {}", known.join(", ")),
    };
    Refusal::invalid(format!("{within}/{shown}"), detail)
}

/// The list in `lines` with its bounds checked; `None` where there is none.
fn lines<'a>(fields: &mut Fields<'a>) -> Result<Option<Vec<Value<'a>>>, Refusal> {
    match fields.take(Field::Lines) {
        None => Ok(None),
        Some(Value::List(list)) if list.is_empty() => Err(Refusal::invalid(
            "lines",
            "is empty; send at least one line",
        )),
        Some(Value::List(list)) if list.len() > LINES_MAX => Err(Refusal::invalid(
            "lines",
            format!("has {} lines; send at most {LINES_MAX}", list.len()),
        )),
        Some(Value::List(list)) => Ok(Some(list)),
        Some(other) => Err(Refusal::invalid(
            "lines",
            format!("is {}; send a list of lines", other.what()),
        )),
    }
}

/// The members of one line, by name.
fn line_members<'a, const N: usize>(
    at: &str,
    value: Value<'a>,
    known: &[&str; N],
) -> Result<[Option<Value<'a>>; N], Refusal> {
    let Value::Object(members) = value else {
        return Err(Refusal::invalid(
            at.to_owned(),
            format!("is {}; send an object", value.what()),
        ));
    };
    let mut found = [const { None }; N];
    for (key, value) in members {
        let place = known.iter().position(|name| *name == key);
        let Some(slot) = place.and_then(|place| found.get_mut(place)) else {
            return Err(unknown_member(at, &key, known));
        };
        put(slot, value, at, &key)?;
    }
    Ok(found)
}

fn line_number(value: &Value<'_>) -> Result<u32, field::Wrong> {
    let number = field::integer(value, 1, i64::from(u32::MAX))?;
    Ok(u32::try_from(number).expect("it is within 32 bits"))
}

/// The lines of `reserve` and `commit`.
fn request_lines<'a>(
    fields: &mut Fields<'a>,
    commit: bool,
) -> Result<Vec<RequestLine<'a>>, Refusal> {
    let Some(list) = lines(fields)? else {
        return Err(Refusal::invalid(
            "lines",
            "is missing; send a list of lines",
        ));
    };
    let mut read: Vec<RequestLine<'a>> = Vec::with_capacity(list.len());
    for (place, value) in list.into_iter().enumerate() {
        let at = format!("lines/{place}");
        let inside = |name: &str, why: field::Wrong| Refusal::invalid(format!("{at}/{name}"), why);
        let [line, sku, quantity, location] =
            line_members(&at, value, &["line", "sku", "quantity", "location"])?;
        let missing = |name: &str| inside(name, format!("is missing; send {name}"));
        let line = match line {
            Some(value) => line_number(&value).map_err(|why| inside("line", why))?,
            None => u32::try_from(place + 1).expect("lines are few"),
        };
        let sku = field::name(sku.ok_or_else(|| missing("sku"))?, NAME_BYTES_MAX)
            .map_err(|why| inside("sku", why))?;
        let quantity = field::amount(&quantity.ok_or_else(|| missing("quantity"))?)
            .and_then(|amount| Sign::Positive.check(amount))
            .map_err(|why| inside("quantity", why))?;
        let location = location
            .map(|value| field::name(value, NAME_BYTES_MAX))
            .transpose()
            .map_err(|why| inside("location", why))?;
        if commit && location.is_none() {
            return Err(inside(
                "location",
                "is missing; say where the order was accepted from".to_owned(),
            ));
        }
        if read.iter().any(|other| other.line == line) {
            return Err(inside(
                "line",
                format!("{line} is the number of another line too; number each line once"),
            ));
        }
        let twice = read.iter().any(|other| {
            other.sku.0 == sku
                && match (&other.location, &location) {
                    (Some(a), Some(b)) => a.0 == *b,
                    _ => true,
                }
        });
        if twice {
            return Err(inside(
                "sku",
                "comes twice; join its lines, or name a different location on each".to_owned(),
            ));
        }
        read.push(RequestLine {
            line,
            sku: Sku(sku),
            quantity,
            location: location.map(Location),
        });
    }
    Ok(read)
}

/// The lines of `confirm` and `release`.
fn line_parts(fields: &mut Fields<'_>) -> Result<Option<Vec<LinePart>>, Refusal> {
    let Some(list) = lines(fields)? else {
        return Ok(None);
    };
    let mut read: Vec<LinePart> = Vec::with_capacity(list.len());
    for (place, value) in list.into_iter().enumerate() {
        let at = format!("lines/{place}");
        let inside = |name: &str, why: field::Wrong| Refusal::invalid(format!("{at}/{name}"), why);
        let [line, quantity] = line_members(&at, value, &["line", "quantity"])?;
        let line = line.ok_or_else(|| inside("line", "is missing; send its number".to_owned()))?;
        let line = line_number(&line).map_err(|why| inside("line", why))?;
        let quantity = quantity
            .map(|value| field::amount(&value).and_then(|amount| Sign::Positive.check(amount)))
            .transpose()
            .map_err(|why| inside("quantity", why))?;
        if read.iter().any(|other| other.line == line) {
            return Err(inside(
                "line",
                format!("{line} is named twice; name it once"),
            ));
        }
        read.push(LinePart { line, quantity });
    }
    Ok(Some(read))
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

/// An optional field. An explicit `null` is a wrong value like any other.
fn opt<'a, T>(
    fields: &mut Fields<'a>,
    which: Field,
    read: impl FnOnce(Value<'a>) -> Result<T, field::Wrong>,
) -> Result<Option<T>, Refusal> {
    fields
        .take(which)
        .map(|value| read(value).map_err(|why| Refusal::invalid(which.text(), why)))
        .transpose()
}

fn need<'a, T>(
    fields: &mut Fields<'a>,
    which: Field,
    read: impl FnOnce(Value<'a>) -> Result<T, field::Wrong>,
) -> Result<T, Refusal> {
    opt(fields, which, read)?
        .ok_or_else(|| Refusal::invalid(which.text(), format!("is missing; send {}", which.text())))
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
