//! Topics that somebody deletes while the log runs.
//!
//! Every append goes into one transaction with others, so a topic that is gone takes all of them down,
//! again and again, while clients wait. So the log stops, and says which topic is gone and what to do.
//! Whoever opens it again reads the same. Nothing creates the topic anew: an empty one would pass for
//! what was acknowledged.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use onhand_log::Progress;
use tracing::{debug, error};

use crate::error::OpenError;
use crate::inner::Inner;
use crate::open;

/// How often it is looked whether something failed as it does on a topic that is gone.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked without that: nothing may be asked of a topic for long.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);
/// A topic is gone when the brokers lack it twice, this far apart: one that starts may know less for a
/// moment.
const CONFIRM: Duration = Duration::from_secs(3);

/// Starts the thread. It ends with the log.
pub(crate) fn start(inner: &Arc<Inner>) -> Result<(), OpenError> {
    let watched = Arc::downgrade(inner);
    let thread = std::thread::Builder::new().name("kafka-watch".into());
    match thread.spawn(move || watch(&watched)) {
        Ok(_) => Ok(()),
        Err(error) => Err(OpenError::Cluster(format!(
            "a thread could not be started: {error}"
        ))),
    }
}

fn watch(watched: &Weak<Inner>) {
    let mut looked = Instant::now();
    loop {
        std::thread::sleep(LOOK);
        let Some(inner) = running(watched) else {
            return;
        };
        let suspects = inner.suspects.swap(false, Ordering::Relaxed);
        if !suspects && looked.elapsed() < LOOK_ANYWAY {
            continue;
        }
        looked = Instant::now();
        if !lacks_any(&inner) {
            continue;
        }
        drop(inner);
        std::thread::sleep(CONFIRM);
        let Some(inner) = running(watched) else {
            return;
        };
        let Ok(findings) = open::gone(&inner) else {
            inner.suspects.store(true, Ordering::Relaxed);
            continue;
        };
        if findings.is_empty() {
            continue;
        }
        let why = findings.join("\n");
        error!(why, "the log stops");
        if inner.queue.stop(&why) {
            inner.tell(Progress::Stopped);
        }
        return;
    }
}

fn running(watched: &Weak<Inner>) -> Option<Arc<Inner>> {
    let inner = watched.upgrade()?;
    inner.queue.check_running().ok()?;
    Some(inner)
}

fn lacks_any(inner: &Inner) -> bool {
    match open::gone(inner) {
        Ok(findings) => !findings.is_empty(),
        Err(why) => {
            // Whatever failed may have failed for that.
            debug!(why, "topics cannot be looked at");
            inner.suspects.store(true, Ordering::Relaxed);
            false
        }
    }
}
