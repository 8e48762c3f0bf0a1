//! What owners say to other instances, as it travels: the ledger's own types hold names that a message
//! could only lend.

use onhand_ledger::{Conflict, Figure, Id, Level, Location, Quantity, ReservationId};
use onhand_ledger::{Sku, Source, Time};
use serde::{Deserialize, Serialize};

/// A [`Level`]: its location, decimals, figures in the order of the type, sequence, number and time.
#[derive(Serialize, Deserialize)]
pub(crate) struct LevelForm(String, u8, [i64; 5], u64, u64, Time);

impl From<&Level> for LevelForm {
    fn from(level: &Level) -> Self {
        let figures = [
            level.on_hand,
            level.reserved,
            level.committed,
            level.damaged,
            level.quality_control,
        ];
        Self(
            level.location.as_str().to_owned(),
            level.decimals,
            figures,
            level.sequence,
            level.number,
            level.at,
        )
    }
}

impl From<LevelForm> for Level {
    fn from(form: LevelForm) -> Self {
        let LevelForm(location, decimals, figures, sequence, number, at) = form;
        let [on_hand, reserved, committed, damaged, quality_control] = figures;
        Self {
            location: Location::from(location),
            decimals,
            on_hand,
            reserved,
            committed,
            damaged,
            quality_control,
            sequence,
            number,
            at,
        }
    }
}

/// The levels of a SKU.
pub(crate) fn of_levels(levels: &[Level]) -> Vec<LevelForm> {
    levels.iter().map(LevelForm::from).collect()
}

pub(crate) fn levels(form: Vec<LevelForm>) -> Vec<Level> {
    form.into_iter().map(Level::from).collect()
}

/// A [`Conflict`], its members in the order of the type.
#[derive(Serialize, Deserialize)]
pub(crate) enum ConflictForm {
    Drift(
        (String, String, u8, Figure),
        (Time, Quantity, Quantity),
        (String, String),
    ),
    Oversell((String, String, u8), (Quantity, Quantity, Time)),
    CommitAfterRelease(String, String, String, Time),
}

impl From<&Conflict> for ConflictForm {
    fn from(conflict: &Conflict) -> Self {
        match conflict {
            Conflict::Drift {
                sku,
                location,
                decimals,
                figure,
                counted_at,
                counted,
                expected,
                source,
                id,
            } => Self::Drift(
                (sku.to_string(), location.to_string(), *decimals, *figure),
                (*counted_at, *counted, *expected),
                (source.to_string(), id.to_string()),
            ),
            Conflict::Oversell {
                sku,
                location,
                decimals,
                available,
                on_hand,
                since,
            } => Self::Oversell(
                (sku.to_string(), location.to_string(), *decimals),
                (*available, *on_hand, *since),
            ),
            Conflict::CommitAfterRelease {
                reservation,
                source,
                id,
                at,
            } => Self::CommitAfterRelease(
                reservation.to_string(),
                source.to_string(),
                id.to_string(),
                *at,
            ),
        }
    }
}

impl From<ConflictForm> for Conflict {
    fn from(form: ConflictForm) -> Self {
        match form {
            ConflictForm::Drift(what, figures, by) => Self::Drift {
                sku: Sku::from(what.0),
                location: Location::from(what.1),
                decimals: what.2,
                figure: what.3,
                counted_at: figures.0,
                counted: figures.1,
                expected: figures.2,
                source: Source::from(by.0),
                id: Id::from(by.1),
            },
            ConflictForm::Oversell(what, figures) => Self::Oversell {
                sku: Sku::from(what.0),
                location: Location::from(what.1),
                decimals: what.2,
                available: figures.0,
                on_hand: figures.1,
                since: figures.2,
            },
            ConflictForm::CommitAfterRelease(reservation, source, id, at) => {
                Self::CommitAfterRelease {
                    reservation: ReservationId::from(reservation),
                    source: Source::from(source),
                    id: Id::from(id),
                    at,
                }
            }
        }
    }
}
