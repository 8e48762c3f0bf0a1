//! What stands in a line: the types of command, the fields, and which of them each type has.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::field;
use crate::wire::refusal::{Refusal, nearest};
use crate::wire::value::{Key, Value};

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

pub(super) const FIELDS: usize = Field::ALL.len();

impl Field {
    pub(super) fn bit(self) -> u64 {
        const { assert!(FIELDS <= 64) };
        1 << self as u64
    }
}

/// Fields that every type has.
pub(super) const COMMON: &[Field] = &[
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
    pub(super) fn own(self) -> &'static [Field] {
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

    /// All fields of this type, a bit each.
    pub(super) fn fields(self) -> u64 {
        let all = COMMON.iter().chain(self.own());
        all.fold(0, |bits, field| bits | field.bit())
    }
}

/// The known fields of a line, and what else stood in it.
pub(super) struct Fields<'a> {
    pub(super) values: [Option<Value<'a>>; FIELDS],
    pub(super) data: Option<&'a RawValue>,
    /// The first unknown one.
    pub(super) unknown: Option<String>,
    /// The first one given twice.
    pub(super) repeated: Option<Field>,
}

impl<'a> Fields<'a> {
    pub(super) fn new() -> Self {
        Self {
            values: [const { None }; FIELDS],
            data: None,
            unknown: None,
            repeated: None,
        }
    }

    /// Reads what stands in a line that is one JSON object.
    pub(super) fn read(&mut self, text: &'a str) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        Fill(self).deserialize(&mut json)?;
        json.end()
    }

    pub(super) fn take(&mut self, field: Field) -> Option<Value<'a>> {
        self.values.get_mut(field as usize).and_then(Option::take)
    }

    fn peek(&self, field: Field) -> Option<&Value<'a>> {
        self.values.get(field as usize).and_then(Option::as_ref)
    }

    pub(super) fn peek_text(&self, field: Field) -> Option<&str> {
        match self.peek(field) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// Fills the table where it stands: it is larger than most lines, and each return would copy it.
struct Fill<'f, 'a>(&'f mut Fields<'a>);

impl<'de> DeserializeSeed<'de> for Fill<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
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
        Ok(())
    }
}

pub(super) fn put<'a>(
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

pub(super) fn unknown_member(within: &str, key: &str, known: &[&str]) -> Refusal {
    let shown: String = key.chars().take(64).collect();
    let detail = match nearest(key, known.iter().copied()) {
        Some(near) => format!("is no field here; did you mean \"{near}\"?"),
        None => format!("is no field here; send only {}", known.join(", ")),
    };
    Refusal::invalid(format!("{within}/{shown}"), detail)
}

/// An optional field. An explicit `null` is a wrong value like any other.
pub(super) fn opt<'a, T>(
    fields: &mut Fields<'a>,
    which: Field,
    read: impl FnOnce(Value<'a>) -> Result<T, field::Wrong>,
) -> Result<Option<T>, Refusal> {
    fields
        .take(which)
        .map(|value| read(value).map_err(|why| Refusal::invalid(which.text(), why)))
        .transpose()
}

pub(super) fn need<'a, T>(
    fields: &mut Fields<'a>,
    which: Field,
    read: impl FnOnce(Value<'a>) -> Result<T, field::Wrong>,
) -> Result<T, Refusal> {
    opt(fields, which, read)?
        .ok_or_else(|| Refusal::invalid(which.text(), format!("is missing; send {}", which.text())))
}
