//! What a log is as a whole: served, an unfinished copy of another, or sealed because it moved.
//!
//! ```text
//!  (nothing) ─ Opening::Fill ─► Filling ── the copy is complete ──► Copy ─┐
//!  (nothing) ─ Opening::Serve ─► Own ─────────────────────────────────────┴─► Sealed
//!                                 ▲                                            │
//!                                 └──────────── Opening::Unseal ◄──────────────┘
//! ```
//!
//! Two logs with one history and one epoch must never both be written: readers could not tell the
//! changes of one from those of the other. So a copy is not served before it is complete, and what was
//! copied is sealed.

use thiserror::Error;

use crate::Timestamp;

/// Most bytes of [`Counterpart::place`].
pub const PLACE_BYTES_MAX: usize = 200;

/// The other log of a copy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counterpart {
    /// Its [`Log::id`](crate::Log::id).
    pub id: u64,
    /// Where it lies and since when, for people; at most [`PLACE_BYTES_MAX`] bytes without control
    /// characters.
    pub place: String,
}

impl Counterpart {
    /// The log of that id. Of a longer text only the beginning is kept, and control characters become
    /// spaces.
    pub fn new(id: u64, place: &str) -> Self {
        let mut kept = String::new();
        for c in place.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if kept.len() + c.len_utf8() > PLACE_BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        Self { id, place: kept }
    }
}

/// What a log is as a whole. Kept in the log itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// It began here, or in a new epoch after it was unsealed.
    #[default]
    Own,
    /// An unfinished copy of that log: not to be served.
    Filling(Counterpart),
    /// It began as a copy of that log, which was complete.
    Copy(Counterpart),
    /// It was copied to that log and is not to be served any more.
    Sealed(Counterpart),
}

/// What a log is, read without opening it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glimpse {
    /// See [`Log::id`](crate::Log::id); 0 in a log on Kafka that no version with such numbers has
    /// opened yet.
    pub id: u64,
    /// What it is as a whole.
    pub standing: Standing,
    /// Whether it has neither topics nor owners: somebody opened it, and that is all.
    pub is_unused: bool,
}

/// What a log is opened for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Opening {
    /// To serve it: refused while it is an unfinished copy, or sealed.
    #[default]
    Serve,
    /// To read it, or to set its standing, whatever that is.
    AsItIs,
    /// To fill it: an empty one becomes such a copy, and one that is it already goes on. All others are
    /// refused.
    Fill(Fill),
    /// To serve a sealed one again: it begins a new epoch, since the other log may have gone on in the
    /// old one. Refused where it is not sealed.
    Unseal,
}

/// How a copy begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fill {
    /// The log that is copied.
    pub source: Counterpart,
    /// Its epoch, which the copy takes over: positions mean the same there.
    pub epoch: u64,
    /// Its clock: the copy's does not begin before it.
    pub not_before: Timestamp,
}

/// Why a log of some standing is not opened for something.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StandingError {
    /// It is being filled.
    #[error(
        "it is an unfinished copy of the log in {0}; run the same `onhand log copy` again, which goes \
         on where it was interrupted"
    )]
    Unfinished(String),
    /// It moved.
    #[error(
        "it is sealed: it moved to {0}; serve it there, or see `onhand log unseal --help` for what it \
         means to serve it here again"
    )]
    Sealed(String),
    /// It holds another log than the one to be copied.
    #[error("it holds a log already ({0}); name a target that is empty")]
    Taken(String),
    /// There is nothing to unseal.
    #[error("it is not sealed: there is nothing to unseal")]
    NotSealed,
}

impl Standing {
    /// In words, for people.
    pub fn words(&self) -> String {
        match self {
            Self::Own => "not sealed".to_owned(),
            Self::Filling(source) => format!("an unfinished copy of the log in {}", source.place),
            Self::Copy(source) => format!("a copy of the log in {}", source.place),
            Self::Sealed(target) => format!("sealed: it moved to {}", target.place),
        }
    }

    /// The number that stands for it where it is stored.
    pub fn code(&self) -> u8 {
        match self {
            Self::Own => 0,
            Self::Filling(_) => 1,
            Self::Copy(_) => 2,
            Self::Sealed(_) => 3,
        }
    }

    /// The other log; `None` where there is none.
    pub fn counterpart(&self) -> Option<&Counterpart> {
        match self {
            Self::Own => None,
            Self::Filling(other) | Self::Copy(other) | Self::Sealed(other) => Some(other),
        }
    }

    /// From what was stored; `None` when it cannot be that.
    pub fn from_code(code: u8, other: Counterpart) -> Option<Self> {
        match code {
            0 => Some(Self::Own),
            1 => Some(Self::Filling(other)),
            2 => Some(Self::Copy(other)),
            3 => Some(Self::Sealed(other)),
            _ => None,
        }
    }

    /// What the log is once it is opened so; `is_empty`: it has no topics and no owners.
    ///
    /// # Errors
    /// [`StandingError`] when it must not be opened for that.
    pub fn open(&self, opening: &Opening, is_empty: bool) -> Result<Self, StandingError> {
        match (opening, self) {
            (Opening::AsItIs, _) | (Opening::Serve, Self::Own | Self::Copy(_)) => Ok(self.clone()),
            (Opening::Serve, Self::Filling(source)) => {
                Err(StandingError::Unfinished(source.place.clone()))
            }
            (Opening::Serve, Self::Sealed(target)) => {
                Err(StandingError::Sealed(target.place.clone()))
            }
            (Opening::Fill(fill), Self::Filling(source)) if source.id == fill.source.id => {
                Ok(self.clone())
            }
            (Opening::Fill(fill), Self::Own) if is_empty => Ok(Self::Filling(fill.source.clone())),
            (Opening::Fill(_), _) => Err(StandingError::Taken(self.words())),
            (Opening::Unseal, Self::Sealed(_)) => Ok(Self::Own),
            // An unfinished copy lacks records: only its source can be served.
            (Opening::Unseal, _) => Err(StandingError::NotSealed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_opened_only_for_what_its_standing_allows() {
        let a = Counterpart::new(1, "a");
        let fill = |id| {
            Opening::Fill(Fill {
                source: Counterpart::new(id, "a"),
                ..Fill::default()
            })
        };
        let filling = Standing::Filling(a.clone());
        let sealed = Standing::Sealed(a.clone());
        let copy = Standing::Copy(a);
        assert_eq!(Standing::Own.open(&fill(1), true), Ok(filling.clone()));
        assert!(Standing::Own.open(&fill(1), false).is_err());
        assert_eq!(filling.open(&fill(1), false), Ok(filling.clone()));
        assert!(filling.open(&fill(2), false).is_err(), "of another log");
        assert!(copy.open(&fill(1), false).is_err() && sealed.open(&fill(1), true).is_err());
        assert!(filling.open(&Opening::Serve, true).is_err());
        assert!(sealed.open(&Opening::Serve, false).is_err());
        assert_eq!(copy.open(&Opening::Serve, false), Ok(copy.clone()));
        assert_eq!(sealed.open(&Opening::AsItIs, false), Ok(sealed.clone()));
        assert_eq!(sealed.open(&Opening::Unseal, false), Ok(Standing::Own));
        for other in [copy, filling, Standing::Own] {
            assert_eq!(
                other.open(&Opening::Unseal, false),
                Err(StandingError::NotSealed)
            );
        }
    }

    #[test]
    fn a_place_is_cut_at_a_character_and_has_no_control_characters() {
        let long = format!("a\n{}", "é".repeat(200));
        let kept = Counterpart::new(1, &long).place;
        assert!(kept.len() <= PLACE_BYTES_MAX && kept.starts_with("a é"));
        assert!(long.replace('\n', " ").starts_with(&kept));
    }
}
