//! Reading a topic partition by partition and appending what is made of it, each record once.
//!
//! A **lane** is one partition in the hands of its owner. Its position in what it reads moves in the
//! append that has the effect of what was read, and behind what has none within a second. So a lane that
//! begins anew, here or elsewhere, goes on exactly behind what has had its effect. Several appends of a lane may be on their way at a time; they
//! end in order. One that does not end well takes those behind it along: then the lane claims its name
//! again and reads on from what is written.
//!
//! One thread moves all lanes of one kind: lanes are many and mostly wait.

mod moving;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use onhand_log::{
    Ending, Log, Offset, Progress, Purpose, RecordBatch, TopicId, TopicPartition, View,
};

use self::moving::Moving;
use super::Resident;

/// What is made of what is read.
pub(crate) trait Work: Send + Sync + 'static {
    /// The owner of partition 3 is named `<name>/3`. Begins the names of metrics too.
    fn name(&self) -> &'static str;

    /// The topic that is read.
    fn input(&self) -> TopicId;

    /// How far it reads: [`View::Latest`] where all that is made stays within the log.
    fn view(&self) -> View;

    /// What the log is told that its appends are.
    fn purpose(&self) -> Purpose;

    /// How long what is there may gather before it is made into an append. Zero: at once, and somebody
    /// waits for it.
    fn pace(&self) -> Duration;

    /// Makes one append of the records from `from` on, of bounded size but of one record at least. An
    /// error leaves the lane where it is.
    fn take(
        &self,
        partition: u16,
        batches: &[RecordBatch],
        from: Offset,
    ) -> Result<Made, WorkError>;
}

/// One append's worth.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) batches: Vec<(TopicPartition, RecordBatch)>,
    /// Every record before it has its effect with this append.
    pub(crate) next: Offset,
    /// Records read.
    pub(crate) records: u64,
    /// Of them those that were put aside.
    pub(crate) aside: u64,
}

/// Why nothing was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum WorkError {
    /// It may succeed later.
    Passing(String),
    /// It will not: the lane stops, and somebody must look.
    Lasting(String),
}

/// What lanes of one kind did and do, all together.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Figures {
    /// Records whose effect is durable.
    pub(crate) records: u64,
    /// Of them those that were put aside.
    pub(crate) aside: u64,
    /// Offsets between what has its effect and the end of what is there; of a busy lane not older than
    /// a second.
    pub(crate) lag: u64,
    /// Offsets that were gone before they were read: of so many records at most nothing was made.
    pub(crate) missed: u64,
    /// Open lanes.
    pub(crate) open: u64,
    /// Of them those that stopped: somebody else has the name, or somebody must look.
    pub(crate) stopped: u64,
    /// Times that something failed and was tried again.
    pub(crate) retries: u64,
}

/// All lanes of one kind, and the thread that moves them.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    name: &'static str,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("name", &self.name)
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    /// For the thread: something is to be done.
    wake: Condvar,
    /// For those who close: something ended.
    closed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is wanted of each partition that is open or being closed.
    wishes: BTreeMap<u16, Wish>,
    /// Endings that the thread has not seen, in order.
    ended: Vec<Ended>,
    moved: bool,
    stop: bool,
    /// The thread does nothing more.
    gone: bool,
    figures: Figures,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Open,
    Close,
}

struct Ended {
    partition: u16,
    bytes: usize,
    records: u64,
    aside: u64,
    ending: Ending,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is right whatever its holder was about to do.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// Starts the thread. No partition is open yet.
    pub(crate) fn start(log: &Arc<dyn Log>, work: Arc<dyn Work>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            closed: Condvar::new(),
        });
        let name = work.name();
        let view = work.view();
        let moving = Moving::new(Arc::clone(log), work, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || moving.run())?;
        // The log keeps its listeners for as long as it lives, which may be longer than this.
        let listening = Arc::downgrade(&shared);
        log.listen(Box::new(move |progress| stir(&listening, progress, view)));
        Ok(Self {
            shared,
            name,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn figures(&self) -> Figures {
        self.shared.lock().figures
    }

    /// Closes all partitions and ends the thread.
    pub(crate) fn stop(&self) {
        let open: Vec<u16> = {
            let mut state = self.shared.lock();
            for wish in state.wishes.values_mut() {
                *wish = Wish::Close;
            }
            state.wishes.keys().copied().collect()
        };
        for partition in open {
            self.close(partition);
        }
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(name = self.name, "the thread panicked");
        }
    }
}

impl Resident for Lanes {
    fn open(&self, partition: u16) {
        let mut state = self.shared.lock();
        state.wishes.entry(partition).or_insert(Wish::Open);
        drop(state);
        self.shared.wake.notify_all();
    }

    fn close(&self, partition: u16) {
        let mut state = self.shared.lock();
        match state.wishes.get_mut(&partition) {
            Some(wish) => *wish = Wish::Close,
            None => return,
        }
        self.shared.wake.notify_all();
        while state.wishes.contains_key(&partition) && !state.gone {
            state = self
                .shared
                .closed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.wishes.remove(&partition);
    }
}

fn stir(shared: &Weak<Shared>, progress: Progress, view: View) {
    if progress == Progress::Appended && view == View::Durable {
        return;
    }
    if let Some(shared) = shared.upgrade() {
        shared.lock().moved = true;
        shared.wake.notify_all();
    }
}
