//! Reservations: their names, their lines, and parts of lines.

use std::borrow::Cow;

use onhand_ledger::{LinePart, Location, RequestLine, ReservationId, Sku};

use super::Given;
use super::members::{Field, Fields, opt, put, unknown_member};
use super::stock::Sign;
use crate::wire::field::{self, NAME_BYTES_MAX, RESERVATION_BYTES_MAX};
use crate::wire::refusal::Refusal;
use crate::wire::value::Value;

/// Lines of one reservation: a basket, not a catalogue. Every line costs its SKU's owner a record.
pub(crate) const LINES_MAX: usize = 100;
/// Seconds that a reservation may last without being extended: 30 days.
pub(crate) const TTL_S_MAX: i64 = 30 * 24 * 3_600;

pub(super) fn channel<'a>(fields: &mut Fields<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
    opt(fields, Field::Channel, |v| field::name(v, NAME_BYTES_MAX))
}

pub(super) fn ttl(fields: &mut Fields<'_>) -> Result<Option<u32>, Refusal> {
    opt(fields, Field::TtlS, |v| {
        let seconds = field::integer(&v, 1, TTL_S_MAX)?;
        Ok(u32::try_from(seconds).expect("30 days of seconds fit"))
    })
}

pub(super) fn reservation_name<'a>(value: Value<'a>) -> Result<Cow<'a, str>, field::Wrong> {
    field::name(value, RESERVATION_BYTES_MAX)
}

/// The reservation of the path, of the field, or `{source}/{id}` where that is the default.
pub(super) fn named<'a>(
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

/// The list in `lines` with its bounds checked; `None` where there is none.
pub(super) fn lines<'a>(fields: &mut Fields<'a>) -> Result<Option<Vec<Value<'a>>>, Refusal> {
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
pub(super) fn line_members<'a, const N: usize>(
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

pub(super) fn line_number(value: &Value<'_>) -> Result<u32, field::Wrong> {
    let number = field::integer(value, 1, i64::from(u32::MAX))?;
    Ok(u32::try_from(number).expect("it is within 32 bits"))
}

/// The lines of `reserve` and `commit`.
pub(super) fn request_lines<'a>(
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
pub(super) fn line_parts(fields: &mut Fields<'_>) -> Result<Option<Vec<LinePart>>, Refusal> {
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
