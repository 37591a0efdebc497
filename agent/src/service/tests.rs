use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::{Flags, Sources, parse_text};

fn defs(yaml: &str) -> Vec<ServiceDef> {
    parse_text(yaml, &Flags::default(), &Sources::SYSTEM)
        .expect("a configuration")
        .services
}

struct ModelServer {
    addr: SocketAddr,
    status: Arc<AtomicU16>,
    models: Arc<Mutex<Vec<&'static str>>>,
    _tasks: JoinSet<()>,
}

/// Answers `/v1/models` and `/metrics`, the former with a status of choice.
async fn model_server(models: &[&'static str]) -> ModelServer {
    model_server_at("127.0.0.1:0".parse().expect("an address"), models).await
}

async fn model_server_at(at: SocketAddr, models: &[&'static str]) -> ModelServer {
    let listener = TcpListener::bind(at).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let status = Arc::new(AtomicU16::new(200));
    let models = Arc::new(Mutex::new(models.to_vec()));
    let (answer_status, answer_models) = (Arc::clone(&status), Arc::clone(&models));
    let answer = move |path: &str| {
        let body = match path {
            "/v1/models" => {
                let ids = answer_models.lock().expect("lock").clone();
                let data: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
                serde_json::json!({"data": data}).to_string()
            }
            "/metrics" => "vllm:num_requests_waiting 7\n".to_owned(),
            other => panic!("{other}"),
        };
        let mut response = http::Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = answer_status
            .load(Ordering::SeqCst)
            .try_into()
            .expect("a status");
        response
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let response = answer(request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            served.spawn(async move {
                let io = TokioIo::new(stream);
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await
                    .ok()
            });
        }
    });
    ModelServer {
        addr,
        status,
        models,
        _tasks: tasks,
    }
}

/// Waits for a fact, level-triggered, with a deadline.
async fn until(services: &Services, what: &str, fact: impl Fn(&Services) -> bool) {
    let mut changes = services.changes();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !fact(services) {
        let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
        assert!(changed.is_ok(), "{what}: {:?}", services.health());
    }
}

fn table() -> Services {
    Services::new(Arc::from([]), TaskTracker::new())
}

#[tokio::test]
async fn models_are_found_and_kept_fresh() {
    let server = model_server(&["a"]).await;
    let services = Arc::new(table());
    let mut tasks = JoinSet::new();
    let running = Arc::clone(&services);
    tasks.spawn(async move { running.run().await });
    let yaml = format!(
        "services:\n  - {{ name: m, kind: model, url: 'http://{}/v1', health: {{ every: 20ms }} }}\n",
        server.addr
    );
    let mut offers = services.offers();
    services.apply(&defs(&yaml)).expect("applied");
    let before = offers.borrow_and_update().seq;

    until(&services, "up", |s| {
        s.health().services[0].state == ServiceState::Up
    })
    .await;
    let has =
        |models: &'static [&str]| move |s: &Services| s.get("m").expect("m").models() == models;
    until(&services, "found", has(&["a"])).await;
    assert_eq!(
        services.health().services[0].load.map(|l| l.waiting),
        Some(7)
    );

    *server.models.lock().expect("lock") = vec!["b", "a"];
    until(&services, "fresh", has(&["a", "b"])).await;
    offers
        .wait_for(|offer| offer.services[0].models == ["a", "b"] && offer.seq > before)
        .await
        .expect("offered");

    // A failing backend is down, and what it had stays offered.
    server.status.store(500, Ordering::SeqCst);
    until(&services, "down", |s| {
        s.health().services[0].state == ServiceState::Down
    })
    .await;
    assert_eq!(offers.borrow().services[0].models, ["a", "b"]);
    server.status.store(200, Ordering::SeqCst);
    until(&services, "up again", |s| {
        s.health().services[0].state == ServiceState::Up
    })
    .await;
    services.stop();
    tasks.join_next().await.expect("a task").expect("no panic");
}

/// Probes are rare, but a call that finds nobody raises the alarm.
#[tokio::test]
async fn a_backend_that_comes_back_is_taken_back_soon() {
    let server = model_server(&["a"]).await;
    let addr = server.addr;
    let services = table();
    let yaml = format!(
        "services:\n  - {{ name: m, kind: model, url: 'http://{addr}/v1', health: {{ every: 1h }} }}\n"
    );
    services.apply(&defs(&yaml)).expect("applied");
    let state = |state| move |s: &Services| s.health().services[0].state == state;
    until(&services, "up", state(ServiceState::Up)).await;
    drop(server);
    let service = services.get("m").expect("m");
    // A connection that was kept may still be there for the first.
    while service.backends.connect(|| 0).await.is_ok() {}
    until(&services, "down", state(ServiceState::Down)).await;
    let _server = model_server_at(addr, &["a"]).await;
    until(&services, "up again", state(ServiceState::Up)).await;
    services.stop();
}

#[tokio::test]
async fn another_key_for_a_service_takes_nothing_of_it_away() {
    let server = model_server(&["a"]).await;
    let services = table();
    let yaml = format!(
        "services:\n  - {{ name: m, kind: model, url: 'http://{}/v1', headers: {{ x: KEY }}, health: {{ every: 1h }} }}\n",
        server.addr
    );
    services.apply(&defs(&yaml)).expect("applied");
    until(&services, "found", |s| {
        s.get("m").is_some_and(|m| m.models() == ["a"])
    })
    .await;
    let before = services.get("m").expect("m");
    let crate::queue::Entry::Now(turn) = before.gate.enter() else {
        panic!("no limit");
    };

    services
        .apply(&defs(&yaml.replace("KEY", "OTHER")))
        .expect("applied");
    let after = services.get("m").expect("m");
    assert!(!Arc::ptr_eq(&before, &after));
    assert_eq!(services.offers().borrow().services[0].models, ["a"]);
    assert_eq!(after.state(), ServiceState::Up);
    assert_eq!(after.gate.in_flight(), 1, "calls that have begun count");
    drop(turn);
    services.stop();
}

#[tokio::test]
async fn a_reload_leaves_what_is_unchanged_alone() {
    let services = table();
    let two = "services:\n  - { name: a, kind: mcp, url: 'http://127.0.0.1:9/mcp' }\n  - { name: b, kind: mcp, url: 'http://127.0.0.1:9/mcp' }\n";
    services.apply(&defs(two)).expect("applied");
    let (a, b) = (services.get("a").expect("a"), services.get("b").expect("b"));
    let first = services.offers().borrow().seq;

    let changed = two.replacen("/mcp' }", "/other' }", 1);
    services.apply(&defs(&changed)).expect("applied");
    assert!(!Arc::ptr_eq(&a, &services.get("a").expect("a")));
    assert!(Arc::ptr_eq(&b, &services.get("b").expect("b")));
    assert!(
        services.offers().borrow().seq > first,
        "another definition is another offer"
    );

    let seq = services.offers().borrow().seq;
    services.apply(&defs(&changed)).expect("applied");
    assert_eq!(
        services.offers().borrow().seq,
        seq,
        "nothing new is nothing offered"
    );
    services.apply(&[]).expect("applied");
    assert!(services.get("a").is_none() && services.offers().borrow().services.is_empty());
}

#[tokio::test]
async fn a_disabled_service_is_shown_and_nothing_else() {
    let services = table();
    let yaml = "services:\n  - { name: a, kind: mcp, url: 'http://127.0.0.1:9/mcp', enabled: false }\n  - { name: b, kind: mcp, url: 'http://127.0.0.1:9/mcp' }\n";
    services.apply(&defs(yaml)).expect("applied");
    assert!(services.get("a").is_none());
    assert_eq!(services.offers().borrow().services.len(), 1);
    assert_eq!(services.health().services.len(), 1);
    let shown = services.overview();
    let states: Vec<_> = shown
        .iter()
        .map(|s| (s.name.as_str(), s.state.as_str()))
        .collect();
    assert_eq!(states, [("a", "disabled"), ("b", "unknown")]);
    // And runs as soon as the file says so.
    services
        .apply(&defs(&yaml.replace("enabled: false", "enabled: true")))
        .expect("applied");
    assert!(services.get("a").is_some());
    services.stop();
}

#[test]
fn the_digest_knows_the_definition_and_no_secret() {
    let digest_of = |yaml: &str| digest(&defs(yaml)[0]);
    let base = "services:\n  - { name: a, kind: http, url: 'http://h', headers: { x: KEY }, allow: [{ methods: [GET], paths: [/a] }] }\n";
    assert_eq!(digest_of(base), digest_of(&base.replace("KEY", "OTHER")));
    for (from, to) in [
        ("http://h", "http://i"),
        ("GET", "POST"),
        ("/a]", "/b]"),
        ("/a]", "/a], upgrade: [websocket]"),
    ] {
        assert_ne!(
            digest_of(base),
            digest_of(&base.replace(from, to)),
            "{from}"
        );
    }
}

#[test]
fn a_secret_in_the_query_of_a_url_is_neither_shown_nor_offered() {
    let yaml = |name: &str, key: &str| {
        format!("services:\n  - {{ name: a, kind: mcp, url: 'http://h/mcp?{name}={key}' }}\n")
    };
    let def = defs(&yaml("key", "s3cret")).remove(0);
    assert_eq!(def.urls[0].text, "http://h/mcp?…");
    assert!(!format!("{def:?}").contains("s3cret"), "{def:?}");
    assert_eq!(digest(&def), digest(&defs(&yaml("key", "other"))[0]));
    assert_ne!(digest(&def), digest(&defs(&yaml("token", "s3cret"))[0]));

    for url in [
        "http://h:x/?k=s3cret",
        "http://h/%2f?k=s3cret",
        "s3cret",
        "http://:s3cret@h",
    ] {
        let yaml = format!("services:\n  - {{ name: a, kind: mcp, url: '{url}' }}\n");
        let error = parse_text(&yaml, &Flags::default(), &Sources::SYSTEM).expect_err(url);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
