//! The changelog of the state, `stock.state`: what it says must be what the decisions say.

#![allow(
    dead_code,
    reason = "the records are the format, whole: a field that no check reads is still in the bytes"
)]

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use onhand_log::Timestamp;
use serde::Deserialize;
#[cfg(test)]
use serde::Serialize;

use crate::VerifyError;
use crate::holds::{Holds, hold_key};
use crate::pack::content_of;
use crate::report::{About, Findings, Invariant};
use crate::reservations::{Reservations, reservation_key};
use crate::source::{Records, Source};
use crate::stock::{Stock, position_key, sku_key};

/// The key of the mark that ends each round of the changelog.
const REDO_MARK: &[u8] = b"";
/// 6 days: a record takes older ones of its key away when it is 7 days old, and clocks differ.
const UNFINISHED_MAX_MS: i64 = 6 * 24 * 3_600_000;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct Meta {
    pub(crate) number: u64,
    pub(crate) log_time: i64,
    pub(crate) peers: Vec<(u64, u64)>,
    pub(crate) ids: (u64, u64),
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct SkuRecord<'a> {
    pub(crate) decimals: u8,
    pub(crate) unit: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) newest_count: Option<i64>,
    #[serde(borrow)]
    pub(crate) seqs: Vec<(&'a str, u64)>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct PositionRecord<'a> {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) committed: i64,
    pub(crate) damaged: i64,
    pub(crate) quality_control: i64,
    pub(crate) sequence: u64,
    pub(crate) number: u64,
    pub(crate) at: i64,
    pub(crate) oversold_since: Option<i64>,
    pub(crate) entries: Vec<(i64, i64)>,
    #[serde(borrow)]
    pub(crate) counts: Option<CountsRecord<'a>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct CountsRecord<'a> {
    #[serde(borrow)]
    pub(crate) live: Vec<CountRecord<'a>>,
    pub(crate) base: Vec<CountRecord<'a>>,
    pub(crate) minutes_until: i64,
    pub(crate) seconds_until: i64,
    pub(crate) look_at: u32,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub(crate) struct CountRecord<'a> {
    pub(crate) at: i64,
    pub(crate) counted_at: i64,
    pub(crate) figure: crate::wire::Figure,
    pub(crate) opening: bool,
    pub(crate) counted: i64,
    pub(crate) correction: i64,
    pub(crate) source: &'a str,
    pub(crate) id: &'a str,
}

/// The numbers of a state record's variants, its first byte.
const META: u8 = 0;
const SKU: u8 = 1;
const HOLD: u8 = 2;
const RESERVATION: u8 = 3;
const IDS: u8 = 4;
const POSITION: u8 = 5;

/// The changelog as its newest whole round leaves it. A round ends with its mark; what stands behind
/// the last mark is the beginning of one that did not come to its end, and says nothing.
#[derive(Debug, Default)]
pub(crate) struct Changelog {
    parts: BTreeMap<Bytes, Bytes>,
    /// The decision after which it is whole; `None` while it is empty.
    pub(crate) number: Option<u64>,
    pub(crate) mark: Option<i64>,
}

/// A round that was begun before this and not finished.
fn is_long_ago(begun: Timestamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    now.saturating_sub(begun) > UNFINISHED_MAX_MS
}

impl Changelog {
    /// Reads the whole topic of one partition.
    pub(crate) fn read<S: Source>(
        records: &mut Records<'_, S>,
        findings: &mut Findings,
    ) -> Result<Self, VerifyError> {
        let mut all = Self::default();
        let mut round: Vec<(Bytes, Option<Bytes>)> = Vec::new();
        let mut begun: Option<Timestamp> = None;
        while let Some(record) = records.next()? {
            findings.report.figures.state_records += 1;
            begun = Some(begun.map_or(record.timestamp, |begun| begun.min(record.timestamp)));
            let key = record.key.unwrap_or_default();
            match record.value {
                Some(value) if key == REDO_MARK => {
                    let mark = value.as_ref().try_into().ok().map(i64::from_be_bytes);
                    if mark.is_none() || mark < all.mark {
                        let what = format!(
                            "the redo mark at offset {} of stock.state is {mark:?} after {:?}",
                            record.offset, all.mark
                        );
                        findings.add(Invariant::Bytes, About::default(), what);
                    }
                    all.mark = mark;
                    begun = None;
                    for (key, value) in round.drain(..) {
                        match value {
                            Some(value) => drop(all.parts.insert(key, value)),
                            None => drop(all.parts.remove(&key)),
                        }
                    }
                }
                // Names are compared where they are used; their records are large and many.
                Some(value) if key.first() == Some(&b'i') => {
                    if value.first() != Some(&IDS) {
                        let what = format!("the names at offset {} cannot be read", record.offset);
                        findings.add(Invariant::Bytes, About::default(), what);
                    }
                }
                value => round.push((key, value)),
            }
        }
        // Compaction may have taken away for it what is compared: a restore uses none of it then either.
        if begun.is_some_and(is_long_ago) {
            all.parts.clear();
        }
        all.number = all.meta(findings).map(|meta| meta.number);
        Ok(all)
    }

    fn meta(&self, findings: &mut Findings) -> Option<Meta> {
        let value = self.parts.get(&b"m"[..])?;
        let meta = value
            .split_first()
            .filter(|(variant, _)| **variant == META)
            .and_then(|(_, rest)| postcard::from_bytes(rest).ok());
        if meta.is_none() {
            let what = "the state's record of numbers cannot be read".to_owned();
            findings.add(Invariant::Bytes, About::default(), what);
        }
        meta
    }

    /// Compares it with what the decisions up to its own number add up to.
    pub(crate) fn compare(
        &self,
        stock: &Stock,
        holds: &Holds,
        reservations: &Reservations,
        log_time: i64,
        peers: &[(u64, u64)],
        findings: &mut Findings,
    ) {
        if let Some(meta) = self.meta(findings)
            && (meta.log_time != log_time || meta.peers != peers)
        {
            let what = format!(
                "the state says log time {} and numbers between partitions {:?}; the decisions say \
                 {log_time} and {peers:?}",
                meta.log_time, meta.peers
            );
            findings.add(Invariant::Replay, About::default(), what);
        }
        let mut positions = 0;
        for (key, value) in &self.parts {
            let read = self.compare_part(key, value, stock, holds, reservations, findings);
            match read {
                Some(found) => positions += found,
                None => {
                    let what = format!("the state record `{}` cannot be read", key.escape_ascii());
                    findings.add(Invariant::Bytes, About::default(), what);
                }
            }
        }
        let known = stock.positions.values();
        let known = known.filter(|position| position.sequence > 0).count();
        if positions < known {
            let what = format!(
                "the state knows {positions} levels after decision {:?}, the decisions make {known}",
                self.number
            );
            findings.add(Invariant::Replay, About::default(), what);
        }
    }

    /// One part. Says how many levels it holds, `None` when it is not of the documented form.
    fn compare_part(
        &self,
        key: &[u8],
        value: &[u8],
        stock: &Stock,
        holds: &Holds,
        reservations: &Reservations,
        findings: &mut Findings,
    ) -> Option<usize> {
        let (kind, name) = key.split_first()?;
        let (variant, bytes) = value.split_first()?;
        match (*kind, *variant) {
            (b'm', META) => Some(0),
            (b's', SKU) => {
                let sku = std::str::from_utf8(name).ok()?;
                let record: SkuRecord<'_> = postcard::from_bytes(bytes).ok()?;
                compare_sku(sku, &record, stock, findings);
                Some(0)
            }
            (b'p', POSITION) => {
                let (sku, location) = names_in(name)?;
                let record: PositionRecord<'_> = postcard::from_bytes(bytes).ok()?;
                compare_position(sku, location, &record, stock, findings);
                Some(usize::from(record.sequence > 0))
            }
            (b'h', HOLD) => {
                let (sku, reservation) = names_in(name)?;
                let hold = holds.all.get(&hold_key(sku, reservation));
                if hold.map(|hold| hold.bytes_hash) != Some(content_of(bytes)) {
                    let what = "the state's hold is not the one last decided".to_owned();
                    let about = About::reservation(reservation).with_sku(sku);
                    findings.add(Invariant::Replay, about, what);
                }
                Some(0)
            }
            (b'r', RESERVATION) => {
                let id = std::str::from_utf8(name).ok()?;
                let known = reservations.all.get(&reservation_key(id));
                if known.map(|known| known.bytes_hash) != Some(content_of(bytes)) {
                    let what = "the state's reservation is not the one last decided".to_owned();
                    findings.add(Invariant::Replay, About::reservation(id), what);
                }
                Some(0)
            }
            _ => None,
        }
    }
}

fn compare_sku(sku: &str, record: &SkuRecord<'_>, stock: &Stock, findings: &mut Findings) {
    let decimals = stock.skus.get(&sku_key(sku)).map_or(0, |sku| sku.decimals);
    if record.decimals != decimals {
        let what = format!(
            "the state says {} decimals, the decisions {decimals}",
            record.decimals
        );
        findings.add(Invariant::Replay, About::sku(sku), what);
    }
}

/// The SKU in the key of something of a SKU, and what it is.
fn names_in(name: &[u8]) -> Option<(&str, &str)> {
    let (length, names) = name.split_first_chunk::<2>()?;
    let (sku, what) = names.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((
        std::str::from_utf8(sku).ok()?,
        std::str::from_utf8(what).ok()?,
    ))
}

fn compare_position(
    sku: &str,
    location: &str,
    stated: &PositionRecord<'_>,
    stock: &Stock,
    findings: &mut Findings,
) {
    let position = stock.positions.get(&position_key(sku, location));
    let figures = [
        stated.on_hand,
        stated.reserved,
        stated.committed,
        stated.damaged,
        stated.quality_control,
    ]
    .map(i128::from);
    let (decided, sequence, number) = position.map_or(([0; 5], 0, 0), |position| {
        let now = &position.now;
        let figures = [
            now.on_hand(),
            now.reserved,
            now.committed,
            now.damaged,
            now.quality_control,
        ];
        (figures, position.sequence, position.number)
    });
    if (figures, stated.sequence, stated.number) != (decided, sequence, number) {
        let what = format!(
            "the state says {figures:?} at sequence {} of decision {}, the decisions {decided:?} at \
             {sequence} of {number}",
            stated.sequence, stated.number
        );
        findings.add(Invariant::Replay, About::at(sku, location), what);
    }
}
