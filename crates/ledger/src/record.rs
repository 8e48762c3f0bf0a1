//! The state in parts: what the changelog and snapshots hold, and the hash over all of it.
//!
//! | key | part |
//! |---|---|
//! | `m` | [`StateRecord::Meta`]: numbers, log time, counters towards other partitions |
//! | `s` sku | [`StateRecord::Sku`]: what is known of a SKU at no location in particular |
//! | `p` length of sku (2 bytes), sku, location | [`StateRecord::Position`]: a SKU at a location, with its fold |
//! | `h` length of sku (2 bytes), sku, reservation | [`StateRecord::Hold`]: a reservation's lines on a SKU |
//! | `r` reservation | [`StateRecord::Reservation`] |
//! | `i` chunk (8 bytes) | [`StateRecord::Ids`]: up to 256 remembered names |
//!
//! Numbers in keys are big-endian. Parts may be loaded in any order, a later one of a key replaces an
//! earlier one, and `Meta` is written with every drain.

use std::borrow::Cow;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::apply::Marks;
use crate::command::Figure;
use crate::fold::{Count, Counts, Entry};
use crate::hold::HoldRecord;
use crate::ids::Ids;
use crate::reservation::ReservationRecord;
use crate::sku::{Extra, Figures, Position};
use crate::state::{Peer, State};
use crate::values::{Id, Quantity, Source, Time};

/// A part of the state that is written and restored as one record of the changelog.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StateKey(pub Vec<u8>);

/// One part of the state, as it is written.
#[allow(
    clippy::large_enum_variant,
    reason = "one is made, written and dropped at a time"
)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StateRecord<'a> {
    /// Numbers, log time, and counters towards other partitions.
    Meta(MetaRecord),
    /// What is known of a SKU at no location in particular.
    #[serde(borrow)]
    Sku(SkuRecord<'a>),
    /// A reservation's lines on a SKU.
    Hold(HoldRecord<'a>),
    /// A reservation, as its owner keeps it.
    Reservation(ReservationRecord<'a>),
    /// Entries: name and content as 24 bytes, little-endian, then number and log time as zigzag
    /// differences from the entry before; the lowest bit of the number marks a pending name.
    Ids(Cow<'a, [u8]>),
    /// A SKU at a location. Its size is bounded by the times that a position keeps, however many
    /// locations the SKU has.
    Position(PositionRecord<'a>),
}

/// What a partition keeps of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MetaRecord {
    /// The number of the last decision in this state; 0 before the first.
    pub number: u64,
    /// Log time after that decision.
    pub log_time: Time,
    /// For each partition the last number sent and the last received.
    pub peers: Vec<(u64, u64)>,
    /// Running numbers of the oldest remembered name and of the next one.
    pub ids: (u64, u64),
}

/// A SKU without its positions and holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SkuRecord<'a> {
    /// Decimals of its quantities, 0 to 6; 0 where none were declared.
    pub decimals: u8,
    /// As an `item` command declared it; `None` where none did.
    #[serde(borrow)]
    pub unit: Option<Cow<'a, str>>,
    /// As an `item` command declared it; `None` where none did.
    pub name: Option<Cow<'a, str>>,
    /// Event time of the newest count of any figure at any location, however it ended: later stamps
    /// come after it. `None` where nothing was ever counted.
    pub newest_count: Option<Time>,
    /// The highest `seq` of each source, in byte order.
    pub seqs: Vec<(Source<'a>, u64)>,
}

/// A SKU at a location.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PositionRecord<'a> {
    /// Everything present, in smallest units, as the four figures below.
    pub on_hand: i64,
    /// Kept by open holds that have an expiry or are not decided yet.
    pub reserved: i64,
    /// Kept by confirmed holds.
    pub committed: i64,
    /// Present, not sellable.
    pub damaged: i64,
    /// Present, withheld until inspected.
    pub quality_control: i64,
    /// How many decisions have changed a figure here.
    pub sequence: u64,
    /// The number of the decision that changed a figure last; 0 where none has.
    pub number: u64,
    /// The log time of that decision.
    pub at: Time,
    /// Log time since which available is below 0; `None` where it is not.
    pub oversold_since: Option<Time>,
    /// Sums by event time: each key less the one before it, and the sum. A key is the time in its
    /// upper 62 bits and the figure in its lower 2 (3: the latest time of what is merged into the
    /// base).
    pub entries: Vec<(i64, i64)>,
    /// `None` where no count is kept and times were never too many.
    #[serde(borrow)]
    pub counts: Option<CountsRecord<'a>>,
}

/// A position's counts, and how far its sums are merged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CountsRecord<'a> {
    /// Counts kept by their time, in order of time, then figure.
    #[serde(borrow)]
    pub live: Vec<CountRecord<'a>>,
    /// The latest count of each figure among what is merged into the base; at most three.
    pub base: Vec<CountRecord<'a>>,
    /// Sums up to here are per minute, except where a count cuts them. `i64::MIN` where none are.
    pub minutes_until: Time,
    /// Sums after that and up to here are per second, later ones per millisecond.
    pub seconds_until: Time,
    /// The number of entries above which the next look for too many times is due.
    pub look_at: u32,
}

/// A count that holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CountRecord<'a> {
    /// The time that it is taken at: when it was counted, or the end of the merged span.
    pub at: Time,
    /// The count's event time, as sent or stamped.
    pub counted_at: Time,
    /// The figure counted.
    pub figure: Figure,
    /// Opening stock: never drift.
    pub opening: bool,
    /// What the count says, in smallest units; 0 or more.
    pub counted: Quantity,
    /// What it adds to the figure, as it stands now. Not 0 and not `opening`: an open drift.
    pub correction: i64,
    /// Who counted.
    #[serde(borrow)]
    pub source: Source<'a>,
    /// The count's own id at its source.
    pub id: Id<'a>,
}

const META: u8 = b'm';
const SKU: u8 = b's';
const POSITION: u8 = b'p';
const HOLD: u8 = b'h';
const RESERVATION: u8 = b'r';
const IDS: u8 = b'i';

fn key(kind: u8, name: &[u8]) -> StateKey {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name);
    StateKey(key)
}

/// The key of something of a SKU: kind, length of the SKU's name, the name, what it is.
fn key_of_sku(kind: u8, sku: &str, what: &str) -> StateKey {
    let mut key = Vec::with_capacity(3 + sku.len() + what.len());
    key.push(kind);
    let len = u16::try_from(sku.len()).expect("the edge caps names at 255 bytes");
    key.extend_from_slice(&len.to_be_bytes());
    key.extend_from_slice(sku.as_bytes());
    key.extend_from_slice(what.as_bytes());
    StateKey(key)
}

fn hold_key(sku: &str, reservation: &str) -> StateKey {
    key_of_sku(HOLD, sku, reservation)
}

fn position_key(sku: &str, location: &str) -> StateKey {
    key_of_sku(POSITION, sku, location)
}

/// Receives a part with its key; `None`: it is gone.
type Drained<'e> = &'e mut dyn FnMut(&StateKey, Option<&StateRecord<'_>>);

impl State {
    /// Notes that a SKU's own record must be written again.
    pub(crate) fn touch_sku(&mut self, slot: u32) {
        let sku = self.skus.get_mut(slot);
        if !sku.touched {
            sku.touched = true;
            self.touched.push(slot);
            let seqs = self.skus.seqs(slot);
            let seqs: usize = seqs.iter().map(|(source, _)| source.len() + 4).sum();
            self.touched_bytes += 32 + seqs;
        }
    }

    /// Notes that the record of a SKU at a location must be written again.
    pub(crate) fn touch_position(&mut self, slot: u32, location: u32) {
        let (position, _) = self.skus.get_mut(slot).positions.entry(location);
        if !position.touched {
            position.touched = true;
            // Names and figures, and what an entry takes when it is packed.
            self.touched_bytes += 64 + 8 * position.entries.len();
            self.touched_positions.push((slot, location));
        }
    }

    /// About how many bytes [`State::drain_touched`] would write now.
    pub fn touched_bytes(&self) -> usize {
        self.touched_bytes
            + self.holds.touched_bytes()
            + self.reservations.touched_bytes()
            + self.ids.touched_bytes()
    }

    /// Gives every part touched since the last call with its key (`None`: gone). Writing them is the
    /// caller's, in its own format: this crate knows none.
    pub fn drain_touched(&mut self, each: Drained<'_>) {
        self.touched_bytes = 0;
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            self.skus.get_mut(slot).touched = false;
            if let Some(record) = self.sku_record(slot) {
                each(&key(SKU, self.skus.name(slot).as_bytes()), Some(&record));
            }
        }
        // The lists keep their room: they are as long again at the next drain.
        self.touched = touched;
        let mut touched = std::mem::take(&mut self.touched_positions);
        for (slot, location) in touched.drain(..) {
            let sku = self.skus.get_mut(slot);
            let (position, _) = sku.positions.entry(location);
            position.touched = false;
            let key = position_key(self.skus.name(slot), self.skus.locations.get(location));
            let position = self.skus.get(slot).positions.find(location);
            let position = position.expect("a position is never taken away");
            each(
                &key,
                Some(&StateRecord::Position(position_record(position))),
            );
        }
        self.touched_positions = touched;
        crate::hold::drain_touched(self, &mut |sku, reservation, record| {
            let record = record.map(|record| StateRecord::Hold(record.clone()));
            each(&hold_key(sku, reservation), record.as_ref());
        });
        self.reservations.drain_touched(&mut |id, record| {
            let record = record.map(|record| StateRecord::Reservation(record.clone()));
            each(&key(RESERVATION, id.as_bytes()), record.as_ref());
        });
        for chunk in self.ids.drain_touched() {
            let record = self
                .ids
                .chunk(chunk)
                .map(|bytes| StateRecord::Ids(bytes.into()));
            each(&key(IDS, &chunk.to_be_bytes()), record.as_ref());
        }
        each(&key(META, &[]), Some(&self.meta_record()));
    }

    /// The keys of everything touched since the last drain: a snapshot keeps them beside the state.
    pub fn touched_keys(&self) -> Vec<StateKey> {
        let skus = self.touched.iter();
        let skus = skus.map(|slot| key(SKU, self.skus.name(*slot).as_bytes()));
        let positions = self.touched_positions.iter().map(|(slot, location)| {
            position_key(self.skus.name(*slot), self.skus.locations.get(*location))
        });
        let holds = self.holds.touched();
        let holds = holds.map(|(slot, id)| hold_key(self.skus.name(slot), id));
        let reservations = self.reservations.touched();
        let reservations = reservations.map(|id| key(RESERVATION, id.as_bytes()));
        let ids = self.ids.touched();
        let ids = ids.map(|chunk| key(IDS, &chunk.to_be_bytes()));
        skus.chain(positions)
            .chain(holds)
            .chain(reservations)
            .chain(ids)
            .collect()
    }

    /// Notes, behind everything loaded, that the part of this key is to be drained: it is one of
    /// [`State::touched_keys`] of when the state was exported.
    ///
    /// # Errors
    /// When it is no key of a part.
    pub fn touch_key(&mut self, key: &StateKey) -> Result<(), String> {
        let unfit = || format!("state key `{}` is not one of ours", key.0.escape_ascii());
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| unfit());
        let (kind, name) = key.0.split_first().ok_or_else(unfit)?;
        match *kind {
            SKU => {
                let slot = self.skus.find(text(name)?).ok_or_else(unfit)?;
                self.touch_sku(slot);
            }
            POSITION => {
                let (sku, location) = split_names(name).ok_or_else(unfit)?;
                let slot = self.skus.find(text(sku)?).ok_or_else(unfit)?;
                let location = self.skus.locations.find(text(location)?);
                self.touch_position(slot, location.ok_or_else(unfit)?);
            }
            HOLD => {
                let (sku, reservation) = split_names(name).ok_or_else(unfit)?;
                // Also of one that has gone: the changelog must hear of that.
                let (slot, _) = self.skus.entry(text(sku)?);
                crate::hold::touch(self, slot, text(reservation)?);
            }
            RESERVATION => self.reservations.touch(text(name)?),
            IDS => {
                let chunk = name.try_into().map_err(|_| unfit())?;
                self.ids.touch(u64::from_be_bytes(chunk));
            }
            _ => return Err(unfit()),
        }
        Ok(())
    }

    /// Gives every part of the state.
    pub fn export(&self, each: &mut dyn FnMut(&StateKey, &StateRecord<'_>)) {
        self.export_without_ids(each);
        for chunk in self.ids.chunk_numbers() {
            if let Some(bytes) = self.ids.chunk(chunk) {
                each(
                    &key(IDS, &chunk.to_be_bytes()),
                    &StateRecord::Ids(bytes.into()),
                );
            }
        }
    }

    /// Gives every part but the remembered names: with [`State::dump_ids`] it is a whole snapshot.
    pub fn export_without_ids(&self, each: &mut dyn FnMut(&StateKey, &StateRecord<'_>)) {
        each(&key(META, &[]), &self.meta_record());
        for slot in self.skus.slots() {
            let sku = self.skus.name(slot);
            if let Some(record) = self.sku_record(slot) {
                each(&key(SKU, sku.as_bytes()), &record);
            }
            for position in self.skus.get(slot).positions.as_slice() {
                let key = position_key(sku, self.skus.locations.get(position.location));
                each(&key, &StateRecord::Position(position_record(position)));
            }
            for hold in self.skus.get(slot).holds.list() {
                let key = hold_key(sku, hold.reservation.as_str());
                each(&key, &StateRecord::Hold(hold.clone()));
            }
        }
        for record in self.reservations.list() {
            let key = key(RESERVATION, record.id.as_str().as_bytes());
            each(&key, &StateRecord::Reservation(record.clone()));
        }
    }

    /// The remembered names in their memory layout, for a snapshot.
    pub fn dump_ids(&self, out: &mut Vec<u8>) {
        self.ids.dump(out);
    }

    /// Puts back what [`State::dump_ids`] wrote.
    ///
    /// # Errors
    /// When the bytes are not whole.
    pub fn restore_ids(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.ids = Ids::restore(bytes).ok_or(
            "the remembered names in the snapshot are not whole: delete the snapshot, the changelog \
             restores them",
        )?;
        Ok(())
    }

    /// Puts back a part that was exported or drained (`None`: it is gone). Parts come in any order,
    /// all of them before the first decision is applied.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn load(&mut self, key: &StateKey, record: Option<StateRecord<'_>>) -> Result<(), String> {
        let unfit = || format!("state record `{}` is not one of ours", key.0.escape_ascii());
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| unfit());
        let (kind, name) = key.0.split_first().ok_or_else(unfit)?;
        match (*kind, record) {
            (META, Some(StateRecord::Meta(meta))) => self.load_meta(&meta)?,
            (SKU, Some(StateRecord::Sku(sku))) => self.load_sku(text(name)?, &sku),
            (POSITION, Some(StateRecord::Position(position))) => {
                let (sku, location) = split_names(name).ok_or_else(unfit)?;
                self.load_position(text(sku)?, text(location)?, &position);
            }
            (HOLD, record) => {
                let (sku, reservation) = split_names(name).ok_or_else(unfit)?;
                let (slot, _) = self.skus.entry(text(sku)?);
                match record {
                    Some(StateRecord::Hold(hold)) => {
                        crate::hold::apply_hold(self, slot, &hold);
                    }
                    None => crate::hold::remove(self, slot, text(reservation)?),
                    Some(_) => return Err(unfit()),
                }
                crate::hold::drain_touched(self, &mut |_, _, _| ());
            }
            (RESERVATION, record) => {
                match record {
                    Some(StateRecord::Reservation(record)) => self.reservations.apply(&record),
                    None => self.reservations.remove(text(name)?),
                    Some(_) => return Err(unfit()),
                }
                self.reservations.drain_touched(&mut |_, _| ());
            }
            (IDS, record) => {
                let chunk = u64::from_be_bytes(name.try_into().map_err(|_| unfit())?);
                match record {
                    Some(StateRecord::Ids(bytes)) => self.ids.load_chunk(chunk, &bytes)?,
                    None => self.ids.unload_chunk(chunk),
                    Some(_) => return Err(unfit()),
                }
            }
            _ => return Err(unfit()),
        }
        Ok(())
    }

    fn meta_record(&self) -> StateRecord<'static> {
        StateRecord::Meta(MetaRecord {
            number: self.number,
            log_time: self.log_time,
            peers: self
                .peers
                .iter()
                .map(|peer| (peer.sent, peer.received))
                .collect(),
            ids: self.ids.range(),
        })
    }

    fn load_meta(&mut self, meta: &MetaRecord) -> Result<(), String> {
        if meta.peers.len() != self.peers.len() {
            return Err(format!(
                "the state is of a log with {} partitions, this one has {}: open it with the \
                 partition count that it was made with",
                meta.peers.len(),
                self.peers.len()
            ));
        }
        self.number = meta.number;
        self.log_time = meta.log_time;
        let peer = |&(sent, received)| Peer { sent, received };
        self.peers = meta.peers.iter().map(peer).collect();
        self.ids.set_range(meta.ids.0, meta.ids.1);
        Ok(())
    }

    /// A SKU's own record; `None` where there is nothing to say but that the SKU exists, which its
    /// positions say too.
    fn sku_record(&self, slot: u32) -> Option<StateRecord<'_>> {
        let sku = self.skus.get(slot);
        let extra = sku.extra.as_deref();
        let text = |text: &'_ Option<Box<str>>| text.clone().map(|t| Cow::Owned(t.into_string()));
        let seqs = self.skus.seqs(slot).into_iter();
        let record = SkuRecord {
            decimals: sku.decimals,
            unit: extra.and_then(|extra| text(&extra.unit)),
            name: extra.and_then(|extra| text(&extra.name)),
            newest_count: extra.and_then(|extra| extra.newest_count),
            seqs: seqs
                .map(|(source, seq)| (Source::from(source), seq))
                .collect(),
        };
        let says_nothing = record == SkuRecord::default() && !sku.positions.as_slice().is_empty();
        (!says_nothing).then_some(StateRecord::Sku(record))
    }

    fn load_sku(&mut self, name: &str, record: &SkuRecord<'_>) {
        let (slot, _) = self.skus.entry(name);
        let text = |text: &Option<Cow<'_, str>>| text.as_deref().map(Box::from);
        let extra = Extra {
            unit: text(&record.unit),
            name: text(&record.name),
            newest_count: record.newest_count,
        };
        let sku = self.skus.get_mut(slot);
        sku.decimals = record.decimals;
        sku.extra = (extra != Extra::default()).then(|| Box::new(extra));
        for (source, seq) in &record.seqs {
            self.skus.set_seq(slot, source.as_str(), *seq);
        }
    }

    fn load_position(&mut self, sku: &str, location: &str, record: &PositionRecord<'_>) {
        let (slot, _) = self.skus.entry(sku);
        let location = self.skus.locations.intern(location);
        let (position, new) = self.skus.get_mut(slot).positions.entry(location);
        let before = Marks::of(position);
        *position = Position::new(location);
        load_position(position, record);
        let after = Marks::of(position);
        self.note(slot, before, after);
        self.positions += u64::from(new);
    }

    /// A hash of the whole state that does not depend on the order in which it was built.
    ///
    /// It reads everything: for tests and for comparing a restored state, not for the hot path.
    pub fn hash(&self) -> u64 {
        let mut hash = 0u64;
        let mut text = String::new();
        self.export_without_ids(&mut |key, record| {
            text.clear();
            write!(text, "{record:?}").expect("writing to a string never fails");
            let mut part = Xxh3::new();
            part.update(&key.0);
            part.update(text.as_bytes());
            hash = hash.wrapping_add(part.digest());
        });
        let mut bytes = [0u8; 40];
        for (name, words) in self.ids.entries() {
            let (fingerprint, rest) = bytes.split_at_mut(16);
            fingerprint.copy_from_slice(&name.to_le_bytes());
            for (place, word) in rest.chunks_exact_mut(8).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            hash = hash.wrapping_add(xxh3_64(&bytes));
        }
        hash
    }
}

/// The SKU in a key of something of a SKU, and what it is.
fn split_names(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, names) = name.split_first_chunk::<2>()?;
    names.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

fn position_record(position: &Position) -> PositionRecord<'_> {
    let figures = position.figures();
    let mut before = 0;
    let entries = position.entries.iter().map(|entry| {
        let (key, delta) = entry.to_raw();
        let step = key.wrapping_sub(before);
        before = key;
        (step, delta)
    });
    let counts = position.rare.as_ref().map(|rare| &rare.counts);
    PositionRecord {
        on_hand: figures.on_hand,
        reserved: figures.reserved,
        committed: figures.committed,
        damaged: figures.damaged,
        quality_control: figures.quality_control,
        sequence: position.sequence,
        number: position.number,
        at: position.at,
        oversold_since: position.rare.as_ref().and_then(|rare| rare.oversold_since),
        entries: entries.collect(),
        counts: counts
            .filter(|counts| !counts.is_default())
            .map(|counts| CountsRecord {
                live: counts.live.iter().map(count_record).collect(),
                base: counts.base.iter().map(count_record).collect(),
                minutes_until: counts.minutes_until,
                seconds_until: counts.seconds_until,
                look_at: counts.look_at,
            }),
    }
}

fn count_record(count: &Count) -> CountRecord<'_> {
    CountRecord {
        at: count.at,
        counted_at: count.counted_at,
        figure: count.figure,
        opening: count.opening,
        counted: count.counted,
        correction: count.correction,
        source: Source::from(&*count.source),
        id: Id::from(&*count.id),
    }
}

fn load_position(position: &mut Position, record: &PositionRecord<'_>) {
    let figures = Figures {
        on_hand: record.on_hand,
        reserved: record.reserved,
        committed: record.committed,
        damaged: record.damaged,
        quality_control: record.quality_control,
    };
    let mut key = 0i64;
    position.entries = Vec::with_capacity(record.entries.len());
    position
        .entries
        .extend(record.entries.iter().map(|(step, delta)| {
            key = key.wrapping_add(*step);
            Entry::from_raw(key, *delta)
        }));
    if let Some(counts) = &record.counts {
        let list = |counts: &[CountRecord<'_>]| counts.iter().map(load_count).collect();
        let mut counts = Counts {
            live: list(&counts.live),
            base: list(&counts.base),
            minutes_until: counts.minutes_until,
            seconds_until: counts.seconds_until,
            look_at: counts.look_at,
            drifts: 0,
        };
        counts.count_drifts();
        position.rare.get_or_insert_default().counts = counts;
    }
    position.sequence = record.sequence;
    position.number = record.number;
    position.at = record.at;
    position.set_figures(figures, record.oversold_since.unwrap_or(record.at));
}

fn load_count(record: &CountRecord<'_>) -> Count {
    Count {
        at: record.at,
        counted_at: record.counted_at,
        figure: record.figure,
        opening: record.opening,
        counted: record.counted,
        correction: record.correction,
        source: record.source.as_str().into(),
        id: record.id.as_str().into(),
    }
}
