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
    (GET, &[Is("realtime")]),
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

    /// As the page on the agent says, which a customer reads before trusting it.
    const PAIRS: &str = "
        POST chat/completions
        POST completions
        POST responses
        POST responses/compact
        POST responses/input_tokens
        GET responses/resp_1
        DELETE responses/resp_1
        POST responses/resp_1/cancel
        GET responses/resp_1/input_items
        POST embeddings
        POST rerank
        POST moderations
        POST audio/speech
        POST audio/transcriptions
        POST audio/translations
        POST images/generations
        POST images/edits
        POST images/variations
        GET realtime
        GET models
        GET models/meta-llama/Llama-3.1-8B
        POST messages
        POST messages/count_tokens";

    #[test]
    fn pairs_are_exact() {
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let wanted: Vec<(&str, &str)> = PAIRS
            .lines()
            .filter_map(|line| line.trim().split_once(' '))
            .collect();
        for (_, path) in &wanted {
            for text in methods {
                let method = text.parse().expect("a method");
                // `responses/compact` is also read as the response of that id.
                let stored = *text != *"POST" && path.starts_with("responses/");
                let right = wanted.contains(&(text, path));
                assert!(stored || listed(method, path) == right, "{text} {path}");
            }
        }
    }

    #[test]
    fn nothing_else_is_listed() {
        for (method, path) in [
            (POST, "chat/completions/"),
            (POST, "load_lora_adapter"),
            (POST, "responses/resp_1"),
            (GET, "responses/resp_1/cancel"),
            (GET, "responses/resp_1/input_items/x"),
            (GET, "models/"),
            (GET, "responses/"),
            (DELETE, "models/x"),
            (POST, "realtime/client_secrets"),
            (GET, "audio"),
            (Method::PUT, "messages"),
        ] {
            assert!(!listed(method.clone(), path), "{method} {path}");
        }
    }
}
