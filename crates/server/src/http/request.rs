//! Reading requests: parameters, headers and bodies, each within its bound.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header;
use percent_encoding::percent_decode_str;

use crate::wire::problem::{Kind, Problem};
use crate::wire::refusal::nearest;

/// Parameters of a request at most: none has more than ten names, some may come several times.
const PARAMETERS_MAX: usize = 128;

/// The parameters of a request. Who reads them takes them out; [`Query::finish`] refuses what is left,
/// so that a misspelt one is never accepted and ignored.
#[derive(Debug)]
pub(crate) struct Query {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut left = Vec::new();
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            if left.len() == PARAMETERS_MAX {
                return Err(Problem::new(
                    Kind::INVALID,
                    format!("more than {PARAMETERS_MAX} parameters; send fewer"),
                ));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            left.push((decode(name)?, decode(value)?));
        }
        Ok(Self {
            left,
            known: Vec::new(),
        })
    }

    /// Every value of that name.
    pub(crate) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let mut values = Vec::new();
        self.left.retain_mut(|(key, value)| {
            if key == name {
                values.push(std::mem::take(value));
            }
            key != name
        });
        values
    }

    /// The value of that name, which may come once.
    pub(crate) fn one(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        let mut values = self.all(name);
        if values.len() > 1 {
            return Err(Problem::parameter(
                name,
                "comes more than once; send it once",
            ));
        }
        Ok(values.pop())
    }

    /// `true` or `false`; false where it is absent.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        match self.one(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(other) => Err(Problem::parameter(
                name,
                format!("is {other:?}; send true or false"),
            )),
        }
    }

    /// `limit`: how many items a page may have.
    pub(crate) fn limit(&mut self) -> Result<usize, Problem> {
        const DEFAULT: usize = 100;
        const MAX: usize = 1_000;
        match self.one("limit")? {
            None => Ok(DEFAULT),
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX).contains(limit))
                .ok_or_else(|| {
                    Problem::parameter("limit", format!("is {text:?}; send 1 to {MAX}"))
                }),
        }
    }

    /// Refuses whatever nobody took.
    pub(crate) fn finish(&self) -> Result<(), Problem> {
        let Some((name, _)) = self.left.first() else {
            return Ok(());
        };
        let near = nearest(name, self.known.iter().copied());
        let proposal = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None if self.known.is_empty() => "it takes none".to_owned(),
            None => format!("it takes {}", self.known.join(", ")),
        };
        let shown: String = name.chars().take(64).collect();
        Err(Problem::parameter(
            &shown,
            format!("is no parameter of this address; {proposal}"),
        ))
    }
}

fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| {
            Problem::new(
                Kind::UNREADABLE,
                "a parameter is no UTF-8; percent-encode UTF-8 bytes",
            )
        })
}

/// One segment of a path, decoded.
pub(crate) fn decode_segment(text: &str) -> Result<String, Problem> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| {
            Problem::new(
                Kind::UNREADABLE,
                "the path is no UTF-8; percent-encode UTF-8 bytes",
            )
        })
}

/// The media type without its parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media = value.split(';').next().unwrap_or_default().trim();
    Some(media.to_ascii_lowercase())
}

/// What `Idempotency-Key` says: bare, or as a quoted string.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let wrong = |why: &str| Problem::parameter("Idempotency-Key", why);
    if values.next().is_some() {
        return Err(wrong("comes more than once; send it once"));
    }
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| wrong("is no UTF-8; send the same text as in id"))?
        .trim();
    match text.strip_prefix('"') {
        None => Ok(Some(text)),
        Some(quoted) => match quoted.strip_suffix('"') {
            Some(inner) if !inner.contains(['"', '\\']) => Ok(Some(inner)),
            _ => Err(wrong(
                "is quoted, but not as a string without escapes; send it bare",
            )),
        },
    }
}

/// The body of a request, whole, of at most `max` bytes.
pub(crate) async fn body(
    mut incoming: Incoming,
    max: usize,
    idle: Duration,
) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            Kind::TOO_LARGE,
            format!("the body is above {max} B; send many commands as application/x-ndjson"),
        )
    };
    if incoming.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest: Vec<u8> = Vec::new();
    // Cancellation: a request dropped here has submitted nothing.
    while let Some(frame) = tokio::time::timeout(idle, incoming.frame())
        .await
        .map_err(|_| slow())?
    {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        match &first {
            None => first = Some(data),
            Some(begun) => {
                if rest.is_empty() {
                    rest.extend_from_slice(begun);
                }
                rest.extend_from_slice(&data);
            }
        }
        if first.as_ref().map_or(0, Bytes::len).max(rest.len()) > max {
            return Err(too_large());
        }
    }
    Ok(if rest.is_empty() {
        first.unwrap_or_default()
    } else {
        Bytes::from(rest)
    })
}

fn slow() -> Problem {
    Problem::new(
        Kind::UNREADABLE,
        "the body did not come in time; send it again",
    )
}

pub(crate) fn broken(error: &hyper::Error) -> Problem {
    Problem::new(
        Kind::UNREADABLE,
        format!("the body broke off: {error}; send it again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_taken_and_what_is_left_is_refused_by_name() {
        let mut query = Query::parse(Some("sku=a%2Fb+c&sku=d&limt=5")).unwrap();
        assert_eq!(query.all("sku"), ["a/b c", "d"]);
        assert_eq!(query.limit().unwrap(), 100);
        let problem = query.finish().unwrap_err();
        assert!(
            problem.detail.contains("did you mean \"limit\""),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn a_limit_is_within_its_bounds() {
        for bad in ["0", "1001", "-1", "x", ""] {
            let mut query = Query::parse(Some(&format!("limit={bad}"))).unwrap();
            assert!(query.limit().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_key_comes_bare_or_quoted() {
        for (sent, read) in [("abc", "abc"), ("\"abc\"", "abc"), ("\"a b\"", "a b")] {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", sent.parse().unwrap());
            assert_eq!(idempotency_key(&headers).unwrap(), Some(read));
        }
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", "\"abc".parse().unwrap());
        assert!(idempotency_key(&headers).is_err());
        headers.insert("idempotency-key", "a".parse().unwrap());
        headers.append("idempotency-key", "b".parse().unwrap());
        assert!(idempotency_key(&headers).is_err());
    }
}
