//! The credential store: one directory that a member keeps its identity in.
//!
//! ```text
//! <dir>/                      0700
//!   lock                      held by the process that uses the directory
//!   identity-0000000007/      0700; the highest number is the identity
//!     identity.json key.pem chain.pem bundle.cbor     0600
//!   refused.json              why control refused this identity or token
//! ```
//!
//! A generation is written under a hidden name and published by renaming its directory: a crash at
//! any moment leaves the old identity or the new one, whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::address::HostPort;
use crate::bundle::{BundleError, TrustBundle};
use crate::credentials::{Credentials, CredentialsError};
use crate::files;
use crate::identity::{Identity, TokenId};
use crate::key::{KeyError, KeyPair};

const PREFIX: &str = "identity-";
const LOCK: &str = "lock";
const REFUSED: &str = "refused.json";
const IDENTITY: &str = "identity.json";
const KEY: &str = "key.pem";
const CHAIN: &str = "chain.pem";
const BUNDLE: &str = "bundle.cbor";

/// A member's state directory, locked against other processes while this value lives.
#[derive(Debug)]
pub struct CredentialStore {
    dir: PathBuf,
    /// Closing the file releases the lock.
    _lock: File,
}

/// Everything that a member needs to come back after a restart.
#[derive(Debug, Clone)]
pub struct StoredIdentity {
    /// What it proves itself with.
    pub credentials: Credentials,
    /// What it learned when it joined.
    pub membership: Membership,
}

/// What a member learned when it joined, beside its certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Where planes can be reached.
    #[serde(default)]
    pub addresses: Vec<HostPort>,
    /// Under which names planes may be announced later.
    #[serde(default)]
    pub dns_suffixes: Vec<String>,
    /// The token that was redeemed: offered again, it is known to be used.
    #[serde(default)]
    pub token_id: Option<TokenId>,
}

/// A refusal by control that ends all retrying, kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The code of the refusal.
    pub code: String,
    /// What to tell the person who starts the process again.
    pub reason: String,
    /// The identity that was refused; none when a token was, before there was one.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// The token that was at hand.
    #[serde(default)]
    pub token_id: Option<TokenId>,
}

impl Refusal {
    /// Whether the refusal still stands for a process with this identity and this token. Another
    /// identity, or a token that was not at hand then, is worth another try.
    pub fn stands(&self, identity: Option<&Identity>, token_id: Option<TokenId>) -> bool {
        let new_token = token_id.is_some() && token_id != self.token_id;
        self.identity.as_ref() == identity && !new_token
    }
}

/// Why the state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the directory.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The file system said no.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// The key cannot be read.
    #[error("the stored key is damaged")]
    Key(#[from] KeyError),
    /// The bundle cannot be read.
    #[error("the stored trust bundle is damaged")]
    Bundle(#[from] BundleError),
    /// Chain, key and bundle do not belong together.
    #[error("the stored identity is not usable")]
    Credentials(#[from] CredentialsError),
}

impl CredentialStore {
    /// Opens a state directory, making it if need be, and locks it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        files::create_private_dir(dir).map_err(|e| at(dir, e))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| at(&path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at(&path, error)),
        }
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The identity, if there is one. Its leaf may have expired: it may still be renewed.
    pub fn load(&self) -> Result<Option<StoredIdentity>, StoreError> {
        Self::peek(&self.dir)
    }

    /// As [`Self::load`], without the lock: for looking at the state of a running process.
    pub fn peek(dir: &Path) -> Result<Option<StoredIdentity>, StoreError> {
        match generations(dir)?.last() {
            Some(generation) => read_generation(&generation_dir(dir, *generation)).map(Some),
            None => Ok(None),
        }
    }

    /// Makes this the identity, whole or not at all, and forgets a refusal of the one before.
    pub fn publish(
        &self,
        credentials: &Credentials,
        membership: &Membership,
    ) -> Result<(), StoreError> {
        let before = generations(&self.dir)?;
        let next = before.last().map_or(1, |last| last + 1);
        let hidden = self.dir.join(files::temporary_name());
        let published = generation_dir(&self.dir, next);
        write_generation(&hidden, credentials, membership)?;
        fs::rename(&hidden, &published)
            .and_then(|()| files::sync_dir(&self.dir))
            .map_err(|e| at(&published, e))?;
        self.clear_refusal()?;
        self.remove_leftovers(&before)
    }

    /// The refusal that is kept, if any.
    pub fn refusal(&self) -> Result<Option<Refusal>, StoreError> {
        let path = self.dir.join(REFUSED);
        match files::read_bounded(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|_| StoreError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, error)),
        }
    }

    /// Keeps a refusal over restarts.
    pub fn keep_refusal(&self, refusal: &Refusal) -> Result<(), StoreError> {
        let path = self.dir.join(REFUSED);
        let json = serde_json::to_vec_pretty(refusal).map_err(|e| at(&path, e.into()))?;
        files::replace_private(&path, &json).map_err(|e| at(&path, e))
    }

    /// Forgets the refusal.
    pub fn clear_refusal(&self) -> Result<(), StoreError> {
        let path = self.dir.join(REFUSED);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at(&path, error)),
        }
    }

    /// Removes generations that have been replaced, and what crashes left half-written.
    fn remove_leftovers(&self, replaced: &[u64]) -> Result<(), StoreError> {
        let old = replaced.iter().map(|n| generation_dir(&self.dir, *n));
        let hidden = entries(&self.dir)?
            .into_iter()
            .filter(|name| name.starts_with('.') && name.ends_with(".tmp"))
            .map(|name| self.dir.join(name));
        for path in old.chain(hidden) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|e| at(&path, e))?;
        }
        Ok(())
    }
}

/// What `identity.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct IdentityFile {
    id: Identity,
    #[serde(flatten)]
    membership: Membership,
}

fn write_generation(
    dir: &Path,
    credentials: &Credentials,
    membership: &Membership,
) -> Result<(), StoreError> {
    let identity = IdentityFile {
        id: credentials.identity.clone(),
        membership: membership.clone(),
    };
    let json = serde_json::to_vec_pretty(&identity).map_err(|e| at(dir, e.into()))?;
    let key = pem("PRIVATE KEY", credentials.key.pkcs8());
    let chain: String = credentials
        .chain
        .iter()
        .map(|certificate| pem("CERTIFICATE", certificate).to_string())
        .collect();
    files::create_private_dir(dir).map_err(|e| at(dir, e))?;
    for (name, bytes) in [
        (IDENTITY, &json[..]),
        (KEY, key.as_bytes()),
        (CHAIN, chain.as_bytes()),
        (BUNDLE, credentials.bundle.as_bytes()),
    ] {
        let path = dir.join(name);
        files::write_private(&path, bytes).map_err(|e| at(&path, e))?;
    }
    files::sync_dir(dir).map_err(|e| at(dir, e))
}

fn read_generation(dir: &Path) -> Result<StoredIdentity, StoreError> {
    let damaged = |name: &str| StoreError::Damaged(dir.join(name));
    let identity: IdentityFile =
        serde_json::from_slice(&read(dir, IDENTITY)?).map_err(|_| damaged(IDENTITY))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&read(dir, KEY)?).map_err(|_| damaged(KEY))?;
    let key = KeyPair::from_pkcs8(key.secret_pkcs8_der())?;
    let chain = CertificateDer::pem_slice_iter(&read(dir, CHAIN)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| damaged(CHAIN))?;
    let bundle = Arc::new(TrustBundle::from_stored(&read(dir, BUNDLE)?)?);
    let credentials = Credentials::restore(chain, key, bundle)?;
    if credentials.identity != identity.id {
        return Err(damaged(IDENTITY));
    }
    Ok(StoredIdentity {
        credentials,
        membership: identity.membership,
    })
}

fn read(dir: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let path = dir.join(name);
    files::read_bounded(&path).map_err(|e| at(&path, e))
}

/// The published generations, the newest last.
fn generations(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers: Vec<u64> = entries(dir)?
        .iter()
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn generation_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:010}"))
}

/// Names in a directory; one that does not exist is empty.
fn entries(dir: &Path) -> Result<Vec<String>, StoreError> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(dir, error)),
    };
    listing
        .map(|entry| Ok(entry.map_err(|e| at(dir, e))?.file_name()))
        .filter_map(|name| name.map(|name| name.into_string().ok()).transpose())
        .collect()
}

/// RFC 7468: base64 in lines of 64 characters between two labelled lines.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let lines = body.len().div_ceil(64);
    let mut text = Zeroizing::new(String::with_capacity(
        body.len() + lines + 64 + label.len() * 2,
    ));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn at(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        source,
    }
}
