//! Many streams, slow readers, and paths that lose packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_tunnel::limits::CALLS_PER_CONNECTION;
use culvert_tunnel::udp_path::{Tap, Verdict};
use culvert_tunnel::{OpenError, OutgoingCall, Piece, UdpOptions};
use culvert_wire::Code;
use http::HeaderMap;
use tokio::task::JoinSet;

use crate::calls::noise;
use crate::world::{Link, done, echo_all, ok, post, round_trip, run, take_call};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_their_first_token_hold_up_nobody() {
    let link = Link::up().await;
    for count in [99, 100, 101, 255, 256, 257, 511, 512, 513, 1_000] {
        let started = Instant::now();
        hold_and_answer(&link, count).await;
        println!("{count} waiting calls: {:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap_is_a_clear_answer_and_no_stall() {
    let link = Link::up().await;
    let agent = link.agent.clone();
    let taking = run(async move {
        let mut held = Vec::with_capacity(CALLS_PER_CONNECTION);
        while held.len() < CALLS_PER_CONNECTION {
            let mut taken = take_call(&agent).await;
            taken.answer.accept().await.unwrap();
            held.push(taken);
        }
        held
    });
    let started = Instant::now();
    let mut calls = Vec::with_capacity(CALLS_PER_CONNECTION);
    for _ in 0..CALLS_PER_CONNECTION {
        let mut call = done("open", link.relay.open_call(post())).await.unwrap();
        call.request.data(Bytes::from_static(b"?")).await.unwrap();
        calls.push(call);
    }
    for call in &mut calls {
        done("accepted", call.answer.accepted()).await.unwrap();
    }
    println!(
        "{CALLS_PER_CONNECTION} calls open after {:?}",
        started.elapsed()
    );
    let held = taking.output("all taken").await;
    let above = done("above the cap", link.relay.open_call(post())).await;
    assert_eq!(above.unwrap_err(), OpenError::AtCap(CALLS_PER_CONNECTION));
    // A probe is not a call: it has to pass when nothing else does.
    let answering = async {
        let culvert_tunnel::Arrival::Probe(probe) = link
            .agent
            .accept_call()
            .await
            .unwrap()
            .read()
            .await
            .unwrap()
        else {
            panic!("no probe")
        };
        probe.answer().await.unwrap();
    };
    let (probed, ()) = done("probe", async {
        tokio::join!(link.relay.probe(7), answering)
    })
    .await;
    probed.unwrap();
    drop(calls.pop());
    done("room again", link.relay.open_call(post()))
        .await
        .unwrap();
    drop((calls, held));
    done("idle", async {
        tokio::join!(link.relay.idle(), link.agent.idle())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stopped_do_not_slow_down_others() {
    let link = Link::up().await;
    let agent = link.agent.clone();
    // As many as would fill the send window, each blocked on its own stream window.
    let mut stalled = Vec::new();
    let mut writers = JoinSet::new();
    for _ in 0..40 {
        let (mut call, mut taken) = link.call(post()).await;
        taken.answer.head(ok()).await.unwrap();
        done("head", call.answer.head()).await.unwrap();
        writers.spawn(async move {
            let flood = http_body_util::Full::new(Bytes::from(vec![0; 8 << 20]));
            let passed = taken.answer.pass(flood).await.unwrap();
            taken.answer.end(passed.trailers).await
        });
        stalled.push(call);
    }
    let echo = run(echo_all(agent));
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let started = Instant::now();
        let back = done(
            "echo",
            round_trip(&link.relay, Bytes::from_static(b"token")),
        )
        .await;
        assert_eq!(back.unwrap(), b"token");
        slowest = slowest.max(started.elapsed());
    }
    println!("slowest of 100 beside 40 stalled readers: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    drop(stalled);
    while let Some(written) = done("writers stop", writers.join_next()).await {
        assert!(written.unwrap().is_err(), "8 MiB do not fit a window");
    }
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_pass_beside_bulk() {
    let link = Link::up().await;
    let echo = run(echo_all(link.agent.clone()));
    let relay = link.relay.clone();
    let bulk = run(async move {
        round_trip(&relay, Bytes::from(vec![0; 48 << 20]))
            .await
            .map(|back| back.len())
    });
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        done(
            "echo",
            round_trip(&link.relay, Bytes::from_static(b"token")),
        )
        .await
        .unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    println!(
        "beside bulk: median {:?}, slowest {:?}",
        times[25], times[49]
    );
    assert!(times[25] < Duration::from_secs(1), "{times:?}");
    assert_eq!(bulk.output("bulk").await.unwrap(), 48 << 20);
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_costs_time_and_nothing_else() {
    let seed: u64 = std::env::var("SEED").map_or(0x1055, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let lossy = |seed| UdpOptions {
        tap: Some(loss(seed, 5)),
        ..UdpOptions::default()
    };
    let link = Link::up_with(lossy(seed), lossy(seed + 1)).await;
    let echo = run(echo_all(link.agent.clone()));
    let body = Bytes::from(noise(2 << 20));
    let back = done("2 MiB both ways", round_trip(&link.relay, body.clone()))
        .await
        .unwrap();
    assert_eq!(back, body);
    for n in 0..50_u32 {
        let body = Bytes::from(n.to_string());
        let back = done("echo", round_trip(&link.relay, body.clone()))
            .await
            .unwrap();
        assert_eq!(back, body);
    }
    let stats = link.relay.stats();
    println!("{stats:?}");
    assert!(stats.lost_packets > 0);
    assert_eq!(stats.black_holes, 0, "plain loss is no black hole");
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_calls_however_they_end() {
    let link = Link::up().await;
    let echo = run(echo_all(link.agent.clone()));
    for round in 0..200 {
        let mut call = link.relay.open_call(post()).await.unwrap();
        call.request.data(Bytes::from_static(b"x")).await.unwrap();
        match round % 4 {
            0 => drop(call),
            1 => call.answer.cancel(Code::DeadlineAfter),
            2 => drop(call.request),
            _ => {
                done("head", call.answer.head()).await.unwrap();
            }
        }
    }
    done("idle", async {
        tokio::join!(link.relay.idle(), link.agent.idle())
    })
    .await;
    link.relay.close(Code::Draining, "");
    echo.output("echo ends").await;
}

/// Opens so many calls that none is answered until all are taken.
async fn hold_and_answer(link: &Link, count: usize) {
    let agent = link.agent.clone();
    let serving = run(async move {
        let mut held = Vec::new();
        while held.len() < count {
            let mut taken = take_call(&agent).await;
            taken.answer.accept().await.unwrap();
            held.push(taken);
        }
        for mut taken in held {
            taken.answer.head(ok()).await.unwrap();
            taken
                .answer
                .data(Bytes::from_static(b"token"))
                .await
                .unwrap();
            taken.answer.end(HeaderMap::new()).await.unwrap();
        }
    });
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        let OutgoingCall {
            request,
            mut answer,
        } = done("open", link.relay.open_call(post())).await.unwrap();
        waiting.spawn(async move {
            request.end(HeaderMap::new()).await.unwrap();
            answer.head().await.unwrap();
            let mut whole = Vec::new();
            while let Some(piece) = answer.next().await.unwrap() {
                if let Piece::Data(piece) = piece {
                    whole.extend_from_slice(&piece);
                }
            }
            whole
        });
    }
    while let Some(whole) = done("answers", waiting.join_next()).await {
        assert_eq!(whole.unwrap(), b"token");
    }
    serving.output("served").await;
}

/// Loses so many of a hundred datagrams, the same ones each time.
fn loss(seed: u64, percent: u64) -> Tap {
    let state = Arc::new(AtomicU64::new(seed));
    Arc::new(move |outgoing| {
        if outgoing.datagrams > 1 {
            return Verdict::Split;
        }
        let step = |x: u64| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let drawn = state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |x| Some(step(x)));
        match drawn.unwrap() >> 33 {
            drawn if drawn % 100 < percent => Verdict::Drop,
            _ => Verdict::Pass,
        }
    })
}
