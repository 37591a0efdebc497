//! The agent file as it is written: every key, strictly, each with its place.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

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
    pub(crate) require_caller: Option<Later>,
    pub(crate) proxy: Option<Later>,
    pub(crate) command: Option<Later>,
    pub(crate) args: Option<Later>,
    pub(crate) env: Option<Later>,
    pub(crate) cwd: Option<Later>,
    pub(crate) user: Option<Later>,
    pub(crate) instances: Option<Later>,
    pub(crate) enabled: Option<Later>,
}

/// `tools: { allow, deny }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTools {
    pub(crate) allow: Spanned<Vec<Text>>,
    pub(crate) deny: Option<Spanned<Vec<Text>>>,
}

/// `health: { path, every }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawHealth {
    pub(crate) path: Option<Text>,
    pub(crate) every: Option<Text>,
}

/// `limits: { concurrency, queue, queue_wait }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLimits {
    pub(crate) concurrency: Option<Spanned<u32>>,
    pub(crate) queue: Option<Spanned<u32>>,
    pub(crate) queue_wait: Option<Text>,
    pub(crate) rate: Option<Later>,
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
