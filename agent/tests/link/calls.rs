//! What becomes of one call.

use std::time::Duration;

use bytes::Bytes;
use culvert_tunnel::{CallError, Failure, OutgoingCall, Piece};
use culvert_wire::{Code, Head, ServiceName};
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::backend::{Backend, Dropped, stream, text};
use crate::world::{World, chat, done, mcp, model, open, post};

/// Sends a body, reads the whole answer.
async fn exchange(call: OutgoingCall, body: &'static str) -> Result<(Head, String), CallError> {
    let OutgoingCall {
        mut request,
        mut answer,
    } = call;
    request.data(Bytes::from_static(body.as_bytes())).await?;
    request.end(HeaderMap::new()).await?;
    let head = done("head", answer.head()).await?;
    let mut got = Vec::new();
    while let Some(piece) = done("body", answer.next()).await? {
        if let Piece::Data(data) = piece {
            got.extend_from_slice(&data);
        }
    }
    Ok((head, String::from_utf8(got).expect("text")))
}

async fn failure(call: OutgoingCall) -> Failure {
    exchange(call, "{}").await.expect_err("a failure").failure
}

#[tokio::test]
async fn a_call_reaches_its_backend_and_leaves_one_line() {
    let backend = Backend::new(|request| async move {
        let seen = format!(
            "{} {} auth={} key={} team={}",
            request.method(),
            request.uri(),
            request
                .headers()
                .get("authorization")
                .map_or("-", |v| v.to_str().expect("text")),
            request.headers().contains_key("x-culvert-key"),
            request.headers().get_all("x-team").iter().count(),
        );
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        text(format!("{seen} body={}", String::from_utf8_lossy(&body)))
    })
    .await;
    let yaml = model(
        backend.addr,
        ", headers: { authorization: 'Bearer inner', X-Team: ours }",
    );
    let mut world = World::new(&yaml);
    let link = world.link().await;
    assert_eq!(link.hello.offer.services[0].models, ["m"]);

    let mut open = chat();
    for (name, value) in [
        ("authorization", "Bearer outer"),
        ("x-culvert-key", "k"),
        ("x_team", "theirs"),
    ] {
        open.headers.insert(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        );
    }
    let (head, body) = exchange(link.open(open).await, "{}")
        .await
        .expect("an answer");
    assert_eq!(head.status, 200);
    assert_eq!(
        body,
        "POST /v1/chat/completions auth=Bearer inner key=false team=1 body={}"
    );

    let lines = world.audited().await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    for (key, value) in [
        ("service", "llama"),
        ("kind", "model"),
        ("outcome", "answered"),
        ("path", "/v1/chat/completions"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!(line["caller"]["key_id"], "k1");
    assert_eq!(line["status"], 200);
    assert_eq!(line["bytes_in"], 2);
    assert_eq!(line["bytes_out"], body.len());
    assert!(
        line["plane"]
            .as_str()
            .expect("text")
            .contains("/plane/US/ORF/"),
        "{line}"
    );
}

#[tokio::test]
async fn what_is_refused_was_offered_to_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = gone.local_addr().expect("an address");
    drop(gone);
    let mut world = World::new(&model(addr, ", connect_timeout: 1s"));
    let link = world.link().await;

    let refused = |open| async { failure(link.open(open).await).await };
    assert_eq!(
        refused(open(Method::POST, "/api/delete")).await,
        Failure::Refused(Code::Policy)
    );
    assert_eq!(
        refused(open(Method::POST, "/v1/../api/delete")).await,
        Failure::Refused(Code::Policy)
    );
    assert_eq!(
        refused(open(Method::DELETE, "/v1/models/m")).await,
        Failure::Refused(Code::Policy)
    );
    let mut unknown = chat();
    unknown.service = ServiceName::new("other").expect("a name");
    assert_eq!(
        refused(unknown).await,
        Failure::Refused(Code::UnknownService)
    );
    let mut late = chat();
    late.deadline_ms = Some(0);
    assert_eq!(refused(late).await, Failure::Refused(Code::DeadlineBefore));
    assert_eq!(
        refused(chat()).await,
        Failure::Refused(Code::BackendUnreachable)
    );

    let codes: Vec<String> = world
        .audited()
        .await
        .iter()
        .map(|line| {
            format!(
                "{} {}",
                line["outcome"].as_str().expect("text"),
                line["code"].as_str().expect("text")
            )
        })
        .collect();
    assert_eq!(codes.len(), 6, "{codes:?}");
    assert!(
        codes.iter().all(|code| code.starts_with("refused ")),
        "{codes:?}"
    );
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let (pieces, body) = stream();
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let backend = Backend::new(move |_| {
        let body = body.lock().expect("lock").take();
        async move { body.expect("one call") }
    })
    .await;
    let mut world = World::new(&mcp(backend.addr));
    let link = world.link().await;
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(post()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    assert_eq!(
        done("head", answer.head()).await.expect("a head").status,
        200
    );
    for piece in ["data: 1\n\n", "data: 2\n\n"] {
        pieces.send(piece).await.expect("a reader");
        let got = done("piece", answer.next()).await.expect("a piece");
        assert!(matches!(got, Some(Piece::Data(data)) if data == piece));
    }
    drop(pieces);
    assert!(matches!(
        done("end", answer.next()).await,
        Ok(Some(Piece::End(_)))
    ));
}

#[tokio::test]
async fn a_caller_that_leaves_aborts_the_backend() {
    let (begun, mut has_begun) = mpsc::channel(8);
    let (dropped, mut was_dropped) = mpsc::channel(8);
    let backend = Backend::new(move |_| {
        let (begun, guard) = (begun.clone(), Dropped(dropped.clone()));
        async move {
            let _guard = guard;
            begun.send(()).await.expect("a test");
            // Silent for ever: the model thinks.
            std::future::pending().await
        }
    })
    .await;
    let mut world = World::new(&model(
        backend.addr,
        ", limits: { concurrency: 1, queue: 1 }",
    ));
    let link = world.link().await;
    let OutgoingCall {
        request,
        mut answer,
    } = link.open(chat()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("accepted", answer.accepted())
        .await
        .expect("accepted while the backend is silent");
    done("the backend begins", has_begun.recv())
        .await
        .expect("begun");

    // One waits in the queue, the next finds it full; one that leaves frees its place.
    let OutgoingCall {
        request,
        answer: mut waiting,
    } = link.open(chat()).await;
    done("request", request.end(HeaderMap::new()))
        .await
        .expect("sent");
    done("accepted", waiting.accepted())
        .await
        .expect("accepted while queued");
    assert_eq!(
        failure(link.open(chat()).await).await,
        Failure::Refused(Code::QueueFull)
    );
    waiting.cancel(Code::CallerGone);

    let left = std::time::Instant::now();
    answer.cancel(Code::CallerGone);
    done("the backend is aborted", was_dropped.recv())
        .await
        .expect("dropped");
    // Five times the bound of 100 ms: this is the real clock.
    assert!(
        left.elapsed() < Duration::from_millis(500),
        "{:?}",
        left.elapsed()
    );
    let lines = world.audited().await;
    let outcomes: Vec<_> = lines
        .iter()
        .map(|l| l["outcome"].as_str().expect("text"))
        .collect();
    assert_eq!(
        outcomes.iter().filter(|o| **o == "cancelled").count(),
        2,
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_cut_answer_is_aborted_and_a_late_one_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for answer in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart",
            b"nonsense\r\n\r\n",
            b"",
        ] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            stream.write_all(answer).await.expect("written");
        }
        let (mut silent, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        while silent.read(&mut request).await.unwrap_or(0) > 0 {}
    });
    let mut world = World::new(&mcp(addr));
    let link = world.link().await;
    let mut failures = Vec::new();
    for _ in 0..4 {
        failures.push(failure(link.open(post()).await).await);
    }
    let mut late = post();
    late.deadline_ms = Some(200);
    failures.push(failure(link.open(late).await).await);
    assert_eq!(
        failures,
        [
            Failure::Aborted(Code::BackendReset),
            Failure::Aborted(Code::BackendReset),
            Failure::Aborted(Code::BackendProtocol),
            Failure::Aborted(Code::BackendReset),
            Failure::Aborted(Code::DeadlineAfter),
        ]
    );
}

#[tokio::test]
async fn a_body_that_is_not_wanted_stops_and_the_answer_goes_on() {
    let backend = Backend::new(|request| async move {
        drop(request);
        let mut refusal = text("too large");
        *refusal.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        refusal
    })
    .await;
    let mut world = World::new(&model(backend.addr, ""));
    let link = world.link().await;
    let OutgoingCall {
        mut request,
        mut answer,
    } = link.open(chat()).await;
    request
        .data(Bytes::from_static(b"some"))
        .await
        .expect("sent");
    // The rest never comes: the answer has to arrive without it.
    assert_eq!(
        done("head", answer.head()).await.expect("a head").status,
        413
    );
    let mut got = Vec::new();
    while let Ok(Some(piece)) = done("body", answer.next()).await {
        if let Piece::Data(data) = piece {
            got.extend_from_slice(&data);
        }
    }
    assert_eq!(got, b"too large");
    assert!(answer.is_complete());
}

#[tokio::test]
async fn a_request_without_a_body_stays_one() {
    let backend = Backend::new(|request| async move {
        let framed = ["transfer-encoding", "content-length"]
            .iter()
            .filter(|name| request.headers().contains_key(**name))
            .count();
        text(format!("{} {framed}", request.method()))
    })
    .await;
    let mut world = World::new(&mcp(backend.addr));
    let link = world.link().await;
    for method in [Method::DELETE, Method::GET] {
        let expected = format!("{method} 0");
        let OutgoingCall {
            request,
            mut answer,
        } = link.open(open(method, "/")).await;
        done("request", request.end(HeaderMap::new()))
            .await
            .expect("sent");
        done("head", answer.head()).await.expect("a head");
        let piece = done("body", answer.next()).await;
        assert!(
            matches!(&piece, Ok(Some(Piece::Data(data))) if *data == expected),
            "{piece:?}"
        );
    }
}

#[tokio::test]
async fn no_more_calls_begin_than_the_rate_permits() {
    let backend = Backend::new(|_| async { text("hello") }).await;
    let mut world = World::new(&model(backend.addr, ", limits: { rate: 2/d }"));
    let link = world.link().await;
    for _ in 0..2 {
        assert!(exchange(link.open(chat()).await, "{}").await.is_ok());
    }
    let refused = failure(link.open(chat()).await).await;
    assert_eq!(refused, Failure::Refused(Code::RateLimited));
    // What is not allowed anyway is said to be so.
    let refused = failure(link.open(open(Method::POST, "/api/delete")).await).await;
    assert_eq!(refused, Failure::Refused(Code::Policy));
}
