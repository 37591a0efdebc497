//! A backend: hyper on a port of its own, and a closure that answers.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Backend {
    pub(crate) async fn new<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                served.spawn(async move {
                    let io = TokioIo::new(stream);
                    let serving =
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                    serving.await.ok()
                });
            }
        });
        Self {
            addr,
            _tasks: tasks,
        }
    }
}

pub(crate) fn text(text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}

/// A body that the test writes while it is read.
pub(crate) fn stream() -> (mpsc::Sender<&'static str>, Response<Body>) {
    let (pieces, mut rest) = mpsc::channel(16);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| {
        rest.poll_recv(cx).map(|piece: Option<&'static str>| {
            piece.map(|p| Ok(http_body::Frame::data(Bytes::from_static(p.as_bytes()))))
        })
    }));
    (pieces, Response::new(body.boxed_unsync()))
}

/// Told when dropped: a handler that is dropped was aborted.
pub(crate) struct Dropped(pub(crate) mpsc::Sender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.try_send(()).ok();
    }
}
