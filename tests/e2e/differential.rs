//! The same request to a backend itself and through the tunnel: nothing may differ but what is listed.

use culvert_tests::differential::{Answer, Case, Framing, Speaks, Upload};
use culvert_tests::effort;
use culvert_tests::world::World;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FILE: &str = r#"
services:
  - name: llm
    kind: model
    url: http://{backend}/v1
  - name: web
    kind: http
    url: http://{backend}
    allow:
      - methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, PROPFIND, M-SEARCH, X-ODD]
        paths: ["/**"]
"#;
const PREFIX: &str = "/http/dev/web";

async fn world() -> World {
    World::builder().agent_file(FILE).start().await.unwrap()
}

/// How large "large" is, in bytes.
fn large() -> u64 {
    let mib = if effort::is_full() { 1024 } else { 64 };
    mib * 1024 * 1024
}

/// Sends each case both ways in both protocols, and tells all differences at once.
async fn compare(cases: &[Case]) {
    let world = world().await;
    let (direct, through) = addresses(&world);
    let key = world.gateway.line.api_key.clone();
    let mut differences = Vec::new();
    for case in cases {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let wanted = case.send(speaks, &direct, "", None).await;
            let got = case.send(speaks, &through, PREFIX, Some(&key)).await;
            if wanted != got || wanted.is_err() {
                let what = format!("{} over {speaks:?}:\n{}", case.name, told(wanted, got));
                differences.push(what);
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

fn addresses(world: &World) -> (String, String) {
    let through = world.gateway.url().trim_start_matches("http://").to_owned();
    (world.backend.address(), through)
}

fn told(wanted: Result<Answer, String>, got: Result<Answer, String>) -> String {
    let (Ok(mut wanted), Ok(mut got)) = (wanted.as_ref().map(copy), got.as_ref().map(copy)) else {
        return format!("  direct:  {wanted:?}\n  through: {got:?}");
    };
    let same = |header: &(String, Vec<String>)| got.headers.contains(header);
    let common: Vec<_> = wanted.headers.iter().filter(|h| same(h)).cloned().collect();
    wanted.headers.retain(|header| !common.contains(header));
    got.headers.retain(|header| !common.contains(header));
    format!("  direct:  {wanted:.1500?}\n  through: {got:.1500?}")
}

fn copy(answer: &Answer) -> Answer {
    Answer {
        headers: answer.headers.clone(),
        trailers: answer.trailers.clone(),
        beginning: answer.beginning.clone(),
        ..*answer
    }
}

#[tokio::test]
async fn heads() {
    let mut many = Case::new(Method::GET, "/odd/headers");
    for _ in 0..130 {
        many = many.with("x-many", &"v".repeat(490));
    }
    let mut cases = vec![
        many,
        Case::new(Method::HEAD, "/bytes/12345"),
        Case::new(Method::HEAD, "/odd/chunks"),
        Case::new(Method::GET, "/odd/empty"),
        Case::new(Method::GET, "/odd/chunks"),
        // Only where they are asked for; HTTP/2 servers would send them to anybody.
        Case::new(Method::GET, "/odd/trailers").with("te", "trailers"),
        Case::new(Method::GET, "/bytes/0"),
    ];
    for status in [
        200, 201, 203, 204, 205, 206, 300, 304, 307, 400, 401, 407, 418, 451, 499, 500, 503, 599,
    ] {
        cases.push(Case::new(Method::GET, format!("/status/{status}")));
        cases.push(Case::new(Method::HEAD, format!("/status/{status}")));
    }
    compare(&cases).await;
}

#[tokio::test]
async fn bodies() {
    let mut cases = Vec::new();
    for framing in [Framing::Length, Framing::Chunks] {
        for length in [0, 1, 16_372, 65_536, 1_000_003] {
            let upload = Upload::Pattern(length, framing);
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                cases.push(Case::new(method, "/mirror").carrying(upload.clone()));
            }
        }
    }
    compare(&cases).await;
}

#[tokio::test]
async fn large_bodies() {
    let size = large();
    compare(&[
        Case::new(Method::GET, format!("/bytes/{size}")),
        Case::new(Method::POST, "/sink").carrying(Upload::Pattern(size, Framing::Length)),
        Case::new(Method::POST, "/sink").carrying(Upload::Pattern(size, Framing::Chunks)),
        Case::new(Method::POST, "/mirror").carrying(Upload::Pattern(size / 4, Framing::Length)),
        // Answered while the upload runs.
        Case::new(Method::POST, "/odd/early").carrying(Upload::Pattern(size / 4, Framing::Length)),
    ])
    .await;
}

/// What a backend saw of a request: method, target, and the headers that a test has set.
fn seen(answer: &serde_json::Value) -> (String, String, Vec<(String, String)>) {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let headers = answer["headers"].as_array().cloned().unwrap_or_default();
    let headers = headers.iter().map(|pair| (text(&pair[0]), text(&pair[1])));
    let ours = headers.filter(|(name, _)| name.starts_with("x-odd") || name == "cache-control");
    let mut ours: Vec<_> = ours.collect();
    // The order of different names says nothing (RFC 9110, section 5.3).
    ours.sort_by(|(one, _), (other, _)| one.cmp(other));
    (text(&answer["method"]), text(&answer["target"]), ours)
}

#[tokio::test]
async fn requests_arrive_as_they_were_made() {
    let world = world().await;
    let (direct, through) = addresses(&world);
    let key = world.gateway.line.api_key.clone();
    let mut cases = Vec::new();
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "X-ODD",
    ] {
        let case = Case::new(method.parse().unwrap(), "/__echo/m");
        cases.push(
            case.with("x-odd", "b")
                .with("x-odd", "a")
                .with("x-odd-empty", ""),
        );
    }
    for path in [
        "/__echo/~x/!$&'()*+,=:@-._",
        "/__echo/a%20b/%E2%82%AC",
        "/__echo/x?q=%20&r=a+b?c/d&&=&e",
        "/__echo/x?",
        "/__echo/x?%2e%2e/%00;x=y",
        "/__echo/q?q='[]{}|\\^`",
    ] {
        cases.push(Case::new(Method::GET, path).with("cache-control", "no-cache, x=\"y\""));
    }
    let mut differences = Vec::new();
    for case in &cases {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            for (address, prefix, key) in
                [(&direct, "", None), (&through, PREFIX, Some(key.as_str()))]
            {
                let sent = case.send(speaks, address, prefix, key).await;
                let status = sent.map(|answer| answer.status.as_u16());
                if status != Ok(200) {
                    differences.push(format!("{} over {speaks:?}: {status:?}", case.name));
                }
            }
            let mut all = world.backend.requests().await.unwrap();
            let (got, wanted) = (seen(&all.pop().unwrap()), seen(&all.pop().unwrap()));
            let bare = wanted.1.replace(&format!("http://{direct}"), "");
            if (&wanted.0, &bare, &wanted.2) != (&got.0, &got.1, &got.2) {
                let what = format!(
                    "{} over {speaks:?}:\n  direct  {wanted:?}\n  through {got:?}",
                    case.name
                );
                differences.push(what);
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// `Expect: 100-continue` by hand: all that comes back, its last line that varies left out.
async fn expecting(address: &str, path: &str, key: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nx-culvert-key: {key}\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(20),
        stream.read_exact(&mut interim),
    );
    asked.await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    let (head, body) = rest.split_once("\r\n\r\n").unwrap();
    vec![head.lines().next().unwrap().to_owned(), body.to_owned()]
}

#[tokio::test]
async fn a_caller_that_waits_to_be_asked_is_asked() {
    let world = world().await;
    let (direct, through) = addresses(&world);
    let key = &world.gateway.line.api_key;
    let wanted = expecting(&direct, "/sink", key).await;
    let got = expecting(&through, &format!("{PREFIX}/sink"), key).await;
    assert_eq!(wanted, got);
}
