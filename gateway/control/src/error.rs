//! What can go wrong when control is asked to do something. Each variant has one to blame.

use culvert_certs::{AuthorityError, record::RecordError};

use crate::{
    resource::{InvalidDocument, Problem, Timestamp},
    store::{InvalidKey, Revision, StoreError},
};

/// Why control did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The caller named something that is not there.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The caller's document, name or argument cannot stand.
    #[error(transparent)]
    Invalid(#[from] InvalidDocument),
    /// The caller's view is old: what is there now has this revision, `None` if nothing is.
    #[error("it has been changed since it was read")]
    Conflict(Option<Revision>),
    /// The caller asks for what the state of things rules out, and why.
    #[error("{0}")]
    Ruled(String),
    /// The name belonged to something deleted, whose certificates may still be about.
    #[error("the name was deleted and cannot be used again before {0}")]
    Retired(Timestamp),
    /// The store did not answer; the same request may succeed later.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// Something in the store was not written by control.
    #[error("the stored {0} is not what control wrote")]
    Forged(String, #[source] Option<RecordError>),
    /// Our own: a certificate, a signature or a document could not be made.
    #[error("control could not make {0}")]
    Make(&'static str, #[source] BoxedError),
}

/// The cause under a [`ControlError::Make`].
pub(crate) type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl ControlError {
    /// One argument that cannot stand.
    pub(crate) fn argument(path: &str, why: impl Into<String>) -> Self {
        Self::Invalid(InvalidDocument::at(path, Problem::Invalid(why.into())))
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { current } => Self::Conflict(current),
            StoreError::TooLarge(_) => Self::argument("spec", error.to_string()),
            StoreError::Unavailable(_) | StoreError::Corrupt(_) => Self::Store(error),
        }
    }
}

impl From<InvalidKey> for ControlError {
    fn from(error: InvalidKey) -> Self {
        Self::argument("name", error.to_string())
    }
}

impl From<AuthorityError> for ControlError {
    fn from(error: AuthorityError) -> Self {
        Self::Make("a certificate", error.into())
    }
}
