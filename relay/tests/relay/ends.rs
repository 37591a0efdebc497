//! How calls end: cut, aborted, cancelled, late, stalled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use culvert_relay::{FailCause, ParkedLimits};
use culvert_tunnel::Piece;
use culvert_wire::Code;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::agent::{Script, TestAgent, head, script, silent};
use crate::world::{Plan, World, done, failed, get, meta, post, session_at, streamed, target};

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
    target.affinity = Some(session_at(streaming.id()));
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

/// Answers with a byte whenever the last one was taken, for as long as anybody wants one.
fn endless() -> Script {
    script(|mut call, _| async move {
        call.answer.accept().await.unwrap();
        call.answer.head(head(StatusCode::OK)).await.unwrap();
        let piece = Bytes::from(vec![0; 64 * 1024]);
        while call.answer.data(piece.clone()).await.is_ok() {}
    })
}

#[tokio::test]
async fn a_deadline_cuts_an_answer_that_is_never_out_of_pieces() {
    let world = World::new().await;
    let agent = TestAgent::new(world.agent(), endless());
    let _link = agent.link(&world).await;
    let mut soon = meta();
    let deadline = Instant::now() + Duration::from_millis(500);
    soon.deadline = Some(deadline);
    let call = world.relay.call(target("echo"), soon, get().map(Full::new));
    let mut body = done("the head", call).await.unwrap().response.into_body();
    // Piles up what is to be read, so that the answer is ready whenever it is looked at.
    tokio::time::sleep_until(deadline).await;
    let error = done("the deadline", body.frame())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code, Code::DeadlineAfter);
}

#[tokio::test]
async fn a_deadline_ends_the_call_of_a_caller_that_does_not_read() {
    let world = World::new().await;
    let agent = TestAgent::new(world.agent(), endless());
    let _link = agent.link(&world).await;
    let mut soon = meta();
    soon.deadline = Some(Instant::now() + Duration::from_millis(500));
    let call = world.relay.call(target("echo"), soon, get().map(Full::new));
    let mut body = done("the head", call).await.unwrap().response.into_body();
    done("the first piece", body.frame())
        .await
        .unwrap()
        .unwrap();
    world
        .until("no call left", |status| status.links[0].calls == 0)
        .await;
    let error = done("the deadline", body.frame())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code, Code::DeadlineAfter);
}

/// Answers with more bytes than a stream's window, and counts who was cut.
fn flood(cut: Arc<AtomicUsize>) -> Script {
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
    let usual = ParkedLimits::default();
    for parked in [
        ParkedLimits { link: 0, ..usual },
        ParkedLimits { tenant: 0, ..usual },
        ParkedLimits { total: 0, ..usual },
    ] {
        the_stalled_one_is_cut(parked).await;
    }
}

/// One caller stalls, others read on, in a world where nothing may be parked.
async fn the_stalled_one_is_cut(parked: ParkedLimits) {
    let world = World::with(Plan {
        parked,
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
