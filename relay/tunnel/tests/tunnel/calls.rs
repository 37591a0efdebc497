//! Calls that go well, and what their two ends see of each other on the way.

use std::time::Instant;

use aws_lc_rs::digest;
use bytes::Bytes;
use culvert_tunnel::{AnswerBody, Failure, Piece, RequestBody};
use culvert_wire::Code;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body;
use http_body_util::BodyExt;

use crate::world::{Link, done, echo_all, length, ok, open, post, round_trip, run, take_call};

#[tokio::test]
async fn a_call_carries_heads_bodies_and_trailers_both_ways() {
    let link = Link::up().await;
    let mut open = open(Method::PUT, "/v1/files?purpose=batch");
    open.headers
        .insert("x-caller", HeaderValue::from_static("one"));
    let (mut call, mut taken) = link.call(open.clone()).await;
    assert_eq!(taken.open, open);
    taken.answer.accept().await.unwrap();
    done("accepted", call.answer.accepted()).await.unwrap();

    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    call.request
        .data(Bytes::from_static(b"question"))
        .await
        .unwrap();
    call.request.end(trailers.clone()).await.unwrap();
    let question = done("request", taken.body.next()).await.unwrap();
    assert_eq!(question, Some(Piece::Data(Bytes::from_static(b"question"))));
    let end = done("request's end", taken.body.next()).await.unwrap();
    assert_eq!(end, Some(Piece::End(trailers.clone())));
    assert_eq!(taken.body.next().await.unwrap(), None);

    let mut head = ok();
    head.headers
        .insert("x-backend", HeaderValue::from_static("two"));
    taken.answer.head(head.clone()).await.unwrap();
    assert_eq!(done("head", call.answer.head()).await.unwrap(), head);
    taken
        .answer
        .data(Bytes::from_static(b"answer"))
        .await
        .unwrap();
    taken.answer.end(trailers.clone()).await.unwrap();
    let answer = done("answer", call.answer.next()).await.unwrap();
    assert_eq!(answer, Some(Piece::Data(Bytes::from_static(b"answer"))));
    assert_eq!(
        done("end", call.answer.next()).await.unwrap(),
        Some(Piece::End(trailers))
    );
    assert_eq!(call.answer.next().await.unwrap(), None);
    assert!(call.answer.is_complete());

    drop((call.answer, taken.body));
    done("idle", async {
        tokio::join!(link.relay.idle(), link.agent.idle())
    })
    .await;
}

#[tokio::test]
async fn acceptance_may_wait_for_company_but_not_for_long() {
    let link = Link::up().await;
    // A silent backend: the watch is polled, and nothing else happens.
    let (mut call, mut taken) = link.call(post()).await;
    let cancelled = taken.answer.cancelled();
    let accepted = async {
        taken.answer.accept().await.unwrap();
        call.answer.accepted().await
    };
    done("silent", async {
        tokio::select! {
            biased;
            error = cancelled => panic!("{error}"),
            accepted = accepted => accepted.unwrap(),
        }
    })
    .await;
    // A watch that ends before its time.
    let (mut call, mut taken) = link.call(post()).await;
    {
        let mut cancelled = std::pin::pin!(taken.answer.cancelled());
        assert!(futures_util::poll!(cancelled.as_mut()).is_pending());
        taken.answer.accept().await.unwrap();
    }
    done("watch gone", call.answer.accepted()).await.unwrap();
    // No watch at all.
    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.accept().await.unwrap();
    done("no watch", call.answer.accepted()).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_declared_body_is_known_with_its_last_byte() {
    let link = Link::up().await;
    let mut open = post();
    length(&mut open.headers, 8);
    let (mut call, mut taken) = link.call(open).await;
    assert!(!taken.body.is_complete());
    call.request
        .data(Bytes::from_static(b"question"))
        .await
        .unwrap();
    {
        // Without the end, the last byte is held back.
        let mut next = std::pin::pin!(taken.body.next());
        call.request.end(HeaderMap::new()).await.unwrap();
        let piece = done("request", next.as_mut()).await.unwrap();
        assert_eq!(piece, Some(Piece::Data(Bytes::from_static(b"question"))));
    }
    assert!(taken.body.is_complete());

    let mut head = ok();
    length(&mut head.headers, 6);
    taken.answer.head(head).await.unwrap();
    taken
        .answer
        .data(Bytes::from_static(b"answer"))
        .await
        .unwrap();
    done("head", call.answer.head()).await.unwrap();
    let mut watch = std::pin::pin!(taken.answer.cancelled());
    taken.answer.end(HeaderMap::new()).await.unwrap();
    let piece = done("answer", call.answer.next()).await.unwrap();
    assert_eq!(piece, Some(Piece::Data(Bytes::from_static(b"answer"))));
    assert!(call.answer.is_complete() && call.answer.is_drained());
    // Who has as many bytes as were declared asks no further, and has given nothing up.
    drop(call.answer);
    done("idle", link.relay.idle()).await;
    assert!(futures_util::poll!(watch.as_mut()).is_pending());
}

#[tokio::test]
async fn a_body_that_is_cut_behind_its_last_byte_is_not_whole() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(post()).await;
    let mut head = ok();
    length(&mut head.headers, 6);
    taken.answer.head(head).await.unwrap();
    taken
        .answer
        .data(Bytes::from_static(b"answer"))
        .await
        .unwrap();
    done("head", call.answer.head()).await.unwrap();
    taken.answer.abort(Code::BackendReset).await.unwrap();
    let error = done("cut", call.answer.next()).await.unwrap_err();
    assert_eq!(error.failure, Failure::Aborted(Code::BackendReset));
}

#[tokio::test]
async fn a_request_or_an_answer_without_a_body_is_seen_to_have_none() {
    let link = Link::up().await;
    let call = link
        .relay
        .open_call(open(Method::GET, "/v1/models"))
        .await
        .unwrap();
    call.request.end(HeaderMap::new()).await.unwrap();
    let mut taken = done("taken", take_call(&link.agent)).await;
    assert!(taken.body.is_complete());
    assert!(RequestBody::new(taken.body, None).is_end_stream());
    let mut head = ok();
    length(&mut head.headers, 0);
    taken.answer.head(head).await.unwrap();
    taken.answer.end(HeaderMap::new()).await.unwrap();
    let mut answer = call.answer;
    done("head", answer.head()).await.unwrap();
    assert!(AnswerBody::new(answer, Some(0)).is_end_stream());
}

#[tokio::test]
async fn each_event_passes_without_waiting_for_the_next() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.head(ok()).await.unwrap();
    done("head", call.answer.head()).await.unwrap();
    for n in 0..50 {
        let event = Bytes::from(format!("data: {n}\n\n"));
        taken.answer.data(event.clone()).await.unwrap();
        let read = done("event", call.answer.next()).await.unwrap();
        assert_eq!(read, Some(Piece::Data(event)));
    }
    taken.answer.end(HeaderMap::new()).await.unwrap();
    assert_eq!(
        done("end", call.answer.next()).await.unwrap(),
        Some(Piece::End(HeaderMap::new()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_byte_for_byte_both_ways() {
    let link = Link::up().await;
    let echo = run(echo_all(link.agent.clone()));
    let body: Bytes = noise(24 << 20).into();
    let sent = digest::digest(&digest::SHA256, &body);
    let back = done("24 MiB both ways", round_trip(&link.relay, body))
        .await
        .unwrap();
    assert_eq!(
        digest::digest(&digest::SHA256, &back).as_ref(),
        sent.as_ref()
    );
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_through_their_adapters() {
    let link = Link::up().await;
    let body = Bytes::from(noise(3 << 20));
    let mut head = post();
    length(&mut head.headers, body.len() as u64);

    let agent = link.agent.clone();
    let served = run(async move {
        let mut taken = take_call(&agent).await;
        let declared = taken.open.declared_length();
        let body = RequestBody::new(taken.body, declared);
        assert_eq!(body.size_hint().exact(), declared);
        let whole = body.collect().await.unwrap().to_bytes();
        let mut head = ok();
        length(&mut head.headers, whole.len() as u64);
        taken.answer.head(head).await.unwrap();
        let passed = taken
            .answer
            .pass(http_body_util::Full::new(whole))
            .await
            .unwrap();
        taken.answer.end(passed.trailers).await.unwrap();
        passed.bytes
    });

    let mut call = link.relay.open_call(head).await.unwrap();
    let upload = run(call.request.send(http_body_util::Full::new(body.clone())));
    let head = done("head", call.answer.head()).await.unwrap();
    let answer = AnswerBody::new(call.answer, head.declared_length(&Method::POST));
    assert_eq!(answer.size_hint().exact(), Some(body.len() as u64));
    assert_eq!(
        done("body", answer.collect()).await.unwrap().to_bytes(),
        body
    );
    assert_eq!(served.output("served").await, body.len() as u64);
    assert_eq!(upload.output("upload").await.unwrap(), body.len() as u64);
}

#[tokio::test]
async fn an_answer_may_come_while_the_request_is_still_written() {
    let link = Link::up().await;
    let (call, mut taken) = link.call(post()).await;
    let (pieces, rest) = tokio::sync::mpsc::channel::<Bytes>(1);
    let upload = call.request.send(ChannelBody(rest));
    let mut answer = call.answer;
    taken.answer.head(ok()).await.unwrap();
    done("head", answer.head()).await.unwrap();
    let body = AnswerBody::new(answer, None).with_upload(Box::pin(async move {
        upload.await.unwrap();
    }));
    let mut body = std::pin::pin!(body);
    for n in 0..5_u8 {
        let piece = Bytes::from(vec![n; 3]);
        pieces.send(piece.clone()).await.unwrap();
        // The upload moves only because the answer is read.
        let agent = async {
            let read = taken.body.next().await.unwrap();
            assert_eq!(read, Some(Piece::Data(piece.clone())));
            taken.answer.data(piece.clone()).await.unwrap();
        };
        let ((), frame) = done("echo", async { tokio::join!(agent, body.frame()) }).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), piece);
    }
    drop(pieces);
    let agent = async {
        assert_eq!(
            taken.body.next().await.unwrap(),
            Some(Piece::End(HeaderMap::new()))
        );
        taken.answer.end(HeaderMap::new()).await.unwrap();
    };
    let ((), end) = done("end", async { tokio::join!(agent, body.frame()) }).await;
    assert!(end.is_none() && body.is_end_stream());
}

#[tokio::test]
async fn a_request_that_is_not_wanted_any_more_lets_the_answer_go_on() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(post()).await;
    taken.answer.accept().await.unwrap();
    taken.answer.enough().await.unwrap();
    done("accepted", call.answer.accepted()).await.unwrap();
    let writing = async {
        loop {
            if let Err(error) = call.request.data(Bytes::from(vec![0; 64 << 10])).await {
                return error;
            }
        }
    };
    let (stopped, ()) = done("enough", async {
        tokio::join!(writing, async {
            let watch = taken.answer.cancelled();
            let reading = async {
                call.answer.head().await.unwrap();
                assert_eq!(
                    call.answer.next().await.unwrap(),
                    Some(Piece::Data(Bytes::from_static(b"too large")))
                );
                assert_eq!(
                    call.answer.next().await.unwrap(),
                    Some(Piece::End(HeaderMap::new()))
                );
            };
            let answering = async {
                taken.answer.head(ok()).await.unwrap();
                taken
                    .answer
                    .data(Bytes::from_static(b"too large"))
                    .await
                    .unwrap();
                taken.answer.end(HeaderMap::new()).await.unwrap();
                reading.await;
            };
            tokio::select! {
                biased;
                error = watch => panic!("{error}"),
                () = answering => {}
            }
        })
    })
    .await;
    assert_eq!(stopped.failure, Failure::NotWanted);
}

#[tokio::test]
async fn a_request_body_that_is_dropped_lets_the_answer_go_on() {
    let link = Link::up().await;
    let (mut call, mut taken) = link.call(post()).await;
    drop(taken.body);
    let stopped = done("stop", async {
        loop {
            if let Err(error) = call.request.data(Bytes::from(vec![0; 64 << 10])).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(stopped.failure, Failure::NotWanted);
    let mut watch = std::pin::pin!(taken.answer.cancelled());
    taken.answer.head(ok()).await.unwrap();
    done("head", call.answer.head()).await.unwrap();
    taken
        .answer
        .data(Bytes::from_static(b"early"))
        .await
        .unwrap();
    assert!(futures_util::poll!(watch.as_mut()).is_pending());
    taken.answer.end(HeaderMap::new()).await.unwrap();
    let piece = done("piece", call.answer.next()).await.unwrap();
    assert_eq!(piece, Some(Piece::Data(Bytes::from_static(b"early"))));
    assert_eq!(
        done("end", call.answer.next()).await.unwrap(),
        Some(Piece::End(HeaderMap::new()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_by_whoever_handles_calls() {
    let link = Link::up().await;
    let echo = run(echo_all(link.agent.clone()));
    for nonce in [0, 1, u64::MAX] {
        let started = Instant::now();
        let took = done("probe", link.relay.probe(nonce)).await.unwrap();
        assert!(took <= started.elapsed());
    }
    assert_eq!(link.relay.calls(), 0);
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

#[tokio::test]
async fn a_probe_that_nobody_handles_fails_and_does_not_hang() {
    let link = Link::up().await;
    let handler = async {
        drop(link.agent.accept_call().await.unwrap());
    };
    let (answer, ()) = done("probe", async {
        tokio::join!(link.relay.probe(1), handler)
    })
    .await;
    assert_eq!(answer.unwrap_err().failure, Failure::Reset(Code::AgentGone));
}

/// Bytes that do not repeat, the same each time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

struct ChannelBody(tokio::sync::mpsc::Receiver<Bytes>);

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }
}
