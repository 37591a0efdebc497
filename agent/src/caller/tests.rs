use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

/// An identity provider with one key, whose set stands in a file.
struct Provider {
    key: EncodingKey,
    dir: tempfile::TempDir,
}

fn encoding_key() -> (EncodingKey, Jwk) {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a public key");
    jwk.common.key_id = Some("k1".to_owned());
    (key, jwk)
}

impl Provider {
    fn new() -> Self {
        let (key, jwk) = encoding_key();
        let dir = tempfile::tempdir().expect("a directory");
        let set =
            json!({"keys": [{"kty": "later"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}, jwk]});
        std::fs::write(dir.path().join("jwks.json"), set.to_string()).expect("written");
        Self { key, dir }
    }

    fn check(&self, claims: Value, header: HeaderName) -> CallerCheck {
        let path = self.dir.path().join("jwks.json");
        let rule = CallerRule {
            issuer: "https://login.test".to_owned(),
            keys: KeySource::File(path.clone()),
            audience: vec!["culvert".to_owned()],
            claims: serde_json::from_value(claims).expect("claims"),
            header,
        };
        CallerCheck::new(rule, Keys::new(Source::File(path)))
    }

    fn token(&self, change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("now")
            .as_secs();
        let mut claims = json!({
            "iss": "https://login.test", "aud": ["other", "culvert"], "sub": "ada", "exp": now + 300,
            "nbf": now - 10, "groups": ["staff", "mcp"], "scope": "read write", "realm": {"roles": ["user"]},
        });
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("k1".to_owned());
        change(&mut header, &mut claims);
        encode(&header, &claims, &self.key).expect("a token")
    }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
    headers.insert(AUTHORIZATION, value);
    headers
}

#[tokio::test]
async fn a_token_of_the_provider_is_believed_and_no_other() {
    let provider = Provider::new();
    let check = provider.check(json!({}), AUTHORIZATION);
    let verify = async |token: &str| check.verify(&bearer(token)).await;
    let good = provider.token(|_, _| {});
    assert_eq!(verify(&good).await.expect("good").as_deref(), Some("ada"));
    let nameless = provider.token(|header, _| header.kid = None);
    assert!(verify(&nameless).await.is_ok(), "one key, no id needed");

    let wrong: [fn(&mut Header, &mut Value); 6] = [
        |_, claims| claims["iss"] = json!("https://login.evil"),
        |_, claims| claims["aud"] = json!("other"),
        |_, claims| claims["exp"] = json!(1_000_000_000),
        |_, claims| claims["nbf"] = json!(99_999_999_999_u64),
        |_, claims| drop(claims.as_object_mut().expect("claims").remove("exp")),
        |_, claims| drop(claims.as_object_mut().expect("claims").remove("aud")),
    ];
    for (at, change) in wrong.into_iter().enumerate() {
        let denied = verify(&provider.token(change)).await;
        assert!(
            matches!(denied, Err(CallerDenied::Token(_))),
            "{at}: {denied:?}"
        );
    }
    let unknown = provider.token(|header, _| header.kid = Some("k2".to_owned()));
    assert!(matches!(
        verify(&unknown).await,
        Err(CallerDenied::UnknownKey)
    ));
    // Another provider's key under the same id; one byte of the payload; no signature.
    let other = Provider::new().token(|_, _| {});
    assert!(matches!(verify(&other).await, Err(CallerDenied::Token(_))));
    let mut parts: Vec<&str> = good.split('.').collect();
    let forged = provider.token(|_, claims| claims["sub"] = json!("eve"));
    parts[1] = forged.split('.').nth(1).expect("a payload");
    assert!(verify(&parts.join(".")).await.is_err());
    parts[2] = "";
    assert!(verify(&parts.join(".")).await.is_err());
    // The public key, or a secret of the set, as a shared secret.
    let hmac = encode(
        &Header::new(Algorithm::HS256),
        &json!({"iss": "https://login.test", "aud": "culvert", "exp": 99_999_999_999_u64}),
        &EncodingKey::from_secret(b"secret"),
    )
    .expect("a token");
    assert!(matches!(verify(&hmac).await, Err(CallerDenied::Algorithm)));
}

#[tokio::test]
async fn claims_are_what_they_have_to_be() {
    let provider = Provider::new();
    let good = bearer(&provider.token(|_, _| {}));
    for (claims, passes) in [
        (
            json!({"groups": ["mcp"], "sub": ["ada", "bob"], "scope": ["write"], "realm.roles": ["user"]}),
            true,
        ),
        (json!({"groups": ["admin"]}), false),
        (json!({"sub": ["bob"]}), false),
        (json!({"scope": ["wri"]}), false),
        (json!({"email_verified": [true]}), false),
        (json!({"realm.roles": ["admin"]}), false),
    ] {
        let check = provider.check(claims.clone(), AUTHORIZATION);
        assert_eq!(check.verify(&good).await.is_ok(), passes, "{claims}");
    }
}

#[tokio::test]
async fn the_token_comes_in_its_header_once() {
    let provider = Provider::new();
    let token = provider.token(|_, _| {});
    let missing = |verified| matches!(verified, Err(CallerDenied::Missing(_)));
    let check = provider.check(json!({}), AUTHORIZATION);
    assert!(missing(check.verify(&HeaderMap::new()).await));
    let mut twice = bearer(&token);
    twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert!(missing(check.verify(&twice).await));
    let mut basic = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Basic {token}")).expect("a value");
    basic.insert(AUTHORIZATION, value);
    assert!(missing(check.verify(&basic).await));

    let own = HeaderName::from_static("x-user-token");
    let check = provider.check(json!({}), own.clone());
    assert!(missing(check.verify(&bearer(&token)).await));
    let mut headers = HeaderMap::new();
    headers.insert(own, HeaderValue::try_from(token).expect("a value"));
    assert!(check.verify(&headers).await.is_ok());
}

#[tokio::test]
async fn without_keys_nobody_is_believed() {
    let provider = Provider::new();
    let token = bearer(&provider.token(|_, _| {}));
    let check = provider.check(json!({}), AUTHORIZATION);
    std::fs::remove_file(provider.dir.path().join("jwks.json")).expect("removed");
    assert!(matches!(
        check.verify(&token).await,
        Err(CallerDenied::Keys(_))
    ));
}
