//! Servers written in a few lines of shell, and what their callers see.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answer::{Answer, AnswerBody};
use super::*;
use crate::backend::Standing;

/// For what takes no time at all on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers `initialize`; `cases` are more branches of its `case`.
fn server(cases: &str) -> String {
    format!(
        r#"
reply() {{ printf '{{"jsonrpc":"2.0","id":%s,"result":%s}}\n' "$id" "$1"; }}
fail() {{ printf '{{"jsonrpc":"2.0","id":%s,"error":{{"code":%s,"message":"no"}}}}\n' "$id" "$1"; }}
tell() {{ printf '{{"jsonrpc":"2.0","method":"%s","params":%s}}\n' "$1" "$2"; }}
while IFS= read -r line; do
  id=${{line#*\"id\":}}; id=${{id%%[,\}}]*}}
  case $line in
    {cases}
    *'"initialize"'*) reply '{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"sh","version":"1"}}}}' ;;
    *'"pid"'*) reply "{{\"pid\":$$}}" ;;
    *'"id"'*) fail -32601 ;;
  esac
done"#
    )
}

/// A server of the stateless protocol.
fn stateless(cases: &str) -> String {
    let discover = r#"*server/discover*) reply '{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}' ;;"#;
    server(&format!("{cases}\n{discover}"))
}

struct World {
    stdio: Stdio,
    tasks: TaskTracker,
    stop: CancellationToken,
    leaving: CancellationToken,
}

/// A call's answer, read.
struct Read {
    status: u16,
    headers: HeaderMap,
    body: AnswerBody,
}

fn quick() -> Pace {
    Pace {
        start: Duration::from_secs(10),
        discover: Duration::from_secs(2),
        head: Duration::from_secs(2),
        write: Duration::from_millis(500),
        close: Duration::from_millis(200),
        term: Duration::from_millis(200),
        replaced: Duration::from_secs(1),
        place: Duration::from_secs(1),
        makes_room: Duration::ZERO,
        restart: (Duration::from_millis(50), Duration::from_millis(400)),
        line: 64 * 1024,
    }
}

impl World {
    fn new(script: &str) -> Self {
        Self::with(script, |_| {}, quick())
    }

    fn shared(script: &str) -> Self {
        Self::with(script, |spec| spec.instances = Sharing::Shared, quick())
    }

    fn with(script: &str, change: impl FnOnce(&mut StdioSpec), pace: Pace) -> Self {
        let command = ["sh", "-c", script].map(str::to_owned);
        let mut spec = StdioSpec::new(command.to_vec());
        change(&mut spec);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let running = (tasks.clone(), stop.clone());
        Self {
            stdio: Stdio::paced("test", spec, pace, running),
            tasks,
            stop,
            leaving: CancellationToken::new(),
        }
    }

    async fn try_call(
        &self,
        method: Method,
        headers: &[(&'static str, &str)],
        body: &Value,
    ) -> Result<Read, NotBegun> {
        let mut request = Request::builder()
            .method(method)
            .uri("/")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let body = match (body, body.as_str()) {
            (Value::Null, _) => Bytes::new(),
            (_, Some(text)) => Bytes::from(text.to_owned()),
            (json, None) => Bytes::from(json.to_string()),
        };
        let body = Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync();
        let answer = timeout(PATIENCE, self.stdio.call(parts, body, &self.leaving))
            .await
            .expect("an answer begins")?;
        Ok(Read::new(answer))
    }

    async fn call(&self, method: Method, headers: &[(&'static str, &str)], body: &Value) -> Read {
        self.try_call(method, headers, body).await.expect("begun")
    }

    async fn begin(&self) -> String {
        let answer = self.call(Method::POST, &[], &initialize()).await;
        assert_eq!(answer.status, 200);
        let id = answer.headers["mcp-session-id"]
            .to_str()
            .expect("text")
            .to_owned();
        let greeting = answer.json().await;
        assert_eq!(greeting["result"]["serverInfo"]["name"], "sh", "{greeting}");
        assert_eq!(greeting["id"], "init");
        let initialized = notification("notifications/initialized", &json!({}));
        assert_eq!(self.post(&id, &initialized).await.status, 202);
        id
    }

    async fn post(&self, session: &str, body: &Value) -> Read {
        let headers = [
            ("mcp-session-id", session),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        self.call(Method::POST, &headers, body).await
    }

    async fn listen(&self, session: &str, last: Option<&str>) -> Read {
        let mut headers = vec![("mcp-session-id", session)];
        headers.extend(last.map(|last| ("last-event-id", last)));
        self.call(Method::GET, &headers, &Value::Null).await
    }

    async fn stateless(&self, method: &str, params: Value) -> Read {
        let mut params = params;
        params["_meta"] = meta();
        let headers = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        self.call(Method::POST, &headers, &request(7, method, &params))
            .await
    }

    fn pids(&self) -> usize {
        self.tasks.len()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait())
            .await
            .expect("every process ends");
    }
}

impl Read {
    fn new(answer: Answer) -> Self {
        let (parts, body) = answer.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    fn is_stream(&self) -> bool {
        self.headers["content-type"] == "text/event-stream"
    }

    /// The next piece of an event stream: its id, and its data.
    async fn event(&mut self) -> Option<(String, Value)> {
        let frame = timeout(PATIENCE, self.body.frame())
            .await
            .expect("an event in time")?;
        let data = frame.expect("no error").into_data().expect("no trailers");
        let text = String::from_utf8(data.to_vec()).expect("text");
        let field = |name: &str| {
            let lines = text.lines();
            lines
                .filter_map(|line| line.strip_prefix(name))
                .map(str::to_owned)
                .next()
        };
        let data = field("data: ").unwrap_or_default();
        let data = serde_json::from_str(&data).unwrap_or(Value::Null);
        Some((field("id: ").unwrap_or_default(), data))
    }

    async fn data(&mut self) -> Value {
        self.event().await.expect("an event").1
    }

    async fn json(self) -> Value {
        let body = timeout(PATIENCE, self.body.collect())
            .await
            .expect("a body in time");
        let bytes = body.expect("a body").to_bytes();
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&bytes)))
    }
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn notification(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
}

/// `initialize` as nobody says it any more.
fn initialize_anew() -> Value {
    let mut message = request(7, "initialize", &json!({"_meta": meta()}));
    message["params"]["protocolVersion"] = json!("2026-07-28");
    message
}

fn meta() -> Value {
    json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}})
}

async fn pid(world: &World, session: &str) -> u64 {
    let answer = world.post(session, &request(1, "pid", &json!({}))).await;
    let answer = answer.json().await;
    answer["result"]["pid"].as_u64().expect("a pid")
}

fn lives(pid: u64) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_session_has_a_process_of_its_own_until_it_is_deleted() {
    let world = World::new(&server(""));
    let (a, b) = (world.begin().await, world.begin().await);
    let (pid_a, pid_b) = (pid(&world, &a).await, pid(&world, &b).await);
    assert_ne!(pid_a, pid_b);
    let unknown = world.post(&a, &request(2, "what", &json!({}))).await;
    assert_eq!(unknown.status, 200, "an error of the server is its own");
    assert_eq!(unknown.json().await["error"]["code"], -32601);
    let headers = [("mcp-session-id", a.as_str())];
    let deleted = world.call(Method::DELETE, &headers, &Value::Null).await;
    assert_eq!(deleted.status, 204);
    let gone = world.post(&a, &request(3, "pid", &json!({}))).await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.json().await["id"], 3);
    assert_eq!(pid(&world, &b).await, pid_b, "the other one lives on");
    world.end().await;
    assert!(!lives(pid_a) && !lives(pid_b));
}

#[tokio::test]
async fn what_is_no_call_is_answered_by_us() {
    let world = World::new(&server(""));
    let session = world.begin().await;
    let ping = request(1, "ping", &json!({}));
    let with = |name: &'static str, value: &'static str| vec![(name, value)];
    let named = [("mcp-session-id", session.as_str())];
    for (method, headers, body, status) in [
        (Method::POST, vec![], &ping, 400),
        (Method::POST, with("mcp-session-id", "x"), &ping, 404),
        (Method::POST, vec![], &json!("{"), 400),
        (Method::POST, vec![], &json!([ping]), 400),
        (Method::POST, vec![], &json!({"id": 1}), 400),
        (Method::POST, named.to_vec(), &initialize(), 400),
        (Method::PUT, vec![], &ping, 405),
        (Method::GET, vec![], &Value::Null, 400),
        (
            Method::GET,
            with("mcp-protocol-version", "2026-07-28"),
            &Value::Null,
            405,
        ),
        (Method::DELETE, vec![], &Value::Null, 400),
        (
            Method::DELETE,
            with("mcp-session-id", "x"),
            &Value::Null,
            404,
        ),
        (
            Method::GET,
            vec![named[0], ("last-event-id", "9-9")],
            &Value::Null,
            400,
        ),
        (
            Method::POST,
            vec![named[0], ("mcp-protocol-version", "1999-01-01")],
            &ping,
            400,
        ),
    ] {
        let answer = world.call(method.clone(), &headers, body).await;
        assert_eq!(answer.status, status, "{method} {headers:?} {body}");
        assert_eq!(answer.json().await["jsonrpc"], "2.0");
    }
    let large = request(1, "x", &json!("y".repeat(spec::MAX_LINE_BYTES)));
    assert_eq!(world.call(Method::POST, &named, &large).await.status, 413);
    world.end().await;
}

#[tokio::test]
async fn a_request_has_what_belongs_to_it_and_the_client_can_be_asked() {
    let world = World::new(&server(
        r#"*'"slow"'*) asked=$id
            tell notifications/progress '{"progressToken":"t","progress":1}'
            tell notifications/message '{"level":"info","data":"hm"}'
            printf '{"jsonrpc":"2.0","id":"e1","method":"elicitation/create","params":{}}\n' ;;
        *'"e1"'*) id=$asked; reply "{\"heard\":$line}" ;;"#,
    ));
    let session = world.begin().await;
    let slow = request(5, "slow", &json!({"_meta": {"progressToken": "t"}}));
    let mut answer = world.post(&session, &slow).await;
    assert!(answer.is_stream());
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    assert_eq!(answer.data().await["params"]["progressToken"], "t");
    assert_eq!(answer.data().await["method"], "notifications/message");
    assert_eq!(answer.data().await["method"], "elicitation/create");
    let said = json!({"jsonrpc": "2.0", "id": "e1", "result": {"action": "accept"}});
    assert_eq!(world.post(&session, &said).await.status, 202);
    let last = answer.data().await;
    assert_eq!(last["id"], 5);
    assert_eq!(last["result"]["heard"]["result"]["action"], "accept");
    assert!(answer.event().await.is_none());
    world.end().await;
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_was() {
    let world = World::new(&server(
        r#"*'"slow"'*) asked=$id
            tell notifications/progress '{"progressToken":1,"progress":1}' ;;
        *'"more"'*) reply '{}'
            tell notifications/progress '{"progressToken":1,"progress":2}'
            id=$asked; reply '{"done":true}' ;;"#,
    ));
    let session = world.begin().await;
    let slow = request(5, "slow", &json!({"_meta": {"progressToken": 1}}));
    let mut answer = world.post(&session, &slow).await;
    let (last, first) = answer.event().await.expect("an event");
    assert_eq!(first["params"]["progress"], 1);
    drop(answer);
    let more = world.post(&session, &request(6, "more", &json!({}))).await;
    assert_eq!(more.json().await["id"], 6, "closing was no cancelling");
    let mut rest = world.listen(&session, Some(&last)).await;
    assert_eq!(rest.data().await["params"]["progress"], 2);
    assert_eq!(rest.data().await["result"]["done"], true);
    assert!(rest.event().await.is_none());
    let mut again = world.listen(&session, Some(&last)).await;
    assert_eq!(again.data().await["params"]["progress"], 2);
    world.end().await;
}

#[tokio::test]
async fn a_silent_answer_becomes_a_stream_that_can_be_resumed() {
    let pace = Pace {
        head: Duration::from_millis(50),
        ..quick()
    };
    let world = World::with(
        &server(
            r#"*'"slow"'*) asked=$id ;; *'"more"'*) reply '{}'; id=$asked; reply '{"done":1}' ;;"#,
        ),
        |_| {},
        pace,
    );
    let session = world.begin().await;
    let slow = request(5, "slow", &json!({}));
    let mut answer = world.post(&session, &slow).await;
    let (id, primed) = answer.event().await.expect("an event");
    assert_eq!((id.as_str(), primed), ("1-0", Value::Null));
    drop(answer);
    world.post(&session, &request(6, "more", &json!({}))).await;
    let mut rest = world.listen(&session, Some(&id)).await;
    assert_eq!(rest.data().await["result"]["done"], 1);
    world.end().await;
}

#[tokio::test]
async fn what_belongs_to_no_request_comes_on_the_session_s_own_stream() {
    let world = World::new(&server(
        r#"*'"change"'*) tell notifications/tools/list_changed '{}'; reply '{}' ;;"#,
    ));
    let session = world.begin().await;
    world
        .post(&session, &request(1, "change", &json!({})))
        .await;
    let mut listening = world.listen(&session, None).await;
    let (first, event) = listening
        .event()
        .await
        .expect("kept until somebody listens");
    assert_eq!(event["method"], "notifications/tools/list_changed");
    world
        .post(&session, &request(2, "change", &json!({})))
        .await;
    listening.data().await;
    let mut newer = world.listen(&session, Some(&first)).await;
    assert!(listening.event().await.is_none(), "the newest listens");
    assert_eq!(newer.data().await["method"], event["method"]);
    world.leaving.cancel();
    assert!(
        newer.event().await.is_none(),
        "it does not hold the agent up"
    );
    world.end().await;
}

#[tokio::test]
async fn a_client_cancels_by_saying_so() {
    let world = World::new(&server(
        r#"*'"slow"'*) slow=$id ;;
        *notifications/cancelled*) cancelled=$line ;;
        *'"seen"'*) reply "{\"slow\":$slow,\"cancelled\":$cancelled}" ;;"#,
    ));
    let session = world.begin().await;
    let slow = request(5, "slow", &json!({}));
    let cancel = notification("notifications/cancelled", &json!({"requestId": 5}));
    let (mut answer, ()) = tokio::join!(world.post(&session, &slow), async {
        // The order of two calls is not theirs to choose: it is cancelled once it is there.
        loop {
            assert_eq!(world.post(&session, &cancel).await.status, 202);
            let seen = world.post(&session, &request(6, "pid", &json!({}))).await;
            drop(seen);
            let seen = world.post(&session, &request(7, "seen", &json!({}))).await;
            let text = seen.body.collect().await.expect("a body").to_bytes();
            if text.windows(9).any(|w| w == b"requestId") {
                let seen: Value = serde_json::from_slice(&text).expect("json");
                let (slow, cancelled) = (&seen["result"]["slow"], &seen["result"]["cancelled"]);
                assert_eq!(cancelled["params"]["requestId"], *slow, "{seen}");
                return;
            }
        }
    });
    assert!(answer.event().await.is_none(), "it has no answer");
    world.end().await;
}

#[tokio::test]
async fn in_the_stateless_protocol_leaving_cancels() {
    let world = World::new(&stateless(
        r#"*'"slow"'*) tell notifications/progress "{\"progressToken\":$id,\"progress\":1}"; slow=$id ;;
        *notifications/cancelled*) cancelled=$line ;;
        *'"seen"'*) reply "{\"slow\":$slow,\"cancelled\":$cancelled}" ;;"#,
    ));
    let mut params = json!({});
    params["_meta"] = meta();
    params["_meta"]["progressToken"] = json!("mine");
    let headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "slow"),
    ];
    let mut answer = world
        .call(Method::POST, &headers, &request(9, "slow", &params))
        .await;
    assert!(answer.is_stream());
    assert_eq!(answer.data().await["params"]["progressToken"], "mine");
    drop(answer);
    let seen = world.stateless("seen", json!({})).await.json().await;
    let (slow, cancelled) = (&seen["result"]["slow"], &seen["result"]["cancelled"]);
    assert_eq!(cancelled["params"]["requestId"], *slow, "{seen}");
    world.end().await;
}

#[tokio::test]
async fn the_stateless_protocol_has_its_statuses() {
    let world = World::new(&stateless(
        r#"*initialize*) fail -32601 ;; *'"strict"'*) fail -32602 ;; *'"old"'*) fail -32022 ;; *'"hello"'*) reply '{"resultType":"complete"}' ;;"#,
    ));
    for (method, status) in [
        ("hello", 200),
        ("nothing", 404),
        ("old", 400),
        ("strict", 200),
    ] {
        let answer = world.stateless(method, json!({})).await;
        assert_eq!((method, answer.status), (method, status));
        assert!(!answer.is_stream());
        assert_eq!(answer.json().await["id"], 7);
    }
    assert_eq!(world.pids(), 1, "one process for all of them");
    let removed = initialize_anew();
    let answer = world.call(Method::POST, &[], &removed).await;
    assert_eq!(answer.status, 404, "it is no method of that protocol");
    let other = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "other"),
    ];
    let hello = request(1, "hello", &json!({"_meta": meta()}));
    let answer = world.call(Method::POST, &other, &hello).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json().await["error"]["code"], -32020);
    world.end().await;
}

#[tokio::test]
async fn headers_that_repeat_arguments_have_to_agree() {
    let tools = r#"*tools/list*) reply '{"tools":[{"name":"query","inputSchema":{"properties":{"region":{"type":"string","x-mcp-header":"Region"}}}}]}' ;;
        *tools/call*) reply '{"resultType":"complete"}' ;;"#;
    let world = World::new(&stateless(tools));
    let mut params = json!({"name": "query", "arguments": {"region": "west"}});
    params["_meta"] = meta();
    let call = request(7, "tools/call", &params);
    for (region, status) in [("west", 200), ("east", 400)] {
        let headers = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "query"),
            ("mcp-param-region", region),
        ];
        let answer = world.call(Method::POST, &headers, &call).await;
        assert_eq!((region, answer.status), (region, status));
        let answer = answer.json().await;
        let code = &answer["error"]["code"];
        assert!(status == 200 || *code == -32020, "{answer}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_client_of_both_eras_is_led_to_the_older_one() {
    let world = World::new(&server(""));
    let answer = world.stateless("server/discover", json!({})).await;
    assert_eq!(answer.status, 400);
    let error = answer.json().await;
    let modern = [-32020, -32021, -32022, -32601].map(Value::from);
    assert!(!modern.contains(&error["error"]["code"]), "{error}");
    world.begin().await;
    world.end().await;
}

#[tokio::test]
async fn a_server_that_ends_at_what_it_does_not_know_is_greeted_afresh() {
    let strict = server("*server/discover*) echo 'expected initialize' >&2; exit 1 ;;");
    let silent = server("*server/discover*) ;;");
    for script in [strict, silent] {
        let pace = Pace {
            discover: Duration::from_millis(300),
            ..quick()
        };
        let world = World::with(&script, |_| {}, pace);
        assert_eq!(world.stdio.probe().await, Ok(()));
        assert_eq!(world.stdio.endpoint().standing(), Standing::Up);
        world.begin().await;
        world.end().await;
    }
}

#[tokio::test]
async fn a_slow_start_is_waited_for_in_both_eras() {
    let pace = Pace {
        discover: Duration::from_millis(50),
        ..quick()
    };
    let world = World::with(&format!("sleep 0.3; {}", stateless("")), |_| {}, pace);
    assert_eq!(world.stdio.probe().await, Ok(()));
    assert_eq!(world.stateless("x", json!({})).await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn one_that_ends_takes_its_calls_with_it_and_no_other() {
    let world = World::new(&server("*'\"crash\"'*) echo boom >&2; exit 7 ;;"));
    let (a, b) = (world.begin().await, world.begin().await);
    let mut listening = world.listen(&a, None).await;
    let answer = world.post(&a, &request(5, "crash", &json!({}))).await;
    assert_eq!(answer.status, 502);
    let error = answer.json().await;
    assert_eq!(error["id"], 5);
    assert_eq!(error["error"]["data"]["code"], "answer_cut", "{error}");
    let said = error["error"]["message"].as_str().expect("a message");
    assert!(said.contains("exit status: 7"), "{said}");
    assert!(listening.event().await.is_none());
    let gone = world.post(&a, &request(6, "pid", &json!({}))).await;
    assert_eq!(gone.status, 404, "the client begins another session");
    pid(&world, &b).await;
    world.begin().await;
    world.end().await;
}

#[tokio::test]
async fn one_that_ends_in_mid_stream_ends_it_with_an_error() {
    let world = World::new(&server(
        "*'\"crash\"'*) tell notifications/message '{}'; exit 0 ;;",
    ));
    let session = world.begin().await;
    let mut answer = world.post(&session, &request(5, "crash", &json!({}))).await;
    assert_eq!((answer.status, answer.is_stream()), (200, true));
    assert_eq!(answer.data().await["method"], "notifications/message");
    let error = answer.data().await;
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&json!(5), &json!(-32017))
    );
    assert!(answer.event().await.is_none());
    world.end().await;
}

#[tokio::test]
async fn output_that_is_none_ends_it() {
    let cases = [
        (
            "while :; do echo 'listening on stdio'; done",
            "backend_protocol",
        ),
        (
            "while :; do printf xxxxxxxxxxxxxxxx; done",
            "backend_protocol",
        ),
        (
            "while :; do tell notifications/tools/list_changed '{}'; done",
            "backend_protocol",
        ),
        ("exec 1>&-; sleep 1000", "answer_cut"),
    ];
    for (misdeed, code) in cases {
        let world = World::new(&server(&format!("*'\"bad\"'*) {misdeed} ;;")));
        let (a, b) = (world.begin().await, world.begin().await);
        let victim = pid(&world, &a).await;
        let answer = world.post(&a, &request(5, "bad", &json!({}))).await;
        assert_eq!(answer.status, 502, "{misdeed}");
        let error = answer.json().await;
        assert_eq!(error["error"]["data"]["code"], code, "{misdeed}: {error}");
        pid(&world, &b).await;
        world.end().await;
        assert!(!lives(victim), "{misdeed}");
    }
}

#[tokio::test]
async fn a_greeting_on_the_wrong_stream_does_no_harm() {
    let world = World::new(&format!("echo Welcome; echo; echo '[1]'; {}", server("")));
    world.begin().await;
    world.end().await;
}

#[tokio::test]
async fn one_that_does_not_read_is_not_waited_for() {
    let world = World::new(&server("*'\"deaf\"'*) sleep 1000 ;;"));
    let session = world.begin().await;
    let deaf = request(5, "deaf", &json!({}));
    let large = request(6, "x", &json!("y".repeat(1 << 20)));
    let (deaf, large) = tokio::join!(world.post(&session, &deaf), world.post(&session, &large));
    for answer in [deaf, large] {
        assert_eq!(answer.status, 504);
        assert_eq!(
            answer.json().await["error"]["data"]["code"],
            "deadline_exceeded"
        );
    }
    world.end().await;
}

#[tokio::test]
async fn what_waits_for_one_that_does_not_read_stays_counted() {
    let world = World::new(&server("*'\"deaf\"'*) sleep 1000 ;;"));
    let session = world.begin().await;
    let deaf = request(5, "deaf", &json!({}));
    let large = request(6, "x", &json!("y".repeat(1 << 20)));
    let counted = async {
        while world.stdio.holding.available_permits() > MAX_HELD_BYTES - (1 << 20) {
            tokio::task::yield_now().await;
        }
    };
    let (deaf, large) = tokio::join!(world.post(&session, &deaf), async {
        let mut large = std::pin::pin!(world.post(&session, &large));
        tokio::select! {
            biased;
            answer = &mut large => panic!("{}: nothing has counted it", answer.status),
            () = counted => large.await,
        }
    });
    assert_eq!((deaf.status, large.status), (504, 504));
    let free = world.stdio.holding.available_permits();
    assert_eq!(free, MAX_HELD_BYTES, "what has ended holds nothing");
    world.end().await;
}

#[tokio::test]
async fn one_that_cannot_start_is_down_and_says_why() {
    let world = World::new("echo 'no such module' >&2; exit 3");
    let failed = world.stdio.probe().await.expect_err("it ends");
    assert!(
        failed.contains("exit status: 3") && failed.contains("no such module"),
        "{failed}"
    );
    assert_eq!(world.stdio.endpoint().standing(), Standing::Down);
    let refused = world.try_call(Method::POST, &[], &initialize()).await;
    let Err(NotBegun::Unreachable(reason)) = refused.map(|read| read.status) else {
        panic!("nothing has begun");
    };
    assert!(reason.contains("no such module"), "{reason}");
    world.end().await;
    let world = World::new("echo 'postgres://svc:secret@db is down' >&2; exit 3");
    let answer = world.call(Method::POST, &[], &initialize()).await;
    assert_eq!(answer.status, 502);
    let error = answer.json().await.to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(!error.contains("secret"), "it stays in the agent: {error}");
    world.end().await;
    let world = World::with("", |spec| spec.cwd = Some("/nowhere".into()), quick());
    assert!(world.stdio.probe().await.is_err());
    world.end().await;
}

#[tokio::test]
async fn one_that_is_silent_is_told_from_one_that_is_gone() {
    let pace = Pace {
        start: Duration::from_millis(300),
        discover: Duration::from_millis(100),
        ..quick()
    };
    let world = World::with("cat >/dev/null", |_| {}, pace);
    assert!(world.stdio.probe().await.is_err());
    world.end().await;
    let world = World::with("cat >/dev/null", |_| {}, pace);
    let answer = world.call(Method::POST, &[], &initialize()).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json().await["id"], "init");
    world.end().await;
}

#[tokio::test]
async fn sessions_may_share_a_process() {
    let world = World::shared(&server(
        r#"*'"resources/subscribe"'*) reply '{}' ;;
        *'"update"'*) reply '{}'
            tell notifications/resources/updated '{"uri":"x:"}'
            tell notifications/tools/list_changed '{}' ;;
        *'"gossip"'*) tell notifications/message '{}'; reply '{}' ;;"#,
    ));
    let (a, b) = (world.begin().await, world.begin().await);
    let subscribe = request(1, "resources/subscribe", &json!({"uri": "x:"}));
    assert_eq!(world.post(&b, &subscribe).await.status, 200);
    assert_eq!(pid(&world, &a).await, pid(&world, &b).await);
    let same = request(1, "pid", &json!({}));
    let (one, other) = tokio::join!(world.post(&a, &same), world.post(&b, &same));
    assert_eq!(
        (&one.json().await["id"], &other.json().await["id"]),
        (&json!(1), &json!(1))
    );
    let gossip = world.post(&a, &request(2, "gossip", &json!({}))).await;
    assert!(!gossip.is_stream(), "nobody is told what may be another's");
    world.post(&a, &request(3, "update", &json!({}))).await;
    let (mut hears_a, mut hears_b) = (world.listen(&a, None).await, world.listen(&b, None).await);
    assert_eq!(hears_b.data().await["params"]["uri"], "x:");
    for stream in [&mut hears_a, &mut hears_b] {
        let event = stream.data().await;
        assert_eq!(event["method"], "notifications/tools/list_changed");
    }
    let unsubscribe = request(4, "resources/unsubscribe", &json!({"uri": "x:"}));
    assert_eq!(world.post(&a, &subscribe).await.json().await["id"], 1);
    let kept = world.post(&a, &unsubscribe).await.json().await;
    assert_eq!(kept["result"], json!({}), "b still wants it");
    let ended = world.post(&b, &unsubscribe).await.json().await;
    assert_eq!(
        ended["error"]["code"], -32601,
        "the server is asked at last"
    );
    world.end().await;
}

#[tokio::test]
async fn sessions_that_share_a_process_have_a_number() {
    let pace = Pace {
        makes_room: PATIENCE * 100,
        ..quick()
    };
    let shared = |spec: &mut StdioSpec| spec.instances = Sharing::Shared;
    let world = World::with(&server(""), shared, pace);
    for _ in 0..session::MAX_SHARED {
        let begun = world.call(Method::POST, &[], &initialize()).await;
        assert_eq!(begun.status, 200);
    }
    let full = world.try_call(Method::POST, &[], &initialize()).await;
    assert_eq!(full.map(|read| read.status), Err(NotBegun::Full));
    assert_eq!(world.stdio.sessions.count(), session::MAX_SHARED);
    world.end().await;
}

#[tokio::test]
async fn a_session_s_subscriptions_have_a_number_and_a_length() {
    let world = World::shared(&server("*'\"resources/'*) reply '{}' ;;"));
    let session = world.begin().await;
    let send = |method: &str, uri: &str| request(1, method, &json!({"uri": uri}));
    let long = send(
        "resources/subscribe",
        &"x".repeat(instance::MAX_URI_BYTES + 1),
    );
    assert_eq!(world.post(&session, &long).await.status, 400);
    for n in 0..instance::MAX_SUBSCRIBED {
        let one = send("resources/subscribe", &n.to_string());
        assert_eq!(world.post(&session, &one).await.status, 200);
    }
    let more = send("resources/subscribe", "more");
    assert_eq!(world.post(&session, &more).await.status, 503);
    let again = send("resources/subscribe", "0");
    assert_eq!(world.post(&session, &again).await.status, 200);
    let less = send("resources/unsubscribe", "0");
    assert_eq!(world.post(&session, &less).await.status, 200);
    assert_eq!(world.post(&session, &more).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_shared_process_is_restarted_after_a_while() {
    let world = World::shared(&server("*'\"crash\"'*) exit 1 ;;"));
    let session = world.begin().await;
    let first = pid(&world, &session).await;
    let crash = world.post(&session, &request(1, "crash", &json!({}))).await;
    assert_eq!(crash.status, 502);
    let gone = world.post(&session, &request(2, "pid", &json!({}))).await;
    assert_eq!(gone.status, 404);
    let restarted = async {
        while let Err(NotBegun::Unreachable(_)) =
            world.try_call(Method::POST, &[], &initialize()).await
        {
            assert_eq!(world.stdio.endpoint().standing(), Standing::Down);
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, restarted).await.expect("a restart");
    assert_eq!(world.stdio.endpoint().standing(), Standing::Up);
    let session = world.begin().await;
    assert_ne!(pid(&world, &session).await, first);
    world.end().await;
}

#[tokio::test]
async fn processes_have_a_number_and_idle_ones_make_room() {
    let few = |spec: &mut StdioSpec| spec.limits.instances = 2;
    let world = World::with(&server(""), few, quick());
    let (a, b) = (world.begin().await, world.begin().await);
    let _listening = world.listen(&a, None).await;
    let c = world.begin().await;
    assert_eq!(world.stdio.sessions.count(), 2);
    for (session, status) in [(&a, 200), (&b, 404), (&c, 200)] {
        let answer = world.post(session, &request(1, "pid", &json!({}))).await;
        assert_eq!(answer.status, status);
    }
    let _listening = world.listen(&c, None).await;
    let full = world.try_call(Method::POST, &[], &initialize()).await;
    assert_eq!(full.map(|read| read.status), Err(NotBegun::Full));
    world.end().await;
}

#[tokio::test]
async fn what_nobody_uses_ends() {
    let short = |spec: &mut StdioSpec| spec.limits.idle = Duration::ZERO;
    let world = World::with(&stateless(""), short, quick());
    world.begin().await;
    assert_eq!(world.stateless("x", json!({})).await.status, 404);
    assert_eq!(world.stdio.sessions.count(), 1);
    assert_eq!(world.stdio.probe().await, Ok(()));
    assert_eq!(world.stdio.sessions.count(), 0);
    let ended = async {
        while world.pids() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("both end");
    assert_eq!(world.stdio.endpoint().standing(), Standing::Up);
    world.end().await;
}

#[tokio::test]
async fn a_service_that_ends_lets_its_calls_finish() {
    let world = World::new(&server(
        "*'\"slow\"'*) tell notifications/message '{}'; sleep 0.3; reply '{\"done\":1}' ;;",
    ));
    let session = world.begin().await;
    let mut listening = world.listen(&session, None).await;
    let slow = request(1, "slow", &json!({}));
    let mut answer = world.post(&session, &slow).await;
    world.stop.cancel();
    assert_eq!(answer.data().await["method"], "notifications/message");
    assert_eq!(answer.data().await["result"]["done"], 1);
    assert!(
        listening.event().await.is_none(),
        "but nothing without an end"
    );
    drop((answer, listening));
    let late = world.try_call(Method::POST, &[], &initialize()).await;
    assert!(matches!(late, Err(NotBegun::Unreachable(_))));
    world.end().await;
}
