//! Reading a journal without changing or locking it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::fetch::{self, Shelves};
use super::recovery::{self, RecoveryReport};
use super::segment::Entry;
use super::shelf::{Load, Shelf};
use super::storage::{DirStorage, Storage};
use super::{OpenError, image::Image};
use crate::{Bounds, Fetch, Glimpse, Offset, ReadError, Timestamp, Topic, TopicPartition};

/// A journal as it lay on the disk when this was opened. Meant for a stopped or copied journal: on
/// one that is being written it sees what had been written by then, synced or not, and may find a
/// torn end.
#[derive(Debug)]
pub struct JournalReader {
    journal: u64,
    image: Image,
    report: RecoveryReport,
    shelf: Mutex<Shelf>,
}

impl JournalReader {
    /// Reads the journal in `dir`.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory without a journal is an [`OpenError::Io`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let storage =
            DirStorage::read_only(dir).map_err(OpenError::io("read the data directory"))?;
        Self::open_on(&storage)
    }

    /// Reads the journal on this storage.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn open_on(storage: &dyn Storage) -> Result<Self, OpenError> {
        let began = std::time::Instant::now();
        let recovered = recovery::recover(storage)?.ok_or_else(|| OpenError::Io {
            what: "find a journal",
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "it holds no segment"),
        })?;
        let mut report = recovered.report;
        report.took = began.elapsed();
        Ok(Self {
            journal: recovered.journal,
            image: recovered.image,
            report,
            shelf: Mutex::new(recovered.shelf),
        })
    }

    /// What opening found; a torn end is left where it is.
    pub fn recovery(&self) -> RecoveryReport {
        self.report
    }

    /// What it is as a whole.
    pub fn glimpse(&self) -> Glimpse {
        Glimpse {
            id: self.journal,
            standing: self.image.standing.clone(),
            is_unused: self.image.is_unused(),
        }
    }

    /// See [`crate::Log::epoch`].
    pub fn epoch(&self) -> u64 {
        self.image.epoch
    }

    /// The latest time of any frame: where the journal's clock stood when it stopped.
    pub fn time(&self) -> Timestamp {
        self.image.time
    }

    /// See [`crate::Log::topics`].
    pub fn topics(&self) -> &[Topic] {
        self.image.catalog.topics()
    }

    /// The names that were ever claimed, with their newest generation.
    pub fn owners(&self) -> impl Iterator<Item = (&str, u64)> {
        self.image
            .catalog
            .owners
            .iter()
            .map(|(name, owner)| (&**name, owner.generation))
    }

    /// See [`crate::Log::consumed`].
    pub fn consumed(&self, owner: &str, at: TopicPartition) -> Option<Offset> {
        self.image.catalog.consumed(owner, at)
    }

    /// See [`crate::Log::bounds`].
    ///
    /// # Errors
    /// [`ReadError::UnknownTopic`].
    pub fn bounds(&self, at: TopicPartition) -> Result<Bounds, ReadError> {
        let (_, start, end) = self.partition(at)?;
        Ok(Bounds { start, end })
    }

    /// See [`crate::Log::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetch, ReadError> {
        let (slot, start, end) = self.partition(at)?;
        if !(start..=end).contains(&from) {
            return Err(ReadError::OutOfRange {
                asked: from,
                start,
                end,
            });
        }
        let find = || self.lock().find(slot, from, end, max_bytes);
        let batches = fetch::batches(self, find)?;
        Ok(fetch::fetch_of(from, batches.unwrap_or_default()))
    }

    /// See [`crate::Log::offset_at`].
    ///
    /// # Errors
    /// As [`JournalReader::read`].
    pub fn offset_at(
        &self,
        at: TopicPartition,
        time: Timestamp,
    ) -> Result<Option<Offset>, ReadError> {
        let (slot, start, _) = self.partition(at)?;
        let find = || self.lock().find_time(slot, start, time);
        let batches = fetch::batches(self, find)?;
        Ok(batches.and_then(|batches| fetch::first_at(&batches, start, time)))
    }

    fn partition(&self, at: TopicPartition) -> Result<(usize, Offset, Offset), ReadError> {
        let slot = self
            .image
            .catalog
            .slot(at)
            .ok_or(ReadError::UnknownTopic(at))?;
        let (start, end) = self
            .image
            .bounds
            .get(slot)
            .ok_or(ReadError::UnknownTopic(at))?;
        Ok((slot, *start, *end))
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("no holder of the shelf panics")
    }
}

impl Shelves for JournalReader {
    fn loaded(&self, load: &Load, run: Vec<Entry>) {
        self.lock().loaded(load, run);
    }

    fn holds(&self, segment: u64) -> bool {
        self.lock().holds(segment)
    }
}
