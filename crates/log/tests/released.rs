//! A segment that is released while somebody reads from it: the reader is told what is held now.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onhand_log::journal::storage::{Storage, StorageFile};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::testing::{FaultDisk, append_and_wait, batch_of, topic};
use onhand_log::{Log, ReadError, TopicPartition, View};

/// What happens once, just before the next read of a segment, which then finds other bytes.
type Meanwhile = Box<dyn FnOnce() + Send>;

#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Option<Meanwhile>>>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A disk that calls the hook.
#[derive(Debug)]
struct Watched {
    disk: FaultDisk,
    hook: Hook,
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn StorageFile>,
    hook: Hook,
}

impl Watched {
    fn watch(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let hook = self.hook.clone();
        Arc::new(WatchedFile { file, hook })
    }
}

impl Storage for Watched {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.watch(self.disk.open(name)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.watch(self.disk.create(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
}

impl StorageFile for WatchedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let meanwhile = self.hook.0.lock().unwrap().take();
        let read = self.file.read_at(into, at)?;
        if let Some(meanwhile) = meanwhile {
            meanwhile();
            into.fill(0);
        }
        Ok(read)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// A journal of several segments, and a hook that releases all but the last at the next read.
fn journal() -> (Arc<Journal>, TopicPartition, impl Fn()) {
    let (disk, hook) = (FaultDisk::new(), Hook::default());
    let storage = Watched {
        disk,
        hook: hook.clone(),
    };
    let config = JournalConfig {
        segment_bytes: 64 << 10,
        max_append_bytes: 16 << 10,
        space_retry: Duration::from_millis(5),
        tail_bytes: 0,
        ..JournalConfig::new("a disk in memory")
    };
    let journal = Arc::new(Journal::open_on(Arc::new(storage), config).unwrap());
    let at = TopicPartition {
        topic: topic(&*journal, "t", 1),
        partition: 0,
    };
    let token = journal.claim("filler").unwrap();
    for i in 0..200 {
        append_and_wait(&*journal, &token, vec![(at, batch_of(i, &[3; 900]))]);
    }
    let segments = journal.segments();
    assert!(segments.len() >= 3, "{segments:?}");
    let last = *segments.last().unwrap();
    let released = Arc::clone(&journal);
    let arm = move || {
        let released = Arc::clone(&released);
        *hook.0.lock().unwrap() = Some(Box::new(move || released.release(last).unwrap()));
    };
    (journal, at, arm)
}

#[test]
fn a_reader_whose_segment_is_released_is_told_where_to_read_on() {
    let (journal, at, arm) = journal();
    arm();
    let error = journal.read(at, 0, 1, View::Durable).unwrap_err();
    let bounds = journal.bounds(at, View::Latest).unwrap();
    assert!(bounds.start > 0);
    let told = ReadError::OutOfRange {
        asked: 0,
        start: bounds.start,
        end: bounds.end,
    };
    assert_eq!(error, told);
}

#[test]
fn a_time_whose_segment_is_released_is_looked_for_in_what_is_held() {
    let (journal, at, arm) = journal();
    arm();
    let found = journal.offset_at(at, 5).unwrap();
    let bounds = journal.bounds(at, View::Latest).unwrap();
    assert!(bounds.start > 5);
    assert_eq!(found, Some(bounds.start));
}

#[test]
fn a_time_is_not_found_in_what_was_released_though_it_is_still_in_memory() {
    let config = JournalConfig {
        segment_bytes: 64 << 10,
        max_append_bytes: 16 << 10,
        ..JournalConfig::new("a disk in memory")
    };
    let journal = Journal::open_on(Arc::new(FaultDisk::new()), config).unwrap();
    let at = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    let token = journal.claim("filler").unwrap();
    append_and_wait(&journal, &token, vec![(at, batch_of(1_000, b"early"))]);
    for i in 0..200 {
        append_and_wait(&journal, &token, vec![(at, batch_of(i, &[3; 900]))]);
    }
    assert_eq!(journal.offset_at(at, 500).unwrap(), Some(0));
    journal
        .release(*journal.segments().last().unwrap())
        .unwrap();
    assert_eq!(journal.offset_at(at, 500).unwrap(), None);
}
