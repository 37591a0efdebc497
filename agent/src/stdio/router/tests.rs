//! Who hears what of a process.

use serde_json::{Value, json};

use super::*;

type Who = &'static str;

fn parsed(message: &Value) -> Message {
    Message::parse(message.to_string().as_bytes()).expect("a message")
}

/// Takes a request, and says what the server reads.
fn request(router: &mut Router<Who>, owner: u64, who: Who, message: &Value) -> (u64, Value) {
    let Message::Request(request) = parsed(message) else {
        panic!("{message} is no request");
    };
    let (ours, line) = router.request(owner, request, who).expect("room");
    (ours, serde_json::from_slice(&line).expect("json"))
}

fn call(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "x"}})
}

fn with_token(id: &Value, token: &Value) -> Value {
    let mut call = call(id);
    call["params"]["_meta"] = json!({"progressToken": token});
    call
}

fn told(method: &str, params: &Value) -> Message {
    parsed(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

fn progress(token: &Value) -> Message {
    told(
        "notifications/progress",
        &json!({"progressToken": token, "progress": 1}),
    )
}

fn answer(id: u64) -> Message {
    parsed(&json!({"jsonrpc": "2.0", "id": id, "result": {}}))
}

/// Who got it, and what.
fn part(routed: Routed<Who>) -> (Who, Value) {
    match routed {
        Routed::Answer { to, line } | Routed::Part { to, line, .. } => {
            (to, serde_json::from_slice(&line).expect("json"))
        }
        nobody @ (Routed::Close { .. }
        | Routed::General { .. }
        | Routed::Updated { .. }
        | Routed::Reply(_)
        | Routed::Nowhere(_)) => panic!("{nobody:?}"),
    }
}

#[test]
fn equal_ids_of_two_callers_do_not_collide() {
    let mut router = Router::new(Kind::Shared);
    let (a, read_a) = request(&mut router, 1, "a", &call(&json!(1)));
    let (b, read_b) = request(&mut router, 2, "b", &call(&json!(1)));
    assert_eq!((&read_a["id"], &read_b["id"]), (&json!(a), &json!(b)));
    assert_ne!(a, b);
    let (who, got) = part(router.route(answer(b), |_| true));
    assert_eq!((who, &got["id"]), ("b", &json!(1)));
    let (who, got) = part(router.route(answer(a), |_| true));
    assert_eq!((who, &got["id"]), ("a", &json!(1)));
    assert!(matches!(
        router.route(answer(a), |_| true),
        Routed::Nowhere(_)
    ));
    assert!(router.is_idle());
}

#[test]
fn an_id_comes_back_as_it_was_written() {
    let mut router = Router::new(Kind::Session);
    let (ours, _) = request(&mut router, 1, "a", &call(&json!("x/1")));
    let (_, got) = part(router.route(answer(ours), |_| true));
    assert_eq!(got["id"], "x/1");
}

#[test]
fn progress_finds_its_caller_with_its_own_token() {
    for kind in [Kind::Shared, Kind::Stateless] {
        let mut router = Router::new(kind);
        let (a, read_a) = request(&mut router, 1, "a", &with_token(&json!(1), &json!("t")));
        let (b, read_b) = request(&mut router, 2, "b", &with_token(&json!(1), &json!("t")));
        assert_eq!(read_a["params"]["_meta"]["progressToken"], a);
        assert_eq!(read_b["params"]["_meta"]["progressToken"], b);
        let (who, got) = part(router.route(progress(&json!(b)), |_| true));
        assert_eq!((who, &got["params"]["progressToken"]), ("b", &json!("t")));
        router.route(answer(b), |_| true);
        assert!(matches!(
            router.route(progress(&json!(b)), |_| true),
            Routed::Nowhere(_)
        ));
    }
}

#[test]
fn a_session_keeps_its_tokens_beyond_its_requests() {
    let mut router = Router::new(Kind::Session);
    let (ours, read) = request(&mut router, 1, "a", &with_token(&json!(1), &json!("t")));
    assert_eq!(read["params"]["_meta"]["progressToken"], "t");
    let (who, _) = part(router.route(progress(&json!("t")), |_| true));
    assert_eq!(who, "a");
    router.route(answer(ours), |_| true);
    assert!(matches!(
        router.route(progress(&json!("t")), |_| true),
        Routed::General { must: false, .. }
    ));
}

#[test]
fn what_a_server_asks_reaches_the_newest_caller_who_listens() {
    let mut router = Router::new(Kind::Session);
    request(&mut router, 1, "old", &call(&json!(1)));
    request(&mut router, 1, "new", &call(&json!(2)));
    let sampling =
        json!({"jsonrpc": "2.0", "id": "s1", "method": "sampling/createMessage", "params": {}});
    let (who, got) = part(router.route(parsed(&sampling), |_| true));
    assert_eq!((who, got), ("new", sampling.clone()));
    let (who, _) = part(router.route(parsed(&sampling), |who| *who == "old"));
    assert_eq!(who, "old");
    let mut nobody = sampling;
    nobody["id"] = json!("s2");
    assert!(matches!(
        router.route(parsed(&nobody), |_| false),
        Routed::General { must: true, .. }
    ));
    let reply = parsed(&json!({"jsonrpc": "2.0", "id": "s1", "result": {}}));
    let Message::Response { id, object } = reply else {
        panic!("a response");
    };
    assert!(router.response(&id, &object).is_some());
    assert!(
        router.response(&id, &object).is_none(),
        "it is answered once"
    );
}

#[test]
fn changes_of_lists_are_no_part_of_a_request() {
    let mut router = Router::new(Kind::Session);
    request(&mut router, 1, "a", &call(&json!(1)));
    let log = told("notifications/message", &json!({}));
    assert_eq!(part(router.route(log, |_| true)).0, "a");
    for method in [
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    ] {
        let message = told(method, &json!({"uri": "x:"}));
        assert!(matches!(
            router.route(message, |_| true),
            Routed::General { .. }
        ));
    }
}

#[test]
fn a_shared_server_asks_nobody_and_gossips_to_nobody() {
    for kind in [Kind::Shared, Kind::Stateless] {
        let mut router = Router::new(kind);
        request(&mut router, 1, "a", &call(&json!(1)));
        request(&mut router, 2, "b", &call(&json!(1)));
        let ask = parsed(&json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create"}));
        let Routed::Reply(line) = router.route(ask, |_| true) else {
            panic!("an error");
        };
        let reply: Value = serde_json::from_slice(&line).expect("json");
        assert_eq!(
            (&reply["id"], &reply["error"]["code"]),
            (&json!(1), &json!(-32601))
        );
        let log = told("notifications/message", &json!({"data": "of a"}));
        assert!(matches!(router.route(log, |_| true), Routed::Nowhere(_)));
    }
    let mut router: Router<Who> = Router::new(Kind::Shared);
    let updated = told("notifications/resources/updated", &json!({"uri": "x:"}));
    assert!(matches!(router.route(updated, |_| true), Routed::Updated { uri, .. } if uri == "x:"));
}

#[test]
fn a_ping_is_answered_at_once() {
    let mut router: Router<Who> = Router::new(Kind::Session);
    let ping = parsed(&json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
    let Routed::Reply(line) = router.route(ping, |_| true) else {
        panic!("an answer");
    };
    let reply: Value = serde_json::from_slice(&line).expect("json");
    assert_eq!(reply, json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
}

#[test]
fn cancelling_names_the_request_as_the_server_knows_it() {
    let mut router = Router::new(Kind::Shared);
    let (a, _) = request(&mut router, 1, "a", &call(&json!(1)));
    let (b, _) = request(&mut router, 2, "b", &call(&json!(1)));
    let cancel = |router: &mut Router<Who>, owner| {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "reason": "r"}});
        let Message::Notification { method, object } = parsed(&message) else {
            panic!("a notification");
        };
        let (line, ended) = router.notification(owner, &method, object);
        let line = line.map(|line| serde_json::from_slice::<Value>(&line).expect("json"));
        (line, ended)
    };
    let (line, ended) = cancel(&mut router, 2);
    assert_eq!(line.expect("a line")["params"]["requestId"], b);
    assert_eq!(ended, Some("b"));
    assert_eq!(cancel(&mut router, 2), (None, None), "once");
    let left = router.cancel(a).expect("it goes on");
    let left: Value = serde_json::from_slice(&left).expect("json");
    assert_eq!(left["params"]["requestId"], a);
    assert!(router.cancel(a).is_none() && router.is_idle());
}

#[test]
fn a_subscription_has_the_id_of_its_caller() {
    let mut router = Router::new(Kind::Stateless);
    let listen =
        json!({"jsonrpc": "2.0", "id": "L", "method": "subscriptions/listen", "params": {}});
    let (ours, _) = request(&mut router, 1, "a", &listen);
    request(&mut router, 2, "b", &call(&json!(2)));
    let changed = told(
        "notifications/tools/list_changed",
        &json!({"_meta": {SUBSCRIPTION: ours}}),
    );
    let (who, got) = part(router.route(changed, |_| true));
    assert_eq!(
        (who, &got["params"]["_meta"][SUBSCRIPTION]),
        ("a", &json!("L"))
    );
    let end = json!({"jsonrpc": "2.0", "id": ours, "result": {"_meta": {SUBSCRIPTION: ours}}});
    let (who, got) = part(router.route(parsed(&end), |_| true));
    assert_eq!(
        (who, &got["id"], &got["result"]["_meta"][SUBSCRIPTION]),
        ("a", &json!("L"), &json!("L"))
    );
    let (ours, _) = request(&mut router, 1, "c", &listen);
    let torn = told("notifications/cancelled", &json!({"requestId": ours}));
    assert_eq!(router.route(torn, |_| true), Routed::Close { to: "c" });
}

#[test]
fn logs_of_the_stateless_protocol_name_nobody() {
    let mut router = Router::new(Kind::Stateless);
    let mut logging = call(&json!(1));
    logging["params"]["_meta"] = json!({"io.modelcontextprotocol/logLevel": "info"});
    let (a, _) = request(&mut router, 0, "a", &logging);
    let log = || told("notifications/message", &json!({"data": "of a"}));
    router.route(answer(a), |_| true);
    request(&mut router, 0, "b", &logging);
    let told = router.route(log(), |_| true);
    assert!(matches!(told, Routed::Nowhere(_)), "{told:?}");
}

#[test]
fn requests_at_once_have_a_bound() {
    let mut router = Router::new(Kind::Session);
    for n in 0..MAX_PENDING {
        request(&mut router, 1, "a", &call(&json!(n)));
    }
    let Message::Request(more) = parsed(&call(&json!("more"))) else {
        panic!("a request");
    };
    assert_eq!(router.request(1, more, "a"), Err(Full));
    assert_eq!(router.take_all().len(), MAX_PENDING);
    for n in 0..MAX_ASKED {
        let ask = parsed(&json!({"jsonrpc": "2.0", "id": n, "method": "roots/list"}));
        assert!(matches!(
            router.route(ask, |_| false),
            Routed::General { .. }
        ));
    }
    let ask = parsed(&json!({"jsonrpc": "2.0", "id": "more", "method": "roots/list"}));
    assert!(matches!(router.route(ask, |_| false), Routed::Reply(_)));
}

#[test]
fn what_comes_before_the_greeting_is_no_part_of_it() {
    let mut router = Router::new(Kind::Session);
    let mut hello = with_token(&json!(1), &json!("t"));
    hello["method"] = json!("initialize");
    let (ours, _) = request(&mut router, 1, "a", &hello);
    for early in [
        told("notifications/message", &json!({"data": "starting"})),
        progress(&json!("t")),
    ] {
        let told = router.route(early, |_| true);
        assert!(matches!(told, Routed::General { .. }), "{told:?}");
    }
    assert_eq!(part(router.route(answer(ours), |_| true)).0, "a");
}
