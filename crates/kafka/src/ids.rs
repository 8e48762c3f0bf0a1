//! The transactional ids of this incarnation.
//!
//! An incarnation is one run of an instance, from one [`KafkaLog::open`](crate::KafkaLog::open) on; its
//! name `INSTANCE.RUN` is unique. Its ids are `<prefix>onhand.INSTANCE.RUN-0`, `-1` and so on. Each is
//! initialised once to be used. After that it may be initialised by anybody, once or more, to end what
//! is open under it; then it is dead, and this incarnation goes on with another one.
//!
//! An id may be used once `onhand.cluster` says that it is there and everything that stood before that
//! record was read. That is what makes fencing final. Whoever claims a name of this incarnation writes
//! its claim to the same topic and then ends the ids that it reads there. Either its claim stands below
//! the record of a new id: then this incarnation has read it and does not write for the name any more.
//! Or above: then the claimer has read of the id, and ends it.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};

use onhand_log::Offset;
use thiserror::Error;
use tracing::warn;

use crate::cluster::note::{Claim, IDS_MAX, Note};
use crate::cluster::{Board, fence};
use crate::producer::TransactionalProducer;
use crate::queue::Queue;

/// Why no id could be taken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum EnterError {
    /// A newer run of this instance's name is there.
    #[error("another process opened this log under the same instance name; give each its own")]
    Replaced,
    /// The others heard nothing of this run for too long and took what it had.
    #[error("the other instances heard nothing from this one for too long; it must join anew")]
    Silent,
    /// The cluster did not answer or refused; its words.
    #[error("{0}")]
    Cluster(String),
}

impl From<String> for EnterError {
    fn from(why: String) -> Self {
        Self::Cluster(why)
    }
}

/// The name of a new run of that instance.
pub(crate) fn incarnation(instance: &str) -> Arc<str> {
    let run = RandomState::new().build_hasher().finish();
    format!("{instance}.{run:016x}").into()
}

/// See the module's text.
pub(crate) struct Ids {
    board: Arc<Board>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Taken, and not known to be dead.
    living: BTreeSet<u64>,
    /// Ids that shall be ended and are not yet.
    undecided: BTreeSet<String>,
}

/// Names are not lost while this is held: no id is taken.
pub(crate) struct Names<'i> {
    board: &'i Board,
    _state: MutexGuard<'i, State>,
}

impl Names<'_> {
    /// This incarnation's claim at that offset, if it stands and nobody else claimed the name above it
    /// before this incarnation took its newest id. What was claimed since ends that id.
    pub(crate) fn standing(&self, owner: &str, at: Offset) -> Option<Claim> {
        self.board.view().standing(owner, at)
    }
}

impl Ids {
    /// Takes the first ids, so many, and announces this incarnation: it is the newest of its name from
    /// here on, and what earlier ones left open is ended.
    pub(crate) fn open(
        board: &Arc<Board>,
        count: u64,
    ) -> Result<(Self, Vec<TransactionalProducer>), EnterError> {
        let settings = board.settings();
        let producers = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count)
                .map(|number| {
                    let id = settings.transactional_id(board.me(), number);
                    let timeout = settings.request_timeout;
                    scope.spawn(move || TransactionalProducer::take(settings, &id, timeout))
                })
                .collect();
            let taken = threads.into_iter().map(|thread| {
                let taken = thread.join();
                taken.unwrap_or_else(|_| Err("a thread that took an id panicked".into()))
            });
            taken.collect::<Result<Vec<_>, String>>()
        })?;
        let living: BTreeSet<u64> = (0..count).collect();
        // In this order: who reads of the ids has read who is the newest.
        let newest = Note::Newest {
            name: settings.instance.as_str().into(),
            incarnation: Arc::clone(board.me()),
        };
        let listed = Note::Ids(
            Arc::clone(board.me()),
            Some(living.iter().copied().collect()),
        );
        for at in board.say(&[newest, listed])? {
            board.read_to(at)?;
        }
        let earlier = {
            let view = board.view();
            if view.is_replaced() {
                return Err(EnterError::Replaced);
            }
            view.earlier_runs()
        };
        // Each is below this one in the log: whatever id it takes now, it finds itself replaced before
        // it uses it. So once its ids of today are dead it can write nothing more.
        board.fence(&earlier.iter().cloned().collect())?;
        let over: Vec<_> = earlier
            .into_iter()
            .map(|run| Note::Ids(run, None))
            .collect();
        if let Err(why) = board.send(&over) {
            warn!(why, "ids of earlier runs stay listed");
        }
        let state = State {
            next: count,
            living,
            undecided: BTreeSet::new(),
        };
        let ids = Self {
            board: Arc::clone(board),
            state: Mutex::new(state),
        };
        Ok((ids, producers))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the ids panics")
    }

    /// This incarnation.
    pub(crate) fn incarnation(&self) -> &str {
        self.board.me()
    }

    /// Holds off new ids, so that what is checked under it stays so.
    pub(crate) fn names(&self) -> Names<'_> {
        Names {
            _state: self.lock(),
            board: &self.board,
        }
    }

    /// Takes the next id. Names of the queue that others claimed meanwhile are lost when this returns;
    /// what waits under them must be looked at again before it is sent.
    ///
    /// An id that was dropped must be ended, now or later: [`Ids::end`]. More than 32 that were not are
    /// not taken.
    pub(crate) fn fresh(&self, queue: &Queue) -> Result<TransactionalProducer, EnterError> {
        let (board, settings) = (&self.board, self.board.settings());
        let mut state = self.lock();
        self.check()?;
        if state.living.len() >= IDS_MAX {
            let why = format!("{IDS_MAX} transactional ids are open, and none could be ended");
            return Err(EnterError::Cluster(why));
        }
        // Whatever becomes of it, this number is not taken again.
        let number = state.next;
        state.next += 1;
        let id = settings.transactional_id(board.me(), number);
        let producer = TransactionalProducer::take(settings, &id, settings.request_timeout)?;
        state.living.insert(number);
        let announced = self.announce(&state);
        if let Err(why) = announced {
            // Never used, it has nothing open.
            state.living.remove(&number);
            return Err(EnterError::Cluster(why));
        }
        self.check()?;
        let view = board.view();
        for (owner, generation) in queue.held() {
            let at = at(generation);
            if view.standing(&owner, at).is_none() {
                warn!(owner = &*owner, "owned by somebody else now");
                queue.lose(&owner, generation);
            }
        }
        Ok(producer)
    }

    fn announce(&self, state: &State) -> Result<(), String> {
        let living = state.living.iter().copied().collect();
        let listed = Note::Ids(Arc::clone(self.board.me()), Some(living));
        for at in self.board.say(&[listed])? {
            self.board.read_to(at)?;
        }
        Ok(())
    }

    /// Whether this run may go on, as far as was read.
    pub(crate) fn check(&self) -> Result<(), EnterError> {
        use onhand_log::cluster::Ended;
        let view = self.board.view();
        if view.is_replaced() {
            return Err(EnterError::Replaced);
        }
        match view.ended() {
            Some(Ended::Silent) => Err(EnterError::Silent),
            // One that leaves still finishes what it has.
            _ => Ok(()),
        }
    }

    /// Ends what is open under an id of this incarnation: when this returns it is decided, committed or
    /// not, and the id is dead.
    ///
    /// # Errors
    /// No broker answered in time. Nothing may be written behind what is undecided: ask again.
    pub(crate) fn end(&self, id: &str) -> Result<(), String> {
        self.lock().undecided.insert(id.to_owned());
        fence::end(self.board.settings(), id)?;
        let number = id
            .rsplit_once('-')
            .and_then(|(_, number)| number.parse().ok());
        if let Some(number) = number {
            // Others learn of it with the next id.
            self.lock().living.remove(&number);
        }
        self.lock().undecided.remove(id);
        Ok(())
    }

    /// Ends what [`Ids::end`] could not end. Whoever reads now what is committed sees all that will
    /// ever be of it.
    pub(crate) fn decide(&self) -> Result<(), String> {
        let undecided = self.lock().undecided.clone();
        undecided.iter().try_for_each(|id| self.end(id))
    }
}

/// The generation of a claim is one more than its offset: it rises with every claim, and 0 is none.
pub(crate) fn generation(at: Offset) -> u64 {
    u64::try_from(at).map_or(0, |at| at + 1)
}

/// Where the claim of that generation stands.
pub(crate) fn at(generation: u64) -> Offset {
    Offset::try_from(generation).map_or(-1, |generation| generation - 1)
}
