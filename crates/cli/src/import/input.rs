//! Opening what is imported: a file or standard input, plain or gzip, counted as it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Result;
use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

use crate::stop;

/// Read from the disk at once: large enough that system calls do not count.
const READ_BYTES: usize = 256 << 10;

/// One input: its name in the log and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// The path as given, or `-`.
    pub(crate) path: String,
    /// What the file is called for good: the base name without `.gz`, or `--source-name`.
    pub(crate) name: String,
}

impl Input {
    /// Names the input.
    ///
    /// # Errors
    /// Usage, where standard input has no name, or a path no base name.
    pub(crate) fn new(path: &str, source_name: Option<&str>) -> Result<Input> {
        let name = match (source_name, path) {
            (Some(name), _) => name.to_owned(),
            (None, "-") => {
                return Err(stop::usage(
                    "standard input has no name, by which a repeat would be known; add \
                     --source-name NAME",
                ));
            }
            (None, path) => {
                let base = Path::new(path).file_name().and_then(|name| name.to_str());
                let Some(base) = base else {
                    return Err(stop::usage(format!(
                        "{path:?} has no base name in UTF-8; give one with --source-name NAME"
                    )));
                };
                base.strip_suffix(".gz").unwrap_or(base).to_owned()
            }
        };
        if name.is_empty() {
            return Err(stop::usage(format!(
                "{path:?} has an empty name; add --source-name NAME"
            )));
        }
        Ok(Input {
            path: path.to_owned(),
            name,
        })
    }

    /// The source under which its lines are known.
    pub(crate) fn source(&self) -> String {
        format!("file/{}", self.name)
    }

    /// Bytes to read, if that is known before.
    pub(crate) fn size(&self) -> Option<u64> {
        if self.path == "-" {
            return None;
        }
        std::fs::metadata(&self.path)
            .ok()
            .filter(std::fs::Metadata::is_file)
            .map(|m| m.len())
    }

    /// Opens it; gzip is known by its first bytes, not by its name.
    ///
    /// # Errors
    /// Usage, where the file cannot be opened or read.
    pub(crate) fn open(&self, progress: ProgressBar) -> Result<Box<dyn BufRead + Send>> {
        let wrong = |error: io::Error| {
            stop::usage(format!(
                "{} cannot be read: {error}; check the path",
                self.path
            ))
        };
        let raw: Box<dyn Read + Send> = if self.path == "-" {
            Box::new(io::stdin())
        } else {
            let file = File::open(&self.path).map_err(wrong)?;
            if file.metadata().map_err(wrong)?.is_dir() {
                return Err(stop::usage(format!(
                    "{} is a directory; name the files in it",
                    self.path
                )));
            }
            Box::new(file)
        };
        let mut raw = BufReader::with_capacity(READ_BYTES, Counted { raw, progress });
        let gzip = raw.fill_buf().map_err(wrong)?.starts_with(&[0x1f, 0x8b]);
        if gzip {
            Ok(Box::new(BufReader::with_capacity(
                READ_BYTES,
                MultiGzDecoder::new(raw),
            )))
        } else {
            Ok(Box::new(raw))
        }
    }
}

/// Moves the progress bar on as bytes are read.
struct Counted {
    raw: Box<dyn Read + Send>,
    progress: ProgressBar,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(into)?;
        self.progress.inc(u64::try_from(read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_name_is_the_base_name_without_gz() {
        let name = |path: &str, given: Option<&str>| Input::new(path, given).map(|i| i.source());
        assert_eq!(
            name("/a/b/sales.csv.gz", None).expect("named"),
            "file/sales.csv"
        );
        assert_eq!(name("sales.csv", Some("x")).expect("named"), "file/x");
        assert_eq!(name("-", Some("till")).expect("named"), "file/till");
        assert!(
            name("-", None)
                .expect_err("no name")
                .to_string()
                .contains("--source-name")
        );
        assert!(name("..", None).is_err());
        assert!(name("/a/.gz", None).is_err());
    }

    #[test]
    fn gzip_is_known_by_its_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plain-by-name.csv");
        let file = File::create(&path).expect("created");
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(b"one\ntwo\n").expect("written");
        gzip.finish().expect("written");
        let input = Input::new(path.to_str().expect("utf-8"), None).expect("named");
        let mut text = String::new();
        let mut reader = input.open(ProgressBar::hidden()).expect("opened");
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "one\ntwo\n");
    }
}
