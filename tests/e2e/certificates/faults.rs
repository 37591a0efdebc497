//! Everything that can be wrong with a certificate, whatever its role.

use std::time::{Duration, SystemTime};

use culvert_certs::{Authority, Identity, LEAF_LIFETIME};
use culvert_tests::attacker::Papers;
use culvert_tests::insider::{By, Insider, Leaf, sign_with};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose as Purpose, IsCa, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// What is shown, and words of the reason that the refuser has to log.
pub(super) type Case = (&'static str, Papers, &'static str);

const HOUR: Duration = Duration::from_secs(3600);
pub(super) const USAGE: &str = "key usage does not permit this";

/// All of them; `good` is the right leaf, signed by `by`.
pub(super) fn all(insider: &Insider, by: By, good: &Leaf) -> Vec<Case> {
    let sign = |leaf: Leaf| insider.sign(by, &leaf).unwrap();
    let leafs = names(good)
        .into_iter()
        .chain(uses(good))
        .chain(times(good))
        .map(|(name, leaf, reason)| (name, sign(leaf), reason));
    let mut cases: Vec<Case> = leafs.collect();
    cases.extend(chains(&sign(good.clone()), good));
    cases.push((
        "signed by the root",
        insider.sign(By::Root, good).unwrap(),
        "directly below the root",
    ));
    cases
}

/// The papers with another chain.
pub(super) fn chained(papers: &Papers, chain: Vec<CertificateDer<'static>>) -> Papers {
    Papers {
        chain,
        key: papers.key.clone_key(),
    }
}

/// Papers for `identity` from an authority of the attacker's own, in the same trust domain.
fn forged(identity: &Identity) -> Papers {
    let now = SystemTime::now();
    let authority = Authority::create(identity.trust_domain().clone(), now).unwrap();
    let made = authority
        .enroll(identity, &["localhost".to_owned()], LEAF_LIFETIME, now)
        .unwrap();
    Papers {
        chain: made.chain.clone(),
        key: PrivatePkcs8KeyDer::from(made.key.pkcs8().to_vec()).into(),
    }
}

/// Chains that are not what the leaf needs; `real` is a whole one.
fn chains(real: &Papers, good: &Leaf) -> Vec<Case> {
    let other = forged(&good.uris[0].parse().unwrap());
    let unknown = "does not end in a trusted root";
    let mut disguised = vec![other.chain[0].clone()];
    disguised.extend(real.chain.iter().cloned());
    let mut long = real.chain.clone();
    long.extend(other.chain.iter().take(2).cloned());
    let alone = real.chain[..1].to_vec();
    let garbage = vec![CertificateDer::from(vec![0x30, 3, 2, 1, 0])];
    let below = sign_with(real, good).unwrap();
    let disguised = chained(&other, disguised);
    vec![
        ("another authority", other, unknown),
        ("a forged leaf before a real chain", disguised, unknown),
        ("no issuer", chained(real, alone), unknown),
        ("too many", chained(real, long), "more than 4 certificates"),
        ("no certificate", chained(real, garbage), "malformed"),
        ("signed by a leaf", below, "chain is not valid"),
    ]
}

type Wrong = (&'static str, Leaf, &'static str);

fn names(good: &Leaf) -> Vec<Wrong> {
    let own = good.uris[0].clone();
    let identity: Identity = own.parse().unwrap();
    let leaf = |uris: Vec<String>, hosts: Vec<String>| Leaf {
        uris,
        hosts,
        common_name: Some(own.clone()),
        ..good.clone()
    };
    let second = own.replace("dev", "acme").replace("DEV", "EVL");
    let elsewhere = own.replace(identity.trust_domain().as_str(), "elsewhere.example");
    let short = own.rsplit_once('/').map(|(front, _)| front.to_owned());
    let none = "0 URIs instead of one";
    let host = vec!["localhost".to_owned()];
    vec![
        (
            "two URIs",
            leaf(vec![own.clone(), second], vec![]),
            "2 URIs instead of one",
        ),
        (
            "the same URI twice",
            leaf(vec![own.clone(), own.clone()], vec![]),
            "2 URIs instead of one",
        ),
        ("a name in the CN only", leaf(vec![], vec![]), none),
        ("a CN and a host", leaf(vec![], host), none),
        (
            "a part of an identity",
            leaf(vec![short.unwrap()], vec![]),
            "not an identity",
        ),
        (
            "the URI of a page",
            leaf(vec!["https://dev".to_owned()], vec![]),
            "not an identity",
        ),
        (
            "another world",
            leaf(vec![elsewhere], vec![]),
            "trust domain elsewhere.example",
        ),
    ]
}

fn uses(good: &Leaf) -> Vec<Wrong> {
    let purposes = |purposes: Vec<Purpose>| Leaf {
        purposes,
        ..good.clone()
    };
    let more = |purpose: Purpose| {
        let mut all = good.purposes.clone();
        all.push(purpose);
        purposes(all)
    };
    let key = |usages: Vec<KeyUsagePurpose>| Leaf {
        usages,
        ..good.clone()
    };
    let signer = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    let authority = Leaf {
        authority: IsCa::Ca(BasicConstraints::Unconstrained),
        ..good.clone()
    };
    vec![
        ("no purpose", purposes(vec![]), USAGE),
        ("any purpose", more(Purpose::Any), USAGE),
        ("a purpose too many", more(Purpose::CodeSigning), USAGE),
        (
            "the purpose of mail",
            purposes(vec![Purpose::EmailProtection]),
            USAGE,
        ),
        ("a key that signs certificates", key(signer), USAGE),
        (
            "a key that signs nothing",
            key(vec![KeyUsagePurpose::KeyAgreement]),
            USAGE,
        ),
        ("a key for nothing", key(vec![]), USAGE),
        ("an authority", authority, "chain is not valid"),
    ]
}

fn times(good: &Leaf) -> Vec<Wrong> {
    let now = SystemTime::now();
    let expired = Leaf {
        not_before: now - 2 * HOUR,
        not_after: now - HOUR,
        ..good.clone()
    };
    let early = Leaf {
        not_before: now + HOUR / 2,
        ..good.clone()
    };
    vec![
        ("expired", expired, "has expired"),
        ("not yet valid", early, "not valid yet"),
    ]
}
