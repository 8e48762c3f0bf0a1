//! Commands that people look for and this version does not have: they are refused by name, with what
//! to do meanwhile, and not as if they had been mistyped.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What is not there yet: the words that lead to it, and what to do instead.
const LATER: &[(&[&str], &str)] = &[
    (
        &["doctor"],
        "GET /readyz?verbose says how a node is, `onhand verify --data DIR` checks what it wrote",
    ),
    (
        &["config"],
        "`onhand serve --help` lists every setting, its environment variable and its default",
    ),
    (&["man"], "every command has --help"),
    (
        &["reservation", "transfer"],
        "release it and create it anew at the other location",
    ),
];

/// The refusal, where the error is about something that is not there yet.
pub(crate) fn refusal(error: &clap::Error, words: &[String]) -> Option<String> {
    let kind = match error.kind() {
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        _ => return None,
    };
    let Some(ContextValue::String(unknown)) = error.get(kind) else {
        return None;
    };
    let (path, instead) = LATER.iter().find(|(path, _)| {
        let (last, before) = path.split_last().expect("no path is empty");
        let within = before
            .iter()
            .all(|word| words.iter().any(|given| given == word));
        within && last == unknown
    })?;
    let path = path.join(" ");
    Some(format!(
        "`onhand {path}` is not available in this version; {instead}"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn said(line: &str) -> Option<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = crate::Cli::try_parse_from(&words).expect_err("it is not there");
        refusal(&error, &words)
    }

    #[test]
    fn what_comes_later_is_refused_by_name_and_a_slip_is_not() {
        for (line, named) in [
            ("onhand doctor", "`onhand doctor`"),
            ("onhand -o json doctor", "`onhand doctor`"),
            ("onhand config show --origin", "`onhand config`"),
            ("onhand man", "`onhand man`"),
            (
                "onhand reservation transfer r",
                "`onhand reservation transfer`",
            ),
        ] {
            let said = said(line).expect(line);
            assert!(said.contains(named), "{line}: {said}");
            assert!(said.contains("not available in this version"), "{said}");
        }
        for line in [
            "onhand copy",
            "onhand log frob",
            "onhand stock ls --kafka x",
        ] {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
