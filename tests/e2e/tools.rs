//! The customer's policy, through real programs: which tools, who calls, how often, and the switch.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use culvert_tests::client::{Client, Reply};
use culvert_tests::programs::Programs;
use culvert_tests::wait;
use culvert_tests::world::World;
use data_encoding::BASE64URL_NOPAD;
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

/// What a client of the stateless era says of itself.
fn meta() -> Value {
    json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}})
}

/// A request of the stateless era to an MCP service.
async fn ask(client: &Client, service: &str, method: &str, mut params: Value) -> Reply {
    params["_meta"] = meta();
    let body = json!({"jsonrpc": "2.0", "id": "q1", "method": method, "params": params});
    let mut request = client
        .request(Method::POST, &format!("/mcp/dev/{service}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = params["name"].as_str() {
        request = request.header("mcp-name", name);
    }
    client.send(request, body.to_string().into()).await.unwrap()
}

/// Until the agent's link offers the service.
async fn served(world: &World, service: &str) {
    let up = wait::until("the service", wait::PATIENCE, || async {
        let reply = ask(&world.client(), service, "ping", json!({})).await;
        match reply.status.as_u16() {
            404 | 503 if reply.text().contains("request_id") => Err(reply.text()),
            _ => Ok(()),
        }
    });
    up.await.map_err(|error| world.explain(&error)).unwrap();
}

/// The message of an answer, JSON or one event.
fn message(reply: &Reply) -> Value {
    let text = reply.text();
    let data = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .find(|data| data.starts_with('{'));
    serde_json::from_str(data.unwrap_or(&text)).unwrap()
}

fn names(reply: &Reply) -> Vec<String> {
    let tools = message(reply)["result"]["tools"].clone();
    let tools = tools.as_array().cloned().unwrap_or_default();
    let name = |tool: &Value| tool["name"].as_str().unwrap_or("-").to_owned();
    tools.iter().map(name).collect()
}

#[tokio::test]
async fn tools_that_are_not_allowed_are_neither_called_nor_listed() {
    let file = "services:\n  - name: some\n    kind: mcp\n    url: http://{tools}/mcp\n    tools: { allow: ['a*', 'echo'], deny: ['*_it'] }\n";
    let world = World::builder().agent_file(file).start().await.unwrap();
    served(&world, "some").await;
    let client = world.client();

    let listed = ask(&client, "some", "tools/list", json!({})).await;
    assert_eq!(listed.status, 200, "{}", listed.text());
    let listed = names(&listed);
    assert!(listed.contains(&"echo".to_owned()), "{listed:?}");
    assert!(
        listed
            .iter()
            .all(|name| name.starts_with('a') || name == "echo"),
        "{listed:?}"
    );

    let echo = json!({"name": "echo", "arguments": {"text": "hi"}});
    let called = ask(&client, "some", "tools/call", echo).await;
    assert_eq!(called.status, 200, "{}", called.text());
    assert!(called.text().contains("hi"), "{}", called.text());

    let before = world.tools.requests().await.unwrap().len();
    let slow = json!({"name": "slow", "arguments": {}});
    let refused = ask(&client, "some", "tools/call", slow).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let error = refused.json();
    assert_eq!(error["id"], "q1", "{error}");
    assert_eq!(error["error"]["data"]["code"], "not_allowed", "{error}");
    assert_eq!(world.tools.requests().await.unwrap().len(), before);
}

#[tokio::test]
async fn a_rate_makes_callers_wait() {
    let file = "services:\n  - name: llm\n    kind: model\n    url: http://{backend}/v1\n  - name: web\n    kind: http\n    url: http://{backend}\n    limits: { rate: 2/d }\n    allow: [{ methods: [GET], paths: ['/**'] }]\n";
    let world = World::builder().agent_file(file).start().await.unwrap();
    let client = world.client();
    for _ in 0..2 {
        assert_eq!(client.get("/http/dev/web/api/x").await.unwrap().status, 200);
    }
    let limited = client.get("/http/dev/web/api/x").await.unwrap();
    assert_eq!(limited.status, 429, "{}", limited.text());
    assert_eq!(limited.json()["error"]["code"], "rate_limited");
    assert!(limited.header("retry-after").parse::<u32>().is_ok());
}

/// `culvert-agent pause|resume` beside the running agent.
async fn switch(world: &World, verb: &str) -> String {
    let agent = world.agent.as_ref().unwrap();
    let mut command = Command::new(Programs::built().await.unwrap().path("culvert-agent"));
    command.args([verb, "llm", "--health-listen", "127.0.0.1:1"]);
    command.arg("--state-dir").arg(agent.state_folder());
    command.arg("--config").arg(agent.file());
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    text
}

#[tokio::test]
async fn a_paused_service_takes_no_calls_until_it_is_resumed() {
    let file = "services:\n  - name: llm\n    kind: model\n    url: http://{backend}/v1\n";
    let mut world = World::builder().agent_file(file).start().await.unwrap();
    let said = switch(&world, "pause").await;
    assert!(said.contains("paused: llm"), "{said}");
    let gone = async |world: &World| {
        let gone = wait::until("no service", wait::PATIENCE, || async {
            match world.client().get("/v1/models").await.unwrap() {
                list if list.json()["data"] == json!([]) => Ok(()),
                list => Err(list.text()),
            }
        });
        gone.await.map_err(|error| world.explain(&error)).unwrap();
    };
    gone(&world).await;

    // A restart changes nothing.
    let agent = world.agent.take().unwrap();
    let agent = agent.restart().await.unwrap();
    agent
        .process
        .logged("a link serves", wait::PATIENCE)
        .await
        .unwrap();
    world.agent = Some(agent);
    gone(&world).await;

    let said = switch(&world, "resume").await;
    assert!(said.contains("nothing is paused"), "{said}");
    world.ready().await.unwrap();
}

/// A provider's key: its set, and tokens of it.
struct Provider(EcdsaKeyPair);

impl Provider {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der());
        Self(key.unwrap())
    }

    fn set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.0.public_key().as_ref();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "kid": "k1",
            "x": BASE64URL_NOPAD.encode(&point[1..33]), "y": BASE64URL_NOPAD.encode(&point[33..])}]})
    }

    fn token(&self, groups: &[&str]) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let header = json!({"alg": "ES256", "kid": "k1"}).to_string();
        let claims = json!({"iss": "https://login.test", "aud": "culvert", "sub": "ada", "exp": now + 300, "groups": groups});
        let part = |text: String| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", part(header), part(claims.to_string()));
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

#[tokio::test]
async fn only_end_users_of_the_customer_call() {
    let (provider, other) = (Provider::new(), Provider::new());
    let folder = tempfile::TempDir::new().unwrap();
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, provider.set().to_string()).unwrap();
    let file = format!(
        "services:\n  - name: llm\n    kind: model\n    url: http://{{backend}}/v1\n  - name: web\n    kind: http\n    url: http://{{backend}}\n    allow: [{{ methods: [GET], paths: ['/**'] }}]\n    require_caller: {{ issuer: 'https://login.test', jwks: {}, audience: [culvert], claims: {{ groups: [mcp] }} }}\n",
        jwks.display()
    );
    let world = World::builder().agent_file(&file).start().await.unwrap();
    let keyed = Client::new(world.gateway.url());
    let call = async |token: Option<String>| {
        let key = &world.gateway.line.api_key;
        let mut request = keyed
            .request(Method::GET, "/http/dev/web/api/x")
            .header("x-culvert-key", key);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        keyed.send(request, bytes::Bytes::new()).await.unwrap()
    };
    let reply = call(Some(provider.token(&["mcp"]))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        !reply.text().to_ascii_lowercase().contains("bearer"),
        "the token stays with the agent: {}",
        reply.text()
    );
    for token in [
        None,
        Some(provider.token(&["others"])),
        Some(other.token(&["mcp"])),
        Some("no token".to_owned()),
    ] {
        let reply = call(token).await;
        assert_eq!(reply.status, 403, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "not_allowed");
    }
    let audit = world
        .agent
        .as_ref()
        .unwrap()
        .state_folder()
        .join("audit.jsonl");
    let noted = wait::until("the audit log", wait::PATIENCE, || async {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        match text.contains(r#""subject":"ada""#) {
            true => Ok(()),
            false => Err(text),
        }
    });
    noted.await.unwrap();
}
