//! The agent's identity: kept in the state directory, or had by joining.

use std::time::{Duration, Instant, SystemTime};

use culvert_certs::store::{CredentialStore, Membership, Refusal, StoredIdentity};
use culvert_certs::{Identity, JoinAnswer, JoinToken, KeyPair, RootPin};
use culvert_wire::Backoff;

use crate::error::{AgentError, chain};
use crate::join::{self, JoinFailure};

/// How long joining is usually tried while nobody answers.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(300);
/// First wait between two tries, before jitter.
const JOIN_BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Longest wait between two tries, before jitter.
const JOIN_BACKOFF_CAP: Duration = Duration::from_secs(10);

/// The identity of the state directory; joins where there is none that is usable.
///
/// # Errors
/// [`AgentError::Refused`] where a refusal is kept or given, [`AgentError::Unreachable`] after
/// `patience`, [`AgentError::Usage`] without a token.
pub async fn obtain(
    store: &CredentialStore,
    token: Option<&JoinToken>,
    patience: Duration,
) -> Result<StoredIdentity, AgentError> {
    let stored = store.load().map_err(|error| state_error(&error))?;
    let refusal = store.refusal().map_err(|error| state_error(&error))?;
    let token_id = token.map(JoinToken::id);
    if let Some(refusal) = &refusal {
        let identity = stored.as_ref().map(|stored| &stored.credentials.identity);
        if refusal.stands(identity, token_id) {
            return Err(AgentError::Refused(format!(
                "refused before ({}): {}; a new join token lifts this",
                refusal.code, refusal.reason
            )));
        }
    }
    match (stored, token) {
        (Some(stored), None) if refusal.is_none() && is_alive(&stored) => Ok(stored),
        (Some(stored), Some(token))
            if refusal.is_none() && is_alive(&stored) && is_same_place(&stored, token) =>
        {
            tracing::info!(identity = %stored.credentials.identity, "joined before; the token is not used");
            with_addresses_of(store, stored, token)
        }
        (stored, Some(token)) => {
            if let Some(stored) = stored {
                tracing::info!(identity = %stored.credentials.identity, "the former identity is replaced");
            }
            join(store, token, patience).await
        }
        // Its leaf has expired: planes will say so, and a restart with a token replaces it.
        (Some(stored), None) => Ok(stored),
        (None, None) => Err(AgentError::Usage(format!(
            "there is no identity in {}; give a join token with --join",
            store.dir().display()
        ))),
    }
}

/// Redeems a token: asks until somebody answers, at most for `patience`.
///
/// # Errors
/// As [`obtain`].
pub async fn join(
    store: &CredentialStore,
    token: &JoinToken,
    patience: Duration,
) -> Result<StoredIdentity, AgentError> {
    if matches!(token.subject, culvert_certs::JoinSubject::Plane { .. }) {
        return Err(AgentError::Usage(
            "this token is for a plane, not for an agent".to_owned(),
        ));
    }
    let key = KeyPair::generate().map_err(|error| AgentError::Internal(chain(&error)))?;
    let mut answer = ask(token, &key, patience)
        .await
        .map_err(|error| keep(store, token, error))?;
    let membership = Membership {
        addresses: match &answer.addresses {
            none if none.is_empty() => token.addresses.clone(),
            some => some.clone(),
        },
        dns_suffixes: answer.dns_suffixes.clone(),
        token_id: Some(token.id()),
    };
    let gateway_url = answer.gateway_url.take();
    let credentials = answer
        .into_credentials(token, key, SystemTime::now())
        .map_err(|error| {
            AgentError::Internal(format!("the answer cannot be used: {}", chain(&error)))
        })?;
    store
        .publish(&credentials, &membership)
        .map_err(|error| state_error(&error))?;
    if let Some(url) = &gateway_url {
        crate::gateway::keep(store.dir(), url);
    }
    tracing::info!(identity = %credentials.identity, "joined");
    Ok(StoredIdentity {
        credentials,
        membership,
    })
}

async fn ask(
    token: &JoinToken,
    key: &KeyPair,
    patience: Duration,
) -> Result<JoinAnswer, JoinFailure> {
    let began = Instant::now();
    let mut backoff = Backoff::with(JOIN_BACKOFF_BASE, JOIN_BACKOFF_CAP);
    loop {
        match join::once(token, key).await {
            Ok(answer) => return Ok(answer),
            Err(JoinFailure::Unreachable(reason)) if began.elapsed() < patience => {
                tracing::warn!(reason, "nobody to join with; trying again");
            }
            Err(failure) => return Err(failure),
        }
        let pause = backoff.next(Instant::now(), rand::random());
        tokio::time::sleep(pause.min(patience.saturating_sub(began.elapsed()))).await;
    }
}

/// A refusal is kept, so that a restart does not ask again.
fn keep(store: &CredentialStore, token: &JoinToken, failure: JoinFailure) -> AgentError {
    match failure {
        JoinFailure::Unreachable(reason) => {
            AgentError::Unreachable(format!("nobody to join with: {reason}"))
        }
        JoinFailure::Broken(reason) => AgentError::Internal(reason),
        JoinFailure::Refused { code, message, .. } => {
            let identity = store.load().ok().flatten().map(|s| s.credentials.identity);
            keep_refusal(
                store,
                Refusal {
                    code,
                    reason: message,
                    identity,
                    token_id: Some(token.id()),
                },
            )
        }
    }
}

/// Keeps a refusal and makes it the error that ends the process.
pub(crate) fn keep_refusal(store: &CredentialStore, refusal: Refusal) -> AgentError {
    if let Err(error) = store.keep_refusal(&refusal) {
        tracing::error!(error = chain(&error), "the refusal cannot be kept");
    }
    AgentError::Refused(format!("refused ({}): {}", refusal.code, refusal.reason))
}

/// Whether a token invites to where the identity comes from: it says nothing new then.
fn is_same_place(stored: &StoredIdentity, token: &JoinToken) -> bool {
    let bundle = &stored.credentials.bundle;
    let mut known = bundle.pins().to_vec();
    known.extend(bundle.roots().iter().filter_map(RootPin::of));
    token.trust_domain == *bundle.trust_domain()
        && token.subject.invites(&stored.credentials.identity)
        && token.pins.iter().any(|pin| known.contains(pin))
}

/// A newer token knows newer addresses.
fn with_addresses_of(
    store: &CredentialStore,
    mut stored: StoredIdentity,
    token: &JoinToken,
) -> Result<StoredIdentity, AgentError> {
    let known = &stored.membership.addresses;
    if token
        .addresses
        .iter()
        .all(|address| known.contains(address))
    {
        return Ok(stored);
    }
    stored.membership.addresses.clone_from(&token.addresses);
    store
        .publish(&stored.credentials, &stored.membership)
        .map_err(|error| state_error(&error))?;
    Ok(stored)
}

fn is_alive(stored: &StoredIdentity) -> bool {
    stored.credentials.leaf(SystemTime::now()).is_ok()
}

/// What the state directory says is an error of this machine or its set-up.
pub(crate) fn state_error(error: &culvert_certs::store::StoreError) -> AgentError {
    let text = format!("the state directory: {}", chain(error));
    match error {
        culvert_certs::store::StoreError::Locked(_)
        | culvert_certs::store::StoreError::Io { .. } => AgentError::Usage(text),
        culvert_certs::store::StoreError::Damaged(_)
        | culvert_certs::store::StoreError::Key(_)
        | culvert_certs::store::StoreError::Bundle(_)
        | culvert_certs::store::StoreError::Credentials(_) => AgentError::Internal(text),
    }
}

/// The connector of an agent's identity.
pub(crate) fn connector(identity: &Identity) -> String {
    match identity {
        Identity::Agent(agent) => agent.connector.to_string(),
        Identity::Plane(_) => String::new(),
    }
}
