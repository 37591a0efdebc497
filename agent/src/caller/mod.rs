//! `require_caller`: the end user proves who it is to the agent itself, with a token of the
//! customer's identity provider. A plane can hand such a token on, and cannot make one up.

mod keys;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use crate::backend::{Backends, Ground, TlsSetupError};
use crate::config::ServiceDef;
use keys::{Keys, Source};

pub use keys::KeysError;

/// Longest token that is read, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far the provider's clock may be from ours, in seconds.
const LEEWAY_SECONDS: u64 = 60;
/// Signatures of which the verifier has no secret. `none`, and those with a shared secret, are not.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::EdDSA,
];

/// `require_caller` of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct CallerRule {
    /// Who has to have issued the token: its `iss`.
    pub issuer: String,
    /// Where the provider's keys are.
    pub keys: KeySource,
    /// For whom it has to be issued: one of these is in its `aud`.
    pub audience: Vec<String>,
    /// What it has to say besides: each of these claims is, or holds, one of the values.
    pub claims: BTreeMap<String, Vec<Value>>,
    /// The header that it comes in.
    pub header: HeaderName,
}

/// Where a provider's keys are (a JWK set).
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// Asked for there, and kept fresh.
    Url(Box<ServiceDef>),
    /// In a file, read again now and then.
    File(PathBuf),
}

/// The rule of a service as it runs.
#[derive(Debug)]
pub struct CallerCheck {
    rule: CallerRule,
    keys: Keys,
}

/// Why a call is not made.
#[derive(Debug, thiserror::Error)]
pub enum CallerDenied {
    /// No token, or more than one.
    #[error("the header `{0}` has no token")]
    Missing(HeaderName),
    /// Not signed in a way that proves anything here.
    #[error("the token is not signed as it has to be")]
    Algorithm,
    /// The signature is none of the provider's, or what it says does not fit.
    #[error("the token is not valid")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// The provider has no such key.
    #[error("the token is signed with a key that its issuer does not have")]
    UnknownKey,
    /// A claim is not what it has to be.
    #[error("the token's claim `{0}` is not what it has to be")]
    Claim(String),
    /// Nobody knows the provider's keys at present.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

impl CallerCheck {
    /// Nothing is asked for before the first call. What is known of the keys stays known where the
    /// rule is that of `before`.
    pub(crate) fn begin(
        rule: &CallerRule,
        ground: &Ground,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, TlsSetupError> {
        if let Some(before) = before.filter(|before| before.rule == *rule) {
            return Ok(Arc::clone(before));
        }
        let keys = match &rule.keys {
            KeySource::Url(def) => {
                let path = def.urls.first().map(|url| url.base.whole().to_owned());
                let backends = Backends::new(def, ground, None)?;
                Source::Url(backends, path.unwrap_or_default())
            }
            KeySource::File(path) => Source::File(path.clone()),
        };
        Ok(Arc::new(Self::new(rule.clone(), Keys::new(keys))))
    }

    fn new(rule: CallerRule, keys: Keys) -> Self {
        Self { rule, keys }
    }

    /// Whether the end user has proved to be one that may call; gives back who it is, its `sub`.
    ///
    /// # Errors
    /// [`CallerDenied`].
    pub async fn verify(&self, headers: &HeaderMap) -> Result<Option<String>, CallerDenied> {
        let token = self.token(headers)?;
        let header = decode_header(token).map_err(CallerDenied::Token)?;
        // What has to be understood, and is not (RFC 7515, 4.1.11).
        if !ALGORITHMS.contains(&header.alg) || header.crit.is_some() {
            return Err(CallerDenied::Algorithm);
        }
        let keys = self.keys.find(header.kid.as_deref()).await?;
        let mut last = CallerDenied::UnknownKey;
        for key in &keys {
            match self.signed(token, header.alg, key) {
                Ok(claims) => return self.judged(&claims),
                Err(error) => last = CallerDenied::Token(error),
            }
        }
        Err(last)
    }

    fn token<'h>(&self, headers: &'h HeaderMap) -> Result<&'h str, CallerDenied> {
        let missing = || CallerDenied::Missing(self.rule.header.clone());
        let mut values = headers.get_all(&self.rule.header).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(missing());
        };
        let text = value.to_str().map_err(|_| missing())?.trim();
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            None if self.rule.header != AUTHORIZATION => text,
            Some(_) | None => return Err(missing()),
        };
        match token.len() {
            1..=MAX_TOKEN_BYTES => Ok(token),
            _ => Err(missing()),
        }
    }

    fn signed(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &Jwk,
    ) -> Result<BTreeMap<String, Value>, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.rule.issuer]);
        validation.set_audience(&self.rule.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let key = DecodingKey::from_jwk(key)?;
        decode(token, &key, &validation).map(|data| data.claims)
    }

    fn judged(&self, claims: &BTreeMap<String, Value>) -> Result<Option<String>, CallerDenied> {
        for (name, wanted) in &self.rule.claims {
            let claim = claims.get(name).or_else(|| within(claims, name));
            if !claim.is_some_and(|claim| holds(name, claim, wanted)) {
                return Err(CallerDenied::Claim(name.clone()));
            }
        }
        let subject = claims.get("sub").and_then(Value::as_str);
        Ok(subject.map(str::to_owned))
    }
}

/// `a.b` is the member `b` of the claim `a`, where no claim has the whole name.
fn within<'c>(claims: &'c BTreeMap<String, Value>, name: &str) -> Option<&'c Value> {
    let mut path = name.split('.');
    let first = claims.get(path.next()?)?;
    path.try_fold(first, |value, part| value.get(part))
}

fn holds(name: &str, claim: &Value, wanted: &[Value]) -> bool {
    match claim {
        Value::Array(values) => values.iter().any(|value| wanted.contains(value)),
        // A list of its own kind (RFC 8693, 4.2).
        Value::String(text) if name == "scope" => text
            .split(' ')
            .any(|one| wanted.iter().any(|wanted| wanted == one)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            wanted.contains(claim)
        }
    }
}

#[cfg(test)]
mod tests;
