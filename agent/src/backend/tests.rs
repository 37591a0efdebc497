//! Against real servers on loopback.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body::Body as _;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::connect::{Connector, Resolver};
use super::*;
use crate::config::{Config, Flags, Sources, parse_text};
use crate::reach::Forbidden;

struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A hyper server that answers each request by `answer`.
async fn server<F>(answer: F) -> Server
where
    F: Fn(Request<Incoming>) -> http::Response<OutBody> + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            count.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response) }
            });
            served.spawn(async move {
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                serving.await.ok()
            });
        }
    });
    Server {
        addr,
        connections,
        _tasks: tasks,
    }
}

fn full(text: &'static str) -> OutBody {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn definition(yaml: &str) -> ServiceDef {
    let config: Config =
        parse_text(yaml, &Flags::default(), &Sources::SYSTEM).expect("a configuration");
    config.services.into_iter().next().expect("a service")
}

fn service(urls: &[String]) -> ServiceDef {
    let urls = urls.join("\", \"");
    definition(&format!(
        "services:\n  - {{ name: s, kind: model, urls: [\"{urls}\"], connect_timeout: 2s }}\n"
    ))
}

pub(super) fn ground(own: &[SocketAddr]) -> Ground {
    Ground::new(Arc::from(own), TaskTracker::new())
}

fn backends(def: &ServiceDef) -> Backends {
    Backends::new(def, &ground(&[]), None).expect("backends")
}

async fn call(backends: &Backends, body: OutBody) -> Result<Called, SendError> {
    let connected = backends
        .connect(|| 7)
        .await
        .map_err(SendError::NotOffered)?;
    let admitted = crate::policy::Rules::Model
        .admit(&Method::POST, "/v1/chat/completions")
        .expect("admitted");
    let head = connected
        .backend
        .head(Method::POST, &admitted, HeaderMap::new())
        .expect("a head");
    connected.send(head, body).await
}

async fn text(called: Called) -> Result<String, BackendFailure> {
    let bytes = called
        .answer
        .response
        .into_body()
        .collect()
        .await?
        .to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).expect("text"))
}

#[tokio::test]
async fn connections_are_kept_and_head_is_ours() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let server = server(move |request| {
        let host = request.headers()["host"].to_str().expect("text").to_owned();
        log.lock()
            .expect("lock")
            .push((request.uri().to_string(), host));
        http::Response::new(full("hello"))
    })
    .await;
    let backends = backends(&service(&[format!("http://{}/v1", server.addr)]));
    for _ in 0..5 {
        let called = call(&backends, full("x")).await.expect("an answer");
        // Read to its declared end, as those do who know it.
        let mut body = called.answer.response.into_body();
        while !body.is_end_stream() {
            let frame = body.frame().await.expect("a frame").expect("data");
            assert_eq!(frame.data_ref(), Some(&Bytes::from_static(b"hello")));
        }
        tokio::task::yield_now().await;
    }
    let seen = seen.lock().expect("lock").clone();
    assert_eq!(seen.len(), 5);
    assert!(
        seen.iter()
            .all(|s| *s == ("/v1/chat/completions".to_owned(), server.addr.to_string()))
    );
    assert!(
        server.connections.load(Ordering::SeqCst) < 5,
        "connections are kept"
    );
    assert_eq!(backends.list[0].endpoint.in_flight(), 0);
}

#[tokio::test]
async fn a_backend_that_is_not_there_was_offered_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let gone_addr = gone.local_addr().expect("an address");
    drop(gone);
    let server = server(|_| http::Response::new(full("here"))).await;

    let alone = backends(&service(&[format!("http://{gone_addr}/v1")]));
    match call(&alone, full("x")).await {
        Err(SendError::NotOffered(ConnectError::Tcp(addr, _))) => assert_eq!(addr, gone_addr),
        other => panic!("{other:?}"),
    }
    assert_eq!(alone.list[0].endpoint.standing(), Standing::Down);

    let both = backends(&service(&[
        format!("http://{gone_addr}/v1"),
        format!("http://{}/v1", server.addr),
    ]));
    for _ in 0..4 {
        let called = call(&both, full("x")).await.expect("the other one answers");
        assert_eq!(text(called).await.as_deref(), Ok("here"));
    }
}

#[tokio::test]
async fn a_cut_answer_is_never_taken_for_a_whole_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let answers: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"not http at all\r\n\r\n",
            b"",
            b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole",
        ];
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            stream.write_all(answer).await.expect("written");
        }
    });
    let backends = backends(&service(&[format!("http://{addr}/v1")]));
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(match call(&backends, full("x")).await {
            Ok(called) => text(called).await,
            Err(SendError::Begun(failure)) => Err(failure),
            Err(other) => panic!("{other:?}"),
        });
    }
    assert_eq!(
        outcomes,
        [
            Err(BackendFailure::Reset),
            Err(BackendFailure::Reset),
            Err(BackendFailure::Protocol),
            Err(BackendFailure::Reset),
            Ok("whole".to_owned()),
        ]
    );
}

#[tokio::test]
async fn dropping_an_answer_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.expect("a request") > 0);
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n";
        stream.write_all(head).await.expect("written");
        // Until the other end closes.
        while stream.read(&mut request).await.unwrap_or(0) > 0 {}
    });
    let backends = backends(&service(&[format!("http://{addr}/v1")]));
    let called = call(&backends, full("x")).await.expect("an answer");
    assert_eq!(backends.list[0].endpoint.in_flight(), 1);
    drop(called);
    assert_eq!(backends.list[0].endpoint.in_flight(), 0);
    tokio::time::timeout(Duration::from_secs(5), tasks.join_next())
        .await
        .expect("the backend sees the abort")
        .expect("a task")
        .expect("no panic");
}

#[tokio::test]
async fn a_body_that_fails_is_the_callers_fault() {
    let server = server(|_| http::Response::new(full("never"))).await;
    let backends = backends(&service(&[format!("http://{}/v1", server.addr)]));
    let failing = StreamBody::new(futures_util::stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"part"))),
        Err(BodyError::from("the caller is gone")),
    ]));
    match call(&backends, failing.boxed_unsync()).await {
        Err(SendError::Begun(BackendFailure::Request)) => {}
        Ok(called) => assert_eq!(text(called).await.as_deref(), Ok("never")),
        other => panic!("{other:?}"),
    }
}

/// The name answers with a good address when it is looked at, and with a forbidden one when
/// it is connected to; and the reverse.
#[tokio::test]
async fn a_name_that_rebinds_is_judged_on_the_address_connected_to() {
    let server = server(|_| http::Response::new(full("x"))).await;
    let def = definition(&format!(
        "services:\n  - {{ name: s, kind: model, url: \"http://rebind.test:{}/v1\", connect_timeout: 1s }}\n",
        server.addr.port()
    ));
    let metadata: SocketAddr = "169.254.169.254:80".parse().expect("an address");
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:80".parse().expect("an address");
    for second in [server.addr, metadata, mapped] {
        let script = vec![
            vec!["10.255.255.1:9".parse().expect("an address")],
            vec![second],
        ];
        let connector = Connector::new(&def, &def.urls[0], &ground(&[]))
            .expect("a connector")
            .with_resolver(Resolver::Scripted(Arc::new(Mutex::new(script))));
        let Resolver::Scripted(answers) = connector.resolver() else {
            panic!("scripted");
        };
        answers.lock().expect("lock").remove(0);
        match connector.connect().await {
            Err(ConnectError::Forbidden(Forbidden::Loopback(_) | Forbidden::Special(..))) => {}
            other => panic!("{second}: {other:?}"),
        }
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn localhost_reaches_loopback_but_not_our_own_listener() {
    let server = server(|_| http::Response::new(full("x"))).await;
    let def = service(&[format!("http://localhost:{}/v1", server.addr.port())]);
    let open = backends(&def);
    let called = call(&open, full("x")).await.expect("an answer");
    assert_eq!(text(called).await.as_deref(), Ok("x"));
    let closed = Backends::new(&def, &ground(&[server.addr]), None).expect("backends");
    match closed.list[0].try_connect().await {
        // The other family of localhost has nobody listening.
        Err(ConnectError::Forbidden(Forbidden::OwnListener(_)) | ConnectError::Tcp(..)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}
