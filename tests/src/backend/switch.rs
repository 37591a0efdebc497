//! Changes of protocol: `/v1/realtime` and `/ws` are WebSockets that echo, `/switch/<protocol>` becomes a raw echo, and
//! `/switch/...` misbehaves in other ways as its path says.
//!
//! A WebSocket does as its texts say: `close <code> <reason>`, `die` (no closing handshake), `silence` (no more echoes);
//! everything else comes back. On `/realtime` it greets with `session.created`, answers `session.update`, and makes a short
//! response of `response.create`.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::task::TaskTracker;

use super::answer;
use super::stats::{Active, Seen, Stats};
use crate::serve::Body;

/// The header in which a client offers sub-protocols, and the server names one.
const SUBPROTOCOL: &str = "sec-websocket-protocol";

/// Answers a request on one of the paths above; nothing for others.
pub(super) fn handle(
    path: &str,
    request: &mut Request<Incoming>,
    active: &mut Option<Active>,
    (stats, tasks): (&Stats, &TaskTracker),
) -> Option<Response<Body>> {
    if path == "/realtime" || path == "/ws" || path.starts_with("/switch/") {
        stats.remember(Seen::of(request));
    }
    let greets = path == "/realtime";
    if greets || path == "/ws" {
        return Some(websocket(request, active.take()?, greets, tasks));
    }
    let how = path.strip_prefix("/switch/")?;
    let response = match how {
        "declined" => answer::text(StatusCode::UPGRADE_REQUIRED, "not with me"),
        "fine" => answer::text(StatusCode::OK, "as if nothing had been asked"),
        "unasked" => switching("websocket"),
        "other" => switching("something-else"),
        protocol => {
            let mut active = active.take()?;
            let on = hyper::upgrade::on(request);
            tasks.spawn(async move {
                if let Ok(io) = on.await {
                    let ended = echo(TokioIo::new(io)).await;
                    if ended.is_ok() {
                        active.complete();
                    }
                }
            });
            return Some(switching(protocol));
        }
    };
    Some(answer::done(active.take()?, response))
}

fn switching(protocol: &str) -> Response<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(name) = HeaderValue::from_str(protocol) {
        headers.insert(UPGRADE, name);
    }
    response
}

async fn echo(mut io: TokioIo<Upgraded>) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = io.read(&mut buffer).await?;
        if read == 0 {
            io.write_all(b"bye").await?;
            return io.shutdown().await;
        }
        io.write_all(&buffer[..read]).await?;
        io.flush().await?;
    }
}

fn websocket(
    request: &mut Request<Incoming>,
    mut active: Active,
    greets: bool,
    tasks: &TaskTracker,
) -> Response<Body> {
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|_| headers.contains_key(UPGRADE)) else {
        return answer::text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket");
    };
    let mut response = switching("websocket");
    let accept = derive_accept_key(key.as_bytes());
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let offered = headers.get(SUBPROTOCOL).and_then(|list| list.to_str().ok());
    let first = offered.and_then(|list| list.split(',').next());
    if let Some(Ok(name)) = first.map(|name| HeaderValue::from_str(name.trim())) {
        response.headers_mut().insert(SUBPROTOCOL, name);
    }
    let model = request.uri().query().unwrap_or_default().to_owned();
    let on = hyper::upgrade::on(request);
    tasks.spawn(async move {
        let Ok(io) = on.await else { return };
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        let greeting = json!({"type": "session.created", "event_id": "event_1",
            "session": {"type": "realtime", "query": model}});
        if greets && send(&mut socket, &greeting).await.is_err() {
            return;
        }
        if converse(&mut socket).await.is_ok() {
            active.complete();
        }
    });
    response
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Ends well where the closing handshake was whole.
async fn converse(socket: &mut Socket) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => match text.split_once(' ').unwrap_or((&text, "")) {
                ("close", rest) => {
                    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                    let frame = CloseFrame {
                        code: code.parse().unwrap_or(1000).into(),
                        reason: reason.into(),
                    };
                    socket.close(Some(frame)).await?;
                }
                ("die", _) => return Err(Error::AlreadyClosed),
                ("silence", _) => {
                    // Longer than any test: the other side's leaving is read, and nothing is said.
                    while socket.next().await.transpose()?.is_some() {}
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    return Err(Error::ConnectionClosed);
                }
                (_, _) => answer_event(socket, &text).await?,
            },
            message @ Message::Binary(_) => socket.send(message).await?,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
    Ok(())
}

async fn answer_event(socket: &mut Socket, text: &str) -> Result<(), Error> {
    let event: Value = serde_json::from_str(text).unwrap_or_default();
    let response = |status: &str| json!({"id": "resp_1", "object": "realtime.response", "status": status, "output": []});
    match event["type"].as_str() {
        Some("session.update") => {
            let updated = json!({"type": "session.updated", "event_id": "event_2", "session": event["session"]});
            send(socket, &updated).await
        }
        Some("response.create") => {
            for event in [
                json!({"type": "response.created", "event_id": "event_3", "response": response("in_progress")}),
                json!({"type": "response.output_text.delta", "event_id": "event_4", "response_id": "resp_1",
                    "item_id": "item_1", "output_index": 0, "content_index": 0, "delta": "hello"}),
                json!({"type": "response.done", "event_id": "event_5", "response": response("completed")}),
            ] {
                send(socket, &event).await?;
            }
            Ok(())
        }
        Some(_) | None => socket.send(Message::text(text)).await,
    }
}

async fn send(socket: &mut Socket, event: &Value) -> Result<(), Error> {
    socket.send(Message::text(event.to_string())).await
}
