//! The models that a backend says it has.

use serde::Deserialize;

use crate::config::{MAX_MODEL_NAME_BYTES, MAX_MODELS};

/// The list of a `GET /models` answer: OpenAI's shape (`data`, ids), which vLLM, Ollama, TGI,
/// llama.cpp and SGLang speak below `/v1`, sorted; none where it is another document.
pub(super) fn models(body: &[u8]) -> Option<Vec<String>> {
    let list: List = serde_json::from_slice(body).ok()?;
    let fits = |id: &String| (1..=MAX_MODEL_NAME_BYTES).contains(&id.len());
    let mut ids: Vec<String> = list.data.into_iter().map(|m| m.id).filter(fits).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(MAX_MODELS);
    Some(ids)
}

/// What every one of the backends has: a call may go to any of them.
pub(super) fn common(lists: &[Vec<String>]) -> Option<Vec<String>> {
    let (first, rest) = lists.split_first()?;
    let everywhere = |id: &&String| rest.iter().all(|list| list.contains(id));
    Some(first.iter().filter(everywhere).cloned().collect())
}

#[derive(Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openai_shape_is_understood() {
        let body = br#"{"object":"list","data":[{"id":"qwen3:8b","object":"model"},{"id":"llama","x":1},{"id":"llama"},{"id":""}]}"#;
        assert_eq!(
            models(body),
            Some(vec!["llama".to_owned(), "qwen3:8b".to_owned()])
        );
        assert_eq!(models(br#"{"data":[]}"#), Some(Vec::new()));
        assert_eq!(models(b"<html>"), None);
        assert_eq!(models(br#"{"models":1}"#), None);
    }

    #[test]
    fn several_backends_offer_what_all_have() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(common(&[]), None);
        assert_eq!(
            common(&[list(&["a", "b"]), list(&["b", "c"])]),
            Some(list(&["b"]))
        );
        assert_eq!(common(&[list(&["a"])]), Some(list(&["a"])));
    }
}
