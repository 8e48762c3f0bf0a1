//! What a node answers when it says no: `application/problem+json` as one sentence.

use hyper::header::RETRY_AFTER;
use serde_json::Value;

use super::{Answer, excerpt};
use crate::output::STOOD;
use crate::stop;

/// The answer as an error: its detail, or its title, or what else it says.
pub(crate) fn error(answer: &Answer) -> anyhow::Error {
    stop::refused(sentence(answer))
}

/// One sentence on why the answer is not what was asked for.
pub(crate) fn sentence(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    let Ok(problem) = serde_json::from_slice::<Value>(&answer.body) else {
        return format!("the node answered {status}: {}", excerpt(&answer.body));
    };
    let text = |name: &str| {
        problem
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let mut said = match (text("detail"), text("title"), text("reason")) {
        ("", "", "") => excerpt(&answer.body),
        ("", "", reason) => reason.to_owned(),
        ("", title, _) => title.to_owned(),
        (detail, _, _) => detail.to_owned(),
    };
    if let Some(after) = answer
        .headers
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
    {
        said.push_str(&format!("; try again in {after} s"));
    }
    for line in numbers(&problem) {
        said.push_str("; ");
        said.push_str(&line);
    }
    format!("{said} (status {status})")
}

/// What was asked and what there was, of each line that a refusal names.
pub(crate) fn numbers(problem: &Value) -> Vec<String> {
    let first = problem.get("first").unwrap_or(problem);
    let lines = problem
        .get("lines")
        .or_else(|| first.get("lines"))
        .and_then(Value::as_array);
    let shown = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "?".to_owned(),
    };
    let sentence = |line: &Value| {
        let sku = line.get("sku").and_then(Value::as_str)?;
        let place = line.get("location").and_then(Value::as_str);
        let (name, stood) = STOOD
            .iter()
            .find_map(|name| line.get(*name).map(|stood| (*name, stood)))?;
        let (word, asked) = match line.get("expected") {
            Some(expected) => ("expected", Some(expected)),
            None => ("asked", line.get("requested")),
        };
        Some(format!(
            "{sku}{}: {} {word}, {} {}",
            place
                .map(|place| format!(" at {place}"))
                .unwrap_or_default(),
            shown(asked),
            shown(Some(stood)),
            name.replace('_', " "),
        ))
    };
    lines.into_iter().flatten().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn the_detail_is_what_is_said() {
        let busy = r#"{"type":"x","title":"Busy","detail":"too much at once","status":429}"#;
        let mut told = answer(429, busy);
        told.headers
            .insert(RETRY_AFTER, "2".parse().expect("a header"));
        assert_eq!(
            sentence(&told),
            "too much at once; try again in 2 s (status 429)"
        );
        assert_eq!(
            sentence(&answer(404, r#"{"title":"Not found"}"#)),
            "Not found (status 404)"
        );
        assert_eq!(
            sentence(&answer(502, "bad gateway")),
            "the node answered 502: bad gateway"
        );
    }

    #[test]
    fn the_numbers_of_a_refusal_are_said_as_what_they_are() {
        let body = r#"{"detail":"no","lines":[
            {"sku":"A","location":"m","requested":3,"available":1},
            {"sku":"A","expected":3,"on_hand":5},
            {"line":7,"reason":"unknown_line"}]}"#;
        assert_eq!(
            sentence(&answer(409, body)),
            "no; A at m: 3 asked, 1 available; A: 3 expected, 5 on hand (status 409)"
        );
    }
}
