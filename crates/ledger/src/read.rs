//! What readers see of a partition. Nothing here changes it, but for an index of names that is sorted
//! when somebody lists.

use crate::command::{Command, Figure};
use crate::decision::Conflict;
use crate::reservation::ReservationRecord;
use crate::sku::{Figures, Position};
use crate::state::{Level, State};
use crate::values::{Id, Location, Quantity, ReservationId, Sku, Source, Time};

impl State {
    /// A SKU's level at a location.
    pub fn level(&self, sku: &str, location: &str) -> Option<Level> {
        let sku = self.skus.get(self.skus.find(sku)?);
        let position = sku.positions.find(self.skus.locations.find(location)?)?;
        Some(self.level_of(position, sku.decimals))
    }

    /// All levels of a SKU in byte order of location; `None` for a SKU never named.
    pub fn levels(&self, sku: &str) -> Option<Vec<Level>> {
        let sku = self.skus.get(self.skus.find(sku)?);
        let positions = sku.positions.as_slice().iter();
        let mut levels: Vec<_> = positions.map(|p| self.level_of(p, sku.decimals)).collect();
        levels.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Some(levels)
    }

    fn level_of(&self, position: &Position, decimals: u8) -> Level {
        let figures = position.figures();
        let Figures {
            on_hand,
            reserved,
            committed,
            damaged,
            quality_control,
        } = figures;
        Level {
            location: Location::from(self.skus.locations.get(position.location)).into_owned(),
            decimals,
            on_hand,
            reserved,
            committed,
            damaged,
            quality_control,
            sequence: position.sequence,
            number: position.number,
            at: position.at,
        }
    }

    /// A SKU's declared unit and name, and its decimals; `None` for a SKU never named.
    pub fn item(&self, sku: &str) -> Option<Item> {
        let sku = self.skus.get(self.skus.find(sku)?);
        let extra = sku.extra.as_ref();
        Some(Item {
            decimals: sku.decimals,
            unit: extra.and_then(|extra| extra.unit.as_deref().map(str::to_owned)),
            name: extra.and_then(|extra| extra.name.as_deref().map(str::to_owned)),
        })
    }

    /// SKUs above `after` in byte order, at most `limit`, those that begin with `prefix`.
    pub fn skus(&mut self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Sku<'static>> {
        let slots = self.skus.list(after, prefix, limit);
        slots
            .iter()
            .map(|slot| Sku::from(self.skus.name(*slot)).into_owned())
            .collect()
    }

    /// How a SKU's `on_hand`, `damaged` and `quality_control` stood at an event time, with all that is
    /// known now; the other figures, the sequence and its decision are as now. `None` where there is
    /// no such level, and when the time is before what is folded exactly ([`State::folded_from`]).
    /// Where times were merged into spans, what moved within a span counts from its end.
    pub fn as_of(&self, sku: &str, location: &str, time: Time) -> Option<Level> {
        let sku = self.skus.get(self.skus.find(sku)?);
        let position = sku.positions.find(self.skus.locations.find(location)?)?;
        let fold = position.fold();
        if fold.base().is_some_and(|base| time < base) {
            return None;
        }
        let mut level = self.level_of(position, sku.decimals);
        let as_of = |figure, now| {
            let then = fold.as_of(figure, now, time);
            i64::try_from(then.clamp(i64::MIN.into(), i64::MAX.into())).expect("it was clamped")
        };
        level.on_hand = as_of(Figure::OnHand, level.on_hand);
        level.damaged = as_of(Figure::Damaged, level.damaged);
        level.quality_control = as_of(Figure::QualityControl, level.quality_control);
        Some(level)
    }

    /// The earliest event time that [`State::as_of`] answers for a level; `None` where it answers for
    /// any, and where there is no such level.
    pub fn folded_from(&self, sku: &str, location: &str) -> Option<Time> {
        let sku = self.skus.get(self.skus.find(sku)?);
        sku.positions
            .find(self.skus.locations.find(location)?)?
            .fold()
            .base()
    }

    /// A reservation that this partition owns.
    pub fn reservation(&self, id: &str) -> Option<ReservationRecord<'static>> {
        self.reservations.get(id).cloned()
    }

    /// Reservations above `after` in byte order of id, at most `limit`.
    pub fn reservations(
        &mut self,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<ReservationId<'static>> {
        self.reservations.ids(after, limit)
    }

    /// The numbers of the decisions that carry the outcomes of commands whose fingerprints have that
    /// upper half, newest first; while there is no outcome, of the one that took the command in.
    pub fn outcomes_of(&self, upper: u64, limit: usize) -> Vec<u64> {
        let oldest = self.log_time.plus(-self.settings.ids_age_ms);
        self.ids.with_upper(upper, oldest, limit)
    }

    /// What disagrees now about stock, in byte order of SKU, above `after`: whole SKUs until there are
    /// at least `limit`.
    pub fn conflicts(&mut self, after: Option<&str>, limit: usize) -> Vec<Conflict> {
        let mut slots: Vec<u32> = self.conflicts.keys().copied().collect();
        slots.retain(|slot| after.is_none_or(|after| self.skus.name(*slot) > after));
        slots.sort_unstable_by(|a, b| self.skus.name(*a).cmp(self.skus.name(*b)));
        let mut conflicts = Vec::new();
        for slot in slots {
            if conflicts.len() >= limit {
                break;
            }
            self.conflicts_of(slot, &mut conflicts);
        }
        conflicts
    }

    fn conflicts_of(&self, slot: u32, conflicts: &mut Vec<Conflict>) {
        let name = || Sku::from(self.skus.name(slot)).into_owned();
        let sku = self.skus.get(slot);
        let decimals = sku.decimals;
        let mut positions: Vec<_> = sku.positions.as_slice().iter().collect();
        positions.sort_unstable_by_key(|p| self.skus.locations.get(p.location));
        for position in positions {
            let Some(rare) = &position.rare else { continue };
            let place = || Location::from(self.skus.locations.get(position.location)).into_owned();
            if let Some(since) = rare.oversold_since {
                let figures = position.figures();
                let available = figures.available().max(i64::MIN.into());
                conflicts.push(Conflict::Oversell {
                    sku: name(),
                    location: place(),
                    decimals,
                    available: Quantity(i64::try_from(available).expect("it is below zero")),
                    on_hand: Quantity(figures.on_hand),
                    since,
                });
            }
            for count in rare.counts.iter().filter(|count| count.is_drift()) {
                let expected = count.expected().clamp(i64::MIN.into(), i64::MAX.into());
                conflicts.push(Conflict::Drift {
                    sku: name(),
                    location: place(),
                    decimals,
                    figure: count.figure,
                    counted_at: count.counted_at,
                    counted: count.counted,
                    expected: Quantity(i64::try_from(expected).expect("it was clamped")),
                    source: Source::from(&*count.source).into_owned(),
                    id: Id::from(&*count.id).into_owned(),
                });
            }
        }
    }

    /// Reservations that disagree: committed again after the order was released. In byte order of id,
    /// above `after`, at most `limit`.
    pub fn reservation_conflicts(&self, after: Option<&str>, limit: usize) -> Vec<Conflict> {
        let conflicts = self.reservations.conflicts(after).filter_map(|record| {
            let commit = record.conflict.as_ref()?;
            Some(Conflict::CommitAfterRelease {
                reservation: record.id.clone(),
                source: commit.source.clone(),
                id: commit.id.clone(),
                at: commit.occurred_at,
            })
        });
        conflicts.take(limit).collect()
    }

    /// The fact about that reservation which the decision of that number took in and which has no
    /// outcome yet, as it was sent, and where its record stands: what is kept of it should it be parked.
    pub fn undecided_fact(
        &self,
        reservation: &str,
        number: u64,
    ) -> Option<(Command<'static>, i64)> {
        self.reservations.get(reservation)?.fact(number)
    }

    /// Reservations that this partition keeps, the ended ones that are still remembered included.
    pub fn reservation_count(&self) -> usize {
        self.reservations.len()
    }

    // --- figures for metrics, each without a walk unless it says so ------------------------------

    /// SKUs ever named here.
    pub fn sku_count(&self) -> usize {
        self.skus.len()
    }

    /// Positions: pairs of SKU and location.
    pub fn position_count(&self) -> u64 {
        self.positions
    }

    /// Positions with `available` below zero.
    pub fn oversold_count(&self) -> u64 {
        self.oversold
    }

    /// Positions with on hand below zero.
    pub fn negative_count(&self) -> u64 {
        self.negative
    }

    /// Names remembered.
    pub fn ids_count(&self) -> u64 {
        self.ids.len()
    }

    /// How far back names are known now, ms of log time: as the setting says, unless there were so many
    /// that younger ones had to go.
    pub fn ids_reach_ms(&self) -> i64 {
        let age = self.settings.ids_age_ms;
        match self.ids.oldest() {
            Some(oldest) if self.ids.len() >= u64::from(self.settings.ids_max) => {
                self.log_time.0.saturating_sub(oldest.0).min(age)
            }
            _ => age,
        }
    }

    /// About how much memory it takes, in bytes, allocator overhead included. Walks every SKU.
    pub fn memory_bytes(&self) -> usize {
        self.skus.memory_bytes() + self.ids_memory_bytes() + self.reservations.memory_bytes()
    }

    /// About how much memory the remembered names take, in bytes.
    pub fn ids_memory_bytes(&self) -> usize {
        self.ids.memory_bytes()
    }
}

/// What is declared of a SKU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Decimals of its quantities, 0 to 6; 0 where none were declared.
    pub decimals: u8,
    /// The unit it is measured in; `None` where none was declared.
    pub unit: Option<String>,
    /// What people call it; `None` where nothing was declared.
    pub name: Option<String>,
}
