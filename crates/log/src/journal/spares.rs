//! Prepared segments: written with zeros ahead of time, or recycled from released ones.
//!
//! A thread keeps [`SPARES_KEPT`] ready, so that the writer never waits for zeros to be written,
//! and so that one remains for finishing what was begun when the disk is full.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::segment::{spare_name, spare_number};
use super::storage::{Storage, StorageFile};

/// The next segment, and the reserve for decisions on a full disk.
pub(super) const SPARES_KEPT: usize = 2;
/// Released segments kept for reuse beyond that: enough to absorb a burst without giving back and
/// asking again, few enough not to hold a disk's space for nothing.
const RECYCLED_MAX: usize = 4;
/// Zeros are synced in pieces of this size, so that a sync of records that comes in between waits
/// for little.
const SYNC_PIECE: u64 = 1 << 20;
/// After each piece the disk is left alone for this many times as long as it took, unless somebody
/// waits for the segment: preparing at full speed made single appends ten times slower.
const REST: u32 = 3;

/// A file of the right size that holds nothing of worth.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn StorageFile>,
}

/// The prepared segments of one journal.
#[derive(Debug)]
pub(super) struct Spares {
    storage: Arc<dyn Storage>,
    segment_bytes: u64,
    retry: Duration,
    inner: Mutex<Inner>,
    changed: Condvar,
    ready: AtomicUsize,
    failed: AtomicBool,
    hurried: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    ready: VecDeque<Spare>,
    next_number: u64,
    halted: bool,
}

impl Spares {
    /// Takes over the spares that are there; what was left half prepared is removed.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        segment_bytes: u64,
        retry: Duration,
    ) -> io::Result<Self> {
        let mut ready = VecDeque::new();
        let mut next_number = 1;
        for name in storage.list()? {
            let Some(number) = spare_number(&name) else {
                continue;
            };
            next_number = next_number.max(number + 1);
            let file = storage.open(&name)?;
            if file.size()? >= segment_bytes && ready.len() < RECYCLED_MAX {
                ready.push_back(Spare { name, file });
            } else {
                storage.remove(&name)?;
            }
        }
        let count = ready.len();
        Ok(Self {
            storage,
            segment_bytes,
            retry,
            inner: Mutex::new(Inner {
                ready,
                next_number,
                halted: false,
            }),
            changed: Condvar::new(),
            ready: AtomicUsize::new(count),
            failed: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        })
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the last attempt to prepare one failed.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Somebody waits: the segment being prepared is finished without rests.
    pub(super) fn hurry(&self) {
        if !self.hurried.swap(true, Ordering::AcqRel) {
            self.changed.notify_all();
        }
    }

    /// A spare now, prepared here if none is ready: for the journal's very first segment. Space that is
    /// only reserved is not enough: each first write into it changes the file's map of blocks, and
    /// its sync then took half as long again.
    pub(super) fn take_now(&self) -> io::Result<Spare> {
        let mut inner = self.lock();
        if let Some(spare) = inner.ready.pop_front() {
            self.ready.store(inner.ready.len(), Ordering::Release);
            return Ok(spare);
        }
        let name = spare_name(inner.next_number);
        inner.next_number += 1;
        drop(inner);
        let file = self.prepare(&name, false)?;
        Ok(Spare { name, file })
    }

    /// Waits for a spare.
    ///
    /// # Errors
    /// When there is none and none can be made, or the journal stops.
    pub(super) fn take(&self) -> io::Result<Spare> {
        let mut inner = self.lock();
        loop {
            if let Some(spare) = inner.ready.pop_front() {
                self.ready.store(inner.ready.len(), Ordering::Release);
                self.changed.notify_all();
                return Ok(spare);
            }
            if inner.halted {
                return Err(io::Error::other("the journal is stopping"));
            }
            if self.failed() {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "no segment could be prepared",
                ));
            }
            self.hurry();
            inner = self
                .changed
                .wait(inner)
                .expect("no holder of the spares panics");
        }
    }

    /// Takes back a segment that was released; removes it when there are enough.
    pub(super) fn recycle(&self, segment: &str, file: Arc<dyn StorageFile>) -> io::Result<()> {
        // Whoever still reads it keeps it until done; it must not be written under them.
        let read_by_others = Arc::strong_count(&file) > 1;
        let small = file.size()? < self.segment_bytes;
        let mut inner = self.lock();
        if read_by_others || small || inner.ready.len() >= RECYCLED_MAX {
            drop(inner);
            return self.storage.remove(segment);
        }
        let name = spare_name(inner.next_number);
        inner.next_number += 1;
        self.storage.rename(segment, &name)?;
        // Before a byte of it changes: under its old name it must be what that name says.
        self.storage.sync_names()?;
        inner.ready.push_back(Spare { name, file });
        self.ready.store(inner.ready.len(), Ordering::Release);
        self.failed.store(false, Ordering::Release);
        self.changed.notify_all();
        Ok(())
    }

    /// Ends [`Spares::run`] and every wait.
    pub(super) fn halt(&self) {
        self.lock().halted = true;
        self.changed.notify_all();
    }

    /// Prepares segments until halted.
    pub(super) fn run(&self) {
        let mut inner = self.lock();
        loop {
            if inner.halted {
                return;
            }
            if inner.ready.len() >= SPARES_KEPT {
                inner = self
                    .changed
                    .wait(inner)
                    .expect("no holder of the spares panics");
                continue;
            }
            let name = spare_name(inner.next_number);
            inner.next_number += 1;
            drop(inner);
            let prepared = self.prepare(&name, true);
            inner = self.lock();
            match prepared {
                Ok(file) => {
                    inner.ready.push_back(Spare { name, file });
                    self.ready.store(inner.ready.len(), Ordering::Release);
                    self.hurried.store(false, Ordering::Release);
                    self.failed.store(false, Ordering::Release);
                    self.changed.notify_all();
                }
                Err(_) => {
                    // The space it took is needed elsewhere. If it cannot be removed now, the next
                    // opening does so.
                    let _ = self.storage.remove(&name);
                    self.failed.store(true, Ordering::Release);
                    self.changed.notify_all();
                    let waited = self.changed.wait_timeout(inner, self.retry);
                    inner = waited.expect("no holder of the spares panics").0;
                }
            }
        }
    }

    /// Writes a file of zeros. Overwriting such a file later changes no metadata, which makes each sync
    /// about twice as fast as growing one. With `rests` the disk is left alone after each piece.
    fn prepare(&self, name: &str, rests: bool) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.storage.create(name)?;
        let piece = vec![0; usize::try_from(SYNC_PIECE.min(self.segment_bytes)).unwrap_or(0)];
        let mut at = 0;
        while at < self.segment_bytes {
            if self.lock().halted {
                return Err(io::Error::other("the journal is stopping"));
            }
            let began = Instant::now();
            let rest = usize::try_from(self.segment_bytes - at).unwrap_or(usize::MAX);
            let zeros = piece.get(..rest.min(piece.len())).unwrap_or(&piece);
            file.write_at(zeros, at)?;
            file.sync()?;
            at += zeros.len() as u64;
            let inner = self.lock();
            let hurried = !rests || self.hurried.load(Ordering::Acquire);
            if at < self.segment_bytes && !inner.halted && !hurried {
                let rested = self.changed.wait_timeout(inner, began.elapsed() * REST);
                drop(rested.expect("no holder of the spares panics"));
            }
        }
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the spares panics")
    }
}
