//! A reservation as its readers see it.

use onhand_ledger::reservation::{
    DecidedBy, GivenBackBy, ReservationLine, ReservationRecord, Status,
};

use super::outcome::Origin;
use super::write::{Object, amount, list, uint};
use crate::position;

/// The word for a status.
pub(crate) fn status(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Granted => "granted",
        Status::Confirmed => "confirmed",
        Status::Rejected => "rejected",
        Status::Released => "released",
        Status::Expired => "expired",
        Status::Fulfilled => "fulfilled",
    }
}

/// The words that `state` of a list may be.
pub(crate) const STATUSES: &[&str] = &[
    "pending",
    "granted",
    "confirmed",
    "rejected",
    "released",
    "expired",
    "fulfilled",
];

/// What a reader is told it is: `pending` as long as a step is under way.
pub(crate) fn shown_status(record: &ReservationRecord<'_>) -> &'static str {
    if record.step.is_some() {
        "pending"
    } else {
        status(record.status)
    }
}

pub(crate) fn write(out: &mut Vec<u8>, record: &ReservationRecord<'_>, origin: Origin) {
    let mut object = Object::open(out);
    object
        .text("reservation", record.id.as_str())
        .text("source", record.source.as_str())
        .some_text("channel", record.channel.as_deref())
        .text("state", shown_status(record));
    list(object.key("lines"), &record.lines, line);
    object.time("created_at", record.created_at);
    for (key, time) in [
        ("granted_at", record.granted_at),
        ("expires_at", record.expires_at),
        ("released_at", record.released_at),
        ("ended_at", record.ended_at),
    ] {
        if let Some(time) = time {
            object.time(key, time);
        }
    }
    // Nothing is held for a commit that came after the release: whoever reads `applied` sees it here.
    if let Some(commit) = &record.conflict {
        let mut conflict = Object::open(object.key("conflict"));
        conflict
            .text("kind", "commit_after_release")
            .text("source", commit.source.as_str())
            .text("id", commit.id.as_str());
        conflict.close();
    }
    let token = object.key("position");
    token.push(b'"');
    write_position(token, origin, record.number, &record.decided_by);
    token.push(b'"');
    object.close();
}

/// Writes the token of a decision on a reservation, without its quotes: it speaks of the reservation's
/// owner and of its lines' owners, as far as each had come.
pub(crate) fn write_position(
    out: &mut Vec<u8>,
    origin: Origin,
    number: u64,
    decided_by: &[DecidedBy],
) {
    let own = (origin.partition, number);
    if decided_by.is_empty() {
        position::write(out, origin.epoch, false, &[own], None);
        return;
    }
    let others = decided_by
        .iter()
        .map(|owner| (owner.partition, owner.number));
    let mut numbers: Vec<(u16, u64)> = others.collect();
    let place = numbers.partition_point(|(partition, _)| *partition < origin.partition);
    numbers.insert(place, own);
    position::write(out, origin.epoch, false, &numbers, None);
}

fn line(out: &mut Vec<u8>, line: &ReservationLine<'_>) {
    let decimals = line.decimals;
    let mut object = Object::open(out);
    uint(object.key("line"), u64::from(line.line));
    object.text("sku", line.sku.as_str()).some_text(
        "location",
        line.location.as_ref().map(|location| location.as_str()),
    );
    // What was sent may be finer than the item allows; then it was refused, and is shown as sent.
    let requested = line.requested;
    match requested.to_units(decimals) {
        Some(units) => amount(object.key("requested"), units.0, decimals),
        None => amount(
            object.key("requested"),
            requested.mantissa,
            requested.decimals,
        ),
    }
    object
        .amount("granted", line.asked.0, decimals)
        .amount("reserved", line.reserved.0, decimals)
        .amount("committed", line.committed.0, decimals)
        .amount("shipped", line.shipped.0, decimals)
        .amount("given_back", line.given_back.0, decimals)
        .some_text("given_back_by", line.given_back_by.map(given_back_by));
    object.close();
}

fn given_back_by(by: GivenBackBy) -> &'static str {
    match by {
        GivenBackBy::Release => "release",
        GivenBackBy::Expiry => "expiry",
        GivenBackBy::Restated => "restated",
    }
}
