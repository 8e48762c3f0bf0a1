//! How the process ends when something was not done: the message and the exit code.

use std::fmt;
use std::process::ExitCode;

/// Why a command stopped, where the exit code says more than "1".
#[derive(Debug)]
pub(crate) enum Stop {
    /// The node refused, or a check found a violation; what matters has been printed.
    Refused(String),
    /// The command was used wrongly, or an input cannot be read.
    Usage(String),
    /// No node answered.
    Unreachable(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Stop::Refused(text) | Stop::Usage(text) | Stop::Unreachable(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Stop {}

/// The node said no.
pub(crate) fn refused(text: impl Into<String>) -> anyhow::Error {
    Stop::Refused(text.into()).into()
}

/// The command line or an input is wrong.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    Stop::Usage(text.into()).into()
}

/// Nothing answered.
pub(crate) fn unreachable(text: impl Into<String>) -> anyhow::Error {
    Stop::Unreachable(text.into()).into()
}

/// Whether the node could not be reached (worth another try), as against having said no.
pub(crate) fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Stop>(), Some(Stop::Unreachable(_)))
}

/// Prints the error and gives its exit code.
///
/// A reader that closed our stdout early (`onhand stock ls | head`) is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let closed_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    });
    let stop = error.downcast_ref::<Stop>();
    if closed_pipe && stop.is_none() {
        return ExitCode::SUCCESS;
    }
    eprintln!("onhand: {error:#}");
    ExitCode::from(match stop {
        None | Some(Stop::Refused(_)) => 1,
        Some(Stop::Usage(_)) => 2,
        Some(Stop::Unreachable(_)) => 3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_keeps_its_kind_under_context() {
        let error = unreachable("nothing answers").context("while importing");
        assert!(is_unreachable(&error));
        assert!(!is_unreachable(&refused("no")));
        assert_eq!(format!("{error:#}"), "while importing: nothing answers");
    }
}
