//! Workers: threads that take in what callers submit and drive the tasks of their partitions.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use onhand_log::{Log, Progress};

use crate::inbox::{Shared, SubmitError, WorkerHandle};
use crate::opener::{Inner, Opener};
use crate::processor::Processor;
use crate::publish::Publish;
use crate::restore::{RestoreError, Restored};
use crate::round::{Round, Standing, drive};
use crate::snapshot::SnapshotDir;
use crate::standby::Standbys;
use crate::task::Topics;

/// Which partitions a worker opens when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AtStart {
    /// All of them: the log is this instance's alone.
    #[default]
    OpenAll,
    /// None: somebody says, later, which are its own.
    OpenNone,
}

/// How the tasks of a node are run.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Threads; partition p is driven by thread p modulo this. 1 fits two cores: parsing and rendering
    /// outside cost more than deciding.
    pub threads: u16,
    /// Which partitions are open when it has started.
    pub at_start: AtStart,
    /// Tells apart the instances that share a log: it is in the names under which they take work in,
    /// `{name}-intake-{instance}/{thread}`, so that none fences another's. Empty where there is one:
    /// `{name}-intake/{thread}`. Such a name has at most 255 bytes.
    pub instance: Arc<str>,
    /// What may wait in a thread's inbox; above it [`SubmitError::Busy`]. Bounds memory.
    pub inbox_bytes: usize,
    /// Renders redo records for others, in their own appends.
    pub publish: Option<Arc<dyn Publish>>,
    /// Where snapshot files go; `None`: none are written or read.
    pub snapshot_dir: Option<PathBuf>,
    /// A snapshot of a task is written when this much redo stands behind the last one, and four times
    /// as much as that took; and when the task closes. Bounds what a restart applies again.
    pub snapshot_redo_bytes: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            at_start: AtStart::default(),
            instance: Arc::from(""),
            inbox_bytes: 64 << 20,
            publish: None,
            snapshot_dir: None,
            snapshot_redo_bytes: 8 << 20,
        }
    }
}

/// The running workers of a node. Dropping it stops them; [`Worker::stop`] also says how it went.
pub struct Worker<P: Processor> {
    opener: Opener<P>,
    threads: Vec<JoinHandle<()>>,
}

impl<P: Processor> fmt::Debug for Worker<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("threads", &self.threads.len())
            .finish()
    }
}

impl<P: Processor> Worker<P> {
    /// Starts the threads, and opens all partitions of the input topic, several at a time, or none:
    /// [`WorkerConfig::at_start`]. `restored` is told of each partition as it is ready, then and later.
    ///
    /// # Errors
    /// [`RestoreError`] of the first partition that cannot be restored; what was opened is closed again.
    pub fn start(
        log: &Arc<dyn Log>,
        name: &str,
        topics: Topics,
        partitions: u16,
        make: impl Fn(u16) -> P + Send + Sync + 'static,
        config: &WorkerConfig,
        restored: impl Fn(u16, Restored) + Send + Sync + 'static,
    ) -> Result<Self, RestoreError> {
        let make: Arc<dyn Fn(u16) -> P + Send + Sync> = Arc::new(make);
        let snapshots = config
            .snapshot_dir
            .as_deref()
            .map(|path| SnapshotDir::new(path).map_err(|error| (path.to_owned(), error)))
            .transpose()
            .map_err(|(path, error)| RestoreError::Snapshots { path, error })?;
        let thread_count = config.threads.clamp(1, partitions.max(1));
        let shared: Vec<_> = (0..thread_count).map(|_| Arc::new(Shared::new())).collect();
        for one in &shared {
            let one = Arc::clone(one);
            log.listen(Box::new(move |progress| {
                if progress != Progress::Durable {
                    one.stir();
                }
            }));
        }
        let handle = WorkerHandle {
            shared: Arc::new(shared),
            open: (0..partitions).map(|_| AtomicBool::new(false)).collect(),
            inbox_bytes_max: config.inbox_bytes,
        };
        let standbys = Standbys::new(
            log,
            name,
            topics,
            &make,
            snapshots.clone(),
            config.snapshot_redo_bytes,
        );
        let opener = Opener(Arc::new(Inner {
            standbys,
            handle: handle.clone(),
            log: Arc::clone(log),
            name: name.into(),
            topics,
            make: Arc::clone(&make),
            snapshots: snapshots.clone(),
            publish: config.publish.clone(),
            snapshot_redo_bytes: config.snapshot_redo_bytes,
            restored: Box::new(restored),
            gates: (0..partitions).map(|_| Mutex::new(())).collect(),
            left: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        }));
        // Dropped where something fails, which ends what was started.
        let mut worker = Self {
            opener,
            threads: Vec::new(),
        };
        let instance = instance_mark();
        let places = usize::from(partitions.div_ceil(thread_count));
        for (number, shared) in handle.shared.iter().enumerate() {
            let round = Round {
                log: Arc::clone(log),
                token: log.claim(&intake_name(name, &config.instance, number))?,
                topics,
                tasks: (0..places).map(|_| None).collect(),
                thread_count,
                make: Arc::clone(&make),
                in_flight: Default::default(),
                tickets: Default::default(),
                instance,
                next_ticket: (number as u64) << 48,
                snapshots: snapshots.clone(),
                snapshot_redo_bytes: config.snapshot_redo_bytes,
                snapshot_turns: Default::default(),
                standings: vec![Standing::default(); places],
                closing: Vec::new(),
                put_off: Default::default(),
            };
            let (log, shared) = (Arc::clone(log), Arc::clone(shared));
            *shared.round.lock().unwrap_or_else(PoisonError::into_inner) = Some(round);
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    let drive = || drive(log.as_ref(), &shared);
                    // A panic outside the processing of a record leaves the round poisoned: the
                    // second call sees that, and tells everybody who waits.
                    if std::panic::catch_unwind(AssertUnwindSafe(drive)).is_err() {
                        drive();
                    }
                })?;
            worker.threads.push(thread);
        }
        if config.at_start == AtStart::OpenAll {
            open_all(&worker.opener, partitions)?;
        }
        Ok(worker)
    }

    /// [`Opener::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(&self, partition: u16) -> Result<Restored, RestoreError> {
        self.opener.open(partition)
    }

    /// [`Opener::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self, partition: u16) -> Result<(), SubmitError> {
        self.opener.close(partition)
    }

    /// What opens and closes partitions, to hand out. It works until the workers stop, and refuses from
    /// then on.
    pub fn opener(&self) -> Opener<P> {
        self.opener.clone()
    }

    /// What follows partitions that others own, to hand out: nothing is followed before it is told so.
    pub fn standbys(&self) -> Standbys<P> {
        self.opener.0.standbys.clone()
    }

    /// The way in, to hand out. It works until the workers stop, and refuses from then on.
    pub fn handle(&self) -> WorkerHandle<P> {
        self.opener.0.handle.clone()
    }

    /// Takes nothing more, finishes what was taken, makes it durable, gives up all names, writes
    /// snapshots, and ends the threads.
    ///
    /// # Errors
    /// What a thread stopped for, if one had stopped before.
    pub fn stop(mut self) -> Result<(), SubmitError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SubmitError> {
        self.opener.0.standbys.end();
        for shared in self.opener.0.handle.shared.iter() {
            shared.lock().stop = true;
            shared.arrived.notify_one();
        }
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                result = Err(SubmitError::Stopped("a worker thread panicked".to_owned()));
            }
        }
        for shared in self.opener.0.handle.shared.iter() {
            if let Some(why) = &shared.lock().closed {
                result = Err(SubmitError::Stopped(why.clone()));
            }
        }
        result
    }
}

impl<P: Processor> Drop for Worker<P> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "worker ended in trouble");
        }
    }
}

/// A mark that no earlier process of this log used, as far as 32 bits can tell: a restarted node must
/// not take an old record's key for one of its own tickets. Old records are not read again unless
/// their decision was lost, and a false match then only answers a ticket number that is not open.
fn instance_mark() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mixed = RandomState::new().build_hasher().finish();
    u32::try_from(mixed >> 32).expect("32 bits are left")
}

/// The name under which a thread of that instance takes work in.
fn intake_name(name: &str, instance: &str, thread: usize) -> String {
    if instance.is_empty() {
        format!("{name}-intake/{thread}")
    } else {
        format!("{name}-intake-{instance}/{thread}")
    }
}

/// Opens all partitions, as many at a time as there are cores.
fn open_all<P: Processor>(opener: &Opener<P>, partitions: u16) -> Result<(), RestoreError> {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(usize::from(partitions)) {
            scope.spawn(|| {
                while let Ok(partition) = u16::try_from(next.fetch_add(1, Ordering::SeqCst)) {
                    if partition >= partitions {
                        return;
                    }
                    if let Err(error) = opener.open(partition) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.push((partition, error));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let first = failed.into_iter().min_by_key(|(partition, _)| *partition);
    first.map_or(Ok(()), |(_, error)| Err(error))
}
