//! Bytes that change behind the journal's back: each is found, or reported as an unfinished end
//! where nothing shows that it had been finished. None is silently taken for something else.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::sync::Arc;
use std::time::Duration;

use onhand_log::journal::{Journal, JournalConfig, JournalReader, OpenError, check};
use onhand_log::testing::{Crash, FaultDisk, append_and_wait, batch_of, read_all, topic};
use onhand_log::{Log, Offset, ReadError, RecordBatch, TopicPartition, View};

const SEGMENT: usize = 64 << 10;

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: SEGMENT as u64,
        max_append_bytes: 16 << 10,
        space_retry: Duration::from_millis(5),
        ..JournalConfig::new("a disk in memory")
    }
}

fn open(disk: &FaultDisk) -> Journal {
    Journal::open_on(Arc::new(disk.clone()), config()).unwrap()
}

/// Two topics, five partitions.
fn places(journal: &dyn Log) -> Vec<TopicPartition> {
    let (a, b) = (topic(journal, "a", 3), topic(journal, "b", 2));
    let a = (0..3).map(|partition| TopicPartition {
        topic: a,
        partition,
    });
    a.chain((0..2).map(|partition| TopicPartition {
        topic: b,
        partition,
    }))
    .collect()
}

/// Appends `count` times to every partition, `length` bytes each.
fn fill(journal: &dyn Log, places: &[TopicPartition], count: u32, length: usize) {
    let token = journal.claim("filler").unwrap();
    for i in 0..count {
        let mut value = i.to_le_bytes().to_vec();
        value.resize(length, 3);
        let batches = places
            .iter()
            .map(|at| (*at, batch_of(i64::from(i), &value)))
            .collect();
        append_and_wait(journal, &token, batches);
    }
}

/// A journal of two segments on a disk, and how many bytes of the last one are used. The first is
/// complete, the second holds a few frames.
fn small(sealed: bool) -> (FaultDisk, Vec<TopicPartition>) {
    let disk = FaultDisk::new();
    let journal = open(&disk);
    let places = places(&journal);
    fill(&journal, &places, 13, 900);
    fill(&journal, &places, 3, 20);
    assert_eq!(journal.segments(), [1, 2]);
    if sealed {
        journal.close().unwrap();
    }
    drop(journal);
    (disk.after(Crash::KeepAll), places)
}

type Contents = Vec<Vec<(Offset, Vec<u8>)>>;

/// All records, or the first error.
fn contents(reader: &JournalReader, places: &[TopicPartition]) -> Result<Contents, ReadError> {
    let mut all = Vec::new();
    for place in places {
        let mut records = Vec::new();
        // A cut may have taken the topic itself.
        let Ok(bounds) = reader.bounds(*place) else {
            all.push(records);
            continue;
        };
        let mut next = bounds.start;
        while next < bounds.end {
            let fetch = reader.read(*place, next, 1 << 20)?;
            assert!(fetch.next > next);
            let found = fetch.batches.iter().flat_map(RecordBatch::records);
            records.extend(found.map(|record| (record.offset, record.value.unwrap().to_vec())));
            next = fetch.next;
        }
        all.push(records);
    }
    Ok(all)
}

/// How a changed journal presents itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Opening or reading refused.
    Refused,
    /// The end was cut, with a report.
    Cut,
    /// Everything is there: the byte was of no meaning.
    Whole,
}

fn judge(disk: &FaultDisk, places: &[TopicPartition], whole: &Contents, note: &str) -> Verdict {
    // The check reads everything once more: for what is refused anyway, now and then is enough.
    let turn = note.len().is_multiple_of(2) && note.contains('7');
    let refused_by_check = || match check::check_on(disk) {
        Ok(Some(report)) => !report.is_good(),
        Ok(None) => false,
        Err(_) => true,
    };
    let reader = match JournalReader::open_on(disk) {
        Ok(reader) => reader,
        Err(OpenError::Damaged { .. } | OpenError::Version { .. }) => {
            assert!(
                !turn || refused_by_check(),
                "{note}: opening refuses what the check calls good"
            );
            return Verdict::Refused;
        }
        Err(error) => panic!("{note}: {error}"),
    };
    let found = match contents(&reader, places) {
        Ok(found) => found,
        Err(ReadError::Damaged { .. }) => {
            assert!(
                !turn || refused_by_check(),
                "{note}: reading refuses what the check calls good"
            );
            return Verdict::Refused;
        }
        Err(error) => panic!("{note}: {error}"),
    };
    for (found, whole) in found.iter().zip(whole) {
        assert!(
            whole.starts_with(found),
            "{note}: other records than were written"
        );
    }
    let report = reader.recovery();
    let checked = check::check_on(disk).unwrap().unwrap();
    if report.cut_bytes > 0 {
        assert_eq!(checked.tail_bytes, report.cut_bytes, "{note}");
        return Verdict::Cut;
    }
    assert_eq!(found, *whole, "{note}: records are gone without a word");
    if checked.is_good() {
        Verdict::Whole
    } else {
        Verdict::Refused
    }
}

/// Frames of a file by walking their lengths: where each begins, and the end of the last.
fn frames(disk: &FaultDisk, name: &str) -> Vec<usize> {
    use onhand_log::journal::storage::Storage;
    let mut bytes = vec![0; SEGMENT];
    let read = disk.open(name).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes.truncate(read);
    let bytes = bytes::Bytes::from(bytes);
    let mut at = 4096;
    let mut starts = vec![at];
    while let Ok(length) = onhand_log::journal::frame::probe(&bytes.slice(at..)) {
        at += length;
        starts.push(at);
    }
    starts
}

const FIRST: &str = "segment-0000000000000001";
const LAST: &str = "segment-0000000000000002";

/// Every byte of every segment, flipped once.
#[test]
fn no_flipped_byte_is_silently_wrong_after_a_seal() {
    flip_every_byte(true);
}

/// The same without a seal, where the last frame alone has nobody to vouch for it.
#[test]
fn no_flipped_byte_is_silently_wrong_without_a_seal() {
    flip_every_byte(false);
}

fn flip_every_byte(sealed: bool) {
    let soak = std::env::var_os("ONHAND_SOAK").is_some();

    // Unoptimized, a part of them is enough for a quick answer; and most frames have a successor,
    // with which they are judged alike, sealed or not.
    let all = soak || sealed && !cfg!(debug_assertions);
    let (disk, places) = small(sealed);
    let whole = contents(&JournalReader::open_on(&disk).unwrap(), &places).unwrap();
    assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [16; 5]);
    let ends = [FIRST, LAST].map(|name| (name, frames(&disk, name)));
    let mut counts = [0_u32; 3];
    for (name, starts) in &ends {
        let end = *starts.last().unwrap();
        let size = disk
            .files()
            .iter()
            .find(|(file, _)| file == name)
            .unwrap()
            .1;
        for at in 0..size {
            // Behind the frames lie the footer of a completed segment and zeros.
            let near = at < end + 2_000;

            if !near && at % 97 != 0 || !all && at % 41 != 1 && at < end - 1_500 {
                continue;
            }
            let note = format!("{name} byte {at}, sealed {sealed}");
            disk.flip(name, at, 1 << (at % 8));
            let verdict = judge(&disk, &places, &whole, &note);
            disk.flip(name, at, 1 << (at % 8));
            counts[verdict as usize] += 1;
            let last_frame = starts.get(starts.len().saturating_sub(2)).copied().unwrap();
            match verdict {
                Verdict::Whole => assert!(at >= end, "{note}: a flip went unseen"),
                Verdict::Cut => {
                    // Only the last frame of the journal has nobody to vouch for it.
                    assert!(
                        *name == LAST && at >= last_frame && at < end,
                        "{note}: was cut"
                    );
                    let report = check::check_on(&disk).unwrap().unwrap();
                    assert_eq!(report.sealed, sealed, "{note}");
                }
                Verdict::Refused => {
                    assert!(at < end || *name == FIRST, "{note}: refused without need");
                }
            }
        }
    }
    println!("sealed {sealed}: refused, cut, whole: {counts:?}");
    assert!(
        counts[0] > 1_000 && counts[1] > 0 && counts[2] > 100,
        "{counts:?}"
    );
}

/// Cut off at every byte: a prefix remains, with a report when a frame was cut in two, or the loss
/// of what had been synced is refused.
#[test]
fn no_truncation_is_silently_wrong() {
    for sealed in [true, false] {
        let (disk, places) = small(sealed);
        let whole = contents(&JournalReader::open_on(&disk).unwrap(), &places).unwrap();
        let starts = frames(&disk, LAST);
        let end = *starts.last().unwrap();
        let step = if std::env::var_os("ONHAND_SOAK").is_some() {
            1
        } else {
            7
        };
        for size in (0..end)
            .step_by(step)
            .chain(starts.iter().copied())
            .chain([end + 1])
        {
            let cut = disk.copy();
            cut.truncate(LAST, size);
            let note = format!("{size} B remain, sealed {sealed}");
            match JournalReader::open_on(&cut) {
                Err(OpenError::Damaged { .. }) => {
                    // First block and image are synced before the segment gets its name.
                    assert!(size < starts[1], "{note}: refused");
                }
                Err(error) => panic!("{note}: {error}"),
                Ok(reader) => {
                    let found = contents(&reader, &places).unwrap();
                    for (found, whole) in found.iter().zip(&whole) {
                        assert!(whole.starts_with(found), "{note}");
                    }
                    let kept = starts.iter().rev().find(|start| **start <= size).unwrap();
                    let partial = size - kept >= 48 && size < end;
                    assert!(
                        !partial || reader.recovery().cut_bytes > 0,
                        "{note}: not reported"
                    );
                    drop(reader);
                    // And the journal goes on from there.
                    let journal = open(&cut);
                    let again = places_of(&journal, &places);
                    fill(&journal, &again, 1, 10);
                    let held = read_all(&journal, again[0], View::Durable).len();
                    assert_eq!(held, found[0].len() + 1, "{note}");
                }
            }
        }
    }
}

fn places_of(journal: &dyn Log, places: &[TopicPartition]) -> Vec<TopicPartition> {
    assert_eq!(journal.topics().len(), 2);
    places.to_vec()
}

/// Released segments are used again, with the frames of their earlier life still in them.
#[test]
fn old_frames_of_a_recycled_segment_mean_nothing() {
    let disk = FaultDisk::new();
    let journal = open(&disk);
    let places = places(&journal);
    fill(&journal, &places, 40, 900);
    let before = journal.segments();
    assert!(before.len() >= 4, "{before:?}");
    journal.release(*before.last().unwrap()).unwrap();
    assert_eq!(journal.segments().len(), 1);
    let spares = |disk: &FaultDisk| {
        disk.files()
            .iter()
            .filter(|(name, _)| name.starts_with("spare-"))
            .count()
    };
    assert!(spares(&disk) >= 3, "released segments are kept for reuse");
    let bounds = places
        .iter()
        .map(|at| journal.bounds(*at, View::Durable).unwrap());
    let bounds: Vec<_> = bounds.collect();
    assert!(bounds.iter().all(|bounds| bounds.start > 0), "{bounds:?}");
    let error = journal.read(places[0], 0, 1, View::Durable).unwrap_err();
    assert!(
        matches!(error, ReadError::OutOfRange { asked: 0, .. }),
        "{error}"
    );

    // Now through segments that hold intact frames of old: first with frames of the same sizes, so
    // that each ends where an old one begins, then ending anywhere.
    let kept = read_all(&journal, places[0], View::Durable);
    let token = journal.claim("filler").unwrap();
    for round in 0..60_usize {
        let length = if round < 40 { 900 } else { 700 + round };
        let batches = places
            .iter()
            .map(|at| (*at, batch_of(0, &vec![9; length])))
            .collect();
        append_and_wait(&journal, &token, batches);
        let found = JournalReader::open_on(&disk.after(Crash::LoseAll)).unwrap();
        assert_eq!(
            found.recovery().cut_bytes,
            0,
            "round {round}: old frames were taken as an end"
        );
        let bounds = found.bounds(places[0]).unwrap();
        assert_eq!(bounds.start, kept[0].0);
        assert_eq!(
            bounds.end,
            kept.last().unwrap().0 + 2 + Offset::try_from(round).unwrap()
        );
        let report = check::check_on(&disk).unwrap().unwrap();
        assert!(report.is_good(), "round {round}: {report:?}");
    }
    journal.close().unwrap();
    let journal = open(&disk);
    assert_eq!(
        read_all(&journal, places[0], View::Durable).len(),
        kept.len() + 60
    );
}

/// A release is durable before any file is used again, and its crash is finished by the next start.
#[test]
fn a_release_survives_the_power() {
    let disk = FaultDisk::new();
    let journal = open(&disk);
    let places = places(&journal);
    fill(&journal, &places, 40, 900);
    let segments = journal.segments();
    let all = read_all(&journal, places[1], View::Durable);
    journal.release(segments[2]).unwrap();
    let start = journal.bounds(places[1], View::Durable).unwrap().start;
    drop(journal);
    for crash in (0..50)
        .map(Crash::Some)
        .chain([Crash::LoseAll, Crash::KeepAll])
    {
        let disk = disk.after(crash);
        let journal = open(&disk);
        assert_eq!(journal.segments().first(), Some(&segments[2]), "{crash:?}");
        let found = read_all(&journal, places[1], View::Durable);
        assert_eq!(found, all[usize::try_from(start).unwrap()..], "{crash:?}");
        let names = disk.files();
        let gone = format!("segment-{:016}", segments[0]);
        assert!(
            names.iter().all(|(name, _)| *name != gone),
            "{crash:?}: {names:?}"
        );
    }
}

/// Lost segments are damage, whichever it is.
#[test]
fn a_missing_segment_is_damage() {
    use onhand_log::journal::storage::Storage;
    let disk = FaultDisk::new();
    let journal = open(&disk);
    let places = places(&journal);
    fill(&journal, &places, 40, 900);
    journal.close().unwrap();
    let count = journal.segments().len();
    assert!(count >= 4);
    for number in 1..count {
        let disk = disk.copy();
        let name = format!("segment-{number:016}");
        disk.remove(&name).unwrap();
        match JournalReader::open_on(&disk) {
            Err(OpenError::Damaged { segment, .. }) => assert_eq!(segment, name),
            other => panic!("segment {number}: {other:?}"),
        }
    }
}

/// A segment without a usable footer is read whole instead.
#[test]
fn a_lost_footer_is_rebuilt() {
    let (disk, places) = small(true);
    let whole = contents(&JournalReader::open_on(&disk).unwrap(), &places).unwrap();
    let end = *frames(&disk, FIRST).last().unwrap();
    disk.flip(FIRST, end + 20, 0xff);
    let reader = JournalReader::open_on(&disk).unwrap();
    assert_eq!(reader.recovery().footers_rebuilt, 1);
    assert_eq!(contents(&reader, &places).unwrap(), whole);
    assert!(!check::check_on(&disk).unwrap().unwrap().is_good());
}

/// The second process is told who has the directory.
#[test]
fn a_directory_is_opened_once() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = JournalConfig {
        dir: dir.path().join("data"),
        ..config()
    };
    let journal = Journal::open(config.clone()).unwrap();
    match Journal::open(config.clone()) {
        Err(error @ OpenError::Locked { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&std::process::id().to_string()), "{text}");
            assert!(text.contains("stop that process"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    // Looking is allowed.
    assert!(check(&config.dir).unwrap().is_good());
    JournalReader::open(&config.dir).unwrap();
    journal.close().unwrap();
    Journal::open(config).unwrap();
}

#[test]
fn impossible_settings_are_refused_with_what_to_choose() {
    for config in [
        JournalConfig {
            segment_bytes: 1000,
            ..config()
        },
        JournalConfig {
            segment_bytes: 3 << 30,
            ..config()
        },
        JournalConfig {
            max_append_bytes: 20 << 10,
            ..config()
        },
    ] {
        let error = Journal::open_on(Arc::new(FaultDisk::new()), config).unwrap_err();
        assert!(error.to_string().contains("choose"), "{error}");
    }
}
