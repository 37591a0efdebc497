//! The bytes of a connection that has changed its protocol, both ways, to their end.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use culvert_relay::AnswerBody as RelayBody;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use super::up::UpSender;
use crate::{
    answer::{Cut, CutFlag},
    error::Problem,
    record::Guard,
};

/// Changes of one connection that wait to be taken over; more than its requests there cannot be.
const WAITING: usize = 256;
/// How much is read from a caller at once, in bytes: one record of TLS.
const READ: usize = 16 * 1024;
/// How long the backend may go on after the caller's end of a WebSocket, which knows no half of a
/// connection: time for the last word of the closing handshake.
const AFTER_END: Duration = Duration::from_secs(5);

/// The backend's side of a change.
#[derive(Debug)]
pub struct Side {
    /// What it sends.
    pub down: RelayBody,
    /// The request's record.
    pub guard: Guard,
    /// Resets the caller's connection, should the backend's bytes be cut.
    pub cut: CutFlag,
}

/// Who carries the bytes.
pub struct Pump {
    on: OnUpgrade,
    up: UpSender,
    side: Side,
    /// Whether the end of one side is the end of both.
    closes: bool,
    /// Whether the connection is the caller's alone, and may be reset.
    resets: bool,
}

impl Pump {
    pub(super) fn new(on: OnUpgrade, up: UpSender, side: Side, closes: bool, resets: bool) -> Self {
        Self {
            on,
            up,
            side,
            closes,
            resets,
        }
    }

    /// Carries the bytes until either side has ended. Dropped, it cancels the call and closes the
    /// caller's connection.
    pub async fn run(self) {
        let Self {
            on,
            up,
            side,
            closes,
            resets,
        } = self;
        let io = match on.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                tracing::debug!(%error, "a caller left before its protocol changed");
                return;
            }
        };
        let Side {
            down,
            mut guard,
            cut,
        } = side;
        let count = guard.bytes_in();
        let after_end = closes.then_some(AFTER_END);
        let ended = carry(io, (down, up), &mut guard, &count, after_end).await;
        match ended {
            Ended::Whole => guard.whole(),
            Ended::Cut(problem) => {
                if resets {
                    cut.set();
                }
                guard.fields().maybe_executed = true;
                guard.cut(&problem);
            }
            // The record says so by itself.
            Ended::CallerGone => {}
        }
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump")
            .field("closes", &self.closes)
            .finish_non_exhaustive()
    }
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The backend has ended in order.
    Whole,
    /// The backend's bytes were cut.
    Cut(Problem),
    /// The caller does not read, or write, any more.
    CallerGone,
}

async fn carry<I, D>(
    io: I,
    (down, up): (D, UpSender),
    guard: &mut Guard,
    count: &Arc<AtomicU64>,
    after_end: Option<Duration>,
) -> Ended
where
    I: AsyncRead + AsyncWrite,
    D: Body<Data = Bytes> + Unpin,
    D::Error: Into<Cut>,
{
    let (reader, writer) = tokio::io::split(io);
    let mut going_down = pin!(bring_down(down, writer, guard));
    let caller_ended = {
        let going_up = pin!(bring_up(reader, up, count));
        tokio::select! {
            biased;
            ended = &mut going_down => return ended,
            caller = going_up => caller,
        }
    };
    match (caller_ended, after_end) {
        (Caller::Gone, _) => Ended::CallerGone,
        (Caller::Ended, None) => going_down.await,
        (Caller::Ended, Some(patience)) => timeout(patience, going_down)
            .await
            .unwrap_or(Ended::CallerGone),
    }
}

/// How the caller's side ended.
enum Caller {
    /// In order: the other side may go on.
    Ended,
    /// Broken.
    Gone,
}

async fn bring_up(
    mut reader: impl AsyncRead + Unpin,
    up: UpSender,
    count: &Arc<AtomicU64>,
) -> Caller {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => {
                // Where nobody wants it, the other side has ended or is about to.
                up.end().await;
                return Caller::Ended;
            }
            Ok(bytes) => {
                count.fetch_add(bytes as u64, Ordering::Relaxed);
                if !up.send(buffer.split().freeze()).await {
                    return Caller::Ended;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a caller's connection broke");
                return Caller::Gone;
            }
        }
    }
}

async fn bring_down<D>(mut down: D, mut writer: impl AsyncWrite + Unpin, guard: &mut Guard) -> Ended
where
    D: Body<Data = Bytes> + Unpin,
    D::Error: Into<Cut>,
{
    while let Some(frame) = down.frame().await {
        let Ok(bytes) = (match frame {
            Ok(frame) => frame.into_data(),
            Err(cut) => return Ended::Cut(cut.into().into_problem()),
        }) else {
            continue;
        };
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "a caller does not read any more");
            return Ended::CallerGone;
        }
        guard.sent(bytes.len());
    }
    if let Err(error) = writer.shutdown().await {
        tracing::debug!(%error, "a caller's connection broke at its end");
    }
    Ended::Whole
}

/// Where the changes of one connection are handed over to whoever serves it.
#[derive(Clone, Debug)]
pub struct Pumps(mpsc::Sender<Pump>);

/// The changed streams of one connection. Dropped, they end.
#[derive(Debug)]
pub struct Pumping {
    queue: mpsc::Receiver<Pump>,
    running: JoinSet<()>,
}

impl Pumps {
    /// For one connection.
    pub fn new() -> (Self, Pumping) {
        let (sender, queue) = mpsc::channel(WAITING);
        let pumping = Pumping {
            queue,
            running: JoinSet::new(),
        };
        (Self(sender), pumping)
    }

    /// Hands one over; gives the request's record back where nobody takes it.
    pub fn start(&self, pump: Pump) -> Result<(), Box<Guard>> {
        let taken = self.0.try_send(pump);
        taken.map_err(|refused| Box::new(refused.into_inner().side.guard))
    }
}

impl Pumping {
    /// Whether nothing has changed, or all of it has ended.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }

    /// Waits for the next event and deals with it.
    pub async fn turn(&mut self) {
        tokio::select! {
            biased;
            Some(done) = self.running.join_next() => note_panic(&done),
            Some(pump) = self.queue.recv() => {
                self.running.spawn(pump.run());
            }
            else => std::future::pending().await,
        }
    }

    /// The connection serves no more requests: carries what has changed to its end.
    pub async fn finish(mut self) {
        self.queue.close();
        while !self.is_idle() {
            self.turn().await;
        }
    }
}

fn note_panic(done: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        tracing::error!(%error, "the task of a changed connection has a bug");
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::io::{DuplexStream, duplex};

    use super::{super::up, *};
    use crate::{
        error::CallerCode,
        metrics::EdgeMetrics,
        record::{Record, Recorder},
    };

    /// What the backend sends, by hand.
    struct Down(mpsc::Receiver<Result<Bytes, Cut>>);

    impl Body for Down {
        type Data = Bytes;
        type Error = Cut;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Cut>>> {
            let next = self.0.poll_recv(cx);
            next.map(|next| next.map(|bytes| bytes.map(http_body::Frame::data)))
        }
    }

    struct Case {
        caller: DuplexStream,
        backend: mpsc::Sender<Result<Bytes, Cut>>,
        up: up::UpStream,
        carried: JoinSet<(Ended, u64, Guard)>,
    }

    fn case(after_end: Option<Duration>) -> Case {
        let (caller, ours) = duplex(64);
        let (backend, down) = mpsc::channel(4);
        let (sender, up) = up::channel();
        let mut carried = JoinSet::new();
        carried.spawn(async move {
            let metrics = EdgeMetrics::new(&mut Registry::default());
            let recorder = Recorder::new(metrics, mpsc::channel(1).0);
            let mut guard = recorder.begin(Record::default());
            let count = guard.bytes_in();
            let ended = carry(ours, (Down(down), sender), &mut guard, &count, after_end).await;
            (ended, count.load(Ordering::Relaxed), guard)
        });
        Case {
            caller,
            backend,
            up,
            carried,
        }
    }

    async fn ended(carried: &mut JoinSet<(Ended, u64, Guard)>) -> (Ended, u64, Guard) {
        carried.join_next().await.unwrap().unwrap()
    }

    async fn next(up: &mut up::UpStream) -> Option<Bytes> {
        let frame = up.frame().await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    async fn read(caller: &mut DuplexStream) -> Vec<u8> {
        let mut out = Vec::new();
        caller.read_to_end(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_are_counted() {
        let mut case = case(None);
        case.caller.write_all(b"up").await.unwrap();
        assert_eq!(next(&mut case.up).await.unwrap(), "up");
        case.backend
            .send(Ok(Bytes::from_static(b"down")))
            .await
            .unwrap();
        drop(case.backend);
        assert_eq!(read(&mut case.caller).await, b"down");
        let (ended, bytes_in, mut guard) = ended(&mut case.carried).await;
        assert_eq!((ended, bytes_in), (Ended::Whole, 2));
        assert_eq!(guard.fields().bytes_out, 4);
    }

    #[tokio::test]
    async fn the_callers_end_goes_up_and_the_backend_may_go_on() {
        let mut case = case(None);
        case.caller.shutdown().await.unwrap();
        assert_eq!(next(&mut case.up).await, None);
        case.backend
            .send(Ok(Bytes::from_static(b"late")))
            .await
            .unwrap();
        drop(case.backend);
        assert_eq!(read(&mut case.caller).await, b"late");
        assert_eq!(ended(&mut case.carried).await.0, Ended::Whole);
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_has_no_half() {
        let mut case = case(Some(AFTER_END));
        case.caller.shutdown().await.unwrap();
        assert_eq!(next(&mut case.up).await, None);
        let began = tokio::time::Instant::now();
        assert_eq!(ended(&mut case.carried).await.0, Ended::CallerGone);
        assert_eq!(began.elapsed(), AFTER_END);
        assert!(case.backend.is_closed(), "the call is cancelled");
    }

    #[tokio::test]
    async fn a_cut_is_no_end() {
        let mut case = case(None);
        let cut = Cut::Told(Problem::new(CallerCode::AnswerCut, "x."));
        case.backend.send(Err(cut)).await.unwrap();
        let (ended, ..) = ended(&mut case.carried).await;
        assert!(matches!(ended, Ended::Cut(_)), "{ended:?}");
        assert!(case.up.frame().await.unwrap().is_err(), "neither upwards");
        assert_eq!(read(&mut case.caller).await, b"");
    }

    #[tokio::test]
    async fn a_caller_that_is_gone_cancels() {
        let mut case = case(None);
        drop(case.caller);
        // Its end is seen first: the duplex has no resets.
        assert_eq!(next(&mut case.up).await, None);
        case.backend
            .send(Ok(Bytes::from_static(b"x")))
            .await
            .unwrap();
        assert_eq!(ended(&mut case.carried).await.0, Ended::CallerGone);
        assert!(case.backend.is_closed());
    }
}
