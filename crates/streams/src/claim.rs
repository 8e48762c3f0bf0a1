//! Taking the name of a task, so that its state can be restored.

use std::time::{Duration, Instant};

use onhand_log::{Log, ReadError, Token, TopicPartition, View};

use crate::restore::RestoreError;
use crate::task::TaskSpec;

/// How long what is told and not shown yet is waited for, and between two looks.
const TOLD_PATIENCE: Duration = Duration::from_secs(5);
const TOLD_PAUSE: Duration = Duration::from_millis(2);

/// Claims the name of a task, so that its state can be restored. Who had the name may have given it up as
/// soon as its last append was durable: where others share the log, that may be shown a moment later. A
/// state restored before would lack what somebody was told.
///
/// # Errors
/// Where it may pass, the name is given up again.
pub(crate) fn claim(log: &dyn Log, spec: &TaskSpec) -> Result<Token, RestoreError> {
    let token = log.claim(&spec.owner())?;
    match await_told(log, spec.at(spec.topics.redo)) {
        Ok(()) => Ok(token),
        Err(error) => {
            give_up(log, &token);
            Err(error.into())
        }
    }
}

/// Gives up what was claimed in vain.
pub(crate) fn give_up(log: &dyn Log, token: &Token) {
    if let Err(error) = log.give_up(token) {
        tracing::warn!(%error, owner = %token.owner, "a name was not given up");
    }
}

fn await_told(log: &dyn Log, at: TopicPartition) -> Result<(), ReadError> {
    let told = log.told_end(at)?;
    let until = Instant::now() + TOLD_PATIENCE;
    loop {
        let shown = log.bounds(at, View::Durable)?.end;
        if shown >= told {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(ReadError::Io(format!(
                "{} offsets of partition {} were written and are not shown within {TOLD_PATIENCE:?}: an \
                 open transaction stands there; it is tried again",
                told - shown,
                at.partition
            )));
        }
        std::thread::sleep(TOLD_PAUSE);
    }
}
