//! What a stream puts aside on disk for a client that sends but does not read: where its outcomes
//! stand in the log, and the refusals, which stand nowhere else.
//!
//! One file per stream that needs one, without a name from the moment it is open, so that nothing of
//! it is left whatever happens.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The directory for them.
#[derive(Debug)]
pub(crate) struct SpoolDir {
    dir: PathBuf,
    next: AtomicU64,
}

impl SpoolDir {
    /// Makes the directory, empty: what an earlier process left there is of no use.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let dir = data.join("spool");
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&dir)?,
        }
        Ok(Self {
            dir,
            next: AtomicU64::new(0),
        })
    }

    fn create(&self) -> io::Result<File> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Where something was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aside {
    at: u64,
    length: usize,
}

/// The file of one stream, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Spool {
    file: Option<File>,
    end: u64,
    max: u64,
}

impl Spool {
    pub(crate) fn new(max: u64) -> Self {
        Self {
            file: None,
            end: 0,
            max,
        }
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.end < self.max
    }

    pub(crate) fn put(&mut self, dir: &SpoolDir, bytes: &[u8]) -> io::Result<Aside> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(dir.create()?),
        };
        file.write_all_at(bytes, self.end)?;
        let aside = Aside {
            at: self.end,
            length: bytes.len(),
        };
        self.end += bytes.len() as u64;
        Ok(aside)
    }

    pub(crate) fn get(&self, aside: Aside) -> io::Result<Vec<u8>> {
        let file = self
            .file
            .as_ref()
            .ok_or_else(|| io::Error::other("nothing was put aside"))?;
        let mut bytes = vec![0; aside.length];
        file.read_exact_at(&mut bytes, aside.at)?;
        Ok(bytes)
    }

    /// Everything put aside was taken: the space begins anew.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.set_len(0)?;
        }
        self.end = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_aside_is_read_back_and_leaves_no_file() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("spool/left")).unwrap();
        let dir = SpoolDir::open(data.path()).unwrap();
        let mut spool = Spool::new(10);
        let first = spool.put(&dir, b"first").unwrap();
        let second = spool.put(&dir, b"second").unwrap();
        assert!(!spool.has_room());
        assert_eq!(spool.get(second).unwrap(), b"second");
        assert_eq!(spool.get(first).unwrap(), b"first");
        assert_eq!(fs::read_dir(data.path().join("spool")).unwrap().count(), 0);
        spool.clear().unwrap();
        assert!(spool.has_room());
        let third = spool.put(&dir, b"third").unwrap();
        assert_eq!(spool.get(third).unwrap(), b"third");
    }
}
