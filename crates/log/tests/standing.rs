//! A journal that moved is not served by accident, nor is an unfinished copy: what it is as a whole is
//! in the journal itself and survives segments, restarts and crashes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::path::Path;

use onhand_log::journal::{Journal, JournalConfig, JournalReader, OpenError, check};
use onhand_log::testing::{append_and_wait, batch_of, read_all, topic};
use onhand_log::{
    Counterpart, Ending, Fill, Log, Opening, Standing, StandingError, TopicId, TopicPartition, View,
};

fn config(dir: &Path, opening: Opening) -> JournalConfig {
    JournalConfig {
        segment_bytes: 64 << 10,
        max_append_bytes: 16 << 10,
        opening,
        ..JournalConfig::new(dir)
    }
}

fn open(dir: &Path, opening: Opening) -> Result<Journal, OpenError> {
    Journal::open(config(dir, opening))
}

fn refusal(dir: &Path, opening: Opening) -> StandingError {
    match open(dir, opening) {
        Err(OpenError::Standing { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

const AT: TopicPartition = TopicPartition {
    topic: TopicId(0),
    partition: 0,
};

/// More than a segment of records.
fn fill_segments(journal: &Journal) {
    let token = journal.claim("o").unwrap();
    for _ in 0..12 {
        let ending = append_and_wait(journal, &token, vec![(AT, batch_of(1, &[7; 10_000]))]);
        assert_eq!(ending, Ending::Durable);
    }
}

fn moved() -> Standing {
    Standing::Sealed(Counterpart::new(99, "Kafka at b:9092, on a day"))
}

#[test]
fn a_sealed_journal_is_read_and_not_served_until_it_is_unsealed_in_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), Opening::Serve).unwrap();
    topic(&journal, "t", 1);
    fill_segments(&journal);
    let (epoch, id) = (journal.epoch(), journal.id());
    journal.set_standing(&moved()).unwrap();
    // Behind it, so that it must come from the image at the head of a later segment.
    fill_segments(&journal);
    drop(journal);

    let why = refusal(dir.path(), Opening::Serve);
    assert_eq!(
        why,
        StandingError::Sealed("Kafka at b:9092, on a day".into())
    );
    let fill = Opening::Fill(Fill::default());
    assert!(matches!(refusal(dir.path(), fill), StandingError::Taken(_)));
    assert!(check(dir.path()).unwrap().is_good());
    let glimpse = JournalReader::open(dir.path()).unwrap().glimpse();
    assert_eq!((glimpse.id, glimpse.standing), (id, moved()));

    let journal = open(dir.path(), Opening::AsItIs).unwrap();
    assert_eq!((journal.epoch(), journal.id()), (epoch, id));
    assert_eq!(read_all(&journal, AT, View::Durable).len(), 24);
    journal.close().unwrap();

    let journal = open(dir.path(), Opening::Unseal).unwrap();
    assert_ne!(journal.epoch(), epoch, "a reader takes nothing new for old");
    let epoch = journal.epoch();
    drop(journal);
    let journal = open(dir.path(), Opening::Serve).unwrap();
    assert_eq!(
        (journal.epoch(), journal.standing()),
        (epoch, Standing::Own)
    );
    journal.close().unwrap();
    assert_eq!(
        refusal(dir.path(), Opening::Unseal),
        StandingError::NotSealed
    );
}

#[test]
fn an_unfinished_copy_is_served_only_once_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let source = Counterpart::new(5, "the journal in /a");
    let fill = || {
        Opening::Fill(Fill {
            source: source.clone(),
            epoch: 1234,
            not_before: 9_000_000_000_000,
        })
    };
    let journal = open(dir.path(), fill()).unwrap();
    assert_eq!(journal.epoch(), 1234);
    assert!(
        journal.now() >= 9_000_000_000_000,
        "its source's clock goes on"
    );
    topic(&journal, "t", 1);
    drop(journal);

    assert!(matches!(
        refusal(dir.path(), Opening::Serve),
        StandingError::Unfinished(_)
    ));
    assert_eq!(
        refusal(dir.path(), Opening::Unseal),
        StandingError::NotSealed
    );
    let other = Opening::Fill(Fill {
        source: Counterpart::new(6, "the journal in /b"),
        ..Fill::default()
    });
    assert!(matches!(
        refusal(dir.path(), other),
        StandingError::Taken(_)
    ));

    let journal = open(dir.path(), fill()).unwrap();
    assert_eq!(journal.epoch(), 1234);
    journal.set_standing(&Standing::Copy(source)).unwrap();
    journal.close().unwrap();
    let journal = open(dir.path(), Opening::Serve).unwrap();
    assert_eq!(journal.epoch(), 1234);
    assert!(journal.now() >= 9_000_000_000_000);
}

#[test]
fn only_frames_that_speak_of_the_standing_bear_the_newer_version() {
    let versions = |dir: &Path| -> Vec<u8> {
        let mut segments: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains("segment-"))
            .collect();
        segments.sort();
        let mut versions = Vec::new();
        for segment in segments {
            let bytes = std::fs::read(segment).unwrap();
            let frames = bytes.chunks(8).filter(|chunk| chunk.starts_with(b"OHfr"));
            versions.extend(frames.map(|frame| frame[4]));
        }
        versions
    };
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), Opening::Serve).unwrap();
    topic(&journal, "t", 1);
    fill_segments(&journal);
    journal.close().unwrap();
    assert!(versions(dir.path()).iter().all(|version| *version == 1));
    let journal = open(dir.path(), Opening::Serve).unwrap();
    journal.set_standing(&moved()).unwrap();
    fill_segments(&journal);
    journal.close().unwrap();
    let newer = versions(dir.path());
    let newer = newer.iter().filter(|version| **version == 2).count();
    assert!(newer >= 2, "its own frame, and an image at least: {newer}");
}

/// `fixtures/v2`: a journal of four segments that is sealed in the second and written on.
/// `ONHAND_WRITE_FIXTURE=DIR` makes a new one there with today's code.
#[test]
fn reads_v2() {
    if let Some(dir) = std::env::var_os("ONHAND_WRITE_FIXTURE") {
        let dir = Path::new(&dir);
        let journal = open(dir, Opening::Serve).unwrap();
        topic(&journal, "t", 1);
        fill_segments(&journal);
        journal.set_standing(&moved()).unwrap();
        fill_segments(&journal);
        journal.close().unwrap();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if !path.to_str().unwrap().contains("segment-") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v2");
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(check(copy.path()).unwrap().is_good());
    let why = refusal(copy.path(), Opening::Serve);
    assert_eq!(
        why,
        StandingError::Sealed("Kafka at b:9092, on a day".into())
    );
    let journal = open(copy.path(), Opening::AsItIs).unwrap();
    assert_eq!(read_all(&journal, AT, View::Durable).len(), 24);
}
