//! Changes of protocol: a caller asks for a WebSocket (or for what a service's agent permits besides),
//! the backend agrees, and from then on bytes pass both ways as they come.
//!
//! ```text
//!  caller --- GET, upgrade: websocket ---> Asked ---> Switching ---> relay, agent, backend
//!                                                        |   101 <-----------'
//!  caller <------------------------- 101 ----------------+
//!  caller <===================== Pump, one task ====================> Data both ways
//! ```
//!
//! HTTP/2 asks by extended CONNECT (RFC 8441), which is the same thing in other words: here it becomes
//! the GET that a backend knows.

mod pump;
mod up;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::{ext::Protocol, upgrade::OnUpgrade};

pub use pump::{Pump, Pumping, Pumps, Side};
pub use up::UpStream;

use crate::{
    error::{CallerCode, Problem},
    hygiene,
    route::endpoint::Endpoint,
};
use up::UpSender;

/// The protocol of the realtime API.
const WEBSOCKET: &str = "websocket";
/// Protocols that carry HTTP or TLS again. Who forwarded them would let requests pass that nobody has
/// looked at; a server is free not to hear such an offer (RFC 9110, section 7.8).
const NEVER: [&str; 5] = ["h2c", "h2", "h3", "http", "tls"];
/// Longest name of a protocol, in bytes.
const MAX_PROTOCOL: usize = 64;
/// How web pages, which can set no header here, send a key to OpenAI: as a sub-protocol.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";
/// Where callers' keys stand; the last resort counts only where none of these is there.
const KEYS: [&str; 3] = ["x-culvert-key", "authorization", "x-api-key"];

/// What a caller wants its connection, or its HTTP/2 stream, to become.
#[derive(Debug)]
pub struct Asked {
    protocol: String,
    way: Way,
    on: OnUpgrade,
}

/// How it asks, and is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `connection: upgrade`, and 101.
    Upgrade,
    /// Extended CONNECT, and 200.
    Connect,
}

/// A change that the backend is asked for.
#[derive(Debug)]
pub struct Switching {
    asked: Asked,
    up: UpSender,
}

impl Asked {
    /// Reads what a request asks for. An extended CONNECT becomes the GET that it stands for.
    pub fn take<B>(request: &mut Request<B>) -> Option<Self> {
        let (protocol, way) = match request.extensions().get::<Protocol>() {
            Some(protocol) if *request.method() == Method::CONNECT => {
                (protocol.as_str().to_owned(), Way::Connect)
            }
            Some(_) | None => (offered(request.headers(), request.version())?, Way::Upgrade),
        };
        if way == Way::Connect {
            *request.method_mut() = Method::GET;
        }
        let on = hyper::upgrade::on(request);
        Some(Self { protocol, way, on })
    }

    /// The change as the backend is asked for it, where this endpoint knows changes at all. `headers`
    /// go up; `has_body` says whether the request has one.
    pub fn admit(
        asked: Option<Self>,
        endpoint: &Endpoint,
        has_body: bool,
        headers: &mut HeaderMap,
        id: [u8; 16],
    ) -> Result<Option<(Switching, UpStream)>, Problem> {
        let asked = match (asked, endpoint) {
            (Some(asked), Endpoint::Http { .. }) => asked,
            (Some(asked), Endpoint::Realtime) if asked.protocol.eq_ignore_ascii_case(WEBSOCKET) => {
                asked
            }
            (_, Endpoint::Realtime) => {
                return Err(bad(
                    "This path takes a WebSocket: send `upgrade: websocket`.",
                ));
            }
            (Some(asked), _) if asked.way == Way::Connect => {
                return Err(bad("This path does not change protocols."));
            }
            (_, _) => return Ok(None),
        };
        if has_body || asked.protocol.len() > MAX_PROTOCOL {
            return Err(bad(
                "A request for another protocol may have no body, and one short name.",
            ));
        }
        asked.write(headers, id)?;
        let (up, stream) = up::channel();
        Ok(Some((Switching { asked, up }, stream)))
    }

    fn write(&self, headers: &mut HeaderMap, id: [u8; 16]) -> Result<(), Problem> {
        let value = |text: &str| HeaderValue::from_str(text);
        let name = value(&self.protocol).map_err(|_| bad("The protocol's name is malformed."))?;
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, name);
        headers.remove(CONTENT_LENGTH);
        if self.way == Way::Connect && self.protocol.eq_ignore_ascii_case(WEBSOCKET) {
            // HTTP/2 has no such key, and servers of HTTP/1.1 want one; nobody compares the answer.
            if let Ok(key) = value(&data_encoding::BASE64.encode(&id)) {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
            headers
                .entry(SEC_WEBSOCKET_VERSION)
                .or_insert(HeaderValue::from_static("13"));
        }
        Ok(())
    }
}

impl Switching {
    /// Whether an answer that is no change may be the answer to this caller: an extended CONNECT knows
    /// success in no other sense.
    pub fn may_decline(&self, status: StatusCode) -> bool {
        self.asked.way == Way::Upgrade || !status.is_success()
    }

    /// The backend has answered without changing: nothing goes up.
    pub fn decline(self) {
        self.up.end_now();
    }

    /// The backend has changed: what is told to the caller, and who carries the bytes from now on.
    pub fn agree(self, head: Response<()>, side: Side) -> (Response<()>, Pump) {
        let (mut head, ()) = head.into_parts();
        head.headers.remove(CONTENT_LENGTH);
        let name = HeaderValue::from_str(&self.asked.protocol);
        match (self.asked.way, name) {
            (Way::Upgrade, Ok(name)) => {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
                head.headers
                    .insert(CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.insert(UPGRADE, name);
            }
            (Way::Upgrade | Way::Connect, _) => {
                head.status = StatusCode::OK;
                head.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
        let closes = self.asked.protocol.eq_ignore_ascii_case(WEBSOCKET);
        let resets = self.asked.way == Way::Upgrade;
        let pump = Pump::new(self.asked.on, self.up, side, closes, resets);
        (Response::from_parts(head, ()), pump)
    }
}

/// Takes the key of a web page out of the sub-protocols that it offers, and puts it where keys are
/// looked for, unless one is there. A backend never sees it, however it is written.
pub fn take_key(headers: &mut HeaderMap) {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offers: Vec<Vec<u8>> = values
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|offer| offer.trim_ascii().to_vec())
        .collect();
    hygiene::remove_spelled(headers, &SEC_WEBSOCKET_PROTOCOL);
    let (keys, rest): (Vec<_>, Vec<_>) = offers.iter().partition(|offer| key_of(offer).is_some());
    let rest: Vec<&[u8]> = rest.into_iter().map(Vec::as_slice).collect();
    if let Ok(rest) = HeaderValue::from_bytes(&rest.join(&b", "[..]))
        && !rest.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    }
    let key = keys.first().and_then(|offer| key_of(offer));
    if let Some(Ok(mut key)) = key.map(HeaderValue::from_bytes)
        && !KEYS.iter().any(|name| headers.contains_key(*name))
    {
        key.set_sensitive(true);
        headers.insert(HeaderName::from_static(KEYS[0]), key);
    }
}

/// The key in an offer that is one.
fn key_of(offer: &[u8]) -> Option<&[u8]> {
    let (prefix, key) = offer.split_at_checked(KEY_PROTOCOL.len())?;
    prefix
        .eq_ignore_ascii_case(KEY_PROTOCOL.as_bytes())
        .then_some(key)
}

/// The first protocol that a request of HTTP/1.1 offers and that may pass.
fn offered(headers: &HeaderMap, version: Version) -> Option<String> {
    let mut connection = list(headers, &CONNECTION);
    let asks = version == Version::HTTP_11
        && connection.any(|token| token.eq_ignore_ascii_case("upgrade"));
    let passes = |protocol: &&str| {
        let name = protocol.split('/').next().unwrap_or_default();
        !name.is_empty() && !NEVER.iter().any(|own| name.eq_ignore_ascii_case(own))
    };
    let mut protocols = list(headers, &UPGRADE);
    asks.then(|| protocols.find(passes).map(str::to_owned))?
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

fn bad(what: &'static str) -> Problem {
    Problem::new(CallerCode::BadRequest, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::get("/http/dev/ws/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn asked(headers: &[(&'static str, &'static str)]) -> Option<String> {
        Asked::take(&mut request(headers)).map(|asked| asked.protocol)
    }

    fn websocket() -> Option<Asked> {
        Asked::take(&mut request(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ]))
    }

    #[test]
    fn what_callers_ask_for() {
        let connection = ("connection", "Upgrade");
        for (upgrade, wanted) in [
            ("websocket", Some("websocket")),
            ("h2c, foo/2", Some("foo/2")),
            ("h2c", None),
            ("TLS/1.0, HTTP/2.0", None),
            ("", None),
        ] {
            let found = asked(&[connection, ("upgrade", upgrade)]);
            assert_eq!(found.as_deref(), wanted, "{upgrade}");
        }
        assert_eq!(asked(&[("upgrade", "websocket")]), None);
        assert_eq!(asked(&[connection]), None);
        let mut old = request(&[connection, ("upgrade", "websocket")]);
        *old.version_mut() = Version::HTTP_10;
        assert!(Asked::take(&mut old).is_none());
    }

    #[test]
    fn an_extended_connect_becomes_the_get_that_backends_know() {
        let mut request = request(&[]);
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let asked = Asked::take(&mut request);
        assert_eq!(request.method(), Method::GET);
        let mut headers = HeaderMap::new();
        let admitted = Asked::admit(asked, &Endpoint::Realtime, false, &mut headers, [7; 16]);
        let (switching, _stream) = admitted.unwrap().unwrap();
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["sec-websocket-version"], "13");
        assert_eq!(headers["sec-websocket-key"], "BwcHBwcHBwcHBwcHBwcHBw==");
        assert!(!switching.may_decline(StatusCode::OK));
        assert!(switching.may_decline(StatusCode::FORBIDDEN));
    }

    #[test]
    fn realtime_takes_nothing_but_a_websocket() {
        let admit = |asked, endpoint: &Endpoint, has_body| {
            Asked::admit(asked, endpoint, has_body, &mut HeaderMap::new(), [0; 16])
        };
        assert!(
            admit(websocket(), &Endpoint::Realtime, false)
                .unwrap()
                .is_some()
        );
        let foo = Asked::take(&mut request(&[
            ("connection", "upgrade"),
            ("upgrade", "foo"),
        ]));
        for (asked, has_body) in [(None, false), (foo, false), (websocket(), true)] {
            let refused = admit(asked, &Endpoint::Realtime, has_body).unwrap_err();
            assert_eq!(refused.code(), CallerCode::BadRequest);
        }
        // Elsewhere an offer is not heard.
        assert!(
            admit(websocket(), &Endpoint::ModelList, false)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn the_key_of_a_web_page() {
        let key = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = request(pairs).headers().clone();
            take_key(&mut headers);
            let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
            (text("x-culvert-key"), text("sec-websocket-protocol"))
        };
        let offers = (
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.cvk_1, openai-beta.realtime-v1",
        );
        let rest = Some("realtime, openai-beta.realtime-v1".to_owned());
        assert_eq!(key(&[offers]), (Some("cvk_1".to_owned()), rest.clone()));
        // One that stands in a header comes first; this one goes nowhere.
        assert_eq!(key(&[offers, ("authorization", "Bearer x")]), (None, rest));
        let alone = ("sec-websocket-protocol", "openai-insecure-api-key.k");
        assert_eq!(key(&[alone]), (Some("k".to_owned()), None));
        let capitals = ("sec-websocket-protocol", "OpenAI-Insecure-API-Key.k");
        assert_eq!(key(&[capitals]), (Some("k".to_owned()), None));
        let mut odd = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"\xff, openai-insecure-api-key.k").unwrap();
        odd.insert(SEC_WEBSOCKET_PROTOCOL, value);
        odd.insert(
            "sec_websocket_protocol",
            HeaderValue::from_static("openai-insecure-api-key.k"),
        );
        take_key(&mut odd);
        assert_eq!(odd[SEC_WEBSOCKET_PROTOCOL].as_bytes(), b"\xff");
        assert!(!odd.contains_key("sec_websocket_protocol"));
        let none = ("sec-websocket-protocol", "graphql-ws");
        assert_eq!(key(&[none]), (None, Some("graphql-ws".to_owned())));
    }
}
