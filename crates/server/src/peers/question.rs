//! What can be asked of the owner of a partition, here or elsewhere. Closures cannot travel.

use onhand_flows::Stock;
use onhand_ledger::reservation::ReservationRecord;
use onhand_ledger::{Conflict, Level};
use serde::{Deserialize, Serialize};

use super::form::{self, ConflictForm, LevelForm};

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
    pub(crate) limit: usize,
}
formed!(StockAbove -> Vec<(String, Vec<Level>)>:
    |question, stock| {
        let state = stock.state_mut();
        let limit = question.limit.min(LIMIT_MAX);
        let skus = state.skus(question.after.as_deref(), &question.prefix, limit);
        skus.into_iter()
            .map(|sku| {
                let levels = state.levels(sku.as_str()).unwrap_or_default();
                (sku.0.into_owned(), levels)
            })
            .collect()
    },
    Vec<(String, Vec<LevelForm>)>:
    |answer| of_listed(answer),
    |form| listed(form));

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
    type Answer = Vec<(String, Option<ReservationRecord<'static>>)>;

    fn ask(self, stock: &mut Stock) -> Self::Answer {
        let state = stock.state_mut();
        let ids = state.reservations(self.after.as_deref(), self.limit.min(LIMIT_MAX));
        ids.into_iter()
            .map(|id| {
                let record = state.reservation(id.as_str());
                (id.0.into_owned(), record)
            })
            .collect()
    }

    fn travel(&self) -> Travelling {
        Travelling::ReservationsAbove(self.clone())
    }

    fn write(answer: &Self::Answer) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(answer)
    }

    fn read(bytes: &[u8]) -> Result<Self::Answer, postcard::Error> {
        let read: Vec<(String, Option<ReservationRecord<'_>>)> = postcard::from_bytes(bytes)?;
        Ok(read
            .into_iter()
            .map(|(id, record)| (id, record.map(|record| record.to_static())))
            .collect())
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
        let named = !question.skus.is_empty();
        let names: Vec<String> = if named {
            question.skus
        } else {
            let found = state.skus(question.after.as_deref(), "", limit);
            found.into_iter().map(|sku| sku.0.into_owned()).collect()
        };
        let more = !named && names.len() >= limit;
        let levels = names
            .into_iter()
            .filter_map(|sku| state.levels(&sku).map(|levels| (sku, levels)))
            .collect();
        Page { levels, number, more }
    },
    (Vec<(String, Vec<LevelForm>)>, u64, bool):
    |page| (of_listed(&page.levels), page.number, page.more),
    |(levels, number, more)| Page { levels: listed(levels), number, more });
