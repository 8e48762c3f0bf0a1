//! `onhand.cluster`, as this incarnation reads and writes it: who is there, who shall own what, and who
//! claimed what.
//!
//! One topic of one partition, so that its order decides every race; compacted; written by plain
//! producers and read uncommitted, so that no open transaction ever holds it up. A thread reads it all
//! the time. Whoever must know what stood before its own record writes it, learns its offset, and waits
//! until this thread has read up to it: [`Board::say`] and [`Board::read_to`].
//!
//! `note` (the records), `view` (what they say, folded), `assign` (who shall own what), `voice`
//! (writing), `fence` (ending ids), `member` (joining).

mod assign;
pub(crate) mod fence;
pub(crate) mod member;
pub(crate) mod note;
mod view;
mod voice;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use onhand_log::Offset;
use onhand_log::cluster::Ended;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tracing::{debug, warn};

use crate::client::Quiet;
use crate::cold;
use crate::error::words;
use crate::settings::KafkaSettings;
use fence::Fences;
use member::Joined;
use note::{Claim, Note};
use view::View;
use voice::{Sent, Voice};

/// How long a fetch waits at the broker for more. It comes as soon as it is there.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// How long the reader waits before it looks whether it shall end.
const POLL: Duration = Duration::from_millis(100);
/// Most records folded before others see them.
const BURST: usize = 1_000;

/// See the module's text.
pub(crate) struct Board {
    settings: KafkaSettings,
    me: Arc<str>,
    voice: Voice,
    view: Mutex<View>,
    /// The view moved.
    moved: Condvar,
    /// Claims of this incarnation so far.
    claims: AtomicU64,
    /// Owners that are being claimed or given up by this process.
    busy: Mutex<BTreeSet<Arc<str>>>,
    freed: Condvar,
    fences: Fences,
    joined: Mutex<Option<Arc<Joined>>>,
    stopped: AtomicBool,
}

impl Board {
    /// The topic must exist. Reads it to its end, and goes on reading until [`Board::stop`].
    pub(crate) fn open(settings: &KafkaSettings, me: &Arc<str>) -> Result<Arc<Self>, String> {
        let topic = settings.cluster();
        let config = settings.board_consumer(FETCH_WAIT);
        let consumer =
            BaseConsumer::from_config_and_context(&config, Quiet).map_err(|error| words(&error))?;
        let timeout = settings.request_timeout;
        let (low, end) = cold::ends(&consumer, &topic, 0, timeout)
            .map_err(|why| format!("where {topic} ends: {why}"))?;
        let board = Arc::new(Self {
            settings: settings.clone(),
            me: Arc::clone(me),
            voice: Voice::open(settings)?,
            view: Mutex::new(View::new(me)),
            moved: Condvar::new(),
            claims: AtomicU64::new(0),
            busy: Mutex::default(),
            freed: Condvar::new(),
            fences: Fences::default(),
            joined: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let reader = Arc::downgrade(&board);
        std::thread::Builder::new()
            .name("kafka-cluster".into())
            .spawn(move || read(&consumer, &topic, low, &reader))
            .map_err(|error| format!("a thread could not be started: {error}"))?;
        if end > low {
            board.read_to(end - 1)?;
        }
        Ok(board)
    }

    pub(crate) fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    /// This incarnation.
    pub(crate) fn me(&self) -> &Arc<str> {
        &self.me
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().expect("no holder of the view panics")
    }

    /// Neither reads nor writes any more.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.moved.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Queues the records, in this order.
    pub(crate) fn send(&self, notes: &[Note]) -> Result<Sent, String> {
        self.voice
            .say(notes)
            .map_err(|why| format!("{} is not written: {why}", self.settings.cluster()))
    }

    /// Writes the records and says where each is. When it fails they may still come.
    pub(crate) fn say(&self, notes: &[Note]) -> Result<Vec<Offset>, String> {
        let delivered = self.send(notes)?.delivered();
        delivered.map_err(|why| format!("{} was not written: {why}", self.settings.cluster()))
    }

    /// Waits until everything up to and including that offset was read.
    pub(crate) fn read_to(&self, offset: Offset) -> Result<(), String> {
        let patience = self.settings.request_timeout;
        self.wait_until(patience, |view| view.next() > offset)
            .then_some(())
            .ok_or_else(|| {
                let topic = self.settings.cluster();
                format!("{topic} was not read up to {offset} within {patience:?}")
            })
    }

    /// Waits until it is so, for that long at most; whether it is.
    pub(crate) fn wait_until(&self, patience: Duration, is_so: impl Fn(&View) -> bool) -> bool {
        let until = Instant::now() + patience;
        let mut view = self.view();
        loop {
            if is_so(&view) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stopped() {
                return false;
            }
            let waited = self.moved.wait_timeout(view, left);
            (view, _) = waited.expect("no holder of the view panics");
        }
    }

    /// A claim of that owner that was not written before.
    pub(crate) fn new_claim(&self, owner: &str) -> Claim {
        Claim {
            owner: owner.into(),
            incarnation: Arc::clone(&self.me),
            number: self.claims.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Takes claims back without waiting. One that stays makes its next claimer fence an incarnation
    /// that need not be, and nothing worse.
    pub(crate) fn withdraw(&self, claims: impl IntoIterator<Item = Claim>) {
        let notes: Vec<_> = claims
            .into_iter()
            .map(|claim| Note::Claim(claim, false))
            .collect();
        if let Err(why) = self.send(&notes) {
            warn!(why, "claims stay that should not");
        }
    }

    /// Waits until no other thread of this process claims that owner or gives it up.
    pub(crate) fn turn(&self, owner: &str) -> Turn<'_> {
        let mut busy = self.busy.lock().expect("no holder of the names panics");
        while busy.contains(owner) {
            busy = self
                .freed
                .wait(busy)
                .expect("no holder of the names panics");
        }
        let owner: Arc<str> = owner.into();
        busy.insert(Arc::clone(&owner));
        Turn { board: self, owner }
    }

    /// Ends all ids of these incarnations that are not known to be dead, all at once.
    pub(crate) fn fence(&self, incarnations: &BTreeSet<Arc<str>>) -> Result<(), String> {
        let open: Vec<_> = {
            let view = self.view();
            let ids = incarnations.iter().map(|run| (run, view.ids(run).to_vec()));
            ids.filter(|(_, ids)| !ids.is_empty()).collect()
        };
        let fence =
            |(run, ids): &(&Arc<str>, Vec<u64>)| self.fences.fence(&self.settings, run, ids);
        if let [one] = &open[..] {
            return fence(one);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = open.iter().map(|one| scope.spawn(|| fence(one))).collect();
            let mut result = Ok(());
            for thread in threads {
                let ended = thread.join();
                result =
                    result.and(ended.unwrap_or_else(|_| Err("a fencing thread panicked".into())));
            }
            result
        })
    }

    fn joined(&self) -> Option<Arc<Joined>> {
        let joined = self
            .joined
            .lock()
            .expect("no holder of the membership panics");
        joined.clone()
    }
}

/// This process claims an owner, or gives it up; others wait until it is dropped.
pub(crate) struct Turn<'b> {
    board: &'b Board,
    owner: Arc<str>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A panic elsewhere must not become one inside of a panic.
        if let Ok(mut busy) = self.board.busy.lock() {
            busy.remove(&self.owner);
        }
        self.board.freed.notify_all();
    }
}

/// The thread that reads, for as long as the board is there.
fn read(consumer: &BaseConsumer<Quiet>, topic: &str, low: Offset, board: &Weak<Board>) {
    let mut assigned = false;
    let mut warned = false;
    while let Some(board) = board.upgrade() {
        if board.is_stopped() {
            break;
        }
        if !assigned {
            let from = board.view().next().max(low);
            match assign(consumer, topic, from) {
                Ok(()) => assigned = true,
                Err(why) => {
                    warn!(why, topic, "cannot be read yet");
                    std::thread::sleep(POLL);
                    continue;
                }
            }
        }
        let mut patience = POLL;
        for _ in 0..BURST {
            match consumer.poll(patience) {
                None => break,
                Some(Ok(message)) => {
                    patience = Duration::ZERO;
                    let key = message.key().unwrap_or_default();
                    let note = Note::parse(key, message.payload());
                    if note.is_none() && !warned {
                        warned = true;
                        let (offset, key) = (message.offset(), String::from_utf8_lossy(key));
                        warn!(topic, offset, %key, "a record is none of ours; such are ignored");
                    }
                    board.view().fold(message.offset(), note);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => {
                    // Brokers that are away come back.
                    debug!(error = words(&error), topic, "reading waits");
                    use rdkafka::error::RDKafkaErrorCode as Code;
                    let code = error.rdkafka_error_code();
                    if matches!(code, Some(Code::OffsetOutOfRange | Code::AutoOffsetReset)) {
                        assigned = false;
                        end_if_shorter(consumer, topic, &board);
                    }
                    break;
                }
            }
        }
        board.moved.notify_all();
        if let Some(joined) = board.joined() {
            joined.look(&board);
        }
    }
}

/// A topic that ends before what was read of it is another one, made anew: what this run knows holds no
/// more, and the others do not know it.
fn end_if_shorter(consumer: &BaseConsumer<Quiet>, topic: &str, board: &Board) {
    let patience = board.settings.request_timeout;
    match consumer.fetch_watermarks(topic, 0, patience) {
        Ok((_, end)) if end < board.view().next() => {
            warn!(topic, "was made anew; this run ends");
            board.view().end(Ended::Silent);
        }
        Ok(_) => {}
        Err(error) => debug!(error = words(&error), topic, "where it ends is not known"),
    }
}

fn assign(consumer: &BaseConsumer<Quiet>, topic: &str, from: Offset) -> Result<(), String> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, 0, KafkaOffset::Offset(from))
        .map_err(|error| words(&error))?;
    consumer.assign(&list).map_err(|error| words(&error))
}
