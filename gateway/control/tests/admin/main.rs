//! The admin API over a real listener: resources, verbs, watches, and who may.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod client;
mod events;
#[path = "../world/mod.rs"]
mod world;

use std::{sync::Arc, time::Duration};

use client::Api;
use culvert_certs::{AgentId, JoinToken};
use culvert_control::{
    Control,
    admin::{self, AdminOptions},
    api::{
        AuditListing, CreateKeyAnswer, ErrorBody, LinkStatus, Listing, Shown, Status, TokenAnswer,
    },
};
use events::Events;
use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use world::{Running, World, operator, spec, until};

struct Served {
    world: World,
    running: Running,
    owner: Api,
    address: String,
    shutdown: CancellationToken,
    tasks: JoinSet<std::io::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        let world = World::new();
        let control = world.with_connector().await;
        let spec = spec(json!({"role": "owner"}));
        let created = control
            .create_admin_key(&operator(), "owner", spec)
            .await
            .unwrap();
        let key = created.secret.expose().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let options = AdminOptions {
            hosts: vec!["admin.test".into()],
            links: Some(Arc::new(|| vec![link("acme"), link("other")])),
            open: None,
        };
        tasks.spawn(admin::serve(
            listener,
            control.clone(),
            options,
            shutdown.clone(),
        ));
        let owner = Api::new(&format!("http://{address}"), &key);
        let running = Running::start(control);
        Self {
            world,
            running,
            owner,
            address,
            shutdown,
            tasks,
        }
    }

    fn control(&self) -> &Control {
        &self.running.control
    }

    async fn caller(&self, name: &str, spec_value: Value) -> Api {
        let spec = spec(spec_value);
        let created = self
            .control()
            .create_admin_key(&operator(), name, spec)
            .await
            .unwrap();
        self.owner.with_key(created.secret.expose())
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(served) = self.tasks.join_next().await {
            served.unwrap().unwrap();
        }
        self.running.stop().await;
    }
}

fn link(tenant: &str) -> LinkStatus {
    LinkStatus {
        tenant: tenant.parse().unwrap(),
        connector: "dev".parse().unwrap(),
        agent: AgentId::from_bytes([7; 16]),
        plane: "ORF".into(),
        more: spec(json!({"transport": "quic"})),
    }
}

fn connector(name: &str, spec: Value) -> Value {
    json!({"kind": "Connector", "tenant": "acme", "name": name, "spec": spec})
}

const CONNECTORS: &str = "/v1/tenants/acme/connectors";

#[tokio::test]
async fn a_document_is_written_read_listed_and_deleted() {
    let served = Served::start().await;
    let api = &served.owner;
    let path = format!("{CONNECTORS}/prod");
    let created = api
        .put(&path, connector("prod", json!({"services": ["llama"]})))
        .await;
    assert_eq!(created.status, 201);
    let read = api.get(&path).await;
    assert_eq!((read.status.as_u16(), read.etag()), (200, created.etag()));
    let shown: Shown = read.json();
    assert_eq!(shown.document.spec["services"], json!(["llama"]));
    assert!(shown.document.status_text("created").is_some());

    for list in [CONNECTORS, "/v1/connectors"] {
        let listing: Listing = api.get(list).await.json();
        let names: Vec<_> = listing
            .items
            .iter()
            .map(|i| i.document.name.to_string())
            .collect();
        assert_eq!(names, ["dev", "prod"]);
    }
    let page: Listing = api.get("/v1/connectors?limit=1").await.json();
    let rest = format!("/v1/connectors?after={}", page.next.unwrap());
    let rest: Listing = api.get(&rest).await.json();
    assert_eq!(rest.items[0].document.name.as_str(), "prod");

    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.get(&path).await.error(), (404, "not_found".into()));
    assert_eq!(api.delete(&path).await.error(), (404, "not_found".into()));
    let again = api.put(&path, connector("prod", json!({}))).await;
    assert_eq!(again.error(), (409, "name_retired".into()));
    served.stop().await;
}

#[tokio::test]
async fn writers_that_saw_an_old_version_lose() {
    let served = Served::start().await;
    let api = &served.owner;
    let path = format!("{CONNECTORS}/dev");
    let seen = api.get(&path).await;
    let write = |text: &str| connector("dev", json!({"description": text}));
    let first = api
        .put_if(&path, write("one"), Some(("if-match", seen.etag())))
        .await;
    assert_eq!(first.status, 200);
    assert_ne!(first.etag(), seen.etag());
    let stale = api
        .put_if(&path, write("two"), Some(("if-match", seen.etag())))
        .await;
    assert_eq!(stale.error(), (412, "precondition_failed".into()));
    let exists = api
        .put_if(&path, write("two"), Some(("if-none-match", "*")))
        .await;
    assert_eq!(exists.error(), (412, "precondition_failed".into()));
    let odd = api
        .put_if(&path, write("two"), Some(("if-match", "7")))
        .await;
    assert_eq!(odd.error(), (400, "bad_request".into()));
    served.stop().await;
}

#[tokio::test]
async fn a_document_that_cannot_stand_is_refused_with_path_and_line() {
    let served = Served::start().await;
    let api = &served.owner;
    let text = "kind: Connector\ntenant: acme\nname: dev\nspec:\n  approve: perhaps\n  speed: 3\n";
    let request = api
        .request(Method::PUT, &format!("{CONNECTORS}/dev"))
        .header("content-type", "application/yaml")
        .body(Full::from(text))
        .unwrap();
    let answer = api.send(request).await;
    assert_eq!(answer.error(), (400, "invalid_document".into()));
    let details = answer.json::<ErrorBody>().error.details;
    let places: Vec<_> = details.iter().map(|d| (d.path.as_str(), d.line)).collect();
    assert_eq!(places, [("spec.approve", 5), ("spec.speed", 6)]);

    let other = api
        .put(&format!("{CONNECTORS}/dev"), connector("else", json!({})))
        .await;
    assert_eq!(other.json::<ErrorBody>().error.details[0].path, "name");
    served.stop().await;
}

#[tokio::test]
async fn json_is_read_whatever_its_white_space() {
    let served = Served::start().await;
    let text = "{\t\"kind\": \"Connector\",\r\n\t\"tenant\":\"acme\",\n\t\t\"name\": \"dev\",\n \"spec\": {\"description\": \"a: b # c\\u00e9\\/\"}}\n";
    let request = served
        .owner
        .request(Method::PUT, &format!("{CONNECTORS}/dev"))
        .header("content-type", "application/json")
        .body(Full::from(text))
        .unwrap();
    let shown: Shown = served.owner.send(request).await.json();
    assert_eq!(shown.document.spec["description"], "a: b # cé/");
    served.stop().await;
}

#[tokio::test]
async fn tokens_are_minted_once_and_join() {
    let served = Served::start().await;
    let answer = served
        .owner
        .post(&format!("{CONNECTORS}/dev:token"), Value::Null)
        .await;
    assert_eq!(answer.status, 201);
    let minted: TokenAnswer = answer.json();
    let token: JoinToken = minted.token.parse().unwrap();
    let (request, _) = world::request(&token);
    served
        .control()
        .join(&request, world::SOURCE)
        .await
        .unwrap();
    assert!(!format!("{minted:?}").contains(&minted.token), "masked");

    let path = format!("{CONNECTORS}/dev:token");
    let long = served.owner.post(&path, json!({"lifetime": "8d"})).await;
    assert_eq!(long.error(), (400, "invalid_document".into()));
    let odd = served.owner.post(&path, json!({"lifetimes": "1h"})).await;
    assert_eq!(odd.error(), (400, "bad_request".into()));
    let nobody = served
        .owner
        .post(&format!("{CONNECTORS}/nobody:token"), Value::Null)
        .await;
    assert_eq!(nobody.error(), (404, "not_found".into()));
    served.stop().await;
}

#[tokio::test]
async fn keys_are_shown_once_and_their_digests_never() {
    let served = Served::start().await;
    let api = &served.owner;
    let body = json!({"name": "ci", "spec": {"allow": ["dev/*"]}});
    let answer = api.post("/v1/tenants/acme/keys:create", body).await;
    assert_eq!(answer.status, 201);
    let created: CreateKeyAnswer = answer.json();
    assert!(created.key.starts_with("cvk_"));
    let control = served.control();
    until(control, |s| {
        s.key(&created.key, served.world.now()).is_some()
    })
    .await;
    let one = api.get("/v1/tenants/acme/keys/ci").await;
    let all = api.get("/v1/keys").await;
    for answer in [&one, &all] {
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(
            text.contains("\"ci\"") && !text.contains("digest"),
            "{text}"
        );
        assert!(!text.contains(&created.key));
    }
    let nothing = json!({"name": "wide", "spec": {}});
    let refused = api.post("/v1/tenants/acme/keys:create", nothing).await;
    assert_eq!(refused.error(), (400, "invalid_document".into()));

    assert_eq!(
        api.post("/v1/tenants/acme/keys/ci:revoke", Value::Null)
            .await
            .status,
        204
    );
    until(control, |s| {
        s.key(&created.key, served.world.now()).is_none()
    })
    .await;
    served.stop().await;
}

#[tokio::test]
async fn revoking_reaches_planes() {
    let served = Served::start().await;
    let member = world::join(&served.world, served.control()).await;
    let agent = member.identity.agent().unwrap().agent;
    let path = format!("/v1/tenants/acme/agents/{agent}:revoke");
    assert_eq!(served.owner.post(&path, Value::Null).await.status, 204);
    assert_eq!(
        served.owner.post(&path, Value::Null).await.status,
        204,
        "again is no error"
    );
    let leaf = member.leaf(served.world.now()).unwrap();
    until(served.control(), |snapshot| {
        snapshot.deny.denies(&leaf).is_some()
    })
    .await;
    served.stop().await;
}

#[tokio::test]
async fn without_a_key_that_works_nothing_is_told() {
    let served = Served::start().await;
    let ended = served.caller("ended", json!({"role": "owner"})).await;
    served
        .owner
        .post("/v1/admin-keys/ended:revoke", Value::Null)
        .await;
    let nobody = served.owner.with_key("");
    let wrong = served.owner.with_key("cvadm_wrong");
    let mut answers = Vec::new();
    for api in [&ended, &nobody, &wrong] {
        for path in [
            "/v1/status",
            "/v1/tenants/acme",
            "/v1/tenants/nobody",
            "/v1/no/such/path/at/all",
        ] {
            let answer = api.get(path).await;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            answers.push(answer.body);
        }
    }
    assert!(
        answers.iter().all(|body| *body == answers[0]),
        "they all look the same"
    );
    let reasons = world::refusals(served.control(), "admin").await;
    assert_eq!(reasons.len(), answers.len());
    served.stop().await;
}

#[tokio::test]
async fn roles_and_tenants_hold() {
    let served = Served::start().await;
    let other = json!({"kind": "Tenant", "name": "other", "spec": {}});
    assert_eq!(
        served.owner.put("/v1/tenants/other", other).await.status,
        201
    );
    let viewer = served.caller("viewer", json!({"role": "viewer"})).await;
    let local = served
        .caller("local", json!({"role": "operator", "tenant": "acme"}))
        .await;
    let denied = (403, "not_allowed".to_owned());

    assert_eq!(viewer.get("/v1/connectors").await.status, 200);
    let put = viewer
        .put(&format!("{CONNECTORS}/dev"), connector("dev", json!({})))
        .await;
    assert_eq!(put.error(), denied);
    assert_eq!(
        viewer
            .post(&format!("{CONNECTORS}/dev:token"), Value::Null)
            .await
            .error(),
        denied
    );
    assert_eq!(viewer.get("/v1/admin-keys").await.error(), denied);

    assert_eq!(
        local
            .post(&format!("{CONNECTORS}/dev:token"), Value::Null)
            .await
            .status,
        201
    );
    for path in [
        "/v1/tenants/other",
        "/v1/tenants/nobody",
        "/v1/tenants/other/connectors",
    ] {
        assert_eq!(local.get(path).await.error(), denied, "{path}");
    }
    let tenants: Listing = local.get("/v1/tenants").await.json();
    let names: Vec<_> = tenants
        .items
        .iter()
        .map(|i| i.document.name.to_string())
        .collect();
    assert_eq!(names, ["acme"]);
    let keys = "/v1/admin-keys:create";
    let escalate = json!({"name": "me", "spec": {"role": "owner"}});
    assert_eq!(local.post(keys, escalate).await.error(), denied);
    assert_eq!(local.delete("/v1/tenants/acme").await.error(), denied);
    assert_eq!(local.get("/v1/audit?tenant=other").await.error(), denied);
    let audit: AuditListing = local
        .get("/v1/audit?since=2000-01-01T00:00:00Z")
        .await
        .json();
    assert!(!audit.items.is_empty());
    assert!(
        audit
            .items
            .iter()
            .all(|event| event.tenant == Some(world::acme()))
    );
    served.stop().await;
}

#[tokio::test]
async fn the_status_shows_links_of_ones_own_tenant() {
    let served = Served::start().await;
    until(served.control(), |snapshot| !snapshot.connectors.is_empty()).await;
    let all: Status = served.owner.get("/v1/status").await.json();
    assert_eq!((all.links.len(), all.counts.connectors), (2, 1));
    assert_eq!(all.links[0].more["transport"], "quic");
    let local = served
        .caller("local", json!({"role": "viewer", "tenant": "acme"}))
        .await;
    let own: Status = local.get("/v1/status").await.json();
    assert_eq!(own.links.len(), 1);
    let foreign = served
        .caller("foreign", json!({"role": "viewer", "tenant": "beta"}))
        .await;
    let none: Status = foreign.get("/v1/status").await.json();
    assert_eq!(
        (
            none.links.len(),
            none.counts.tenants,
            none.counts.connectors
        ),
        (0, 0, 0)
    );
    served.stop().await;
}

/// What a page in a browser could send through its user's machine.
#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let served = Served::start().await;
    let api = &served.owner;
    let with = async |name: &str, value: &str| {
        let request = api.request(Method::GET, "/v1/status").header(name, value);
        api.send(request.body(Full::default()).unwrap())
            .await
            .status
            .as_u16()
    };
    assert_eq!(with("host", "admin.test:9990").await, 200);
    assert_eq!(with("host", "rebound.example").await, 403);
    assert_eq!(with("host", "127.0.0.1.nip.io").await, 403);
    assert_eq!(with("origin", "http://localhost:9990").await, 200);
    for origin in [
        "https://evil.example",
        "null",
        "http://admin.test.evil.example",
    ] {
        assert_eq!(with("origin", origin).await, 403, "{origin}");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_watch_shows_what_is_then_what_changes_and_resumes() {
    let served = Served::start().await;
    let api = &served.owner;
    let open = async |from: Option<u64>| {
        let mut request = api.request(Method::GET, &format!("{CONNECTORS}?watch=1"));
        if let Some(from) = from {
            request = request.header("last-event-id", from.to_string());
        }
        Events::of(api.open(request.body(Full::default()).unwrap()).await)
    };
    let mut events = open(None).await;
    let first = events.next().await.unwrap();
    assert_eq!(
        (first.name.as_str(), &first.data["name"]),
        ("put", &json!("dev"))
    );
    let synced = events.next().await.unwrap();
    assert_eq!(synced.name, "synced");

    api.put(&format!("{CONNECTORS}/new"), connector("new", json!({})))
        .await;
    let put = events.next().await.unwrap();
    assert_eq!(
        (put.name.as_str(), &put.data["name"]),
        ("put", &json!("new"))
    );
    assert!(put.id > synced.id);
    api.delete(&format!("{CONNECTORS}/new")).await;
    let gone = events.next().await.unwrap();
    assert_eq!(
        (gone.name.as_str(), &gone.data["name"]),
        ("delete", &json!("new"))
    );

    let mut resumed = open(Some(synced.id)).await;
    let missed = resumed.next().await.unwrap();
    assert_eq!(
        (missed.name.as_str(), missed.id),
        ("delete", gone.id),
        "the last change of it"
    );
    served.shutdown.cancel();
    assert!(events.next().await.is_none(), "a clean end");
    served.stop().await;
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let served = Served::start().await;
    let large = connector("dev", json!({"description": "x".repeat(1024 * 1024)}));
    let answer = served.owner.put(&format!("{CONNECTORS}/dev"), large).await;
    assert_eq!(answer.error(), (413, "body_too_large".into()));
    let no_type = served
        .owner
        .request(Method::PUT, &format!("{CONNECTORS}/dev"));
    let answer = served
        .owner
        .send(no_type.body(Full::from("{}")).unwrap())
        .await;
    assert_eq!(answer.error(), (415, "unsupported_media_type".into()));

    let mut stream = TcpStream::connect(&served.address).await.unwrap();
    let head = format!(
        "GET /v1/status HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(64 * 1024)
    );
    let mut answer = Vec::new();
    let talked = async {
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    match tokio::time::timeout(world::PATIENCE, talked)
        .await
        .expect("it hangs")
    {
        Ok(_) => assert!(answer.starts_with(b"HTTP/1.1 431"), "{answer:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    served.stop().await;
}

#[tokio::test]
async fn paths_that_are_none_and_methods_that_are_none() {
    let served = Served::start().await;
    let api = &served.owner;
    for path in [
        "/",
        "/v1/nothing",
        "/v1/tenants/acme/planes",
        "/v2/status",
        "/v1/connectors/dev",
    ] {
        assert_eq!(
            api.get(path).await.error(),
            (404, "route_not_found".into()),
            "{path}"
        );
    }
    assert_eq!(
        api.delete("/v1/status").await.error(),
        (405, "method_not_allowed".into())
    );
    let verb = api
        .post(&format!("{CONNECTORS}/dev:explode"), Value::Null)
        .await;
    assert_eq!(verb.error(), (404, "route_not_found".into()));
    served.stop().await;
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let served = Served::start().await;
    let _idle = TcpStream::connect(&served.address).await.unwrap();
    assert_eq!(served.owner.get("/v1/status").await.status, 200);
    let stopped = tokio::time::timeout(Duration::from_secs(25), served.stop()).await;
    stopped.expect("an idle connection holds up the end");
}
