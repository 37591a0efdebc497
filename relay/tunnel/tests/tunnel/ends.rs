//! Every way in which a call ends, told apart by the other side.

use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_tunnel::{
    AnswerBody, Arrival, CallError, ConnectionEnd, Failure, IncomingCall, OpenError, OutgoingCall,
    Piece,
};
use culvert_wire::{CallFrame, Code, Head};
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use quinn::VarInt;

use crate::raw::{RawAgent, RawRelay, encoded};
use crate::world::{Link, done, echo_all, length, ok, post, round_trip, run, take_call};

/// Cancelling has to reach the other side within this time on loopback.
const PROMPTLY: Duration = Duration::from_millis(100);
/// What is asserted on the real clock is five times the bound.
const MARGIN: u32 = 5;

async fn failed<T: std::fmt::Debug>(
    step: &str,
    future: impl Future<Output = Result<T, CallError>>,
) -> CallError {
    done(step, future).await.unwrap_err()
}

#[tokio::test]
async fn a_refusal_before_anything_and_after_acceptance() {
    let link = Link::up().await;
    let (mut call, taken) = link.call(post()).await;
    taken.answer.refuse(Code::QueueFull).await.unwrap();
    let error = failed("refused", call.answer.head()).await;
    assert_eq!(error.failure, Failure::Refused(Code::QueueFull));
    assert!(!error.may_have_begun());
    assert_eq!(failed("again", call.answer.head()).await, error);

    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.accept().await.unwrap();
    done("accepted", call.answer.accepted()).await.unwrap();
    taken.answer.refuse(Code::BackendUnreachable).await.unwrap();
    let error = failed("refused", call.answer.head()).await;
    assert_eq!(error.failure, Failure::Refused(Code::BackendUnreachable));
    assert!(!error.may_have_begun());
}

#[tokio::test]
async fn a_refusal_after_the_head_is_not_written() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.head(ok()).await.unwrap();
    done("head", call.answer.head()).await.unwrap();
    let error = failed("refuse", taken.answer.refuse(Code::Policy)).await;
    assert_eq!(error.failure, Failure::Violation(Code::Protocol));
    // The writer is gone without an end.
    let error = failed("reset", call.answer.next()).await;
    assert_eq!(error.failure, Failure::Reset(Code::AgentGone));
}

#[tokio::test]
async fn an_abort_comes_after_what_was_written() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.head(ok()).await.unwrap();
    taken
        .answer
        .data(Bytes::from_static(b"half"))
        .await
        .unwrap();
    taken.answer.abort(Code::BackendReset).await.unwrap();
    done("head", call.answer.head()).await.unwrap();
    let piece = done("piece", call.answer.next()).await.unwrap();
    assert_eq!(piece, Some(Piece::Data(Bytes::from_static(b"half"))));
    let error = failed("abort", call.answer.next()).await;
    assert_eq!(error.failure, Failure::Aborted(Code::BackendReset));
    assert!(error.may_have_begun());
}

#[tokio::test]
async fn an_abort_before_the_head_is_no_refusal() {
    let link = Link::up().await;
    let (mut call, taken) = link.call(post()).await;
    taken.answer.abort(Code::DeadlineAfter).await.unwrap();
    let error = failed("abort", call.answer.head()).await;
    assert_eq!(error.failure, Failure::Aborted(Code::DeadlineAfter));
    assert!(error.may_have_begun());
}

#[tokio::test]
async fn whatever_is_dropped_is_reset_and_never_finished() {
    let link = Link::up().await;
    // The whole call, before and after its head was read.
    for read in [false, true] {
        let mut call = link.relay.open_call(post()).await.unwrap();
        let dropping = async {
            let stream = link.agent.accept_call().await.unwrap();
            if read {
                drop(stream.read().await.unwrap());
            }
        };
        let (error, ()) = done("dropped", async {
            tokio::join!(call.answer.head(), dropping)
        })
        .await;
        assert_eq!(error.unwrap_err().failure, Failure::Reset(Code::AgentGone));
    }
    // The answer in the middle of its body.
    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.head(ok()).await.unwrap();
    taken
        .answer
        .data(Bytes::from_static(b"half"))
        .await
        .unwrap();
    done("head", call.answer.head()).await.unwrap();
    done("piece", call.answer.next()).await.unwrap();
    drop(taken.answer);
    let error = failed("reset", call.answer.next()).await;
    assert_eq!(error.failure, Failure::Reset(Code::AgentGone));
    // The request in the middle of its body.
    let (mut call, mut taken) = link.call(post()).await;
    call.request
        .data(Bytes::from_static(b"half"))
        .await
        .unwrap();
    done("piece", taken.body.next()).await.unwrap();
    drop(call.request);
    let error = failed("reset", taken.body.next()).await;
    assert_eq!(error.failure, Failure::Reset(Code::CallerGone));
}

#[tokio::test]
async fn an_end_is_missing_after_every_frame_but_the_last() {
    let peer = RawAgent::up().await;
    let frames = [
        CallFrame::Accepted,
        CallFrame::Head(Box::new(ok())),
        CallFrame::data(4).unwrap(),
    ];
    for sent in 0..=frames.len() {
        let mut bytes = encoded(&frames[..sent]);
        if sent == frames.len() {
            bytes.extend_from_slice(b"toke");
        }
        let mut call = peer.relay.open_call(post()).await.unwrap();
        let cutting = async {
            let (mut send, _recv) = peer.agent.accept_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            send.stopped().await.ok();
        };
        let reading = async {
            call.answer.head().await?;
            while call.answer.next().await?.is_some() {}
            Ok(())
        };
        let (read, ()) = done("cut", async { tokio::join!(reading, cutting) }).await;
        assert_eq!(
            read,
            Err(CallError {
                failure: Failure::Cut,
                sent: true
            }),
            "after {sent}"
        );
    }
}

#[tokio::test]
async fn a_cut_body_is_an_error_of_the_adapter_and_no_end() {
    let peer = RawAgent::up().await;
    let mut bytes = encoded(&[
        CallFrame::Accepted,
        CallFrame::Head(Box::new(ok())),
        CallFrame::data(4).unwrap(),
    ]);
    bytes.extend_from_slice(b"toke");
    let mut call = peer.relay.open_call(post()).await.unwrap();
    let cutting = async {
        let (mut send, _recv) = peer.agent.accept_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        send.stopped().await.ok();
    };
    let reading = async {
        call.answer.head().await.unwrap();
        let mut body = AnswerBody::new(call.answer, None);
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (piece, body.frame().await)
    };
    let ((piece, end), ()) = done("cut", async { tokio::join!(reading, cutting) }).await;
    assert_eq!(piece, &b"toke"[..]);
    assert_eq!(end.unwrap().unwrap_err().failure, Failure::Cut);
}

#[tokio::test]
async fn a_body_of_another_length_than_declared_fails_at_both_ends() {
    let link = Link::up().await;
    let mut head = ok();
    length(&mut head.headers, 5);
    for body in [&b"four"[..], b"six!!!"] {
        let (mut call, mut taken) = link.call(post()).await;
        taken.answer.head(head.clone()).await.unwrap();
        done("head", call.answer.head()).await.unwrap();
        let written = match taken.answer.data(Bytes::from_static(body)).await {
            Ok(()) => taken.answer.end(HeaderMap::new()).await,
            Err(error) => {
                taken.answer.abort(Code::BackendProtocol).await.unwrap();
                Err(error)
            }
        };
        assert_eq!(written.unwrap_err().failure, Failure::Length);
        let reading = async {
            while call.answer.next().await?.is_some() {}
            Ok(())
        };
        let error = failed("length", reading).await;
        assert_eq!(error.failure, Failure::Aborted(Code::BackendProtocol));
    }
    // A request, whose writer is ours too.
    let mut open = post();
    length(&mut open.headers, 5);
    let (mut call, mut taken) = link.call(open).await;
    call.request
        .data(Bytes::from_static(b"four"))
        .await
        .unwrap();
    let error = failed("length", call.request.end(HeaderMap::new())).await;
    assert_eq!(error.failure, Failure::Length);
    // The reset may overtake the piece.
    let reading = async {
        while taken.body.next().await?.is_some() {}
        Ok(())
    };
    let error = failed("cut", reading).await;
    assert_eq!(error.failure, Failure::Reset(Code::CallerGone));
}

#[tokio::test]
async fn a_peer_that_lies_about_a_length_is_found_out() {
    let peer = RawAgent::up().await;
    let mut head = ok();
    length(&mut head.headers, 5);
    for body in [&b"four"[..], b"six!!!"] {
        let mut bytes = encoded(&[
            CallFrame::Accepted,
            CallFrame::Head(Box::new(head.clone())),
            CallFrame::data(body.len()).unwrap(),
        ]);
        bytes.extend_from_slice(body);
        bytes.extend(encoded(&[CallFrame::End(HeaderMap::new())]));
        let mut call = peer.relay.open_call(post()).await.unwrap();
        let lying = async {
            let (mut send, _recv) = peer.agent.accept_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            send.stopped().await.ok();
        };
        let reading = async {
            call.answer.head().await?;
            while call.answer.next().await?.is_some() {}
            Ok(())
        };
        let (read, ()) = done("length", async { tokio::join!(reading, lying) }).await;
        assert_eq!(
            read,
            Err(CallError {
                failure: Failure::Length,
                sent: true
            })
        );
    }
}

#[tokio::test]
async fn an_answer_without_a_body_may_declare_a_length() {
    let link = Link::up().await;
    let mut head = ok();
    length(&mut head.headers, 5);
    let (mut call, mut taken) = link
        .call(crate::world::open(Method::HEAD, "/v1/models"))
        .await;
    taken.answer.head(head).await.unwrap();
    taken.answer.end(HeaderMap::new()).await.unwrap();
    done("head", call.answer.head()).await.unwrap();
    assert_eq!(
        done("end", call.answer.next()).await.unwrap(),
        Some(Piece::End(HeaderMap::new()))
    );
}

/// How far a call has come when its caller goes away.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Queued,
    Silent,
    Streaming,
    RequestEnded,
}

#[tokio::test]
async fn a_cancelled_call_is_noticed_at_once_whatever_it_waits_for() {
    let link = Link::up().await;
    for stage in [
        Stage::Queued,
        Stage::Silent,
        Stage::Streaming,
        Stage::RequestEnded,
    ] {
        for code in [None, Some(Code::DeadlineAfter)] {
            let (mut call, mut taken) = link.call(post()).await;
            bring_to(stage, &mut call, &mut taken).await;
            let request = (!matches!(stage, Stage::RequestEnded)).then_some(call.request);
            if request.is_none() {
                done("body", async {
                    while taken.body.next().await.unwrap().is_some() {}
                })
                .await;
            }
            let cancelled = taken.answer.cancelled();
            let started = Instant::now();
            match code {
                Some(code) => call.answer.cancel(code),
                None => drop(call.answer),
            }
            let error = done("cancelled", cancelled).await;
            let took = started.elapsed();
            println!("{stage:?}: noticed after {took:?}");
            assert!(took < PROMPTLY * MARGIN, "{stage:?}: {took:?}");
            assert_eq!(
                error.failure,
                Failure::Reset(code.unwrap_or(Code::CallerGone))
            );
            if let Some(mut request) = request {
                let error = failed("request", request.data(Bytes::from_static(b"more"))).await;
                assert_eq!(error.failure, Failure::Cancelled);
            }
        }
    }
    done("idle", async {
        tokio::join!(link.relay.idle(), link.agent.idle())
    })
    .await;
}

async fn bring_to(stage: Stage, call: &mut OutgoingCall, taken: &mut IncomingCall) {
    match stage {
        Stage::Queued => {}
        Stage::Silent => {
            taken.answer.accept().await.unwrap();
            done("accepted", call.answer.accepted()).await.unwrap();
        }
        Stage::Streaming => {
            taken.answer.head(ok()).await.unwrap();
            taken
                .answer
                .data(Bytes::from_static(b"token"))
                .await
                .unwrap();
            done("head", call.answer.head()).await.unwrap();
        }
        Stage::RequestEnded => {
            call.request
                .data(Bytes::from_static(b"question"))
                .await
                .unwrap();
            let (request, rest) = (&mut call.request, HeaderMap::new());
            end_in_place(request, rest).await;
        }
    }
}

/// Ends a request whose call is still borrowed.
async fn end_in_place(request: &mut culvert_tunnel::RequestWriter, trailers: HeaderMap) {
    let whole = std::mem::replace(request, spare_writer().await);
    whole.end(trailers).await.unwrap();
}

/// A writer of some other call, to stand in for one that was used up.
async fn spare_writer() -> culvert_tunnel::RequestWriter {
    let link = Link::up().await;
    link.relay.open_call(post()).await.unwrap().request
}

#[tokio::test]
async fn cancelling_is_noticed_in_either_direction_alone() {
    let peer = RawRelay::up().await;
    let open = encoded(&[CallFrame::Open(Box::new(post()))]);
    let code = VarInt::from_u32(u32::from(Code::CallerGone.to_u16()));
    for reset in [true, false] {
        let (mut send, mut recv) = peer.open(&open).await;
        let taken = done("taken", take_call(&peer.agent)).await;
        let cancelled = taken.answer.cancelled();
        if reset {
            send.reset(code).unwrap();
        } else {
            recv.stop(code).unwrap();
        }
        let error = done("cancelled", cancelled).await;
        assert_eq!(
            error.failure,
            Failure::Reset(Code::CallerGone),
            "reset: {reset}"
        );
    }
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_body_is_read_by_somebody_else() {
    let peer = RawRelay::up().await;
    let open = encoded(&[CallFrame::Open(Box::new(post()))]);
    let (mut send, mut recv) = peer.open(&open).await;
    let mut taken = done("taken", take_call(&peer.agent)).await;
    let watch = run(taken.answer.cancelled());
    let reader = run(async move { taken.body.next().await });
    // Both wait for the same half once the watch has sent the acceptance on.
    tokio::task::yield_now().await;
    taken.answer.accept().await.unwrap();
    let mut accepted = [0; 5];
    done("accepted", recv.read_exact(&mut accepted))
        .await
        .unwrap();
    send.reset(VarInt::from_u32(u32::from(Code::DeadlineAfter.to_u16())))
        .unwrap();
    let expected = Failure::Reset(Code::DeadlineAfter);
    assert_eq!(watch.output("watch").await.failure, expected);
    assert_eq!(reader.output("reader").await.unwrap_err().failure, expected);
}

#[tokio::test]
async fn a_lost_link_fails_calls_and_says_what_was_never_sent() {
    let link = Link::up().await;
    let (mut sent, taken) = link.call(post()).await;
    let mut unsent = link.relay.open_call(post()).await.unwrap();
    let cancelled = taken.answer.cancelled();
    link.agent.close(Code::Draining, "leaving");
    let error = failed("sent", sent.answer.head()).await;
    assert_eq!(
        error,
        CallError {
            failure: Failure::Lost,
            sent: true
        }
    );
    assert!(error.may_have_begun());
    let error = failed("unsent", unsent.answer.head()).await;
    assert_eq!(
        error,
        CallError {
            failure: Failure::Lost,
            sent: false
        }
    );
    assert!(!error.may_have_begun());
    assert_eq!(done("cancelled", cancelled).await.failure, Failure::Lost);
    let end = ConnectionEnd::Peer {
        code: Code::Draining,
        reason: "leaving".to_owned(),
    };
    assert_eq!(done("closed", link.relay.closed()).await, end);
    assert_eq!(
        link.relay.open_call(post()).await.unwrap_err(),
        OpenError::Lost(end)
    );
}

#[tokio::test]
async fn a_call_that_cannot_be_expressed_is_not_sent() {
    let link = Link::up().await;
    let mut open = post();
    open.headers
        .insert(http::header::TRANSFER_ENCODING, "chunked".parse().unwrap());
    let error = link.relay.open_call(open).await.unwrap_err();
    assert!(matches!(error, OpenError::Unsendable(_)), "{error}");
    done("idle", link.relay.idle()).await;
}

#[tokio::test]
async fn garbage_on_a_calls_stream_closes_the_agents_link_with_a_code() {
    let unknown = [63, 0, 0, 0, 0];
    let too_long = [32, 0xff, 0xff, 0xff, 0xff];
    let forward = [33, 0, 0, 0, 1, 0xa0];
    let misplaced = encoded(&[CallFrame::Accepted]);
    let cases: [(&[u8], Code); 4] = [
        (&unknown, Code::UnknownCritical),
        (&too_long, Code::Limit),
        (&forward, Code::Protocol),
        (&misplaced, Code::Protocol),
    ];
    for (bytes, code) in cases {
        let peer = RawRelay::up().await;
        let (_send, _recv) = peer.open(bytes).await;
        let stream = done("stream", peer.agent.accept_call()).await.unwrap();
        let error = failed("garbage", stream.read()).await;
        assert_eq!(error.failure, Failure::Violation(code));
        assert_eq!(closed_with(&peer.relay).await, code);
    }
}

#[tokio::test]
async fn garbage_in_an_answer_closes_the_relays_link_with_a_code() {
    let head = Head {
        status: http::StatusCode::OK,
        ..ok()
    };
    let cases = [
        (vec![1, 2, 3, 4, 5, 6, 7, 8], Code::Protocol),
        (vec![63, 0, 0, 0, 0], Code::UnknownCritical),
        (encoded(&[CallFrame::Head(Box::new(head))]), Code::Protocol),
        (
            encoded(&[CallFrame::Accepted, CallFrame::End(HeaderMap::new())]),
            Code::Protocol,
        ),
    ];
    for (bytes, code) in cases {
        let peer = RawAgent::up().await;
        let mut call = peer.relay.open_call(post()).await.unwrap();
        let answering = async {
            let (mut send, recv) = peer.agent.accept_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            (send, recv)
        };
        let (read, _streams) = done("garbage", async {
            tokio::join!(call.answer.head(), answering)
        })
        .await;
        assert_eq!(read.unwrap_err().failure, Failure::Violation(code));
        assert_eq!(closed_with(&peer.agent).await, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_never_hang_or_break_anything_but_their_link() {
    let seed: u64 = std::env::var("SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut state = seed;
    for _ in 0..40 {
        let peer = RawRelay::up().await;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        })
        .take(64)
        .collect();
        let (mut send, _recv) = peer.open(&bytes).await;
        send.finish().unwrap();
        let stream = done("stream", peer.agent.accept_call()).await.unwrap();
        match done("read", stream.read()).await {
            Ok(Arrival::Call(call)) => panic!("{call:?}"),
            Ok(Arrival::Probe(probe)) => drop(probe),
            Err(error) => assert!(
                matches!(error.failure, Failure::Violation(_) | Failure::Cut),
                "{error} for {bytes:?}"
            ),
        }
    }
    // Other links are as they were.
    let link = Link::up().await;
    let echo = run(echo_all(link.agent.clone()));
    let back = done(
        "echo",
        round_trip(&link.relay, Bytes::from_static(b"still")),
    )
    .await;
    assert_eq!(back.unwrap(), b"still");
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

async fn closed_with(connection: &quinn::Connection) -> Code {
    match done("closed", connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            Code::from_transport(close.error_code.into_inner())
        }
        other => panic!("{other}"),
    }
}
