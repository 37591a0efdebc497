//! The agent file as it is written: every key, strictly, each with its place.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::caller::RawCaller;

/// A text with its line and column.
pub(crate) type Text = Spanned<String>;

/// A key that is part of the format and that this build cannot enforce. Its presence is an
/// error: a rule that is written and not kept would be worse than none.
pub(crate) type Later = Spanned<IgnoredAny>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawFile {
    pub(crate) join: Option<Text>,
    pub(crate) state_dir: Option<Text>,
    pub(crate) services: Vec<RawService>,
    pub(crate) audit: Option<RawAudit>,
    pub(crate) health_listen: Option<Text>,
    pub(crate) planes: Option<Vec<Text>>,
    pub(crate) nearest: Option<Later>,
    pub(crate) proxy: Option<Later>,
    pub(crate) post_quantum: Option<Text>,
    pub(crate) drain_timeout: Option<Text>,
    pub(crate) log: Option<Text>,
}

/// One entry of `services`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawService {
    pub(crate) name: Text,
    pub(crate) kind: Text,
    pub(crate) url: Option<Text>,
    pub(crate) urls: Option<Spanned<Vec<Text>>>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Text>,
    #[serde(default)]
    pub(crate) pass: Vec<Text>,
    pub(crate) models: Option<Vec<Text>>,
    pub(crate) health: Option<RawHealth>,
    pub(crate) limits: Option<RawLimits>,
    pub(crate) allow: Option<Spanned<Vec<RawAllow>>>,
    pub(crate) networks: Option<Vec<Text>>,
    pub(crate) tls: Option<RawTls>,
    pub(crate) connect_timeout: Option<Text>,
    pub(crate) tools: Option<Spanned<RawTools>>,
    pub(crate) read_only: Option<Spanned<bool>>,
    pub(crate) require_caller: Option<Spanned<RawCaller>>,
    pub(crate) proxy: Option<Later>,
    pub(crate) command: Option<Spanned<RawCommand>>,
    pub(crate) args: Option<Spanned<Vec<Text>>>,
    pub(crate) env: Option<BTreeMap<String, Text>>,
    pub(crate) cwd: Option<Text>,
    pub(crate) user: Option<Text>,
    pub(crate) instances: Option<Text>,
    pub(crate) enabled: Option<Spanned<bool>>,
}

/// `tools: { allow, deny }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTools {
    pub(crate) allow: Spanned<Vec<Text>>,
    pub(crate) deny: Option<Spanned<Vec<Text>>>,
}

/// `command`: a list, or a program alone, as the files of MCP clients have it.
#[derive(Debug)]
pub(crate) struct RawCommand(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for RawCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CommandWords)
    }
}

struct CommandWords;

impl<'de> Visitor<'de> for CommandWords {
    type Value = RawCommand;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a program, or a list of a program and its arguments")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawCommand, E> {
        Ok(RawCommand(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawCommand, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        Ok(RawCommand(words))
    }
}

/// `health: { path, every }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawHealth {
    pub(crate) path: Option<Text>,
    pub(crate) every: Option<Text>,
}

/// `limits: { concurrency, queue, queue_wait, rate }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLimits {
    pub(crate) concurrency: Option<Spanned<u32>>,
    pub(crate) queue: Option<Spanned<u32>>,
    pub(crate) queue_wait: Option<Text>,
    pub(crate) instances: Option<Spanned<u32>>,
    pub(crate) idle: Option<Text>,
    pub(crate) memory: Option<Text>,
    pub(crate) rate: Option<Text>,
}

/// One entry of `allow`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAllow {
    pub(crate) methods: Vec<Text>,
    pub(crate) paths: Vec<Text>,
    #[serde(default)]
    pub(crate) upgrade: Vec<Text>,
}

/// `tls: { ca, cert, key, server_name }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTls {
    pub(crate) ca: Option<Text>,
    pub(crate) cert: Option<Text>,
    pub(crate) key: Option<Text>,
    pub(crate) server_name: Option<Text>,
}

/// `audit: { path, rotate, keep, when_full }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAudit {
    pub(crate) path: Option<Text>,
    pub(crate) rotate: Option<Text>,
    pub(crate) keep: Option<Spanned<u32>>,
    pub(crate) when_full: Option<Text>,
}
