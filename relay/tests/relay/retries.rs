//! When a call is sent again, and when it must not be.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use culvert_relay::{Answered, FailCause};
use culvert_tunnel::Piece;
use culvert_wire::Code;
use http::Request;
use http_body::Frame;
use tokio::sync::mpsc;

use crate::agent::{Script, TestAgent, echo, refuse, script};
use crate::world::{World, done, failed, get, meta, post, streamed, target, text};

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
async fn a_repetition_that_nobody_could_take_costs_nothing() {
    let world = World::new().await;
    let refusing = TestAgent::new(world.agent(), refuse(Code::QueueFull));
    let _refusing_link = refusing.link(&world).await;
    // More often than a quiet tenant may repeat.
    for _ in 0..15 {
        let failed = failed(world.call(post("x")).await);
        assert_eq!((failed.code, failed.attempts), (Code::QueueFull, 1));
    }
    let serving = TestAgent::echo(&world);
    let _serving_link = serving.link(&world).await;
    world.until_links(2).await;
    let answered = repeated(&world, || post("x")).await;
    assert_eq!(answered.route.agent, serving.id());
}

/// The first answer of which the first agent that was chosen had none.
async fn repeated(world: &World, request: impl Fn() -> Request<Bytes>) -> Answered {
    for _ in 0..100 {
        let answered = world.call(request()).await.unwrap();
        if answered.route.attempts == 2 {
            return answered;
        }
    }
    panic!("100 calls were answered by the agent that was chosen first");
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
fn vanish(accept: bool) -> Script {
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
        let answered = repeated(&world, get).await;
        assert_eq!(answered.route.agent, serving.id());
        assert_eq!(lost.arrived(), 2);
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

/// The newest link may carry the question nowhere: the next one is asked.
#[tokio::test]
async fn an_agent_is_asked_over_one_link_after_the_other() {
    let world = World::new().await;
    let agent = TestAgent::echo(&world);
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
    let session = Some(first.welcome.session);
    let mute = agent.dial(&world, session).await.unwrap();
    mute.answers.store(false, Ordering::SeqCst);
    let _takes_the_call = agent.dial(&world, session).await.unwrap();
    world.until_links(3).await;
    let answered = world.call(post("once")).await.unwrap();
    assert_eq!(answered.route.attempts, 2);
    assert_eq!(text(answered).await, "once");
    assert_eq!(mute.connection.end(), None);
}
