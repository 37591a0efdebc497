//! The UDP socket under every QUIC link.
//!
//! quinn's own socket hides what the kernel says when it refuses a datagram. This one counts it,
//! sends a batch again segment by segment where segmentation offload fails (quinn would lose the
//! whole first flight), checks that the buffers are as large as asked for, and lets a test stand
//! between a link and the wire.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::limits::UDP_BUFFER;
use crate::send_errors::{SendErrorCounters, SendErrors};

/// How a socket is made.
#[derive(Clone, Default)]
pub struct UdpOptions {
    /// An IPv6 socket that takes IPv4 too, for a listener on `[::]`.
    pub dual_stack: bool,
    /// Kernel buffer asked for in each direction, bytes; [`UDP_BUFFER`] if none.
    pub buffer: Option<usize>,
    /// Judges every datagram before it is sent; for tests.
    pub tap: Option<Tap>,
}

/// Judges what is about to be sent: where a test puts loss, or a kernel's refusal.
pub type Tap = Arc<dyn Fn(&Outgoing<'_>) -> Verdict + Send + Sync>;

/// What a [`Tap`] sees.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub destination: SocketAddr,
    /// One datagram, or several of one size behind each other.
    pub contents: &'a [u8],
    /// How many datagrams `contents` is.
    pub datagrams: usize,
}

/// What a [`Tap`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Pass,
    /// It is lost on the way.
    Drop,
    /// The datagrams of a batch are judged and sent one by one.
    Split,
    /// The kernel refuses it with this error number.
    Refuse(i32),
}

/// One UDP socket, shared by all links of its endpoint.
pub struct UdpPath {
    io: UdpSocket,
    state: UdpSocketState,
    errors: SendErrorCounters,
    /// Black holes that connections found which have ended.
    black_holes: AtomicU64,
    buffers: Buffers,
    /// Set where the kernel's buffer was full: only then do writers wait for it.
    full: AtomicBool,
    tap: Option<Tap>,
}

impl UdpPath {
    /// Binds a socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says; an address in use, most often.
    pub fn bind(address: SocketAddr, options: UdpOptions) -> io::Result<Arc<Self>> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(!options.dual_stack)?;
        }
        let buffers = Buffers::grow(&socket, options.buffer.unwrap_or(UDP_BUFFER));
        socket.bind(&address.into())?;
        // Sets the socket non-blocking, which tokio asks for.
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Arc::new(Self {
            io: UdpSocket::from_std(socket.into())?,
            state,
            errors: SendErrorCounters::default(),
            black_holes: AtomicU64::new(0),
            buffers,
            full: AtomicBool::new(false),
            tap: options.tap,
        }))
    }

    /// What the kernel refused to send so far.
    pub fn send_errors(&self) -> SendErrors {
        self.errors.snapshot()
    }

    /// A connection over this socket is no more, and had found so many black holes.
    pub(crate) fn ended(&self, black_holes: u64) {
        self.black_holes.fetch_add(black_holes, Ordering::Relaxed);
    }

    /// Black holes that connections found which have ended.
    pub(crate) fn past_black_holes(&self) -> u64 {
        self.black_holes.load(Ordering::Relaxed)
    }

    /// The kernel buffers as they are.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// Sends a transmit; a batch that fails as one is sent segment by segment.
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.send_once(transmit) {
            Err(e) if is_batch(transmit) && !is_full(&e) && !is_forbidden(&e) => {
                self.errors.count(&e);
                self.errors.count_resent();
                self.send_each(transmit)
            }
            sent => sent,
        }
    }

    /// Sends the segments of a batch as datagrams of their own. Where the kernel's buffer fills
    /// up in the middle, the rest is lost: asking quinn to send again would double the start.
    fn send_each(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for (place, segment) in segments(transmit).enumerate() {
            match self.send_once(&segment) {
                Err(e) if is_full(&e) && place == 0 => return Err(e),
                Err(e) if is_full(&e) => return Ok(()),
                Err(e) => self.errors.count(&e),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn send_once(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(tap) = &self.tap {
            match tap(&Outgoing::new(transmit)) {
                Verdict::Pass => {}
                Verdict::Drop => return Ok(()),
                Verdict::Refuse(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Verdict::Split if is_batch(transmit) => return self.send_each(transmit),
                Verdict::Split => {}
            }
        }
        self.io.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.io).into(), transmit)
        })
    }
}

impl AsyncUdpSocket for UdpPath {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller {
            path: self,
            waiting: None,
        })
    }

    /// Fails only where the kernel's buffer is full: quinn takes any other error for the end of
    /// the connection, while a datagram that is not sent is nothing but loss.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.send(transmit) {
            Err(e) if is_full(&e) => {
                self.full.store(true, Ordering::Release);
                Err(e)
            }
            Err(e) => {
                self.errors.count(&e);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), bufs, meta)
            });
            match received {
                Err(e) if is_full(&e) => {}
                // An ICMP message about an earlier datagram: anybody can send one.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

impl fmt::Debug for UdpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPath")
            .field("local", &self.io.local_addr().ok())
            .field("buffers", &self.buffers)
            .field("errors", &self.errors.snapshot())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for UdpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpOptions")
            .field("dual_stack", &self.dual_stack)
            .field("buffer", &self.buffer)
            .field("tapped", &self.tap.is_some())
            .finish()
    }
}

impl<'a> Outgoing<'a> {
    fn new(transmit: &Transmit<'a>) -> Self {
        Self {
            destination: transmit.destination,
            contents: transmit.contents,
            datagrams: match transmit.segment_size {
                Some(size) => transmit.contents.len().div_ceil(size),
                None => 1,
            },
        }
    }
}

/// One connection's wait for room in the kernel's buffer. While there is room it costs one load:
/// asking tokio for readiness before each of several thousand datagrams would not.
struct WritePoller {
    path: Arc<UdpPath>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() && !self.path.full.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let path = self.path.clone();
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { path.io.writable().await }));
        let writable = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        self.path.full.store(false, Ordering::Release);
        Poll::Ready(writable)
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller")
            .field("waiting", &self.waiting.is_some())
            .finish_non_exhaustive()
    }
}

/// Kernel buffers of a socket, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// What was asked for in each direction.
    pub asked: usize,
    /// What received datagrams may wait in.
    pub receive: usize,
    /// What datagrams to be sent may wait in.
    pub send: usize,
}

impl Buffers {
    /// Whether the kernel gave what was asked for.
    pub fn suffice(&self) -> bool {
        self.receive >= self.asked && self.send >= self.asked
    }

    fn grow(socket: &Socket, asked: usize) -> Self {
        let socket = SockRef::from(socket);
        // What counts is what the kernel answers afterwards, not whether it said yes.
        let granted = (
            socket
                .set_recv_buffer_size(asked)
                .and_then(|()| socket.recv_buffer_size()),
            socket
                .set_send_buffer_size(asked)
                .and_then(|()| socket.send_buffer_size()),
        );
        let buffers = Self {
            asked,
            receive: usable(granted.0.unwrap_or_default()),
            send: usable(granted.1.unwrap_or_default()),
        };
        if !buffers.suffice() {
            tracing::warn!(
                asked,
                receive = buffers.receive,
                send = buffers.send,
                "the kernel limits the UDP buffers, links will be slow under load: \
                 sysctl -w net.core.rmem_max={asked} net.core.wmem_max={asked}"
            );
        }
        buffers
    }
}

/// Linux doubles what it is asked for, for its own bookkeeping, and answers with the double.
fn usable(answered: usize) -> usize {
    if cfg!(target_os = "linux") {
        answered / 2
    } else {
        answered
    }
}

fn segments<'a>(transmit: &Transmit<'a>) -> impl Iterator<Item = Transmit<'a>> {
    let size = transmit
        .segment_size
        .unwrap_or(transmit.contents.len())
        .max(1);
    let (destination, ecn, src_ip) = (transmit.destination, transmit.ecn, transmit.src_ip);
    transmit
        .contents
        .chunks(size)
        .map(move |contents| Transmit {
            destination,
            ecn,
            contents,
            segment_size: None,
            src_ip,
        })
}

fn is_batch(transmit: &Transmit<'_>) -> bool {
    transmit
        .segment_size
        .is_some_and(|size| size < transmit.contents.len())
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn is_forbidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustix::io::Errno;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:0";

    async fn bind(options: UdpOptions) -> Arc<UdpPath> {
        let path = UdpPath::bind(LOOPBACK.parse().unwrap(), options).unwrap();
        // tokio has to learn first that the socket takes anything.
        path.io.writable().await.unwrap();
        path
    }

    fn batch<'a>(to: &UdpPath, contents: &'a [u8], segment_size: usize) -> Transmit<'a> {
        Transmit {
            destination: to.local_addr().unwrap(),
            ecn: None,
            contents,
            segment_size: Some(segment_size),
            src_ip: None,
        }
    }

    async fn receive(path: &UdpPath, datagrams: usize) -> Vec<Vec<u8>> {
        let mut received = Vec::new();
        let mut buffer = vec![0; 65_536];
        while received.len() < datagrams {
            let mut meta = [RecvMeta::default()];
            let count = std::future::poll_fn(|cx| {
                path.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta)
            })
            .await
            .unwrap();
            assert_eq!(count, 1);
            received.extend(
                buffer[..meta[0].len]
                    .chunks(meta[0].stride)
                    .map(<[u8]>::to_vec),
            );
        }
        received
    }

    #[tokio::test]
    async fn a_failed_batch_is_sent_segment_by_segment() {
        let refuse_batches: Tap = Arc::new(|out| match out.datagrams {
            1 => Verdict::Pass,
            _ => Verdict::Refuse(Errno::IO.raw_os_error()),
        });
        let (from, to) = (
            bind(UdpOptions {
                tap: Some(refuse_batches),
                ..UdpOptions::default()
            })
            .await,
            bind(UdpOptions::default()).await,
        );
        from.try_send(&batch(&to, b"aaaabbbbcc", 4)).unwrap();
        assert_eq!(receive(&to, 3).await, [&b"aaaa"[..], b"bbbb", b"cc"]);
        let errors = from.send_errors();
        assert_eq!((errors.other, errors.resent_batches), (1, 1));
        assert_eq!(errors.last, Some(Errno::IO.raw_os_error()));
    }

    #[tokio::test]
    async fn a_refusal_of_the_firewall_is_counted_and_is_no_error() {
        let deny: Tap = Arc::new(|_| Verdict::Refuse(Errno::PERM.raw_os_error()));
        let (from, to) = (
            bind(UdpOptions {
                tap: Some(deny),
                ..UdpOptions::default()
            })
            .await,
            bind(UdpOptions::default()).await,
        );
        from.try_send(&batch(&to, b"aaaabbbb", 4)).unwrap();
        from.try_send(&batch(&to, b"aaaa", 4)).unwrap();
        let errors = from.send_errors();
        assert_eq!(
            (errors.not_permitted, errors.resent_batches, errors.total()),
            (2, 0, 2)
        );
    }

    #[tokio::test]
    async fn a_tap_judges_each_datagram_of_a_split_batch() {
        let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
        let log = seen.clone();
        let drop_b: Tap = Arc::new(move |out| {
            log.lock().unwrap().push(out.datagrams);
            match (out.datagrams, out.contents.first()) {
                (1, Some(b'b')) => Verdict::Drop,
                (1, _) => Verdict::Pass,
                _ => Verdict::Split,
            }
        });
        let (from, to) = (
            bind(UdpOptions {
                tap: Some(drop_b),
                ..UdpOptions::default()
            })
            .await,
            bind(UdpOptions::default()).await,
        );
        from.try_send(&batch(&to, b"aaaabbbbcc", 4)).unwrap();
        assert_eq!(receive(&to, 2).await, [&b"aaaa"[..], b"cc"]);
        assert_eq!(*seen.lock().unwrap(), [3, 1, 1, 1]);
        assert_eq!(from.send_errors(), SendErrors::default());
    }

    #[tokio::test]
    async fn buffers_are_checked_against_what_was_asked_for() {
        let modest = bind(UdpOptions {
            buffer: Some(16 << 10),
            ..UdpOptions::default()
        })
        .await;
        assert!(modest.buffers().suffice(), "{:?}", modest.buffers());
        let absurd = bind(UdpOptions {
            buffer: Some(1 << 30),
            ..UdpOptions::default()
        })
        .await;
        assert!(!absurd.buffers().suffice(), "{:?}", absurd.buffers());
    }
}
