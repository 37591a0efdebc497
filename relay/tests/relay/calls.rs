//! Calls: streaming, ends, retries, cancellation, deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use culvert_relay::{CallFailed, FailCause, NoTarget, ParkedLimits};
use culvert_tunnel::Piece;
use culvert_wire::{Code, DialerCommand, Health, ServiceHealth, ServiceKind, ServiceState};
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::agent::{TestAgent, echo, head, refuse, script, silent};
use crate::world::{Plan, World, done, get, meta, post, target, text};

type Pieces = mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>;

/// A request body that a test sends piece by piece.
fn streamed(pieces: Pieces) -> impl http_body::Body<Data = Bytes, Error = std::io::Error> + Send {
    StreamBody::new(futures_util::stream::unfold(
        pieces,
        |mut pieces| async move { pieces.recv().await.map(|piece| (piece, pieces)) },
    ))
}

fn failed(outcome: Result<culvert_relay::Answered, CallFailed>) -> CallFailed {
    match outcome {
        Ok(answered) => panic!("the call was answered: {:?}", answered.response.status()),
        Err(failed) => failed,
    }
}

#[tokio::test]
async fn a_call_reaches_the_agent_and_its_answer_comes_back() {
    let world = World::new().await;
    let agent = TestAgent::new(
        world.agent(),
        script(|mut call, _| async move {
            assert_eq!(call.open.target.as_str(), "/v1/echo?x=1");
            assert_eq!(call.open.headers["x-test"], "yes");
            assert_eq!(call.open.caller.key_id, "k1");
            call.answer.accept().await.unwrap();
            call.answer
                .head(head(StatusCode::IM_A_TEAPOT))
                .await
                .unwrap();
            while let Some(Piece::Data(data)) = call.body.next().await.unwrap() {
                call.answer.data(data).await.unwrap();
            }
            call.answer.end(HeaderMap::new()).await.unwrap();
        }),
    );
    let link = agent.link(&world).await;
    let answered = world.call(post("hello")).await.unwrap();
    assert_eq!(answered.response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(answered.response.headers()["x-from"], "backend");
    assert_eq!(
        (answered.route.agent, answered.route.attempts),
        (agent.id(), 1)
    );
    assert_eq!(answered.route.session, link.welcome.session);
    assert_eq!(answered.route.kind, ServiceKind::Http);
    assert!(answered.timings.sent <= answered.timings.accepted);
    assert!(answered.timings.accepted <= answered.timings.head);
    assert_eq!(text(answered).await, "hello");
    world
        .until("no call left", |status| status.links[0].calls == 0)
        .await;
}

#[tokio::test]
async fn both_bodies_stream_piece_by_piece_at_the_same_time() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let (say, pieces) = mpsc::channel(4);
    let request = Request::post("/chat").body(streamed(pieces)).unwrap();
    let answered = done(
        "the head",
        world.relay.call(target("echo"), meta(), request),
    )
    .await
    .unwrap();
    let mut body = answered.response.into_body();
    for word in ["one", "two", "three"] {
        say.send(Ok(Frame::data(Bytes::from_static(word.as_bytes()))))
            .await
            .unwrap();
        let frame = done("the echo", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(say);
    assert!(done("the end", body.frame()).await.is_none());
}

#[tokio::test]
async fn a_gigantic_body_passes_both_ways_without_being_kept() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let (say, pieces) = mpsc::channel(4);
    let request = Request::post("/big").body(streamed(pieces)).unwrap();
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let (sent, received) = tokio::join!(
        async {
            for _ in 0..256 {
                say.send(Ok(Frame::data(piece.clone()))).await.unwrap();
            }
            drop(say);
            256 * piece.len()
        },
        async {
            let call = world.relay.call(target("echo"), meta(), request);
            let body = done("the head", call).await.unwrap().response.into_body();
            done("the body", body.collect())
                .await
                .unwrap()
                .to_bytes()
                .len()
        }
    );
    assert_eq!(sent, received);
}

#[tokio::test]
async fn a_refused_call_goes_to_another_agent() {
    let world = World::new().await;
    let refusing = TestAgent::new(world.agent(), refuse(Code::QueueFull));
    let serving = TestAgent::echo(&world);
    let _links = (refusing.link(&world).await, serving.link(&world).await);
    world.until_links(2).await;
    let mut repeated = 0;
    for _ in 0..8 {
        let answered = world.call(post("again")).await.unwrap();
        assert_eq!(answered.route.agent, serving.id());
        repeated += usize::from(answered.route.attempts == 2);
        assert_eq!(text(answered).await, "again");
    }
    assert_eq!(refusing.arrived(), repeated);
    assert_eq!(serving.arrived(), 8);
}

#[tokio::test]
async fn what_every_agent_refuses_fails_with_the_last_ones_code_and_surely_did_not_begin() {
    let world = World::new().await;
    let agents = [(); 2].map(|()| TestAgent::new(world.agent(), refuse(Code::QueueFull)));
    let _links = (agents[0].link(&world).await, agents[1].link(&world).await);
    world.until_links(2).await;
    let failed = failed(world.call(post("x")).await);
    assert_eq!(
        (failed.code, failed.maybe_executed, failed.attempts),
        (Code::QueueFull, false, 2)
    );
    assert_eq!((agents[0].arrived(), agents[1].arrived()), (1, 1));
}

#[tokio::test]
async fn a_refusal_by_policy_is_final() {
    let world = World::new().await;
    let agents = [(); 2].map(|()| TestAgent::new(world.agent(), refuse(Code::Policy)));
    let _links = (agents[0].link(&world).await, agents[1].link(&world).await);
    world.until_links(2).await;
    let failed = failed(world.call(get()).await);
    assert_eq!((failed.code, failed.attempts), (Code::Policy, 1));
    assert_eq!(failed.cause, FailCause::Agent(Code::Policy));
    assert_eq!(agents[0].arrived() + agents[1].arrived(), 1);
}

#[tokio::test]
async fn a_body_larger_than_what_is_kept_is_not_sent_again() {
    let world = World::new().await;
    // Reads more than is kept, then refuses: nothing has been offered to a backend yet.
    let late = || {
        script(|mut call, _| async move {
            call.answer.accept().await.ok();
            let mut read = 0;
            while let Ok(Some(Piece::Data(data))) = call.body.next().await {
                read += data.len();
                if read > 1_200_000 {
                    break;
                }
            }
            call.answer.refuse(Code::QueueTimeout).await.ok();
        })
    };
    let agents = [
        TestAgent::new(world.agent(), late()),
        TestAgent::new(world.agent(), late()),
    ];
    let _links = (agents[0].link(&world).await, agents[1].link(&world).await);
    world.until_links(2).await;
    let (say, pieces) = mpsc::channel(64);
    for _ in 0..40 {
        say.send(Ok(Frame::data(Bytes::from(vec![1; 64 * 1024]))))
            .await
            .unwrap();
    }
    drop(say);
    let request = Request::post("/big").body(streamed(pieces)).unwrap();
    let outcome = done(
        "the call",
        world.relay.call(target("echo"), meta(), request),
    )
    .await;
    let failed = failed(outcome);
    assert_eq!((failed.code, failed.attempts), (Code::QueueTimeout, 1));
    assert_eq!(agents[0].arrived() + agents[1].arrived(), 1);
}

/// Closes the connection under a call, before or after having taken it.
fn vanish(accept: bool) -> crate::agent::Script {
    script(move |mut call, connection| async move {
        if accept {
            call.answer.accept().await.ok();
            // The sign of life has to be out before the connection is gone.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        connection.close(Code::AgentGone, "gone");
    })
}

#[tokio::test]
async fn a_post_that_was_lost_is_not_repeated_and_a_get_is() {
    for accept in [false, true] {
        let world = World::new().await;
        let lost = TestAgent::new(world.agent(), vanish(accept));
        let lost_link = lost.link(&world).await;
        let failed = failed(world.call(post("once")).await);
        assert_eq!(
            (failed.code, failed.maybe_executed, failed.attempts),
            (Code::AgentGone, true, 1)
        );
        assert_eq!(failed.cause, FailCause::LinkLost);
        world.until_links(0).await;
        drop(lost_link);

        let _lost_link = lost.link(&world).await;
        world.until_links(1).await;
        let serving = TestAgent::echo(&world);
        let _serving_link = serving.link(&world).await;
        world.until_links(2).await;
        let mut target = target("echo");
        target.affinity = Some(lost.id());
        let call = world.relay.call(target, meta(), get().map(Full::new));
        let answered = done("the call", call).await.unwrap();
        assert_eq!(
            (answered.route.agent, answered.route.attempts),
            (serving.id(), 2)
        );
        assert_eq!((lost.arrived(), serving.arrived()), (2, 1));
    }
}

#[tokio::test]
async fn an_agent_that_never_saw_a_lost_call_gets_it_again_over_its_other_link() {
    let world = World::new().await;
    // The first arrival is forgotten, as if it had never come, and its link is lost.
    let agent = TestAgent::new(world.agent(), echo());
    let agent = TestAgent {
        script: {
            let memory = Arc::clone(&agent.memory);
            let calls = Arc::clone(&agent.calls);
            let echo = echo();
            script(move |call, connection| {
                let (memory, calls, echo) =
                    (Arc::clone(&memory), Arc::clone(&calls), Arc::clone(&echo));
                async move {
                    if calls.load(Ordering::SeqCst) == 1 {
                        *memory.lock().unwrap() = culvert_wire::CallMemory::new();
                        connection.close(Code::AgentGone, "gone");
                    } else {
                        echo(call, connection).await;
                    }
                }
            })
        },
        ..agent
    };
    let first = agent.link(&world).await;
    let _second = agent
        .dial(&world, Some(first.welcome.session))
        .await
        .unwrap();
    world.until_links(2).await;
    let answered = world.call(post("once")).await.unwrap();
    assert_eq!(answered.route.attempts, 2);
    assert_eq!(text(answered).await, "once");
    assert_eq!(agent.arrived(), 2);
}

#[tokio::test]
async fn an_agent_that_saw_a_lost_call_does_not_get_it_again() {
    let world = World::new().await;
    let agent = TestAgent::new(world.agent(), vanish(false));
    let first = agent.link(&world).await;
    let _second = agent
        .dial(&world, Some(first.welcome.session))
        .await
        .unwrap();
    world.until_links(2).await;
    let failed = failed(world.call(post("once")).await);
    assert_eq!(
        (failed.code, failed.maybe_executed, failed.attempts),
        (Code::AgentGone, true, 1)
    );
    assert_eq!(agent.arrived(), 1);
}

/// A truncated body is never taken for a complete one.
#[tokio::test]
async fn an_answer_that_is_cut_is_an_error_and_never_an_end() {
    type Cut = fn(culvert_tunnel::AnswerWriter, culvert_tunnel::Connection);
    let cuts: [(&str, Cut); 3] = [
        ("reset", |answer, _| answer.reset(Code::BackendReset)),
        ("dropped", |answer, _| drop(answer)),
        ("connection lost", |_answer, connection| {
            connection.close(Code::AgentGone, "gone")
        }),
    ];
    for (name, cut) in cuts {
        let world = World::new().await;
        let go = Arc::new(Notify::new());
        let waits = Arc::clone(&go);
        let agent = TestAgent::new(
            world.agent(),
            script(move |mut call, connection| {
                let go = Arc::clone(&waits);
                async move {
                    call.answer.accept().await.unwrap();
                    call.answer.head(head(StatusCode::OK)).await.unwrap();
                    call.answer.data(Bytes::from_static(b"half")).await.unwrap();
                    go.notified().await;
                    cut(call.answer, connection);
                }
            }),
        );
        let _link = agent.link(&world).await;
        let mut body = world.call(post("x")).await.unwrap().response.into_body();
        let first = done("the first half", body.frame()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "half", "{name}");
        go.notify_one();
        let error = done("the cut", body.frame())
            .await
            .expect(name)
            .expect_err(name);
        assert!(error.code.may_have_begun(), "{name}: {error}");
        assert_eq!(
            agent.arrived(),
            1,
            "{name}: sent again after the first byte"
        );
    }
}

#[tokio::test]
async fn an_answer_aborted_with_a_code_carries_that_code() {
    let world = World::new().await;
    let agent = TestAgent::new(
        world.agent(),
        script(|mut call, _| async move {
            call.answer.accept().await.unwrap();
            call.answer.head(head(StatusCode::OK)).await.unwrap();
            call.answer.abort(Code::BackendProtocol).await.unwrap();
        }),
    );
    let _link = agent.link(&world).await;
    let body = world.call(post("x")).await.unwrap().response.into_body();
    let error = done("the abort", body.collect())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code, Code::BackendProtocol);
}

/// The other direction: a request that breaks off must not look whole to the backend.
#[tokio::test]
async fn a_request_whose_body_breaks_off_reaches_the_agent_as_cut() {
    let world = World::new().await;
    let (tell, mut told) = mpsc::channel(4);
    let agent = TestAgent::new(
        world.agent(),
        script(move |mut call, _| {
            let tell = tell.clone();
            async move {
                call.answer.accept().await.unwrap();
                loop {
                    let piece = call.body.next().await;
                    let more = matches!(piece, Ok(Some(Piece::Data(_))));
                    tell.send(piece).await.unwrap();
                    if !more {
                        return;
                    }
                }
            }
        }),
    );
    let _link = agent.link(&world).await;
    let (say, pieces) = mpsc::channel(4);
    let request = Request::post("/upload").body(streamed(pieces)).unwrap();
    let call = world.relay.call(target("echo"), meta(), request);
    let caller = async {
        let half = Bytes::from_static(b"half");
        say.send(Ok(Frame::data(half.clone()))).await.unwrap();
        let first = done("the first half", told.recv()).await.unwrap();
        assert_eq!(first.unwrap(), Some(Piece::Data(half)));
        say.send(Err(std::io::Error::other("the caller went away")))
            .await
            .unwrap();
        done("the agent's view", told.recv()).await.unwrap()
    };
    let (outcome, end) = done("the call", Box::pin(async { tokio::join!(call, caller) })).await;
    assert!(end.is_err(), "the agent took the body for whole: {end:?}");
    let failed = failed(outcome);
    assert_eq!(
        (failed.code, failed.cause),
        (Code::CallerGone, FailCause::Caller)
    );
}

#[tokio::test]
async fn dropping_a_call_or_its_answer_cancels_it_at_the_agent() {
    let world = World::new().await;
    let cancelled = Arc::new(AtomicUsize::new(0));
    let quiet = TestAgent::new(world.agent(), silent(Arc::clone(&cancelled)));
    let _link = quiet.link(&world).await;
    let call = world
        .relay
        .call(target("echo"), meta(), post("x").map(Full::new));
    let given_up = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(given_up.is_err());
    let is_cancelled = |times| {
        let cancelled = Arc::clone(&cancelled);
        done("the cancellation", async move {
            while cancelled.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    is_cancelled(1).await;

    let heads = Arc::clone(&cancelled);
    let streaming = TestAgent::new(
        world.agent(),
        script(move |mut call, _| {
            let cancelled = Arc::clone(&heads);
            async move {
                call.answer.accept().await.unwrap();
                call.answer.head(head(StatusCode::OK)).await.unwrap();
                call.answer.cancelled().await;
                cancelled.fetch_add(1, Ordering::SeqCst);
            }
        }),
    );
    let _link = streaming.link(&world).await;
    world.until_links(2).await;
    let mut target = target("echo");
    target.affinity = Some(streaming.id());
    let call = world.relay.call(target, meta(), post("x").map(Full::new));
    drop(done("the head", call).await.unwrap());
    is_cancelled(2).await;
    world
        .until("no call left", |status| {
            status.links.iter().all(|link| link.calls == 0)
        })
        .await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_before_or_after_it_was_sent() {
    let world = World::new().await;
    let cancelled = Arc::new(AtomicUsize::new(0));
    let agent = TestAgent::new(world.agent(), silent(cancelled));
    let _link = agent.link(&world).await;
    let mut late = meta();
    late.deadline = Some(Instant::now());
    let outcome = world
        .relay
        .call(target("echo"), late, post("x").map(Full::new))
        .await;
    let before = failed(outcome);
    assert_eq!(
        (before.code, before.maybe_executed, before.attempts),
        (Code::DeadlineBefore, false, 0)
    );
    assert_eq!(agent.arrived(), 0);
    let mut soon = meta();
    soon.deadline = Some(Instant::now() + Duration::from_millis(200));
    let call = world
        .relay
        .call(target("echo"), soon, post("x").map(Full::new));
    let after = failed(done("the deadline", call).await);
    assert_eq!(
        (after.code, after.maybe_executed),
        (Code::DeadlineAfter, true)
    );
    assert_eq!((after.cause, agent.arrived()), (FailCause::Deadline, 1));
}

#[tokio::test]
async fn a_deadline_cuts_an_answer_that_streams() {
    let world = World::new().await;
    let agent = TestAgent::new(
        world.agent(),
        script(|mut call, _| async move {
            call.answer.accept().await.unwrap();
            call.answer.head(head(StatusCode::OK)).await.unwrap();
            call.answer.cancelled().await;
        }),
    );
    let _link = agent.link(&world).await;
    let mut soon = meta();
    soon.deadline = Some(Instant::now() + Duration::from_millis(500));
    let call = world
        .relay
        .call(target("echo"), soon, post("x").map(Full::new));
    let mut body = done("the head", call).await.unwrap().response.into_body();
    let error = done("the deadline", body.frame())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code, Code::DeadlineAfter);
}

/// Answers with more bytes than a stream's window, and counts who was cut.
fn flood(cut: Arc<AtomicUsize>) -> crate::agent::Script {
    script(move |mut call, _| {
        let cut = Arc::clone(&cut);
        async move {
            call.answer.accept().await.unwrap();
            call.answer.head(head(StatusCode::OK)).await.unwrap();
            for _ in 0..64 {
                let piece = Bytes::from(vec![0; 64 * 1024]);
                if call.answer.data(piece).await.is_err() {
                    cut.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            call.answer.end(HeaderMap::new()).await.ok();
        }
    })
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_above_the_budget_and_others_are_not() {
    let none = ParkedLimits {
        link: 0,
        ..ParkedLimits::default()
    };
    let world = World::with(Plan {
        parked: none,
        ..Plan::default()
    })
    .await;
    let cut = Arc::new(AtomicUsize::new(0));
    let agent = TestAgent::new(world.agent(), flood(Arc::clone(&cut)));
    let _link = agent.link(&world).await;
    let mut stalled = world.call(get()).await.unwrap().response.into_body();
    let first = done("the first piece", stalled.frame())
        .await
        .unwrap()
        .unwrap();
    assert!(!first.into_data().unwrap().is_empty());
    // It does not come back for the next piece, while another one reads on.
    let mut read = 0;
    while cut.load(Ordering::SeqCst) == 0 {
        read += text_len(world.call(get()).await.unwrap()).await;
    }
    assert_eq!(read % (64 * 64 * 1024), 0);
    let error = done("the cut", stalled.collect())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code, Code::CallerStalled);
    world
        .until("no call left", |status| status.links[0].calls == 0)
        .await;
}

async fn text_len(answered: culvert_relay::Answered) -> usize {
    let body = done("an answer", answered.response.into_body().collect()).await;
    body.unwrap().to_bytes().len()
}

#[tokio::test]
async fn nobody_to_call_says_why() {
    let world = World::new().await;
    let why = |failed: CallFailed| {
        assert_eq!((failed.code, failed.attempts), (Code::NoLink, 0));
        failed.cause
    };
    let no_link = FailCause::NoTarget(NoTarget::NoLink);
    assert_eq!(why(failed(world.call(get()).await)), no_link);
    let agent = TestAgent::echo(&world);
    let link = agent.link(&world).await;
    let mut other = target("echo");
    other.tenant = "rival".parse().unwrap();
    let outcome = world.relay.call(other, meta(), get().map(Full::new)).await;
    assert_eq!(why(failed(outcome)), no_link);
    let mut model = target("echo");
    model.model = Some("gpt".into());
    let outcome = world.relay.call(model, meta(), get().map(Full::new)).await;
    assert_eq!(why(failed(outcome)), FailCause::NoTarget(NoTarget::NoModel));
    let services = vec![ServiceHealth {
        name: "echo".parse().unwrap(),
        state: ServiceState::Down,
        in_flight: 0,
        capacity: 0,
        load: None,
        latency_us: 0,
    }];
    link.order(DialerCommand::Health(Health { services })).await;
    world
        .until("down", |status| status.links[0].services[0].state == "down")
        .await;
    let outcome = world.call(get()).await;
    assert_eq!(
        why(failed(outcome)),
        FailCause::NoTarget(NoTarget::Unhealthy)
    );
    assert_eq!(agent.arrived(), 0);
}

#[tokio::test]
async fn a_head_that_cannot_be_carried_is_the_callers_doing() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let request = Request::connect("example.com:443")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let outcome = world.relay.call(target("echo"), meta(), request).await;
    assert!(matches!(failed(outcome).cause, FailCause::Head(_)));
    let huge = Request::get("/").header("x-huge", "v".repeat(200_000));
    let outcome = world.relay.call(
        target("echo"),
        meta(),
        huge.body(Empty::<Bytes>::new()).unwrap(),
    );
    assert!(matches!(failed(outcome.await).cause, FailCause::Head(_)));
    assert_eq!(agent.arrived(), 0);
}

#[tokio::test]
async fn many_calls_at_once_share_one_link() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
    let _link = agent.link(&world).await;
    let calls = (0..300).map(|n| {
        let relay = world.relay.clone();
        async move {
            let body = format!("call {n}");
            let call = relay.call(target("echo"), meta(), post(body.clone()).map(Full::new));
            assert_eq!(text(done("a call", call).await.unwrap()).await, body);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(agent.arrived(), 300);
}

#[tokio::test]
async fn the_instance_in_a_hello_gives_no_access_to_another_agents_calls() {
    let world = World::new().await;
    let honest = TestAgent::echo(&world);
    let _link = honest.link(&world).await;
    // Another agent of the connector claims the same instance: it is another agent all the same.
    let mut liar = TestAgent::echo(&world);
    liar.instance = honest.instance;
    let _other = liar.link(&world).await;
    world
        .until("both serve", |status| {
            let serving =
                |link: &&culvert_relay::LinkStatus| link.state == culvert_relay::LinkState::Serving;
            status.links.iter().filter(serving).count() == 2
        })
        .await;
}
