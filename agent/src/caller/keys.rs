//! The keys of an identity provider: fetched when they are needed, and kept fresh.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use serde_json::Value;

use crate::backend::Backends;
use crate::error::chain;

/// How long keys are used without a look whether there are others.
const FRESH: Duration = Duration::from_secs(300);
/// How long they are used while nobody can look: a provider may restart.
const STALE: Duration = Duration::from_secs(3_600);
/// Between two looks, whatever tokens come.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// For one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest set of keys, in bytes.
const MAX_SET_BYTES: usize = 1 << 20;
/// Keys of a set that are used, and tried for a token that names none.
const MAX_KEYS: usize = 64;

/// Nobody knows the keys at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the issuer's keys are not known: {0}")]
pub struct KeysError(String);

/// The keys of one provider.
#[derive(Debug)]
pub(crate) struct Keys {
    source: Source,
    known: Mutex<Known>,
    /// One look at a time; the others wait for what it finds.
    looking: tokio::sync::Mutex<()>,
}

/// Where they come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A server, and the path to ask for.
    Url(Backends, String),
    File(PathBuf),
}

#[derive(Debug, Default)]
struct Known {
    keys: Arc<[Jwk]>,
    found: Option<Instant>,
    looked: Option<Instant>,
    failure: Option<String>,
}

impl Keys {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            known: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// The keys that may have signed a token: those of the id, or all where it names none.
    pub(super) async fn find(&self, id: Option<&str>) -> Result<Vec<Jwk>, KeysError> {
        if !self.is_enough(id, Instant::now()) {
            let _looking = self.looking.lock().await;
            if !self.is_enough(id, Instant::now()) && self.may_look(Instant::now()) {
                self.look().await;
            }
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = known.found.is_none_or(|found| found.elapsed() > STALE);
        if is_old {
            let reason = known.failure.clone();
            return Err(KeysError(reason.unwrap_or_else(|| "not yet".to_owned())));
        }
        let fits = |key: &&Jwk| id.is_none() || key.common.key_id.as_deref() == id;
        Ok(known.keys.iter().filter(fits).cloned().collect())
    }

    /// Whether what is known is fresh and has the key.
    fn is_enough(&self, id: Option<&str>, now: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = known.found.is_some_and(|found| now - found < FRESH);
        let mut ids = known.keys.iter().map(|key| key.common.key_id.as_deref());
        is_fresh && (id.is_none() || ids.any(|known| known == id))
    }

    fn may_look(&self, now: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.looked.is_none_or(|looked| now - looked >= LOOK_AGAIN)
    }

    async fn look(&self) {
        let read = tokio::time::timeout(LOOK_TIMEOUT, self.source.read()).await;
        let read = read.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let keys = read.and_then(|text| parse(&text));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.looked = Some(now);
        match keys {
            Ok(keys) => {
                known.keys = keys;
                known.found = Some(now);
                known.failure = None;
            }
            Err(reason) => {
                tracing::warn!(reason, "the keys of an issuer cannot be read");
                known.failure = Some(reason);
            }
        }
    }
}

impl Source {
    async fn read(&self) -> Result<Bytes, String> {
        match self {
            Self::Url(backends, path) => {
                let backend = backends.iter().next().ok_or("no url")?;
                let got = backend.get_origin(path, MAX_SET_BYTES).await;
                match got.map_err(|error| chain(&error))? {
                    (200, body) => Ok(body),
                    (status, _) => Err(format!("it answers {status}")),
                }
            }
            Self::File(path) => {
                let fail = |error: std::io::Error| format!("{}: {error}", path.display());
                let size = tokio::fs::metadata(path).await.map_err(fail)?.len();
                if size > MAX_SET_BYTES as u64 {
                    return Err(format!("larger than {MAX_SET_BYTES} bytes"));
                }
                tokio::fs::read(path).await.map(Bytes::from).map_err(fail)
            }
        }
    }
}

/// The keys of a set that prove something here; others are left out, as they may be for another
/// use or of a later kind.
fn parse(text: &[u8]) -> Result<Arc<[Jwk]>, String> {
    let set: Value = serde_json::from_slice(text).map_err(|_| "not a JWK set")?;
    let keys = set.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or("not a JWK set")?;
    let is_public = |key: &Jwk| match key.algorithm {
        AlgorithmParameters::RSA(_)
        | AlgorithmParameters::EllipticCurve(_)
        | AlgorithmParameters::OctetKeyPair(_) => true,
        AlgorithmParameters::OctetKey(_) | AlgorithmParameters::Other(_) | _ => false,
    };
    let keys = keys
        .iter()
        .filter_map(|key| serde_json::from_value(key.clone()).ok())
        .filter(is_public)
        .take(MAX_KEYS)
        .collect();
    Ok(keys)
}
