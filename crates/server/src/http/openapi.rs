//! `/api/v1/openapi.json`: the description of the pages for services and streams, in OpenAPI 3.1. It is written by hand; a test sees
//! to it that it and the pages are the same.

use std::sync::OnceLock;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::body::Answer;
use super::cx::Cx;
use super::rendered::Rendered;
use super::request::Failure;

/// The document.
const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");

/// The page.
pub(super) fn answer(_cx: &Cx<'_>, request: &Request<Incoming>) -> Result<Answer, Failure> {
    static PAGE: OnceLock<Rendered> = OnceLock::new();
    match *request.method() {
        Method::GET | Method::HEAD => {
            let page = PAGE.get_or_init(|| Rendered::new("application/json", DOCUMENT));
            Ok(page.answer(request.headers()))
        }
        _ => Err(Failure::wrong_method("GET")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::super::api::STREAM_PAGES;
    use super::super::api::services::PAGES;
    use super::DOCUMENT;

    #[test]
    fn the_document_and_the_pages_are_the_same() {
        let document: Json = serde_json::from_str(DOCUMENT).unwrap();
        let mut described = BTreeSet::new();
        for (path, page) in document["paths"].as_object().unwrap() {
            for method in page.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let ours = PAGES
            .iter()
            .chain(STREAM_PAGES)
            .flat_map(|(path, methods)| methods.split(", ").map(move |method| format!("{method} /api/v1/{path}")));
        let verbs = ["POST /register", "GET /query", "POST /deregister"].map(str::to_owned);
        assert_eq!(described, ours.chain(verbs).collect());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(json: &'a Json, found: &mut Vec<&'a str>) {
            match json {
                Json::Object(map) => {
                    found.extend(map.get("$ref").and_then(Json::as_str));
                    map.values().for_each(|value| references(value, found));
                }
                Json::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document: Json = serde_json::from_str(DOCUMENT).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
