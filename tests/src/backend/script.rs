//! What a request asks of the fixture: how many tokens at which pace, and which fault.
//!
//! A request says it in a `fixture` object (`tokens`, `interval_ms`, `first_ms`, `token_bytes`, `fault`, `after`, `headers`),
//! or by a model named `fault-<fault>` or `fast`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// Tokens of an answer that nobody asked to be longer or shorter.
const DEFAULT_TOKENS: u32 = 12;
/// Time between two tokens unless `TOKEN_MS` or the request says otherwise.
const DEFAULT_INTERVAL_MS: u64 = 20;

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// An answer with status 500 in the dialect of the path.
    #[serde(rename = "500")]
    Internal,
    /// Status 429 with `retry-after: 7`.
    #[serde(rename = "429")]
    RateLimited,
    /// The head never comes.
    Silent,
    /// The stream stops for ever after some tokens.
    Stall,
    /// A TCP reset after some tokens, or before the head.
    Reset,
    /// A connection closed after some tokens without the end of the body.
    Cut,
    /// Bytes that are no HTTP.
    Garbage,
    /// A head above every limit on heads.
    HugeHeaders,
    /// A redirect to somewhere else.
    Redirect,
}

/// All faults with the names of their models.
pub const FAULT_MODELS: [(&str, Fault); 9] = [
    ("fault-500", Fault::Internal),
    ("fault-429", Fault::RateLimited),
    ("fault-silent", Fault::Silent),
    ("fault-stall", Fault::Stall),
    ("fault-reset", Fault::Reset),
    ("fault-cut", Fault::Cut),
    ("fault-garbage", Fault::Garbage),
    ("fault-huge-headers", Fault::HugeHeaders),
    ("fault-redirect", Fault::Redirect),
];

/// What the answer to one request will be like.
#[derive(Clone, Debug)]
pub struct Script {
    /// Tokens of the answer.
    pub tokens: u32,
    /// Time before each token but the first.
    pub interval: Duration,
    /// Time before the first token.
    pub first: Duration,
    /// Bytes of each token; 0 for words.
    pub token_bytes: usize,
    /// How it fails.
    pub fault: Option<Fault>,
    /// Tokens that still come before a fault of a stream.
    pub after: u32,
    /// Headers that the answer carries besides its own.
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wish {
    tokens: Option<u32>,
    interval_ms: Option<u64>,
    first_ms: Option<u64>,
    token_bytes: usize,
    fault: Option<Fault>,
    after: Option<u32>,
    headers: BTreeMap<String, String>,
}

impl Script {
    /// Reads the wishes of a request body; `Err` names what could not be read.
    ///
    /// # Errors
    /// The text of the mistake in the `fixture` object.
    pub fn of(body: &serde_json::Value) -> Result<Self, String> {
        let wish: Wish = match body.get("fixture") {
            Some(fixture) => {
                serde_json::from_value(fixture.clone()).map_err(|error| error.to_string())?
            }
            None => Wish::default(),
        };
        let model = body["model"].as_str().unwrap_or_default();
        let limit = ["max_completion_tokens", "max_tokens", "max_output_tokens"]
            .iter()
            .find_map(|name| body[*name].as_u64())
            .and_then(|tokens| u32::try_from(tokens).ok());
        let pace = if model == "fast" {
            Duration::ZERO
        } else {
            default_interval()
        };
        let interval = wish.interval_ms.map_or(pace, Duration::from_millis);
        Ok(Self {
            tokens: wish.tokens.or(limit).unwrap_or(DEFAULT_TOKENS),
            interval,
            first: wish.first_ms.map_or(interval, Duration::from_millis),
            token_bytes: wish.token_bytes,
            fault: wish.fault.or_else(|| fault_of(model)),
            after: wish.after.unwrap_or(3),
            headers: wish.headers,
        })
    }

    /// Token number `index` as text.
    pub fn token(&self, index: u32) -> String {
        const WORDS: [&str; 12] = [
            "Water", " finds", " its", " own", " way", " through", " the", " culvert", " under",
            " the", " road", ".",
        ];
        if self.token_bytes > 0 {
            return "x".repeat(self.token_bytes);
        }
        WORDS[index as usize % WORDS.len()].to_owned()
    }

    /// The whole answer as text.
    pub fn text(&self) -> String {
        (0..self.tokens).map(|index| self.token(index)).collect()
    }

    /// Waits as long as the whole answer takes; no time at all where that is nothing, which a timer would round up to 1 ms.
    pub async fn pass_time(&self) {
        let total = self.first + self.interval * self.tokens.saturating_sub(1);
        if !total.is_zero() {
            tokio::time::sleep(total).await;
        }
    }
}

fn fault_of(model: &str) -> Option<Fault> {
    FAULT_MODELS
        .iter()
        .find(|(name, _)| *name == model)
        .map(|(_, fault)| *fault)
}

fn default_interval() -> Duration {
    let ms = std::env::var("TOKEN_MS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_millis(ms.unwrap_or(DEFAULT_INTERVAL_MS))
}
