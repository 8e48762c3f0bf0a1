//! Memory and journal keep the same promises, checked by the same suite.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use onhand_log::Log;
use onhand_log::journal::{Durability, Journal, JournalConfig};
use onhand_log::memory::MemoryLog;
use onhand_log::testing::{Engine, contract};
use tempfile::TempDir;

struct Memory {
    last: Mutex<Option<Arc<MemoryLog>>>,
}

impl Engine for Memory {
    fn fresh(&self) -> Arc<dyn Log> {
        let log = Arc::new(MemoryLog::new());
        *self.last.lock().unwrap() = Some(Arc::clone(&log));
        log
    }

    fn reopen(&self, _log: Arc<dyn Log>) -> Option<Arc<dyn Log>> {
        let last = self.last.lock().unwrap();
        last.as_ref()
            .map(|log| Arc::new(log.reopened()) as Arc<dyn Log>)
    }
}

#[test]
fn memory_keeps_the_contract() {
    contract(&Memory {
        last: Mutex::new(None),
    });
}

struct OnDisk {
    dirs: Mutex<Vec<TempDir>>,
    configure: fn(&mut JournalConfig),
}

impl OnDisk {
    fn open(&self) -> Arc<dyn Log> {
        let dirs = self.dirs.lock().unwrap();
        let mut config = JournalConfig::new(dirs.last().unwrap().path());
        (self.configure)(&mut config);
        Arc::new(Journal::open(config).unwrap())
    }
}

impl Engine for OnDisk {
    fn fresh(&self) -> Arc<dyn Log> {
        self.dirs.lock().unwrap().push(TempDir::new().unwrap());
        self.open()
    }

    fn reopen(&self, log: Arc<dyn Log>) -> Option<Arc<dyn Log>> {
        drop(log);
        Some(self.open())
    }
}

fn journal_keeps_the_contract(configure: fn(&mut JournalConfig)) {
    contract(&OnDisk {
        dirs: Mutex::new(Vec::new()),
        configure,
    });
}

#[test]
fn the_journal_keeps_the_contract() {
    journal_keeps_the_contract(|config| {
        config.segment_bytes = 4 << 20;
        config.max_append_bytes = 1 << 20;
    });
}

#[test]
fn the_journal_keeps_the_contract_with_small_segments_and_no_tail() {
    journal_keeps_the_contract(|config| {
        config.segment_bytes = 64 << 10;
        config.max_append_bytes = 8 << 10;
        config.pending_bytes_max = 16 << 10;
        config.tail_bytes = 0;
    });
}

#[test]
fn the_journal_keeps_the_contract_on_its_own_thread() {
    journal_keeps_the_contract(|config| {
        config.segment_bytes = 1 << 20;
        config.max_append_bytes = 64 << 10;
        config.inline_flush_bytes = 0;
    });
}

#[test]
fn the_journal_keeps_the_contract_without_syncing_each_group() {
    journal_keeps_the_contract(|config| {
        config.segment_bytes = 1 << 20;
        config.max_append_bytes = 64 << 10;
        config.durability = Durability::Interval(Duration::from_millis(3));
    });
    journal_keeps_the_contract(|config| {
        config.segment_bytes = 1 << 20;
        config.max_append_bytes = 64 << 10;
        config.durability = Durability::Os;
    });
}
