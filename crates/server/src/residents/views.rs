//! Publishing: decisions as JSON topics that other programs read.
//!
//! | topic | key | value |
//! |---|---|---|
//! | `stock.changes` | the SKU | a change, as the feed shows it |
//! | `stock.outcomes` | source and id | an outcome without the levels it left, late ones of reservations included |
//! | `stock.levels`, compacted | SKU and location | the level after the last change of it in this append |
//! | `stock.reservations`, compacted | the reservation's id | as it stands after this append |
//!
//! Changes and outcomes may be packed: then a record has no key and holds as many of them as one append
//! brings, a line each. Levels and reservations may not: of each key the newest record stays.
//!
//! Everything in them follows from the decisions alone, so a publisher that begins anew writes on as if
//! it had never stopped. A change's position speaks of its partition, not of all as a feed's does: each
//! partition is published by its own owner.
//!
//! Where an append costs round trips it does so in the append of the decisions ([`Publish`]), and leaves repeats of
//! earlier commands, for which what they repeat has to be read, to a lane that reads `stock.decisions`
//! ([`Work`]). Elsewhere the lane publishes everything.

mod sheet;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onhand_flows::pack::{self, DecisionReader, PackError};
use onhand_flows::topics;
use onhand_ledger::Decision;
use onhand_log::{Log, Offset, Purpose, RecordBatch, TopicError, TopicId, View};
use onhand_streams::{Publish, Published};

use self::sheet::{Sheet, ViewTopics};
use super::Chosen;
use super::lanes::{Made, Work, WorkError};
use crate::config::ViewChoice;
use crate::decisions::{DecisionError, DecisionLog};
use crate::intake::single::firsts;
use crate::position::Place;
use crate::wire::change::changes;
use crate::wire::outcome::{Detail, First, Origin, Said};

/// Bytes of JSON at which an append takes no further pack of decisions. One pack (256 KiB) becomes at most
/// some 8 MB beside what [`FIRSTS_BYTES`] bounds.
const APPEND_BYTES: usize = 3 << 19;

/// Bytes of first outcomes within the duplicates of one pack: a duplicate takes a few bytes in the pack,
/// what it repeats may be a reservation of 100 lines. Above it duplicates are written without `first`,
/// as where the log does not hold it any more.
const FIRSTS_BYTES: usize = 4 << 20;

/// First outcomes that are looked for at a time: one read often finds several.
const FIRSTS_AT_A_TIME: usize = 32;

/// What an outcome shows: the levels it left have topics of their own, and would be three quarters of it.
const SHOWN: Detail = Detail::WithoutLevels;

/// See the module.
#[derive(Debug)]
pub(crate) struct Views {
    decisions: DecisionLog,
    /// `stock.decisions`.
    input: TopicId,
    topics: ViewTopics,
    /// Changes and outcomes go as many lines in one record.
    packs: bool,
    /// [`Work::pace`].
    pace: Duration,
    epoch: u64,
}

impl Work for Views {
    fn name(&self) -> &'static str {
        onhand_flows::VIEWS
    }

    fn input(&self) -> TopicId {
        self.input
    }

    fn view(&self) -> View {
        View::Latest
    }

    fn purpose(&self) -> Purpose {
        Purpose::View
    }

    fn pace(&self) -> Duration {
        self.pace
    }

    fn take(
        &self,
        partition: u16,
        batches: &[RecordBatch],
        from: Offset,
    ) -> Result<Made, WorkError> {
        let mut made = Made {
            next: from,
            ..Made::default()
        };
        let mut sheet = self.sheet();
        for record in batches.iter().flat_map(|batch| batch.records()) {
            if record.offset < made.next {
                continue;
            }
            if sheet.bytes() >= APPEND_BYTES {
                break;
            }
            let part = match Published::left_of(&record) {
                None => Some(Part::All),
                Some(0) => None,
                Some(_) => Some(Part::Repeats),
            };
            if let Some(part) = part {
                let value = record.value.unwrap_or_default();
                let rendered = self.render(&mut sheet, value, self.origin(partition), part);
                rendered.map_err(|error| match error {
                    Unrendered::Pack(why) => WorkError::Lasting(format!(
                        "the record of decisions at offset {} cannot be read: {why}",
                        record.offset
                    )),
                    Unrendered::First(why) => WorkError::Passing(why),
                })?;
            }
            made.records += 1;
            made.next = record.offset + 1;
        }
        made.batches = sheet.finish(partition);
        Ok(made)
    }
}

impl Publish for Views {
    fn follower(&self) -> &str {
        onhand_flows::VIEWS
    }

    fn publish(&self, partition: u16, redo: &[u8]) -> Result<Published, String> {
        let mut sheet = self.sheet();
        let origin = self.origin(partition);
        let left = self.render(&mut sheet, redo, origin, Part::AllButRepeats);
        let left = left.map_err(|error| match error {
            Unrendered::Pack(why) | Unrendered::First(why) => why,
        })?;
        let batches = sheet.finish(partition);
        Ok(Published { batches, left })
    }
}

/// What of a pack is rendered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// Outcomes that carry the first one of their name.
    Repeats,
    AllButRepeats,
}

/// Why a pack was not rendered.
enum Unrendered {
    Pack(String),
    /// What a duplicate repeats could not be read.
    First(String),
}

impl Views {
    /// Creates the topics of the views chosen where they are missing; `None`: none is.
    ///
    /// # Errors
    /// When a topic cannot be created or exists otherwise.
    pub(crate) fn new(
        log: &Arc<dyn Log>,
        partitions: u16,
        chosen: Chosen,
    ) -> Result<Option<Arc<Self>>, TopicError> {
        let views = chosen.views;
        if views == ViewChoice::NONE {
            return Ok(None);
        }
        let wanted = [
            views.changes,
            views.outcomes,
            views.levels,
            views.reservations,
        ];
        let mut ids = [None; 4];
        let specs = topics::view_specs(partitions);
        for ((id, spec), wanted) in ids.iter_mut().zip(specs).zip(wanted) {
            if wanted {
                *id = Some(log.create_topic(&spec)?);
            }
        }
        let [changes, outcomes, levels, reservations] = ids;
        let [_, decided, _, _] = topics::specs(partitions);
        let input = log.create_topic(&decided)?;
        Ok(Some(Arc::new(Self {
            decisions: DecisionLog::new(Arc::clone(log), input, partitions, View::Latest),
            input,
            topics: ViewTopics {
                changes,
                outcomes,
                levels,
                reservations,
            },
            packs: chosen.pack_views,
            pace: chosen.views_pace,
            epoch: log.epoch(),
        })))
    }

    fn sheet(&self) -> Sheet {
        Sheet::new(self.topics, self.packs)
    }

    fn origin(&self, partition: u16) -> Origin {
        Origin {
            epoch: self.epoch,
            partition,
        }
    }

    /// Says how many repeats it left out.
    fn render(
        &self,
        sheet: &mut Sheet,
        value: &[u8],
        origin: Origin,
        part: Part,
    ) -> Result<u32, Unrendered> {
        let wrong = |error: PackError| Unrendered::Pack(error.to_string());
        let is_first_time = part != Part::Repeats;
        let are_shown = is_first_time && self.topics.changes.or(self.topics.levels).is_some();
        let is_said = self.topics.outcomes.is_some();
        let mut left = 0;
        let mut firsts: Option<Firsts<'_>> = None;
        let mut decisions = pack::decisions(value).map_err(wrong)?;
        let mut read = pack::blank();
        while decisions.read(&mut read).map_err(wrong)? {
            let decision = &read;
            let last = decision.levels.len().saturating_sub(1);
            let shown = are_shown.then(|| changes(decision, origin));
            for (index, change) in (0u32..).zip(shown.into_iter().flatten()) {
                // Behind the last of its changes the decision is seen whole.
                let place = (index as usize != last).then_some(Place {
                    partition: origin.partition,
                    index,
                });
                sheet.change(&change, place);
            }
            let outcomes = is_said.then(|| said(decision, origin));
            for said in outcomes.into_iter().flatten() {
                let first = match said.first() {
                    Some(_) if part == Part::AllButRepeats => {
                        left += 1;
                        continue;
                    }
                    None if part == Part::Repeats => continue,
                    Some(wanted) => firsts
                        .get_or_insert_with(|| self.firsts(origin))
                        .next(wanted, &decisions)
                        .map_err(|error| Unrendered::First(error.to_string()))?,
                    None => None,
                };
                sheet.outcome(&said, first);
            }
            for record in decision.reservations.iter().filter(|_| is_first_time) {
                sheet.reservation(decision.at, record, origin);
            }
        }
        Ok(left)
    }

    fn firsts(&self, origin: Origin) -> Firsts<'_> {
        Firsts {
            log: &self.decisions,
            origin,
            asked: BTreeMap::new(),
            found: BTreeMap::new(),
            left: FIRSTS_BYTES,
        }
    }
}

/// The outcomes that a decision brings: its own command's, then those of earlier ones.
pub(super) fn said<'d, 'a>(
    decision: &'d Decision<'a>,
    origin: Origin,
) -> impl Iterator<Item = Said<'d, 'a>> {
    let late = decision
        .resolved
        .iter()
        .filter_map(move |resolved| Said::late(decision, resolved.of, origin));
    Said::own(decision, origin).into_iter().chain(late)
}

/// What the duplicates of one pack repeat, looked up a few at a time, in the order in which they come.
struct Firsts<'v> {
    log: &'v DecisionLog,
    origin: Origin,
    /// By number, the names that were asked for last.
    asked: BTreeMap<u64, u128>,
    found: BTreeMap<u64, First>,
    /// Bytes that may still be written.
    left: usize,
}

impl Firsts<'_> {
    /// What is repeated under that number and name. `behind` are the decisions that come next: what they
    /// repeat is looked up with it.
    fn next(
        &mut self,
        wanted: (u64, u128),
        behind: &DecisionReader<'_>,
    ) -> Result<Option<&First>, DecisionError> {
        let (number, name) = wanted;
        if self.left == 0 {
            return Ok(None);
        }
        if self.asked.get(&number) != Some(&name) {
            self.ask(wanted, behind)?;
        }
        let found = self.found.get(&number);
        if let Some(first) = found {
            self.left = self.left.saturating_sub(first.json.len());
        }
        Ok(found)
    }

    fn ask(
        &mut self,
        wanted: (u64, u128),
        behind: &DecisionReader<'_>,
    ) -> Result<(), DecisionError> {
        self.asked = BTreeMap::from([wanted]);
        // One that cannot be read is told of when its turn comes.
        for decision in behind.clone().map_while(Result::ok) {
            for (number, name) in said(&decision, self.origin).filter_map(|said| said.first()) {
                // One decision may carry several outcomes; it is asked for one at a time.
                let other = self.asked.get(&number).is_some_and(|known| *known != name);
                if other || self.asked.len() == FIRSTS_AT_A_TIME {
                    return self.look_up();
                }
                self.asked.insert(number, name);
            }
        }
        self.look_up()
    }

    fn look_up(&mut self) -> Result<(), DecisionError> {
        self.found = firsts(self.log, self.origin, &self.asked, SHOWN)?;
        Ok(())
    }
}
