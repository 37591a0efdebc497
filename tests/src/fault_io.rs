//! A TCP stream whose writing half a handler can break: garbage instead of HTTP, or a reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const GARBAGE: &[u8] = b"\x00\xff 200 maybe\r\nthis is not HTTP\r\n\r\n";

/// How the connection underneath a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The next write sends bytes that are no HTTP, and the connection closes.
    Garbage,
    /// The connection closes with a TCP reset.
    Reset,
}

/// Shared by a connection and the handlers of its requests.
#[derive(Clone, Debug, Default)]
pub struct FaultSwitch(Arc<AtomicU8>);

impl FaultSwitch {
    /// Breaks the connection at its next write, or at its end.
    pub fn set(&self, how: Break) {
        let value = match how {
            Break::Garbage => 1,
            Break::Reset => 2,
        };
        self.0.store(value, Ordering::Release);
    }

    fn get(&self) -> Option<Break> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(Break::Garbage),
            2 => Some(Break::Reset),
            _ => None,
        }
    }
}

/// The stream of one connection of a fixture.
#[derive(Debug)]
pub struct FaultIo {
    stream: TcpStream,
    switch: FaultSwitch,
    garbage_sent: bool,
}

impl FaultIo {
    /// Wraps `stream`; `switch` stays with the handlers.
    pub fn new(stream: TcpStream, switch: FaultSwitch) -> Self {
        Self {
            stream,
            switch,
            garbage_sent: false,
        }
    }
}

impl AsyncRead for FaultIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.switch.get() != Some(Break::Garbage) {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        if self.garbage_sent {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(Pin::new(&mut self.stream).poll_write(cx, GARBAGE))?;
        self.garbage_sent = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.switch.get() == Some(Break::Reset) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for FaultIo {
    fn drop(&mut self) {
        if self.switch.get() == Some(Break::Reset) {
            // A stream that the peer has closed already cannot be reset; nothing is lost then.
            drop(self.stream.set_zero_linger());
        }
    }
}
