//! What can be asked of the owner of a partition, here or elsewhere. Closures cannot travel.

use onhand_flows::Stock;
use onhand_ledger::reservation::ReservationRecord;
use onhand_ledger::{Conflict, Level, State};
use serde::{Deserialize, Serialize};

use super::form::{self, ConflictForm, LevelForm};
use crate::feed::frame::SKUS_MAX;
use crate::wire::problem::{Kind, Problem};

/// Something asked of the state of one partition. It must be short: the owner waits for it.
pub(crate) trait Question: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    fn ask(self, stock: &mut Stock) -> Self::Answer;

    /// As it travels.
    fn travel(&self) -> Travelling;

    /// The answer as it travels, in postcard.
    fn write(answer: &Self::Answer) -> Result<Vec<u8>, postcard::Error>;

    /// Reads an answer that came.
    fn read(bytes: &[u8]) -> Result<Self::Answer, postcard::Error>;
}

/// Every question, for the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Travelling {
    Number(Number),
    LevelsOf(LevelsOf),
    StockAbove(StockAbove),
    NamesLike(NamesLike),
    ReservationOf(ReservationOf),
    ReservationsAbove(ReservationsAbove),
    OutcomesOf(OutcomesOf),
    Conflicts(Conflicts),
    SnapshotPage(SnapshotPage),
}

/// The most that one question may ask for at a time, whoever asks: the owner is kept from deciding.
const LIMIT_MAX: usize = 1_024;

/// Levels of one answer at most, but for those of its first SKU: some hundred KiB.
const LEVELS_MAX: usize = 4_096;

/// Prefixes that one question may name. Nobody asks for more than a few spellings of a name.
const PREFIXES_MAX: usize = 16;

impl Travelling {
    /// Refuses what names more than an instance of this version ever does: whatever the limit of a
    /// question, it holds for each name.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let (what, count, most) = match self {
            Self::NamesLike(question) => ("prefixes", question.prefixes.len(), PREFIXES_MAX),
            Self::SnapshotPage(question) => ("SKUs", question.skus.len(), SKUS_MAX),
            _ => return Ok(()),
        };
        if count <= most {
            return Ok(());
        }
        let why = format!(
            "a question names {count} {what} and may name {most}; run the same version on all \
             instances"
        );
        Err(Problem::new(Kind::TOO_LARGE, why))
    }
}

/// A step of a list: keys in byte order, and what is said of each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Step<T> {
    pub(crate) found: Vec<(String, T)>,
    /// There may be more behind the last key.
    pub(crate) more: bool,
}

/// SKUs with their levels, as long as these are not more than `most`, and whether some were left. The first
/// comes whole in any case.
fn up_to(
    skus: impl Iterator<Item = (String, Vec<Level>)>,
    most: usize,
) -> (Vec<(String, Vec<Level>)>, bool) {
    let mut found = Vec::new();
    let mut count = 0;
    for (sku, levels) in skus {
        count += levels.len();
        if count > most && !found.is_empty() {
            return (found, true);
        }
        found.push((sku, levels));
    }
    (found, false)
}

/// Each of these SKUs with its levels, as they are asked for; one that no fact has named is left out.
fn levels_of(
    state: &State,
    skus: impl IntoIterator<Item = String>,
) -> impl Iterator<Item = (String, Vec<Level>)> {
    skus.into_iter()
        .filter_map(|sku| state.levels(&sku).map(|levels| (sku, levels)))
}

/// A question whose answer travels as it is.
macro_rules! plain {
    ($name:ident -> $answer:ty: |$question:ident, $stock:ident| $ask:expr) => {
        impl Question for $name {
            type Answer = $answer;

            fn ask(self, $stock: &mut Stock) -> $answer {
                let $question = self;
                $ask
            }

            fn travel(&self) -> Travelling {
                Travelling::$name(self.clone())
            }

            fn write(answer: &$answer) -> Result<Vec<u8>, postcard::Error> {
                postcard::to_stdvec(answer)
            }

            fn read(bytes: &[u8]) -> Result<$answer, postcard::Error> {
                postcard::from_bytes(bytes)
            }
        }
    };
}

/// A question whose answer travels in another form.
macro_rules! formed {
    ($name:ident -> $answer:ty: |$question:ident, $stock:ident| $ask:expr,
     $form:ty: $write:expr, $read:expr) => {
        impl Question for $name {
            type Answer = $answer;

            fn ask(self, $stock: &mut Stock) -> $answer {
                let $question = self;
                $ask
            }

            fn travel(&self) -> Travelling {
                Travelling::$name(self.clone())
            }

            fn write(answer: &$answer) -> Result<Vec<u8>, postcard::Error> {
                let write: fn(&$answer) -> $form = $write;
                postcard::to_stdvec(&write(answer))
            }

            fn read(bytes: &[u8]) -> Result<$answer, postcard::Error> {
                let read: fn($form) -> $answer = $read;
                postcard::from_bytes(bytes).map(read)
            }
        }
    };
}

/// The number of the newest decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Number;
plain!(Number -> u64: |_question, stock| stock.state().number());

/// The levels of a SKU; `None` where no fact has named it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LevelsOf {
    pub(crate) sku: String,
}
formed!(LevelsOf -> Option<Vec<Level>>:
    |question, stock| stock.state().levels(&question.sku),
    Option<Vec<LevelForm>>:
    |answer| answer.as_deref().map(form::of_levels),
    |form| form.map(form::levels));

/// SKUs with their levels, above a name, in byte order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StockAbove {
    pub(crate) after: Option<String>,
    pub(crate) prefix: String,
    /// Of SKUs.
    pub(crate) limit: usize,
    /// Of their levels: a SKU may have many.
    pub(crate) levels: usize,
}
formed!(StockAbove -> Step<Vec<Level>>:
    |question, stock| {
        let state = stock.state_mut();
        let limit = question.limit.min(LIMIT_MAX);
        let skus = state.skus(question.after.as_deref(), &question.prefix, limit);
        let full = skus.len() >= limit;
        let skus = skus.into_iter().map(|sku| sku.0.into_owned());
        let (found, cut) = up_to(levels_of(state, skus), question.levels.min(LEVELS_MAX));
        Step { found, more: full || cut }
    },
    Step<Vec<LevelForm>>:
    |answer| Step { found: of_listed(&answer.found), more: answer.more },
    |form| Step { found: listed(form.found), more: form.more });

fn of_listed(answer: &[(String, Vec<Level>)]) -> Vec<(String, Vec<LevelForm>)> {
    answer
        .iter()
        .map(|(sku, levels)| (sku.clone(), form::of_levels(levels)))
        .collect()
}

fn listed(form: Vec<(String, Vec<LevelForm>)>) -> Vec<(String, Vec<Level>)> {
    form.into_iter()
        .map(|(sku, levels)| (sku, form::levels(levels)))
        .collect()
}

/// SKUs that begin with one of these.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NamesLike {
    pub(crate) prefixes: Vec<String>,
    /// For each prefix.
    pub(crate) limit: usize,
}
plain!(NamesLike -> Vec<String>: |question, stock| {
    let limit = question.limit.min(LIMIT_MAX);
    let mut skus: Vec<String> = question
        .prefixes
        .iter()
        .flat_map(|prefix| stock.state_mut().skus(None, prefix, limit))
        .map(|sku| sku.0.into_owned())
        .collect();
    skus.sort_unstable();
    skus.dedup();
    skus
});

/// A reservation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReservationOf {
    pub(crate) id: String,
}

impl Question for ReservationOf {
    type Answer = Option<ReservationRecord<'static>>;

    fn ask(self, stock: &mut Stock) -> Self::Answer {
        stock.state().reservation(&self.id)
    }

    fn travel(&self) -> Travelling {
        Travelling::ReservationOf(self.clone())
    }

    fn write(answer: &Self::Answer) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(answer)
    }

    fn read(bytes: &[u8]) -> Result<Self::Answer, postcard::Error> {
        let read: Option<ReservationRecord<'_>> = postcard::from_bytes(bytes)?;
        Ok(read.map(|record| record.to_static()))
    }
}

/// Reservations above an id, in byte order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReservationsAbove {
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

impl Question for ReservationsAbove {
    type Answer = Step<Option<ReservationRecord<'static>>>;

    fn ask(self, stock: &mut Stock) -> Self::Answer {
        let state = stock.state_mut();
        let limit = self.limit.min(LIMIT_MAX);
        let ids = state.reservations(self.after.as_deref(), limit);
        let more = ids.len() >= limit;
        let records = ids.into_iter().map(|id| {
            let record = state.reservation(id.as_str());
            (id.0.into_owned(), record)
        });
        let found = records.collect();
        Step { found, more }
    }

    fn travel(&self) -> Travelling {
        Travelling::ReservationsAbove(self.clone())
    }

    fn write(answer: &Self::Answer) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(answer)
    }

    fn read(bytes: &[u8]) -> Result<Self::Answer, postcard::Error> {
        let read: Step<Option<ReservationRecord<'_>>> = postcard::from_bytes(bytes)?;
        let records = read.found.into_iter();
        let found = records.map(|(id, record)| (id, record.map(|record| record.to_static())));
        Ok(Step {
            found: found.collect(),
            more: read.more,
        })
    }
}

/// The numbers of decisions that carry the outcomes of commands of one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OutcomesOf {
    /// The upper half of their fingerprints.
    pub(crate) sender: u64,
    pub(crate) limit: usize,
}
plain!(OutcomesOf -> Vec<u64>:
    |question, stock| stock.state().outcomes_of(question.sender, question.limit.min(LIMIT_MAX)));

/// What disagrees, above a key, about that many; those of one key come whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Conflicts {
    pub(crate) of: Section,
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

/// What conflicts are about.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Section {
    /// By SKU.
    Stock,
    /// By id.
    Reservations,
}
formed!(Conflicts -> Vec<Conflict>:
    |question, stock| {
        let (after, limit) = (question.after.as_deref(), question.limit.min(LIMIT_MAX));
        match question.of {
            Section::Stock => stock.state_mut().conflicts(after, limit),
            Section::Reservations => stock.state().reservation_conflicts(after, limit),
        }
    },
    Vec<ConflictForm>:
    |answer| answer.iter().map(ConflictForm::from).collect(),
    |form| form.into_iter().map(Conflict::from).collect());

/// A page of the levels that a feed begins with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotPage {
    pub(crate) after: Option<String>,
    /// Only these; empty: all.
    pub(crate) skus: Vec<String>,
    pub(crate) limit: usize,
}

/// What a page shows.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) levels: Vec<(String, Vec<Level>)>,
    /// The newest decision that it shows.
    pub(crate) number: u64,
    /// There may be more behind its last SKU.
    pub(crate) more: bool,
}
formed!(SnapshotPage -> Page:
    |question, stock| {
        let state = stock.state_mut();
        let limit = question.limit.min(LIMIT_MAX);
        let number = state.number();
        if !question.skus.is_empty() {
            // They are few, and none is read on from.
            let levels = levels_of(state, question.skus).collect();
            return Page { levels, number, more: false };
        }
        let skus = state.skus(question.after.as_deref(), "", limit);
        let full = skus.len() >= limit;
        let skus = skus.into_iter().map(|sku| sku.0.into_owned());
        let (levels, cut) = up_to(levels_of(state, skus), LEVELS_MAX);
        Page { levels, number, more: full || cut }
    },
    (Vec<(String, Vec<LevelForm>)>, u64, bool):
    |page| (of_listed(&page.levels), page.number, page.more),
    |(levels, number, more)| Page { levels: listed(levels), number, more });

#[cfg(test)]
mod tests {
    use onhand_ledger::{Location, Time};

    use super::*;

    fn levels(count: usize) -> Vec<Level> {
        let level = |n: usize| Level {
            location: Location::from(n.to_string()),
            decimals: 0,
            on_hand: 1,
            reserved: 0,
            committed: 0,
            damaged: 0,
            quality_control: 0,
            sequence: 1,
            number: 1,
            at: Time(0),
        };
        (0..count).map(level).collect()
    }

    #[test]
    fn a_step_ends_at_its_levels_and_holds_one_sku_at_least() {
        let step = |counts: &[usize], most| {
            let skus = counts.iter().map(|count| ("S".to_owned(), levels(*count)));
            let (found, cut) = up_to(skus, most);
            (found.len(), cut)
        };
        assert_eq!(step(&[], 10), (0, false));
        assert_eq!(step(&[4, 6], 10), (2, false));
        assert_eq!(step(&[4, 6, 1], 10), (2, true));
        assert_eq!(step(&[11, 1], 10), (1, true));
        assert_eq!(step(&[11], 10), (1, false));
    }

    #[test]
    fn a_question_names_a_bounded_number_of_things() {
        let like = |count| {
            let prefixes = vec![String::new(); count];
            Travelling::NamesLike(NamesLike { prefixes, limit: 1 })
        };
        let page = |count| {
            Travelling::SnapshotPage(SnapshotPage {
                after: None,
                skus: vec![String::new(); count],
                limit: 1,
            })
        };
        assert!(like(PREFIXES_MAX).check().is_ok() && page(SKUS_MAX).check().is_ok());
        for question in [like(PREFIXES_MAX + 1), page(SKUS_MAX + 1)] {
            let problem = question.check().unwrap_err();
            assert_eq!(problem.kind, Kind::TOO_LARGE);
        }
    }
}
