//! The method and path pairs of the model APIs, relative to `/v1`.

use http::Method;

/// One segment of a listed path.
enum Seg {
    Is(&'static str),
    /// Exactly one segment that is not empty: an id.
    Id,
    /// One or more: model ids hold slashes.
    Rest,
}

use Seg::{Id, Is, Rest};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

/// Everything that a `model` service answers to.
const LISTED: &[(Method, &[Seg])] = &[
    (POST, &[Is("chat"), Is("completions")]),
    (POST, &[Is("completions")]),
    (POST, &[Is("responses")]),
    (POST, &[Is("responses"), Is("compact")]),
    (POST, &[Is("responses"), Is("input_tokens")]),
    (GET, &[Is("responses"), Id]),
    (DELETE, &[Is("responses"), Id]),
    (POST, &[Is("responses"), Id, Is("cancel")]),
    (GET, &[Is("responses"), Id, Is("input_items")]),
    (POST, &[Is("embeddings")]),
    (POST, &[Is("rerank")]),
    (POST, &[Is("moderations")]),
    (POST, &[Is("audio"), Is("speech")]),
    (POST, &[Is("audio"), Is("transcriptions")]),
    (POST, &[Is("audio"), Is("translations")]),
    (POST, &[Is("images"), Is("generations")]),
    (POST, &[Is("images"), Is("edits")]),
    (POST, &[Is("images"), Is("variations")]),
    (GET, &[Is("models")]),
    (GET, &[Is("models"), Rest]),
    (POST, &[Is("messages")]),
    (POST, &[Is("messages"), Is("count_tokens")]),
];

/// Whether the pair is one of the model APIs.
pub(super) fn is_listed(method: &Method, segments: &[String]) -> bool {
    LISTED
        .iter()
        .any(|(listed, path)| listed == method && matches(path, segments))
}

fn matches(path: &[Seg], segments: &[String]) -> bool {
    match (path, segments) {
        ([], []) => true,
        ([Rest], [_, ..]) => segments.iter().all(|segment| !segment.is_empty()),
        ([Is(text), path @ ..], [segment, rest @ ..]) => segment == text && matches(path, rest),
        ([Id, path @ ..], [segment, rest @ ..]) => !segment.is_empty() && matches(path, rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(method: Method, path: &str) -> bool {
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        is_listed(&method, &segments)
    }

    #[test]
    fn pairs_are_exact() {
        assert!(listed(POST, "chat/completions"));
        assert!(listed(GET, "models"));
        assert!(listed(GET, "models/meta-llama/Llama-3.1-8B"));
        assert!(listed(GET, "responses/resp_1"));
        assert!(listed(POST, "responses/resp_1/cancel"));
        assert!(!listed(GET, "chat/completions"));
        assert!(!listed(DELETE, "models/x"));
        assert!(!listed(POST, "chat/completions/"));
        assert!(!listed(POST, "load_lora_adapter"));
        assert!(!listed(GET, "models/"));
        assert!(!listed(GET, "responses/"));
        assert!(!listed(Method::PUT, "messages"));
    }
}
