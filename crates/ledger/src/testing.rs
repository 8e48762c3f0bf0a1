//! Faults that tests plant. Only with the feature `testing`, which no shipped binary has.

use std::cell::Cell;

use crate::command::{Input, Stamped};

thread_local! {
    static DECIDE_PANICS: Cell<bool> = const { Cell::new(false) };
}

/// A command with this reference panics when it is decided.
pub const PANIC_REFERENCE: &str = "onhand-testing:panic";

/// From now on every [`decide`](crate::decide) of this thread panics, or no longer does: a restore
/// must not need it.
pub fn decide_panics(on: bool) {
    DECIDE_PANICS.set(on);
}

/// Called before every decision.
pub(crate) fn deciding(stamped: &Stamped<'_>) {
    assert!(
        !DECIDE_PANICS.get(),
        "decide was called where it must not be"
    );
    if let Input::Command(command) = &stamped.input {
        let planted = command.reference.as_deref() == Some(PANIC_REFERENCE);
        assert!(!planted, "a panic was planted in this command");
    }
}
