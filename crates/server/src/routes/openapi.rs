//! `/openapi.json`: the API's description.

use hyper::Response;

use super::Call;
use crate::http::respond::{self, Body};
use crate::wire::problem::Problem;

/// The committed description; a test compares it with the table of addresses.
const DOCUMENT: &str = include_str!("../../openapi.json");

pub(super) fn get(call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    Ok(respond::json(200, DOCUMENT))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::router::ROUTES;
    use crate::wire::problem::Kind;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Every operation with its method and address.
    fn operations(document: &Value) -> Vec<(String, String, &Value)> {
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                operations.push((method.to_uppercase(), path.clone(), operation));
            }
        }
        operations
    }

    #[test]
    fn every_address_is_described_and_every_description_is_an_address() {
        let document = document();
        let described: BTreeSet<(String, String)> = operations(&document)
            .into_iter()
            .map(|(method, path, _)| (method, path))
            .collect();
        let served: BTreeSet<(String, String)> = ROUTES
            .iter()
            .map(|route| (route.method.to_owned(), route.template.to_owned()))
            .collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_an_example() {
        let document = document();
        let mut names = BTreeSet::new();
        for (method, path, operation) in operations(&document) {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name}");
            let responses = operation["responses"].as_object().unwrap();
            let has_example = responses.values().any(|response| {
                response["content"]
                    .as_object()
                    .is_some_and(|content| content.values().any(|m| m.get("example").is_some()))
            });
            assert!(has_example, "{method} {path}");
        }
    }

    #[test]
    fn every_kind_of_problem_is_described() {
        let document = document();
        let described: BTreeSet<String> =
            document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
                .as_array()
                .unwrap()
                .iter()
                .map(|kind| kind.as_str().unwrap().to_owned())
                .collect();
        let known: BTreeSet<String> = Kind::ALL.iter().map(|kind| kind.uri()).collect();
        assert_eq!(described, known);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(document: &Value, value: &Value) {
            match value {
                Value::Object(members) => {
                    for (key, member) in members {
                        if key == "$ref" {
                            let pointer = member.as_str().unwrap().trim_start_matches('#');
                            assert!(document.pointer(pointer).is_some(), "{pointer}");
                        }
                        check(document, member);
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| check(document, item)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
    }
}
