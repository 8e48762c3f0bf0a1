//! Where segments lie: a directory, or a double that fails.
//!
//! The journal asks for few things and in an exact order; the order is what survives a crash. A
//! file's content is durable after [`StorageFile::sync`], its name after [`Storage::sync_names`].

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A flat directory of files.
pub trait Storage: Send + Sync + Debug {
    /// Names of all files, in any order.
    ///
    /// # Errors
    /// As the operating system says, here and below.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates a file that does not exist yet.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Gives a file another name, which nothing else has.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Those who hold it open go on reading it.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// See [`Storage::list`].
    fn sync_names(&self) -> io::Result<()>;
}

/// One file.
pub trait StorageFile: Send + Sync + Debug {
    /// Bytes of the file.
    ///
    /// # Errors
    /// As the operating system says, here and below.
    fn size(&self) -> io::Result<u64>;

    /// Reads from `at` on, less than asked for only at the end of the file.
    ///
    /// # Errors
    /// See [`StorageFile::size`].
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// See [`StorageFile::size`].
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes content and size durable.
    ///
    /// # Errors
    /// See [`StorageFile::size`]. Afterwards nobody knows what is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// Name of the file that is locked while a journal is open.
pub const LOCK_NAME: &str = "lock";

/// A directory of the operating system.
#[derive(Debug)]
pub struct DirStorage {
    dir: PathBuf,
    writable: bool,
}

impl DirStorage {
    /// Opens the directory for writing, creating it when it is not there.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn create(dir: &Path) -> io::Result<Self> {
        if !dir.is_dir() {
            std::fs::create_dir_all(dir)?;
            // The directory's own name must survive too.
            let parent = dir.canonicalize()?;
            if let Some(parent) = parent.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            writable: true,
        })
    }

    /// Looks at the directory without ever changing it.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn read_only(dir: &Path) -> io::Result<Self> {
        std::fs::read_dir(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            writable: false,
        })
    }

    /// Locks the directory for this process. `Err` of the inner result names the holder's process
    /// id, as the holder wrote it.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn lock(&self) -> io::Result<Result<DirLock, String>> {
        let path = self.dir.join(LOCK_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}", std::process::id())?;
                Ok(Ok(DirLock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.take(32).read_to_string(&mut holder)?;
                Ok(Err(holder))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Holds the directory's lock until dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl Storage for DirStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(self.writable)
            .open(self.dir.join(name))?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl StorageFile for DiskFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
