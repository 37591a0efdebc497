//! A server of the old HTTP+SSE transport of MCP, whose endpoint is announced and never seen.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use culvert_tests::client::{Client, Events};
use culvert_tests::error::HarnessError;
use culvert_tests::fault_io::FaultSwitch;
use culvert_tests::sdk::Python;
use culvert_tests::serve::{self, Body, Handler};
use culvert_tests::wait::PATIENCE;
use culvert_tests::world::World;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATH: &str = "/mcp/dev/old";

/// Announces `/secret/messages?sid=7`, and answers on its stream what is posted there.
#[derive(Default)]
struct OldServer {
    stream: Mutex<Option<mpsc::Sender<String>>>,
    endpoint: &'static str,
}

impl Handler for OldServer {
    async fn handle(&self, request: Request<Incoming>, _: FaultSwitch) -> Response<Body> {
        let target = request.uri().to_string();
        match (request.method().clone(), target.as_str()) {
            (Method::GET, "/team/sse") => {
                let (say, said) = mpsc::channel(8);
                let first = format!(": hello\n\nevent: endpoint\ndata: {}\n\n", self.endpoint);
                say.send(first).await.unwrap();
                *self.stream.lock().unwrap() = Some(say);
                let events = futures_util::stream::unfold(said, |mut said| async move {
                    let event = said.recv().await?;
                    Some((Ok(Frame::data(Bytes::from(event))), said))
                });
                let mut answer = Response::new(StreamBody::new(events).boxed_unsync());
                let kind = http::HeaderValue::from_static("text/event-stream");
                answer.headers_mut().insert("content-type", kind);
                answer
            }
            (Method::POST, "/secret/messages?sid=7") => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let said = String::from_utf8(body.to_vec()).unwrap();
                let say = self.stream.lock().unwrap().clone().unwrap();
                say.send(format!("event: message\ndata: {said}\n\n"))
                    .await
                    .unwrap();
                empty(StatusCode::ACCEPTED)
            }
            _ => empty(StatusCode::NOT_FOUND),
        }
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let body = Full::new(Bytes::new()).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// A world whose service `old` is such a server, and the tasks that serve it.
async fn world(endpoint: &'static str) -> (World, JoinSet<()>) {
    let (old, serving) = old_server(endpoint).await;
    (
        world_of(&format!("http://{old}/team/sse"), "").await,
        serving,
    )
}

/// Where such a server is, and the tasks that serve it.
async fn old_server(endpoint: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let old = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    let server = Arc::new(OldServer {
        endpoint,
        ..OldServer::default()
    });
    serving.spawn(async move { serve::serve(listener, server).await.unwrap() });
    (old, serving)
}

/// A world whose service `old` is at `url`, with more keys in its entry.
async fn world_of(url: &str, more: &str) -> World {
    let file = format!(
        "services:
  - {{ name: old, kind: mcp, url: \"{url}\"{more} }}
  - {{ name: llm, kind: model, url: \"http://{{backend}}/v1\" }}
"
    );
    World::builder().agent_file(&file).start().await.unwrap()
}

#[derive(serde::Deserialize)]
struct Served {
    port: u16,
}

#[tokio::test]
async fn the_official_client_and_server_of_the_old_transport() {
    let python = Python::ready().await.unwrap();
    let mut server = python.start("mcp_sse_server.py").unwrap();
    let Served { port } = server.json_line().await.unwrap();
    let world = world_of(&format!("http://127.0.0.1:{port}/sse"), "").await;
    python
        .run("mcp_sse.py", &world.sdk_environment())
        .await
        .map_err(|error| world.explain(&error))
        .unwrap();
}

async fn listen(world: &World) -> Result<Events, HarnessError> {
    let client = world.client();
    let request = client
        .request(Method::GET, PATH)
        .header("accept", "text/event-stream");
    let answer = client.open(request, Bytes::new()).await?;
    assert_eq!(answer.status(), 200);
    Ok(Events::new(answer))
}

async fn next(events: &mut Events) -> Option<String> {
    let next = timeout(PATIENCE, events.next()).await.unwrap();
    next.unwrap()
}

/// What is announced.
async fn reference(events: &mut Events) -> String {
    loop {
        let event = next(events).await.unwrap();
        if event.contains("event: endpoint") {
            let mut lines = event.lines();
            let data = lines.find_map(|line| line.strip_prefix("data: "));
            return data.unwrap().trim().to_owned();
        }
    }
}

async fn post(world: &World, path: &str) -> culvert_tests::client::Reply {
    let message = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    world.client().post(path, &message).await.unwrap()
}

#[tokio::test]
async fn messages_go_to_the_announced_endpoint_which_nobody_outside_learns() {
    let (world, _serving) = world("/secret/messages?sid=7").await;
    let mut events = listen(&world).await.unwrap();
    let reference = reference(&mut events).await;
    assert!(!reference.contains("secret"), "{reference}");
    assert!(reference.starts_with("?endpoint="), "{reference}");
    // As a client resolves it against the URL that it was given.
    let path = format!("{PATH}{reference}");
    let posted = post(&world, &path).await;
    assert_eq!(posted.status, 202, "{}", posted.text());
    let answered = next(&mut events).await.unwrap();
    assert!(answered.contains("\"ping\""), "{answered}");
    // Neither what the server calls it nor a guess is a way in.
    for made_up in [
        format!("{PATH}?endpoint=x.y"),
        format!("{path}0"),
        format!("{PATH}/secret/messages?sid=7"),
    ] {
        let refused = post(&world, &made_up).await;
        assert_eq!(refused.status, 404, "{made_up}: {}", refused.text());
    }
    let other = another_key(&world).await;
    let message = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    let refused = other.post(&path, &message).await.unwrap();
    assert_eq!(refused.status, 404, "{}", refused.text());
    assert_eq!(post(&world, &path).await.status, 202);
    // It ends with its stream.
    drop(events);
    let ended = culvert_tests::wait::until("the end of the endpoint", PATIENCE, || async {
        let reply = post(&world, &path).await;
        if reply.status == 404 && reply.json()["error"]["data"]["code"] == "session_not_found" {
            Ok(())
        } else {
            Err(format!("{} {}", reply.status, reply.text()))
        }
    });
    ended.await.unwrap();
}

/// A client with another key of the same tenant.
async fn another_key(world: &World) -> Client {
    let spec = json!({"name": "other", "spec": {"all": true}});
    let keys = "/v1/tenants/dev/keys:create";
    let made = world.admin().post(keys, &spec).await.unwrap();
    let key = made.json()["key"].as_str().unwrap().to_owned();
    let client = Client::new(world.gateway.url()).with_key(&key);
    let known = culvert_tests::wait::until("the key is known", PATIENCE, || async {
        let listed = client.get("/v1/models").await;
        let listed = listed.map_err(|error| error.to_string())?;
        if listed.status == 200 {
            Ok(())
        } else {
            Err(listed.text())
        }
    });
    known.await.unwrap();
    client
}

#[tokio::test]
async fn a_tool_that_is_not_allowed_is_no_session_that_is_gone() {
    let (old, _serving) = old_server("/secret/messages?sid=7").await;
    let url = format!("http://{old}/team/sse");
    let world = world_of(&url, ", tools: { allow: [\"a*\"] }").await;
    let mut events = listen(&world).await.unwrap();
    let path = format!("{PATH}{}", reference(&mut events).await);
    let call = |name: &str| json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": name, "arguments": {}}});
    let client = world.client();
    let refused = client.post(&path, &call("b")).await.unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["error"]["data"]["code"], "not_allowed");
    let allowed = client.post(&path, &call("a1")).await.unwrap();
    assert_eq!(allowed.status, 202, "{}", allowed.text());
}

#[tokio::test]
async fn an_endpoint_of_another_origin_is_not_announced() {
    let (world, _serving) = world("http://127.0.0.1:1/messages").await;
    let seen = timeout(Duration::from_secs(30), async {
        let mut seen = String::new();
        // Cut as soon as it is known: there may not even be a head.
        let Ok(mut events) = listen(&world).await else {
            return seen;
        };
        while let Ok(Some(event)) = events.next().await {
            seen.push_str(&event);
        }
        seen
    });
    let seen = seen.await.unwrap();
    assert!(!seen.contains("event: endpoint"), "{seen}");
}
