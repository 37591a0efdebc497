//! One authenticated connection, whatever carries it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use culvert_certs::verifier::PeerLeaf;
use culvert_wire::{Code, Observation};
use quinn::{AsyncUdpSocket, VarInt};
use tokio::time::timeout;

use crate::calls::Calls;
use crate::control::ControlStream;
use crate::error::{ConnectionEnd, OpenError};
use crate::limits::CONTROL_OPEN_TIMEOUT;
use crate::quic::negotiated_group;
use crate::send_errors::SendErrors;
use crate::stream::{RecvHalf, SendHalf, error_code};
use crate::udp_path::UdpPath;

/// One connection to a peer whose identity is proven. Clones are handles of the same connection;
/// it closes when it is told to, or when the last handle and the last stream are gone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    carrier: Carrier,
    peer: PeerLeaf,
    group: &'static str,
    calls: Calls,
}

enum Carrier {
    Quic {
        connection: quinn::Connection,
        path: Arc<UdpPath>,
    },
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
}

/// How the path is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// Estimated round trip.
    pub rtt: Duration,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets lost.
    pub lost_packets: u64,
    /// Datagrams received: grows whenever the peer is heard.
    pub received_datagrams: u64,
    /// The largest packet that the path takes, bytes.
    pub mtu: u16,
    /// How often large packets stopped to arrive.
    pub black_holes: u64,
    /// What the kernel refused to send, of all connections on the same socket.
    pub send_errors: SendErrors,
}

/// Whether a connection still stands.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionWatch(Weak<Inner>);

impl ConnectionWatch {
    pub(crate) fn stands(&self) -> bool {
        self.connection()
            .is_some_and(|connection| connection.end().is_none())
    }

    /// The connection, as long as somebody holds it.
    pub(crate) fn connection(&self) -> Option<Connection> {
        let inner = self.0.upgrade()?;
        Some(Connection { inner })
    }
}

impl Drop for Inner {
    /// What the path has seen outlives the connection: a total never falls.
    fn drop(&mut self) {
        let Carrier::Quic { connection, path } = &self.carrier;
        path.ended(connection.stats().path.black_holes_detected);
    }
}

impl Connection {
    pub(crate) fn quic(connection: quinn::Connection, path: Arc<UdpPath>, peer: PeerLeaf) -> Self {
        let group = negotiated_group(&connection);
        let carrier = Carrier::Quic { connection, path };
        Self {
            inner: Arc::new(Inner {
                carrier,
                peer,
                group,
                calls: Calls::new(),
            }),
        }
    }

    /// Tells later whether the connection still stands, and does not keep it.
    pub(crate) fn watch(&self) -> ConnectionWatch {
        ConnectionWatch(Arc::downgrade(&self.inner))
    }

    /// The peer's proven leaf.
    pub fn peer(&self) -> &PeerLeaf {
        &self.inner.peer
    }

    /// The peer's address as it is now; to be shown, not to be trusted.
    pub fn remote(&self) -> SocketAddr {
        self.quinn().remote_address()
    }

    /// The port that this side sends from.
    pub(crate) fn local_port(&self) -> u16 {
        let Carrier::Quic { path, .. } = &self.inner.carrier;
        path.local_addr().map_or(0, |address| address.port())
    }

    /// What carries the connection.
    pub fn transport(&self) -> Transport {
        match self.inner.carrier {
            Carrier::Quic { .. } => Transport::Quic,
        }
    }

    /// The key-exchange group of the handshake, by its name in TLS; `unknown` where the transport
    /// does not tell.
    pub fn group(&self) -> &'static str {
        self.inner.group
    }

    /// How the path is doing.
    pub fn stats(&self) -> PathStats {
        let Carrier::Quic { connection, path } = &self.inner.carrier;
        let stats = connection.stats();
        PathStats {
            rtt: stats.path.rtt,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            received_datagrams: stats.udp_rx.datagrams,
            mtu: stats.path.current_mtu,
            black_holes: stats.path.black_holes_detected,
            send_errors: path.send_errors(),
        }
    }

    /// Estimated round trip.
    pub fn rtt(&self) -> Duration {
        self.quinn().rtt()
    }

    /// Calls in flight.
    pub fn calls(&self) -> usize {
        self.inner.calls.active()
    }

    /// Resolves once no call is in flight: a drain may end early.
    pub async fn idle(&self) {
        self.inner.calls.idle().await;
    }

    /// Opens no call from now on.
    pub fn end_calls(&self) {
        self.inner.calls.end();
    }

    /// Waits for the first call of an idle connection: resolves with the number of such rises once
    /// it is another than `seen`.
    pub(crate) async fn rise_of_calls(&self, seen: u64) -> u64 {
        self.inner.calls.rise(seen).await
    }

    /// What a control machine wants to know.
    pub(crate) fn observation(&self) -> Observation {
        let stats = self.stats();
        Observation {
            received_bytes: stats.received_datagrams,
            round_trip: stats.rtt,
            calls_in_flight: u32::try_from(self.calls()).unwrap_or(u32::MAX),
            calls_begun: self.inner.calls.begun(),
        }
    }

    /// Closes the connection at once; streams that have not ended are cut.
    pub fn close(&self, code: Code, reason: &str) {
        self.quinn().close(error_code(code), reason.as_bytes());
    }

    /// Waits for the end.
    pub async fn closed(&self) -> ConnectionEnd {
        self.quinn().closed().await.into()
    }

    /// The end, if it has come.
    pub fn end(&self) -> Option<ConnectionEnd> {
        self.quinn().close_reason().map(ConnectionEnd::from)
    }

    /// Opens the control stream: the first thing that the side does which dialled.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn open_control(&self) -> Result<ControlStream, ConnectionEnd> {
        let (send, recv) = self.quinn().open_bi().await?;
        Ok(ControlStream::new(
            self.clone(),
            halves(send, recv, Code::Protocol),
        ))
    }

    /// Waits for the control stream, the first that the peer opens.
    ///
    /// # Errors
    /// The connection is gone, or the peer kept silent for [`CONTROL_OPEN_TIMEOUT`]; it is closed
    /// then.
    pub async fn accept_control(&self) -> Result<ControlStream, ConnectionEnd> {
        match timeout(CONTROL_OPEN_TIMEOUT, self.quinn().accept_bi()).await {
            Ok(accepted) => {
                let (send, recv) = accepted?;
                Ok(ControlStream::new(
                    self.clone(),
                    halves(send, recv, Code::Protocol),
                ))
            }
            Err(_elapsed) => {
                self.close(Code::Protocol, "no control stream");
                Err(ConnectionEnd::TimedOut)
            }
        }
    }

    /// Opens a stream. Waits only where the peer's permits have yet to follow a burst.
    pub(crate) async fn open_stream(
        &self,
        on_drop: Code,
    ) -> Result<(SendHalf, RecvHalf), ConnectionEnd> {
        let (send, recv) = self.quinn().open_bi().await?;
        Ok(halves(send, recv, on_drop))
    }

    /// Takes the next stream that the peer opens.
    pub(crate) async fn accept_stream(
        &self,
        on_drop: Code,
    ) -> Result<(SendHalf, RecvHalf), ConnectionEnd> {
        let (send, recv) = self.quinn().accept_bi().await?;
        Ok(halves(send, recv, on_drop))
    }

    fn quinn(&self) -> &quinn::Connection {
        let Carrier::Quic { connection, .. } = &self.inner.carrier;
        connection
    }

    /// Lets the peer have so many streams open.
    fn permit(&self, streams: usize) {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        self.quinn()
            .set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("transport", &self.transport())
            .field("peer", &self.inner.peer.identity)
            .field("remote", &self.remote())
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
        })
    }
}

/// One call counted against its connection, until dropped.
#[derive(Debug)]
pub(crate) struct CallSlot {
    connection: Connection,
    opened_by: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Us,
    Peer,
}

impl CallSlot {
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Counts a call that this side opens.
    pub(crate) fn open(connection: &Connection) -> Result<Self, OpenError> {
        connection.inner.calls.open()?;
        Ok(Self {
            connection: connection.clone(),
            opened_by: Side::Us,
        })
    }

    /// Counts a call that the peer opened.
    pub(crate) fn accept(connection: &Connection) -> Self {
        connection
            .inner
            .calls
            .accept(|permits| connection.permit(permits));
        Self {
            connection: connection.clone(),
            opened_by: Side::Peer,
        }
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let calls = &self.connection.inner.calls;
        match self.opened_by {
            Side::Us => calls.close(),
            Side::Peer => calls.close_accepted(|permits| self.connection.permit(permits)),
        }
    }
}

fn halves(send: quinn::SendStream, recv: quinn::RecvStream, on_drop: Code) -> (SendHalf, RecvHalf) {
    (SendHalf::quic(send, on_drop), RecvHalf::quic(recv, on_drop))
}
