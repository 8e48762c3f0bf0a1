//! Snapshot files: the whole state of a task in one file, so that a restart need not read the
//! changelog. They are a shortcut: a missing, damaged or foreign one is passed over.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ONHSNAP3` |
//! | 8 | the log's id, little-endian like all numbers here: a copy of the log has other offsets |
//! | 8 | the log's epoch |
//! | 8 | the redo offset from which redo records are applied over it |
//! | 8 | bytes of redo since the last round of the changelog, as of then |
//! | 4 + 4 + key + value | each record of the state: length of key, length of value, both |
//! | 4 | CRC-32C of everything before |

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use onhand_log::{Log, Offset};

const MAGIC: &[u8; 8] = b"ONHSNAP3";
const HEAD_BYTES: usize = 40;

/// A worker collects states in at most one part of so many of its time. A state is due after four times its
/// size in decisions, which take a core some fifteen times as long as collecting it (12 MB in 35 ms, 80 MB
/// of decisions a second): this share keeps up with any load.
const SHARE: u32 = 4;

/// When a worker may collect the next state: nothing else is done meanwhile.
#[derive(Default, Debug)]
pub(crate) struct Turns {
    next: Option<Instant>,
}

impl Turns {
    pub(crate) fn is_free(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// One was collected.
    pub(crate) fn ended(&mut self, began: Instant, took: Duration) {
        self.next = Some(began + took * SHARE);
    }
}

/// The log that a snapshot's offsets belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogMark {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
}

impl LogMark {
    pub(crate) fn of(log: &dyn Log) -> Self {
        Self {
            id: log.id(),
            epoch: log.epoch(),
        }
    }
}

/// Where the snapshot files of a node lie.
#[derive(Clone, Debug)]
pub struct SnapshotDir(PathBuf);

/// A snapshot read from its file, checked.
pub(crate) struct Snapshot {
    bytes: Vec<u8>,
    redo_next: Offset,
    redo_bytes: u64,
}

/// A snapshot being collected in memory.
pub(crate) struct SnapshotBuilder(Vec<u8>);

impl SnapshotBuilder {
    pub(crate) fn new(log: LogMark, redo_next: Offset, redo_bytes: u64) -> Self {
        let mut bytes = Vec::with_capacity(1 << 16);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&log.id.to_le_bytes());
        bytes.extend_from_slice(&log.epoch.to_le_bytes());
        bytes.extend_from_slice(&redo_next.to_le_bytes());
        bytes.extend_from_slice(&redo_bytes.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let length = |n: usize| u32::try_from(n).expect("a state record is far below 4 GiB");
        self.0.extend_from_slice(&length(key.len()).to_le_bytes());
        self.0.extend_from_slice(&length(value.len()).to_le_bytes());
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(value);
    }

    fn finish(mut self) -> Vec<u8> {
        let sum = crc32c::crc32c(&self.0);
        self.0.extend_from_slice(&sum.to_le_bytes());
        self.0
    }
}

impl Snapshot {
    fn parse(bytes: Vec<u8>, log: LogMark) -> Option<Self> {
        let body_len = bytes.len().checked_sub(4)?;
        let (body, sum) = bytes.split_at_checked(body_len)?;
        let (magic, rest) = body.split_first_chunk::<8>()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (redo_next, rest) = rest.split_first_chunk::<8>()?;
        let (redo_bytes, mut rest) = rest.split_first_chunk::<8>()?;
        let whole = magic == MAGIC
            && u64::from_le_bytes(*id) == log.id
            && u64::from_le_bytes(*epoch) == log.epoch
            && sum == crc32c::crc32c(body).to_le_bytes();
        if !whole {
            return None;
        }
        let redo_next = Offset::from_le_bytes(*redo_next);
        while !rest.is_empty() {
            rest = split_record(rest)?.2;
        }
        let redo_bytes = u64::from_le_bytes(*redo_bytes);
        Some(Self {
            bytes,
            redo_next,
            redo_bytes,
        })
    }

    pub(crate) fn redo_next(&self) -> Offset {
        self.redo_next
    }

    /// Bytes of redo between the last round of the changelog and this snapshot.
    pub(crate) fn redo_bytes(&self) -> usize {
        usize::try_from(self.redo_bytes).unwrap_or(usize::MAX)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let end = self.bytes.len() - 4;
        let mut rest = self.bytes.get(HEAD_BYTES..end).unwrap_or_default();
        std::iter::from_fn(move || {
            let (key, value, behind) = split_record(rest)?;
            rest = behind;
            Some((key, value))
        })
    }
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_len, rest) = bytes.split_first_chunk::<4>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    Some((key, value, rest))
}

impl SnapshotDir {
    /// Keeps the files in that directory, which is created if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    fn file(&self, owner: &str) -> PathBuf {
        self.0.join(format!("{}.snapshot", owner.replace('/', "-")))
    }

    pub(crate) fn load(&self, owner: &str, log: LogMark) -> Option<Snapshot> {
        let path = self.file(owner);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "snapshot not read, restoring without");
                return None;
            }
        };
        let snapshot = Snapshot::parse(bytes, log);
        if snapshot.is_none() {
            tracing::warn!(path = %path.display(), "snapshot is damaged or of another log, restoring without");
        }
        snapshot
    }

    /// Takes a file away that does not fit the log, so that it is not met again once the log has grown past
    /// its place; it is kept beside for who wants to know what was lost, in the place of an earlier one.
    pub(crate) fn set_aside(&self, owner: &str, why: &str) {
        let path = self.file(owner);
        let aside = path.with_extension("snapshot.unfit");
        match fs::rename(&path, &aside) {
            Ok(()) => {
                tracing::warn!(aside = %aside.display(), why, "snapshot does not fit the log, restoring without");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), why, %error, "snapshot does not fit the log and cannot \
                    be set aside, restoring without: delete it");
            }
        }
    }

    /// Writes the file beside its place and renames it there. No sync: a file torn by a power cut
    /// fails its checksum and is passed over.
    pub(crate) fn store(&self, owner: &str, snapshot: SnapshotBuilder) -> io::Result<()> {
        let path = self.file(owner);
        let beside = path.with_extension("snapshot.new");
        let mut file = fs::File::create(&beside)?;
        file.write_all(&snapshot.finish())?;
        drop(file);
        fs::rename(&beside, &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogMark = LogMark { id: 3, epoch: 7 };

    #[test]
    fn between_two_states_there_is_three_times_as_much_time_for_other_work() {
        let mut turns = Turns::default();
        let began = Instant::now();
        assert!(turns.is_free(began));
        let took = Duration::from_millis(30);
        turns.ended(began, took);
        assert!(!turns.is_free(began + took));
        assert!(!turns.is_free(began + Duration::from_millis(119)));
        assert!(turns.is_free(began + Duration::from_millis(120)));
    }

    fn stored(dir: &SnapshotDir) -> PathBuf {
        let mut builder = SnapshotBuilder::new(LOG, 42, 9);
        builder.put(b"a", b"one");
        builder.put(b"bb", b"");
        dir.store("stock/3", builder).unwrap();
        dir.file("stock/3")
    }

    #[test]
    fn a_snapshot_comes_back_whole() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::new(temp.path()).unwrap();
        stored(&dir);
        let snapshot = dir.load("stock/3", LOG).unwrap();
        assert_eq!((snapshot.redo_next(), snapshot.redo_bytes()), (42, 9));
        let records: Vec<_> = snapshot.records().collect();
        assert_eq!(records, [(&b"a"[..], &b"one"[..]), (&b"bb"[..], &b""[..])]);
    }

    #[test]
    fn a_snapshot_of_another_log_or_epoch_or_with_any_byte_changed_or_cut_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::new(temp.path()).unwrap();
        let path = stored(&dir);
        for other in [LogMark { id: 4, ..LOG }, LogMark { epoch: 8, ..LOG }] {
            assert!(dir.load("stock/3", other).is_none(), "{other:?}");
        }
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                dir.load("stock/3", LOG).is_none(),
                "byte {at} changed unseen"
            );
            fs::write(&path, &good[..at]).unwrap();
            assert!(dir.load("stock/3", LOG).is_none(), "cut at {at} unseen");
        }
    }
}
