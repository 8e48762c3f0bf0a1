//! A disk that keeps only what was synced, and fails when told.
//!
//! For every file it knows what is there while the machine runs and what would be there after the
//! power failed: synced content, and of the rest what the chosen [`Crash`] leaves. Names are kept
//! the same way: a creation, rename or removal counts once the directory was synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::journal::storage::{Storage, StorageFile};

/// Disks write whole sectors of this size; a crash keeps or loses each by itself.
const SECTOR: usize = 512;

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Writing to a file, or reserving space in it.
    Write,
    /// Syncing the content of a file. Syncs of names do not count.
    Sync,
}

/// What the power's failure leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Nothing.
    LoseAll,
    /// Everything, as after a kill of the process alone.
    KeepAll,
    /// Any sectors of any writes, and any changes of names, chosen by this number: lost, torn and
    /// out of order.
    Some(u64),
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct FaultDisk {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    operations: u64,
    stop_at: Option<u64>,
    failing: Option<(Operation, u64)>,
    capacity: Option<u64>,
    sync_time: Duration,

    syncs: u64,
}

#[derive(Clone, Debug, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    id: u64,
}

impl FaultDisk {
    /// An empty disk without bound, on which nothing fails yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations that changed or synced anything so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Syncs of files that succeeded so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The machine stops at this operation, counted from 0: it may still take effect, as far as a
    /// [`Crash`] leaves it, but fails, and so does everything after it.
    pub fn stop_at(&self, operation: u64) {
        self.lock().stop_at = Some(operation);
    }

    /// Lets the next operation of that kind fail after `after` more of them, once. A failed sync
    /// leaves what it should have synced readable and lost with the power, also after a later
    /// sync that succeeds: so does Linux.
    pub fn fail(&self, operation: Operation, after: u64) {
        self.lock().failing = Some((operation, after));
    }

    /// Every sync takes this long from now on.
    pub fn set_sync_time(&self, time: Duration) {
        self.lock().sync_time = time;
    }

    /// Files together may take this many bytes from now on; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes that all files take.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Names and sizes of all files.
    pub fn files(&self) -> Vec<(String, usize)> {
        let disk = self.lock();
        let size = |id: &u64| disk.files.get(id).map_or(0, |content| content.live.len());
        disk.names
            .iter()
            .map(|(name, id)| (name.clone(), size(id)))
            .collect()
    }

    /// Changes one byte of a file behind everybody's back, by exclusive or.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip(&self, name: &str, at: usize, bits: u8) {
        let mut disk = self.lock();
        let id = *disk.names.get(name).expect("the file exists");
        let content = disk.files.get_mut(&id).expect("names lead to files");
        *content.live.get_mut(at).expect("the byte exists") ^= bits;
    }

    /// Cuts a file to this size behind everybody's back.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn truncate(&self, name: &str, size: usize) {
        let mut disk = self.lock();
        let id = *disk.names.get(name).expect("the file exists");
        disk.files
            .get_mut(&id)
            .expect("names lead to files")
            .live
            .truncate(size);
    }

    /// What is there now, as another disk that is well and has everything synced.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.after(Crash::KeepAll)
    }

    /// What is there after the power failed and came back.
    #[must_use]
    pub fn after(&self, crash: Crash) -> Self {
        let disk = self.lock();
        let mut dice = match crash {
            Crash::Some(seed) => Dice(seed.wrapping_mul(2).wrapping_add(1)),
            Crash::LoseAll | Crash::KeepAll => Dice(1),
        };
        let mut keeps = || match crash {
            Crash::LoseAll => false,
            Crash::KeepAll => true,
            Crash::Some(_) => dice.flip(),
        };
        let mut names = disk.synced_names.clone();
        for change in &disk.unsynced_names {
            if !keeps() {
                continue;
            }
            match change {
                NameChange::Add(name, id) => {
                    names.insert(name.clone(), *id);
                }
                NameChange::Rename(from, to) => {
                    if let Some(id) = names.remove(from) {
                        names.insert(to.clone(), id);
                    }
                }
                NameChange::Remove(name) => {
                    names.remove(name);
                }
            }
        }
        let mut files = BTreeMap::new();
        for id in names.values() {
            let content = disk.files.get(id).cloned().unwrap_or_default();
            let left = match crash {
                Crash::KeepAll => content.live,
                Crash::LoseAll | Crash::Some(_) => content.left(&mut keeps),
            };
            let content = Content {
                live: left.clone(),
                synced: left,
                unsynced: Vec::new(),
            };
            files.insert(*id, content);
        }
        let next_file = disk.next_file;
        let fresh = Disk {
            files,
            next_file,
            synced_names: names.clone(),
            names,
            ..Disk::default()
        };
        Self {
            disk: Arc::new(Mutex::new(fresh)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no holder of the disk panics")
    }
}

/// A small generator: the same number gives the same crash.
struct Dice(u64);

impl Dice {
    fn flip(&mut self) -> bool {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 60) & 1 == 1
    }
}

impl Content {
    fn left(&self, keeps: &mut impl FnMut() -> bool) -> Vec<u8> {
        let mut left = self.synced.clone();
        for (at, bytes) in &self.unsynced {
            let mut done = 0;
            while done < bytes.len() {
                let begin = at + done;
                let length = (SECTOR - begin % SECTOR).min(bytes.len() - done);
                if keeps() {
                    put(
                        &mut left,
                        begin,
                        bytes.get(done..done + length).unwrap_or_default(),
                    );
                }
                done += length;
            }
        }
        left
    }
}

fn put(into: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if into.len() < at + bytes.len() {
        into.resize(at + bytes.len(), 0);
    }
    if let Some(place) = into.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

impl Disk {
    fn used(&self) -> u64 {
        self.files
            .values()
            .map(|content| content.live.len() as u64)
            .sum()
    }

    /// Counts an operation. `Err` when the machine has stopped; `Ok(true)` when it stops with this
    /// one.
    fn count(&mut self) -> io::Result<bool> {
        let number = self.operations;
        self.operations += 1;
        match self.stop_at {
            Some(stop) if number > stop => Err(stopped()),
            Some(stop) => Ok(number == stop),
            None => Ok(false),
        }
    }

    fn fails(&mut self, operation: Operation) -> bool {
        match &mut self.failing {
            Some((kind, after)) if *kind == operation => {
                if *after == 0 {
                    self.failing = None;
                    return true;
                }
                *after -= 1;
                false
            }
            _ => false,
        }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        let last = self.count()?;
        match &change {
            NameChange::Add(name, id) => {
                self.names.insert(name.clone(), *id);
            }
            NameChange::Rename(from, to) => {
                let id = self.names.remove(from).ok_or_else(missing)?;
                self.names.insert(to.clone(), id);
            }
            NameChange::Remove(name) => {
                self.names.remove(name).ok_or_else(missing)?;
            }
        }
        self.unsynced_names.push(change);
        if last { Err(stopped()) } else { Ok(()) }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for FaultDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let id = *self.lock().names.get(name).ok_or_else(missing)?;
        Ok(Arc::new(FaultFile {
            disk: self.clone(),
            id,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.lock();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = disk.next_file;
        disk.next_file += 1;
        disk.files.insert(id, Content::default());
        disk.change_name(NameChange::Add(name.into(), id))?;
        Ok(Arc::new(FaultFile {
            disk: self.clone(),
            id,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.lock()
            .change_name(NameChange::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.lock();
        let id = disk.names.get(name).copied();
        disk.change_name(NameChange::Remove(name.into()))?;
        if let Some(content) = id.and_then(|id| disk.files.get_mut(&id)) {
            // Space is free at once; a crash that keeps the name finds what was synced.
            content.live = Vec::new();
            content.unsynced = Vec::new();
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut disk = self.lock();
        if disk.count()? {
            return Err(stopped());
        }
        disk.synced_names = disk.names.clone();
        disk.unsynced_names.clear();
        Ok(())
    }
}

impl StorageFile for FaultFile {
    fn size(&self) -> io::Result<u64> {
        let disk = self.disk.lock();
        Ok(disk.files.get(&self.id).ok_or_else(missing)?.live.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let disk = self.disk.lock();
        let live = &disk.files.get(&self.id).ok_or_else(missing)?.live;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let found = live.get(at..).unwrap_or_default();
        let length = found.len().min(into.len());
        if let (Some(into), Some(found)) = (into.get_mut(..length), found.get(..length)) {
            into.copy_from_slice(found);
        }
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let last = disk.count()?;
        if disk.fails(Operation::Write) {
            return Err(io::Error::other("this write was told to fail"));
        }
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let (used, capacity) = (disk.used(), disk.capacity);
        let content = disk.files.get_mut(&self.id).ok_or_else(missing)?;
        let grows = (at + bytes.len()).saturating_sub(content.live.len()) as u64;
        if grows > 0 && capacity.is_some_and(|capacity| used + grows > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        put(&mut content.live, at, bytes);
        content.unsynced.push((at, bytes.to_vec()));
        if last { Err(stopped()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let time = self.disk.lock().sync_time;
        if !time.is_zero() {
            std::thread::sleep(time);
        }
        let mut disk = self.disk.lock();
        if disk.count()? {
            return Err(stopped());
        }
        let fails = disk.fails(Operation::Sync);
        let content = disk.files.get_mut(&self.id).ok_or_else(missing)?;
        if fails {
            content.unsynced.clear();
            return Err(io::Error::other("this sync was told to fail"));
        }
        // Exactly what was written since, not all that is readable: pages whose sync failed once
        // count as clean.
        for (at, bytes) in std::mem::take(&mut content.unsynced) {
            put(&mut content.synced, at, &bytes);
        }
        disk.syncs += 1;
        Ok(())
    }
}
