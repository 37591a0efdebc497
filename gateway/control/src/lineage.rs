//! Which of the certificates that an agent was ever given speak for it now.
//!
//! Each renewal makes the certificate that proved it the previous one. It still proves another
//! renewal, for the answer may have been lost on its way; one that is older than that is in the
//! hands of somebody who has a copy of the agent's past. Certificates are known by the digests of
//! their keys: an agent makes a new key for each.

use culvert_certs::{Chain, PeerLeaf, VerifiedCsr};
use data_encoding::HEXLOWER;

use crate::resource::{Document, Timestamp};

/// Certificates that one proof may get: so often may an answer be lost in a row. The oldest are
/// forgotten above it.
const MAX_ISSUED: usize = 8;

/// The digests of all keys that were certified on the previous one's proof, newest last.
const ISSUED: &str = "issued_keys";
/// The digest of the key that proved them.
const PREVIOUS: &str = "previous_key";
/// The digest of the newest key.
const NEWEST: &str = "key_digest";

/// What a renewal is, seen by what was issued before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// For a key that has no certificate.
    New,
    /// Its key has one already: the request was sent, or is played, again.
    Again,
    /// The leaf that proves it was superseded.
    Superseded,
}

/// Judges a renewal of this agent.
pub(crate) fn claim(agent: &Document, leaf: &PeerLeaf, csr: &VerifiedCsr) -> Claim {
    let issued = issued(agent);
    let proof = HEXLOWER.encode(&leaf.key_digest);
    let is_known = issued.contains(&proof) || agent.status_text(PREVIOUS) == Some(proof.as_str());
    // Of an agent about which nothing was written down the first that comes is believed.
    if !is_known && !issued.is_empty() {
        return Claim::Superseded;
    }
    if issued.contains(&HEXLOWER.encode(&csr.key_digest())) {
        return Claim::Again;
    }
    Claim::New
}

/// Notes the first certificate of an agent.
pub(crate) fn write_first(agent: &mut Document, chain: &Chain, csr: &VerifiedCsr) {
    agent.set_status("serial", HEXLOWER.encode(&chain.serial));
    agent.set_status("not_after", Timestamp::from(chain.not_after));
    agent.set_status(NEWEST, HEXLOWER.encode(&csr.key_digest()));
}

/// Notes a certificate that `leaf` has proven.
pub(crate) fn write_next(agent: &mut Document, leaf: &PeerLeaf, chain: &Chain, csr: &VerifiedCsr) {
    let proof = HEXLOWER.encode(&leaf.key_digest);
    let mut keys = Vec::new();
    // An answer was lost: what it brought may yet arrive.
    if agent.status_text(PREVIOUS) == Some(proof.as_str()) {
        keys = issued(agent);
        let surplus = (keys.len() + 1).saturating_sub(MAX_ISSUED);
        keys.drain(..surplus);
    }
    keys.push(HEXLOWER.encode(&csr.key_digest()));
    write_first(agent, chain, csr);
    agent.set_status(PREVIOUS, proof);
    agent.set_status(ISSUED, keys.join(" "));
}

fn issued(agent: &Document) -> Vec<String> {
    let keys = agent
        .status_text(ISSUED)
        .or_else(|| agent.status_text(NEWEST));
    let keys = keys.into_iter().flat_map(str::split_whitespace);
    keys.map(str::to_owned).collect()
}
