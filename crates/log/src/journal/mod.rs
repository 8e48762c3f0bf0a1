//! The embedded journal: one sequence of frames in segment files, for all topics at once.
//!
//! ```text
//!            append                 writer (one at a time)            segment files
//!  callers ─► queue of frames ─► encode ─► write ─► fdatasync ─► segment-…1 segment-…2 …
//!                │                                     │
//!                └► tail in memory, View::Latest       └► durable position, endings, listeners
//! ```
//!
//! A frame holds batches for any number of partitions, the input positions they consumed and whose
//! token wrote them; it is valid whole or not at all, so what survives a crash is a prefix of what
//! happened, across all topics at once. Claims, topics and epochs are frames too.
//!
//! Modules in reading order: `config` (what it is opened with), [`frame`] and `segment` (the bytes, tabled in `docs/format.md`),
//! `image` (what the frames amount to), `shelf` (where batches lie), `state` (what threads share
//! and how a group passes), `writer`, `spares` (prepared segments), `recovery`, [`mod@check`] and
//! [`reader`] (without changing anything), [`storage`] (the disk, or a double).

mod bytes;
pub mod check;
mod config;
mod fetch;
pub mod frame;
mod image;
pub mod reader;
mod recovery;
mod segment;
mod shelf;
mod spares;
mod state;
pub mod storage;
mod writer;

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::frame::Content;
use self::image::Image;
use self::segment::{Entry, segment_name};
use self::shelf::{Load, Step};
use self::spares::{Spare, Spares};
use self::state::{Partition, Shared, State};
use self::storage::{DirLock, DirStorage, Storage};
use self::writer::{Writer, first_segment, limits};
use crate::{
    Append, AppendError, Bounds, Fetch, Listener, Log, Offset, Opening, Progress, ReadError,
    RecordBatch, Standing, Stats, Timestamp, Token, Topic, TopicError, TopicId, TopicPartition,
    TopicSpec, View,
};

pub use self::check::{CheckError, CheckReport, check};
pub use self::config::{
    Durability, JournalConfig, OpenError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
pub use self::reader::JournalReader;
pub use self::recovery::RecoveryReport;

/// The embedded journal. See [`Log`] for its promises.
///
/// [`Log::append`] waits while more than [`JournalConfig::pending_bytes_max`] waits for the disk,
/// and while the next segment is being prepared and nothing else has room. [`Log::flush`] may write
/// and sync a small group on the caller's thread ([`JournalConfig::inline_flush_bytes`]).
///
/// After a failed write or sync the journal stops for good ([`Progress::Stopped`]): everything in
/// flight ends [`crate::Ending::Unknown`], nothing is tried again, and nothing more is acknowledged. Open
/// the directory anew to go on from what the disk holds.
///
/// Dropped without [`Log::close`] it ends as if the process were killed: what has not ended ends
/// [`crate::Ending::Unknown`] and may be lost.
pub struct Journal {
    shared: Arc<Shared>,
    epoch: u64,
    recovery: RecoveryReport,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<DirLock>>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("dir", &self.shared.config.dir)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `config.dir`, creating it when there is none.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is changed unless opening succeeds, apart from an unfinished end
    /// being made ready to be overwritten.
    pub fn open(config: JournalConfig) -> Result<Self, OpenError> {
        config.check()?;
        let storage =
            DirStorage::create(&config.dir).map_err(OpenError::io("create the data directory"))?;
        let lock = storage
            .lock()
            .map_err(OpenError::io("lock the data directory"))?;
        let lock = lock.map_err(|holder| OpenError::Locked {
            dir: config.dir.clone(),
            holder,
        })?;
        let journal = Self::open_on(Arc::new(storage), config)?;
        *journal.lock.lock().expect("nobody else has it yet") = Some(lock);
        Ok(journal)
    }

    /// Opens the journal on another storage than a directory; `config.dir` is only its name. There
    /// is no lock: the caller makes sure that it is opened once.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(storage: Arc<dyn Storage>, config: JournalConfig) -> Result<Self, OpenError> {
        config.check()?;
        let began = Instant::now();
        let recovered = recovery::recover(&*storage)?;
        let before = recovered.as_ref().map(|found| &found.image);
        let opened = before.map_or(Standing::Own, |image| image.standing.clone());
        let unused = before.is_none_or(Image::is_unused);
        let standing = opened.open(&config.opening, unused);
        let standing = standing.map_err(|why| OpenError::Standing {
            dir: config.dir.clone(),
            why,
        })?;
        let spares = Spares::open(
            Arc::clone(&storage),
            config.segment_bytes,
            config.space_retry,
        )
        .map_err(OpenError::io("take over prepared segments"))?;
        let recovered = match recovered {
            Some(recovered) => recovered,
            None => {
                let make = || {
                    let spare: Spare = spares.take_now()?;
                    first_segment(&*storage, &spare, random(), config.segment_bytes)
                };
                make().map_err(OpenError::io("create the first segment"))?;
                recovery::recover(&*storage)?.ok_or_else(|| OpenError::Io {
                    what: "find the first segment",
                    source: io::Error::other("it is gone right after it was created"),
                })?
            }
        };
        let mut report = recovered.report;
        let fresh = recovered.next_frame == 1;
        // Only the session that wrote knows whether it synced what it acknowledged.
        let lossy = recovered.image.durability != Durability::Sync.code();
        let unsealed = config.opening == Opening::Unseal;
        report.epoch_began = fresh || unsealed || lossy && !report.sealed;
        let epoch = if let Opening::Fill(fill) = &config.opening {
            // The copy's history is its source's. What a crash may take from it is copied again.
            report.epoch_began = false;
            fill.epoch
        } else if report.epoch_began {
            random()
        } else {
            recovered.image.epoch
        };

        // A sync that failed may have marked pages clean that never reached the disk, so that what
        // was just read is in the page cache only. Written again, they are dirty again, and the
        // sync of the opening frame takes them along.
        let (at, bytes) = &recovered.unproven;
        recovered
            .file
            .write_at(bytes, *at)
            .map_err(OpenError::io("rewrite the journal's last frames"))?;

        for number in recovered.released {
            let name = segment_name(number);
            let reuse = || spares.recycle(&name, storage.open(&name)?);
            reuse().map_err(OpenError::io("reuse a released segment"))?;
        }
        let state = State::new(&recovered.image, recovered.shelf);
        let writer = Writer {
            storage,
            journal: recovered.journal,
            segment_bytes: config.segment_bytes,
            file: recovered.file,
            segment: recovered.segment,
            at: recovered.at,
            limit: recovered.limit.min(limits(config.segment_bytes).0),
            synced_through: recovered.next_frame - 1,
            next_frame: recovered.next_frame,
            previous: recovered.previous,
            image_bytes: recovered.image.bytes_encoded() as u64,
            image: recovered.image,
            buffer: Vec::new(),
            entries: Vec::new(),
        };
        let shared = Arc::new(Shared::new(config, spares, state, writer));
        let mut journal = Self {
            shared,
            epoch,
            recovery: report,
            threads: Mutex::new(Vec::new()),
            lock: Mutex::new(None),
        };
        journal.start(epoch, &standing)?;
        journal.recovery.took = began.elapsed();
        Ok(journal)
    }

    /// Starts the threads and writes the opening frame. It makes this session's frames differ from
    /// any cut end of an earlier one, which may still lie intact behind them.
    fn start(&self, epoch: u64, standing: &Standing) -> Result<(), OpenError> {
        let spawn = |name: &str, work: fn(&Shared)| {
            let shared = Arc::clone(&self.shared);
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || work(&shared))
        };
        let start = || -> io::Result<()> {
            let mut threads = self.threads.lock().expect("nobody else has them yet");
            threads.push(spawn("log-spares", |shared| shared.spares.run())?);
            let shared = &self.shared;
            let mut writer = shared.lock_writer();
            let durability = shared.config.durability.code();
            let open = Content::Open {
                session: random(),
                epoch,
                durability,
            };
            writer.put(shared, &open, &[], shared.clock.now())?;
            if *standing != writer.image.standing {
                let content = Content::Standing(standing.clone());
                writer.put(shared, &content, &[], shared.clock.now())?;
            }
            writer.write_out()?;
            writer.sync()?;
            threads.push(spawn("log-writer", run_writer)?);
            Ok(())
        };
        start().map_err(OpenError::io("write the opening frame"))
    }

    /// What opening found.
    pub fn recovery(&self) -> RecoveryReport {
        self.recovery
    }

    /// The segments held, oldest first, by number. The last is being written.
    pub fn segments(&self) -> Vec<u64> {
        self.shared
            .lock()
            .shelf
            .segments()
            .map(|(number, _)| number)
            .collect()
    }

    /// Lets go of all segments below `first` for ever: partitions then start at their first record
    /// in what remains, and the files are used again. Durable when it returns.
    ///
    /// # Errors
    /// [`AppendError::Stopped`] when the journal is stopped, also by this; a number beyond the
    /// segment being written releases what is before that.
    pub fn release(&self, first: u64) -> Result<(), AppendError> {
        let shared = &self.shared;
        // Holding the writer's role, nobody else turns or releases segments meanwhile.
        let mut writer = shared.lock_writer();
        shared.commit(&mut writer);
        let first = first.min(writer.segment).max(writer.image.first_segment);
        {
            let mut state = shared.lock();
            state.check_running()?;
            let starts = state
                .partitions
                .iter()
                .zip(state.catalog.slots())
                .enumerate();
            let starts = starts.filter_map(|(slot, (partition, at))| {
                let durable = partition.durable;
                let start = state.shelf.start_without(slot, first).unwrap_or(durable);
                (start > partition.start).then_some((*at, start))
            });
            let starts: Vec<_> = starts.collect();
            for (at, start) in &starts {
                let slot = state.catalog.slot(*at).expect("slots are of the catalog");
                let partition = state.partitions.get_mut(slot).expect("each slot has one");
                partition.start = *start;
            }
            shared.enter_own(
                &mut state,
                Content::Release {
                    first_segment: first,
                    starts,
                },
            )?;
        }
        shared.commit(&mut writer);
        if let Err(error) = writer.sync() {
            shared.poison(Vec::new(), &format!("syncing failed: {error}"));
        }
        let mut state = shared.lock();
        state.check_running()?;
        let released = state.shelf.release(first);
        drop(state);
        for (number, file) in released {
            // A file that cannot be reused or removed stays, and the next opening tries again: it
            // is below the first segment held.
            let _ = shared.spares.recycle(&segment_name(number), file);
        }
        Ok(())
    }

    fn halt(&self) {
        self.shared.lock().halted = true;
        self.shared.spares.halt();
        self.shared.work.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().expect("threads end quietly"));
        for thread in threads {
            // A panic of a thread was already reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.halt();
        if self.shared.lock().stopped().is_none() {
            self.shared
                .poison(Vec::new(), "it was dropped without being closed");
        }
    }
}

/// How long after the last work the writer's thread keeps looking at the linger by itself: within
/// it, whoever queues need not wake the thread.
const ALERT: Duration = Duration::from_millis(100);

/// The writer's thread.
fn run_writer(shared: &Shared) {
    let mut active = Instant::now();
    let mut synced = Instant::now();
    let mut state = shared.lock();
    loop {
        if state.halted || state.stopped().is_some() {
            return;
        }
        let linger = shared.config.linger;
        let waited = state.queued_since.map(|since| since.elapsed());
        if waited.is_some_and(|waited| state.kicked || waited >= linger) {
            drop(state);
            shared.commit(&mut shared.lock_writer());
            active = Instant::now();
            state = shared.lock();
            continue;
        }
        state.kicked = false;
        let mut limit = match waited {
            Some(waited) => Some(linger.saturating_sub(waited)),
            None => (active.elapsed() < ALERT).then_some(linger),
        };
        if let Durability::Interval(interval) = shared.config.durability
            && shared.unsynced.load(Ordering::Acquire)
        {
            let rest = interval.saturating_sub(synced.elapsed());
            if rest.is_zero() {
                drop(state);
                sync_interval(shared);
                synced = Instant::now();
                state = shared.lock();
                continue;
            }
            limit = Some(limit.map_or(rest, |limit| limit.min(rest)));
        }
        state = match limit {
            Some(limit) => {
                let waited = shared.work.wait_timeout(state, limit.max(WAIT_MIN));
                waited.expect("no holder of the journal's state panics").0
            }
            None => {
                state.asleep = true;
                let woken = shared.work.wait(state);
                let mut woken = woken.expect("no holder of the journal's state panics");
                woken.asleep = false;
                active = Instant::now();
                woken
            }
        };
    }
}

/// Shorter waits than this only burn the processor.
const WAIT_MIN: Duration = Duration::from_micros(50);

fn sync_interval(shared: &Shared) {
    let mut writer = shared.lock_writer();
    match writer.sync() {
        Ok(()) => shared.unsynced.store(false, Ordering::Release),
        Err(error) => shared.poison(Vec::new(), &format!("syncing failed: {error}")),
    }
}

/// A number that no other journal, session or epoch has.
fn random() -> u64 {
    // The standard library seeds each of these from the operating system.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish() | 1
}

impl fetch::Shelves for Shared {
    fn loaded(&self, load: &Load, run: Vec<Entry>) {
        self.lock().shelf.loaded(load, run);
    }

    fn holds(&self, segment: u64) -> bool {
        self.lock().shelf.holds(segment)
    }
}

impl Log for Journal {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn id(&self) -> u64 {
        self.shared.lock_writer().journal
    }

    fn standing(&self) -> Standing {
        self.shared.lock_writer().image.standing.clone()
    }

    fn set_standing(&self, standing: &Standing) -> Result<(), AppendError> {
        let shared = &self.shared;
        let mut writer = shared.lock_writer();
        {
            let mut state = shared.lock();
            state.check_running()?;
            shared.enter_own(&mut state, Content::Standing(standing.clone()))?;
        }
        shared.commit(&mut writer);
        // Whatever the durability: two logs of one history must not both be served.
        if !writer.is_synced()
            && let Err(error) = writer.sync()
        {
            shared.poison(Vec::new(), &format!("syncing failed: {error}"));
        }
        drop(writer);
        match shared.lock().stopped() {
            Some(why) => Err(AppendError::Stopped(why.into())),
            None => Ok(()),
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError> {
        let shared = &self.shared;
        let id = {
            let mut state = shared.lock();
            state.check_running()?;
            match state.catalog.find(spec)? {
                Some(id) => id,
                None => {
                    let more = 64 + spec.name.len() + 16 * usize::from(spec.partitions);
                    check_image(shared, &state, more)?;
                    let id = state.catalog.next_id();
                    let topic = Topic {
                        id,
                        spec: spec.clone(),
                    };
                    shared.enter_own(&mut state, Content::Topic(topic))?;
                    state.catalog.add(spec.clone());
                    let slots = state.catalog.slots().len();
                    state.partitions.resize_with(slots, Partition::default);
                    id
                }
            }
        };
        // Also when somebody else has just created it: it may not be durable yet.
        shared.commit(&mut shared.lock_writer());
        match shared.lock().stopped() {
            Some(why) => Err(AppendError::Stopped(why.into()).into()),
            None => Ok(id),
        }
    }

    fn topics(&self) -> Vec<Topic> {
        self.shared.lock().catalog.topics().to_vec()
    }

    fn claim(&self, owner: &str) -> Result<Token, AppendError> {
        crate::check_owner(owner)?;
        let shared = &self.shared;
        let mut state = shared.lock();
        state.check_running()?;
        check_image(shared, &state, 16 + owner.len())?;
        // The session's number stands in the upper half: a claim that a crash took leaves no token
        // that a later session could give out again.
        let generation = state
            .catalog
            .next_generation(owner)
            .max(shared.generation_floor());
        let owner: Arc<str> = Arc::from(owner);
        let claim = Content::Claim {
            owner: Arc::clone(&owner),
            generation,
        };
        shared.enter_own(&mut state, claim)?;
        state.catalog.claim(&owner, generation);
        Ok(Token { owner, generation })
    }

    /// Known to this process only: at the next start nobody holds any name.
    fn give_up(&self, token: &Token) -> Result<(), AppendError> {
        let mut state = self.shared.lock();
        state.check_running()?;
        state.catalog.give_up(token);
        Ok(())
    }

    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError> {
        let bytes = frame::append_frame_bytes(&token.owner, append.consumed.len(), &append.batches);
        let limit = self.shared.config.max_append_bytes;
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        self.shared.append(token, append, bytes)
    }

    fn flush(&self) {
        let shared = &self.shared;
        let mut state = shared.lock();
        if state.queue.is_empty() || state.stopped().is_some() {
            return;
        }
        if state.queue_bytes > shared.config.inline_flush_bytes as u64 {
            shared.kick(&mut state);
            return;
        }
        drop(state);
        match shared.writer.try_lock() {
            Ok(mut writer) => shared.commit(&mut writer),
            Err(_) => shared.kick(&mut shared.lock()),
        }
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        view: View,
    ) -> Result<Fetch, ReadError> {
        let shared = &self.shared;
        let (slot, limit) = {
            let state = shared.lock();
            let (slot, partition) = partition(&state, at)?;
            let (start, end) = (partition.start, partition.end);
            if !(start..=end).contains(&from) {
                return Err(ReadError::OutOfRange {
                    asked: from,
                    start,
                    end,
                });
            }
            let limit = partition.seen(view);
            if from >= limit {
                return Ok(Fetch {
                    batches: Vec::new(),
                    next: from,
                });
            }
            let tail = &partition.tail;
            if tail
                .front()
                .is_some_and(|(_, batch)| batch.base_offset() <= from)
            {
                let first = first_behind(tail, from);
                let mut bytes = 0;
                let batches = tail.range(first..).take_while(|(next, batch)| {
                    let fits = (bytes == 0 || bytes < max_bytes) && *next <= limit;
                    bytes += batch.bytes().len();
                    fits
                });
                let batches = batches.map(|(_, batch)| batch.clone()).collect();
                return Ok(fetch::fetch_of(from, batches));
            }
            (slot, limit)
        };
        let find = || shared.lock().shelf.find(slot, from, limit, max_bytes);
        match fetch::batches(&**shared, find)? {
            Some(batches) => Ok(fetch::fetch_of(from, batches)),
            // It was there when the bounds were read: it has been released since.
            None => Err(self.released(at, from)),
        }
    }

    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        let shared = &self.shared;
        let (slot, start) = {
            let state = shared.lock();
            let (slot, partition) = partition(&state, at)?;
            (slot, partition.start)
        };
        let find = || -> Step { shared.lock().shelf.find_time(slot, start, time) };
        if let Some(batches) = fetch::batches(&**shared, find)? {
            return Ok(fetch::first_at(&batches, start, time));
        }
        // The tail may still hold what was released.
        let tail: Vec<_> = {
            let state = shared.lock();
            let tail = state.partitions.get(slot).map(|partition| &partition.tail);
            tail.into_iter()
                .flatten()
                .map(|(_, batch)| batch.clone())
                .collect()
        };
        Ok(fetch::first_at(&tail, start, time))
    }

    fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError> {
        let state = self.shared.lock();
        let (_, partition) = partition(&state, at)?;
        Ok(Bounds {
            start: partition.start,
            end: partition.seen(view),
        })
    }

    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        Ok(self.shared.lock().catalog.consumed(owner, at))
    }

    fn listen(&self, listener: Listener) {
        self.shared
            .listeners
            .write()
            .expect("listeners do not panic")
            .push(listener);
    }

    fn stats(&self) -> Stats {
        let shared = &self.shared;
        let state = shared.lock();
        let segments = state.shelf.segments().count() + shared.spares.ready();
        Stats {
            bytes: state.record_bytes,
            disk_bytes: segments as u64 * shared.config.segment_bytes,
            appends: state.appends,
            syncs: state.syncs,
            pending: state.pending,
            out_of_space: shared.out_of_space(),
            clock_step_ms: shared.clock.step_ms(),
            strangers: 0,
        }
    }

    fn close(&self) -> Result<(), AppendError> {
        let shared = &self.shared;
        {
            let mut state = shared.lock();
            state.check_running()?;
            state.closing = true;
        }
        let mut writer = shared.lock_writer();
        shared.commit(&mut writer);
        if let Some(why) = shared.lock().stopped() {
            return Err(AppendError::Stopped(why.into()));
        }
        let mut seal = || -> io::Result<()> {
            // The seal says that everything before it is on the disk, so that must come first.
            if !writer.is_synced() {
                writer.sync()?;
            }
            writer.put(shared, &Content::Seal, &[], shared.clock.now())?;
            writer.write_out()?;
            writer.sync()
        };
        if let Err(error) = seal() {
            let why = format!("sealing failed: {error}");
            shared.poison(Vec::new(), &why);
            return Err(AppendError::Stopped(why));
        }
        drop(writer);
        shared.set_closed();
        self.halt();
        *self.lock.lock().expect("the lock is only dropped") = None;
        shared.tell(Progress::Stopped);
        Ok(())
    }
}

impl Journal {
    fn released(&self, at: TopicPartition, asked: Offset) -> ReadError {
        match self.bounds(at, View::Latest) {
            Ok(Bounds { start, end }) => ReadError::OutOfRange { asked, start, end },
            Err(error) => error,
        }
    }
}

/// The first batch of the tail that does not end at or before `from`. Most readers are near the end,
/// and the tail is long: it is searched from there.
fn first_behind(tail: &VecDeque<(Offset, RecordBatch)>, from: Offset) -> usize {
    let mut step = 1;
    let mut first = tail.len();
    while first > 0 {
        let look = first.saturating_sub(step);
        if tail.get(look).is_some_and(|(next, _)| *next <= from) {
            // The one sought is between.
            let mut low = look + 1;
            while low < first {
                let middle = low.midpoint(first);
                match tail.get(middle) {
                    Some((next, _)) if *next <= from => low = middle + 1,
                    _ => first = middle,
                }
            }
            return first;
        }
        first = look;
        step *= 2;
    }
    first
}

fn partition(state: &State, at: TopicPartition) -> Result<(usize, &Partition), ReadError> {
    let slot = state.catalog.slot(at).ok_or(ReadError::UnknownTopic(at))?;
    let partition = state
        .partitions
        .get(slot)
        .ok_or(ReadError::UnknownTopic(at))?;
    Ok((slot, partition))
}

/// The image of topics and owners stands in every segment and may take this part of one.
const IMAGE_PART: u64 = 8;

/// Refuses to let the image outgrow its part of a segment.
fn check_image(shared: &Shared, state: &State, more: usize) -> Result<(), AppendError> {
    let limit = usize::try_from(shared.config.segment_bytes / IMAGE_PART).unwrap_or(usize::MAX);
    let bytes = Image::bytes_of(&state.catalog) + more;
    if bytes > limit {
        return Err(AppendError::TooLarge { bytes, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchBuilder;

    #[test]
    fn the_tail_is_searched_from_its_end_and_finds_what_a_search_from_the_start_does() {
        for length in [0, 1, 2, 3, 7, 8, 100] {
            let tail: VecDeque<_> = (0..length)
                .map(|n| {
                    let mut batch = BatchBuilder::new();
                    batch.push(0, None, None, &[]);
                    // Offsets with gaps.
                    (10 + 3 * n, batch.finish().expect("it has a record"))
                })
                .collect();
            for from in 0..(12 + 3 * length) {
                let wanted = tail.partition_point(|(next, _)| *next <= from);
                assert_eq!(first_behind(&tail, from), wanted, "{from} of {length}");
            }
        }
    }
}
