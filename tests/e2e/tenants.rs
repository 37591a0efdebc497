//! Tenants and keys: nothing crosses between tenants, and a key calls what it may.

use culvert_tests::client::{Client, Reply};
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::{World, chat_body};
use http::Method;
use serde_json::{Value, json};

async fn put(world: &World, path: &str, document: &Value) {
    let request = world
        .admin()
        .request(Method::PUT, path)
        .header("content-type", "application/json");
    let reply = world
        .admin()
        .send(request, document.to_string().into())
        .await
        .unwrap();
    assert!(reply.status.is_success(), "{path}: {}", reply.text());
}

/// Makes a key and waits until the gateway knows it.
async fn key(world: &World, tenant: &str, name: &str, spec: Value) -> Client {
    let reply = world
        .admin()
        .post(
            &format!("/v1/tenants/{tenant}/keys:create"),
            &json!({"name": name, "spec": spec}),
        )
        .await
        .unwrap();
    assert_eq!(reply.status, 201, "{}", reply.text());
    let client = Client::new(world.gateway.url()).with_key(reply.json()["key"].as_str().unwrap());
    wait::until("the key is known", PATIENCE, || async {
        let listed = client
            .get("/v1/models")
            .await
            .map_err(|error| error.to_string())?;
        if listed.status == 200 {
            Ok(())
        } else {
            Err(listed.text())
        }
    })
    .await
    .unwrap();
    client
}

fn models(reply: &Reply) -> Vec<String> {
    let list = reply.json()["data"].as_array().cloned().unwrap_or_default();
    list.iter()
        .filter_map(|model| model["id"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_key_of_another_tenant_finds_nothing() {
    let world = World::start().await.unwrap();
    put(
        &world,
        "/v1/tenants/other",
        &json!({"kind": "Tenant", "name": "other", "spec": {}}),
    )
    .await;
    let stranger = key(&world, "other", "all", json!({"all": true})).await;
    assert_eq!(
        models(&stranger.get("/v1/models").await.unwrap()),
        Vec::<String>::new()
    );
    let body = chat_body("demo-model", json!({}));
    let chat = stranger.post("/v1/chat/completions", &body).await.unwrap();
    assert_eq!(
        (chat.status.as_u16(), &chat.json()["error"]["code"]),
        (404, &json!("model_not_found")),
        "{}",
        chat.text()
    );
    assert!(
        !chat.text().contains("meta-llama"),
        "candidates of another tenant are told: {}",
        chat.text()
    );
    for path in [
        "/mcp/dev/tools",
        "/http/dev/tools/x",
        "/v1/models/dev%2Fdemo-model",
    ] {
        let there = stranger.get(path).await.unwrap();
        let nowhere = stranger.get(&path.replace("dev", "nil")).await.unwrap();
        assert_eq!(there.status, 404, "{path}: {}", there.text());
        assert_eq!(
            there.status, nowhere.status,
            "what exists looks as what does not"
        );
    }
    assert!(world.tools.requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_key_calls_what_it_is_allowed_and_the_rest_does_not_exist_for_it() {
    let world = World::start().await.unwrap();
    let narrow = key(&world, "dev", "narrow", json!({"allow": ["dev/llm:fast"]})).await;
    assert_eq!(
        models(&narrow.get("/v1/models").await.unwrap()),
        ["dev/fast"]
    );
    assert_eq!(
        narrow
            .post("/v1/chat/completions", &chat_body("fast", json!({})))
            .await
            .unwrap()
            .status,
        200
    );
    let hidden = narrow
        .post("/v1/chat/completions", &chat_body("demo-model", json!({})))
        .await
        .unwrap();
    let absent = narrow
        .post("/v1/chat/completions", &chat_body("none-such1", json!({})))
        .await
        .unwrap();
    assert_eq!(
        (hidden.status, &hidden.json()["error"]["code"]),
        (absent.status, &absent.json()["error"]["code"])
    );
    assert_eq!(
        hidden.text().replace("demo-model", "none-such1").len(),
        absent.text().len(),
        "{} {}",
        hidden.text(),
        absent.text()
    );
    assert_eq!(narrow.get("/mcp/dev/tools").await.unwrap().status, 404);
}

#[tokio::test]
async fn bad_keys_all_look_the_same() {
    let world = World::start().await.unwrap();
    let gone = key(&world, "dev", "gone", json!({"all": true})).await;
    let revoked = world
        .admin()
        .post("/v1/tenants/dev/keys/gone:revoke", &json!({}))
        .await
        .unwrap();
    assert!(revoked.status.is_success(), "{}", revoked.text());
    wait::until("the key is refused", PATIENCE, || async {
        let reply = gone
            .get("/v1/models")
            .await
            .map_err(|error| error.to_string())?;
        if reply.status == 401 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await
    .unwrap();
    let refused = gone.get("/v1/models").await.unwrap();
    let never = Client::new(world.gateway.url()).with_key(&format!("cvk_{}", "A".repeat(43)));
    let none = Client::new(world.gateway.url());
    let shape = |reply: &Reply| {
        let id = reply.header("x-request-id").to_owned();
        (reply.status, reply.text().replace(&id, "ID"))
    };
    assert_eq!(
        shape(&refused),
        shape(&never.get("/v1/models").await.unwrap())
    );
    assert_eq!(none.get("/v1/models").await.unwrap().status, 401);
}
