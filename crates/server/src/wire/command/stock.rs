//! Facts about stock, and what is declared of an item.

use onhand_ledger::{Amount, Body, Fact, Figure, Location, Sku, StateName, StockPlace};

use super::members::{Field, Fields, need, opt, put, unknown_member};
use crate::wire::field::{self, NAME_BYTES_MAX};
use crate::wire::refusal::Refusal;
use crate::wire::value::Value;

pub(super) fn item<'a>(fields: &mut Fields<'a>) -> Result<Body<'a>, Refusal> {
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
pub(super) enum Sign {
    Positive,
    NotNegative,
    NotZero,
}

impl Sign {
    pub(super) fn check(self, amount: Amount) -> Result<Amount, field::Wrong> {
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

pub(super) fn fact<'a>(fields: &mut Fields<'a>, sign: Sign) -> Result<Fact<'a>, Refusal> {
    Ok(Fact {
        sku: sku(fields)?,
        location: location(fields)?,
        quantity: quantity(fields, Field::Quantity, sign)?,
        state: state("state", fields.take(Field::State))?,
    })
}

pub(super) fn sku<'a>(fields: &mut Fields<'a>) -> Result<Sku<'a>, Refusal> {
    need(fields, Field::Sku, |v| field::name(v, NAME_BYTES_MAX)).map(Sku)
}

pub(super) fn location<'a>(fields: &mut Fields<'a>) -> Result<Location<'a>, Refusal> {
    need(fields, Field::Location, |v| field::name(v, NAME_BYTES_MAX)).map(Location)
}

pub(super) fn quantity(
    fields: &mut Fields<'_>,
    which: Field,
    sign: Sign,
) -> Result<Amount, Refusal> {
    need(fields, which, |v| {
        field::amount(&v).and_then(|amount| sign.check(amount))
    })
}

pub(super) fn state(field: &str, value: Option<Value<'_>>) -> Result<StateName, Refusal> {
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

pub(super) fn figure(value: Option<Value<'_>>) -> Result<Figure, Refusal> {
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
pub(super) fn place<'a>(fields: &mut Fields<'a>, which: Field) -> Result<StockPlace<'a>, Refusal> {
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
