//! The calls of the demo.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::client::Reply;
use crate::error::HarnessError;
use crate::wait::PATIENCE;
use crate::world::{CONNECTOR, MCP_SERVICE, World, chat_body};

/// A streamed completion.
pub(super) struct Chat {
    pub(super) text: String,
    pub(super) tokens: usize,
    pub(super) first_token: Duration,
    pub(super) server_timing: String,
}

/// The answer of a tool.
pub(super) struct Tool {
    pub(super) text: String,
    pub(super) server_timing: String,
}

pub(super) async fn stream_chat(world: &World) -> Result<Chat, HarnessError> {
    let from = Instant::now();
    let mut events = world
        .client()
        .stream(
            "/v1/chat/completions",
            &chat_body("demo-model", json!({"stream": true})),
        )
        .await?;
    let server_timing = header(&events.headers, "server-timing");
    let mut chat = Chat {
        text: String::new(),
        tokens: 0,
        first_token: Duration::ZERO,
        server_timing,
    };
    while let Some(event) = events.next().await? {
        let value: Value =
            serde_json::from_str(event.trim_start_matches("data: ")).unwrap_or_default();
        let piece = value["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        if !piece.is_empty() {
            if chat.tokens == 0 {
                chat.first_token = from.elapsed();
            }
            chat.tokens += 1;
            chat.text.push_str(piece);
        }
    }
    if chat.tokens == 0 {
        return Err(HarnessError::Http(format!(
            "status {} and no tokens",
            events.status
        )));
    }
    Ok(chat)
}

pub(super) fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "demo", "version": "1"}}})
}

pub(super) async fn call_tool(world: &World) -> Result<Tool, HarnessError> {
    let opened = mcp(world, None, &initialize()).await?;
    let session = opened.header("mcp-session-id").to_owned();
    mcp(
        world,
        Some(&session),
        &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    )
    .await?;
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 40, "b": 2}}});
    let reply = mcp(world, Some(&session), &call).await?;
    let body = reply.text();
    let data = body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .find(|data| data.contains("\"result\""));
    let value: Value = serde_json::from_str(data.unwrap_or(&body)).unwrap_or_default();
    let text = value["result"]["content"][0]["text"].as_str();
    let text = text
        .ok_or_else(|| HarnessError::Http(format!("the tool answered {} {body}", reply.status)))?
        .to_owned();
    Ok(Tool {
        text,
        server_timing: reply.header("server-timing").to_owned(),
    })
}

async fn mcp(world: &World, session: Option<&str>, message: &Value) -> Result<Reply, HarnessError> {
    let client = world.client();
    let mut request = client
        .request(Method::POST, &format!("/mcp/{CONNECTOR}/{MCP_SERVICE}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    client.send(request, message.to_string().into()).await
}

/// Opens a stream of a minute, leaves it after the first token, and waits until the model server has stopped.
pub(super) async fn leave_a_stream(world: &World) -> Result<(), HarnessError> {
    let endless = json!({"stream": true, "fixture": {"tokens": 3000, "interval_ms": 20}});
    let mut events = world
        .client()
        .stream("/v1/chat/completions", &chat_body("demo-model", endless))
        .await?;
    events.next().await?;
    drop(events);
    world.backend.counts("/counts/cancelled", 1, PATIENCE).await
}

/// Asks for something that no model API has, in a spelling that a client library would tidy up; gives the status.
pub(super) async fn forbidden(world: &World) -> Result<u16, HarnessError> {
    let answer = world
        .client()
        .exact("GET /v1/../__stats HTTP/1.1", &[])
        .await?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    match status {
        Some(status) if !answer.contains("by_route") => Ok(status),
        _ => Err(HarnessError::Http(format!(
            "a forbidden path was answered: {answer}"
        ))),
    }
}

fn header(headers: &http::HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}
