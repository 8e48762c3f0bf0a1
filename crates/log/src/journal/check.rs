//! Checking every byte of a stopped or copied journal without changing anything.

use std::collections::BTreeMap;
use std::path::Path;

use ::bytes::Bytes;
use thiserror::Error;

use super::OpenError;
use super::image::Image;
use super::recovery::{Segments, Walk, read};
use super::segment::{decode_footer, decode_run, segment_name};
use super::storage::{DirStorage, Storage, StorageFile};
use crate::catalog::Catalog;

/// What a check read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Segments read, damaged ones included.
    pub segments: u64,
    /// Frames found whole and in sequence, those without records included.
    pub frames: u64,
    /// Records by name of their topic.
    pub records: BTreeMap<String, u64>,
    /// Bytes of unfinished frames at the end, which the next opening would cut.
    pub tail_bytes: u64,
    /// Whether the last session ended cleanly. If not, the last frames cannot be judged: what was
    /// never finished and what was lost afterwards look the same.
    pub sealed: bool,
    /// Everything that is not as it was written.
    pub damage: Vec<Damage>,
}

/// Bytes that are not as they were written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Name of the segment's file.
    pub segment: String,
    /// Byte within that file at which the damage was noticed.
    pub position: u64,
    /// What is wrong there.
    pub what: String,
}

/// Why a journal could not be checked at all.
#[derive(Debug, Error)]
pub enum CheckError {
    /// It could not be read, for any reason but damage, such as a newer format version.
    #[error("{0}")]
    Unreadable(#[from] OpenError),
    /// There is no segment; says which directory was read.
    #[error("{0} holds no journal; name the directory that `onhand serve --data` was given")]
    Empty(String),
}

/// Reads every byte of the journal in `dir`.
///
/// # Errors
/// When it cannot be read at all; damage is not an error but part of the report.
pub fn check(dir: &Path) -> Result<CheckReport, CheckError> {
    let storage = DirStorage::read_only(dir).map_err(OpenError::io("read the data directory"))?;
    check_on(&storage)?.ok_or_else(|| CheckError::Empty(dir.display().to_string()))
}

/// Reads every byte of the journal on this storage; `None` when it holds none.
///
/// # Errors
/// As [`check`].
pub fn check_on(storage: &dyn Storage) -> Result<Option<CheckReport>, CheckError> {
    let mut report = CheckReport::default();
    let mut segments = match Segments::open(storage) {
        Ok(segments) => segments,
        Err(error) => {
            report.note(error)?;
            return Ok(Some(report));
        }
    };
    let Some((block, file)) = segments.all.last() else {
        return Ok(None);
    };
    // Only the last segment knows which ones were released before it.
    let mut walk = Walk::new(block, Image::empty());
    let first = match walk.run(&whole(&**file)?) {
        Ok(_) => walk.image.first_segment,
        Err(_) => segments.all.first().map_or(1, |(block, _)| block.number),
    };
    if let Err(error) = segments.hold_from(first) {
        report.note(error)?;
    }

    let mut image = Image::empty();
    let mut names = Catalog::default();
    let mut by_topic: BTreeMap<u16, u64> = BTreeMap::new();
    for (index, (block, file)) in segments.all.iter().enumerate() {
        let ended = segments.ended(index);
        let size = match ended {
            Some((ended, ..)) => ended.frames_end,
            None => file.size().map_err(OpenError::io("measure a segment"))?,
        };
        let Ok(size) = usize::try_from(size) else {
            continue;
        };
        let bytes = Bytes::from(read(&**file, 0, size)?);
        let mut walk = Walk::new(block, std::mem::take(&mut image));
        let stopped = match walk.run(&bytes) {
            Ok(stopped) => stopped,
            Err(error) => {
                report.note(error)?;
                image = Image::empty();
                report.segments += 1;
                continue;
            }
        };
        report.segments += 1;
        report.frames += walk.frames;
        for (topic, records) in &walk.records {
            *by_topic.entry(*topic).or_default() += records;
        }
        report.sealed = walk.image.sealed;
        names = walk.image.catalog.clone();
        let position = walk.at as u64;
        match (ended, stopped) {
            (None, None) => {}
            (None, Some(why)) => match walk.judge(&bytes, &why) {
                Ok(tail) => report.tail_bytes = tail,
                Err(error) => report.note(error)?,
            },
            (Some(_), Some(why)) => report.add(block.number, position, &why.to_string()),
            (Some((ended, next_frame, last_crc)), None) => {
                if walk.next_frame != next_frame || walk.previous != last_crc {
                    report.add(
                        block.number,
                        position,
                        "the next segment does not continue it",
                    );
                }
                report.check_footer(&**file, &ended, &walk)?;
            }
        }
        // After damage the next segment's own image is the only one to trust.
        image = if report.damage.is_empty() {
            walk.image
        } else {
            Image::empty()
        };
    }
    for (topic, records) in by_topic {
        let known = names.topics().get(usize::from(topic));
        let name = known.map_or_else(|| format!("topic {topic}"), |topic| topic.spec.name.clone());
        report.records.insert(name, records);
    }
    Ok(Some(report))
}

fn whole(file: &dyn StorageFile) -> Result<Bytes, OpenError> {
    let size = file.size().map_err(OpenError::io("measure a segment"))?;
    let size = usize::try_from(size).map_err(|_| OpenError::Config("a file too large".into()))?;
    Ok(Bytes::from(read(file, 0, size)?))
}

impl CheckReport {
    /// Whether nothing is damaged.
    pub fn is_good(&self) -> bool {
        self.damage.is_empty()
    }

    fn add(&mut self, segment: u64, position: u64, what: &str) {
        let segment = segment_name(segment);
        self.damage.push(Damage {
            segment,
            position,
            what: what.into(),
        });
    }

    fn note(&mut self, error: OpenError) -> Result<(), CheckError> {
        match error {
            OpenError::Damaged {
                segment,
                position,
                what,
            } => {
                self.damage.push(Damage {
                    segment,
                    position,
                    what,
                });
                Ok(())
            }
            other => Err(CheckError::Unreadable(other)),
        }
    }

    /// A footer must say exactly what the frames before it amount to.
    fn check_footer(
        &mut self,
        file: &dyn StorageFile,
        ended: &super::segment::Ended,
        walk: &Walk<'_>,
    ) -> Result<(), CheckError> {
        if ended.summary_bytes == 0 {
            return Ok(());
        }
        let segment = walk.segment();
        let summary = read(file, ended.frames_end, ended.summary_bytes as usize)?;
        let footer = (crc32c::crc32c(&summary) == ended.summary_crc)
            .then(|| decode_footer(&summary))
            .flatten();
        let Some(footer) = footer else {
            self.add(
                segment,
                ended.frames_end,
                "its footer does not match its checksum",
            );
            return Ok(());
        };
        let runs_at = ended.frames_end + u64::from(ended.summary_bytes);
        for run in &footer.runs {
            let at = runs_at + u64::from(run.offset);
            let bytes = read(file, at, run.bytes as usize)?;
            let good = crc32c::crc32c(&bytes) == run.crc;
            let entries = good.then(|| decode_run(&bytes)).flatten();
            if entries.as_ref() != walk.entries.get(&run.at) {
                self.add(
                    segment,
                    at,
                    "the index in its footer is not that of its frames",
                );
            }
        }
        if footer.runs.len() != walk.entries.len() || footer.last_crc != walk.previous {
            self.add(
                segment,
                ended.frames_end,
                "its footer is not that of its frames",
            );
        }
        Ok(())
    }
}
