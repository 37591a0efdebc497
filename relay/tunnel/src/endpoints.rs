//! The endpoints of one address family that a dialler leaves from.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_wire::Code;
use quinn::Endpoint;

use crate::connection::{Connection, ConnectionWatch};
use crate::limits::ENDPOINTS_PER_FAMILY;
use crate::quic::{EndpointError, dialling_endpoint};
use crate::send_errors::SendErrors;
use crate::stream::error_code;
use crate::udp_path::{UdpOptions, UdpPath};

/// One socket with its QUIC endpoint.
#[derive(Clone, Debug)]
pub(crate) struct DialEndpoint {
    pub(crate) endpoint: Endpoint,
    pub(crate) path: Arc<UdpPath>,
    pub(crate) port: u16,
}

/// At most [`ENDPOINTS_PER_FAMILY`], the newest in use. Older ones stay while connections are on
/// them.
#[derive(Debug)]
pub(crate) struct Endpoints {
    bind_to: IpAddr,
    open: VecDeque<Carrying>,
    /// Whether the newest may serve another dial.
    usable: bool,
    /// What endpoints had counted that are no more.
    past: PathTotals,
}

/// An endpoint, and the connections that were made from it: quinn counts dials that failed too.
#[derive(Debug)]
struct Carrying {
    endpoint: DialEndpoint,
    connections: Vec<ConnectionWatch>,
}

impl Endpoints {
    pub(crate) fn new(bind_to: IpAddr) -> Self {
        Self {
            bind_to,
            open: VecDeque::new(),
            usable: false,
            past: PathTotals::default(),
        }
    }

    /// The endpoint that the next dial leaves from.
    pub(crate) fn current(&mut self, options: &UdpOptions) -> Result<DialEndpoint, EndpointError> {
        let has_room = self.usable || self.make_room();
        if let (true, Some(newest)) = (self.usable || !has_room, self.open.back()) {
            return Ok(newest.endpoint.clone());
        }
        let path = UdpPath::bind(SocketAddr::new(self.bind_to, 0), options.clone())?;
        let endpoint = dialling_endpoint(path.clone())?;
        let port = endpoint.local_addr()?.port();
        let made = DialEndpoint {
            endpoint,
            path,
            port,
        };
        self.open.push_back(Carrying {
            endpoint: made.clone(),
            connections: Vec::new(),
        });
        self.usable = true;
        Ok(made)
    }

    /// A connection was made from this port.
    pub(crate) fn carries(&mut self, port: u16, connection: &Connection) {
        let from = self.open.iter_mut().find(|open| open.endpoint.port == port);
        if let Some(from) = from {
            // One that has ended is counted by its socket once nobody holds it.
            let held = |watch: &ConnectionWatch| watch.connection().is_some();
            from.connections.retain(held);
            from.connections.push(connection.watch());
        }
    }

    /// No more dials from this port, if it is the one in use.
    pub(crate) fn retire(&mut self, port: u16) {
        if self
            .open
            .back()
            .is_some_and(|newest| newest.endpoint.port == port)
        {
            self.usable = false;
        }
    }

    /// What all sockets and paths have counted so far, those that are gone included.
    pub(crate) fn totals(&self) -> PathTotals {
        let open = self.open.iter().map(Carrying::totals);
        open.fold(self.past, PathTotals::sum)
    }

    /// The endpoints that are open.
    pub(crate) fn all(&self) -> Vec<Endpoint> {
        let open = self.open.iter();
        open.map(|open| open.endpoint.endpoint.clone()).collect()
    }

    /// Lets go of endpoints without connections, and where that is not enough, of the oldest on
    /// which none stands. Says whether there is room for another.
    fn make_room(&mut self) -> bool {
        let past = &mut self.past;
        self.open.retain(|open| {
            let carries = open.endpoint.endpoint.open_connections() > 0;
            if !carries {
                *past = past.sum(open.totals()).of_the_past();
            }
            carries
        });
        while self.open.len() >= ENDPOINTS_PER_FAMILY {
            let idle = |open: &Carrying| !open.connections.iter().any(ConnectionWatch::stands);
            let Some(oldest) = self.open.iter().position(idle) else {
                return false;
            };
            if let Some(oldest) = self.open.remove(oldest) {
                self.past = self.past.sum(oldest.totals()).of_the_past();
                let endpoint = oldest.endpoint.endpoint;
                endpoint.close(error_code(Code::AgentGone), b"path died");
            }
        }
        true
    }
}

impl Carrying {
    fn totals(&self) -> PathTotals {
        let past = PathTotals {
            send_errors: self.endpoint.path.send_errors(),
            black_holes: self.endpoint.path.past_black_holes(),
            least_mtu: None,
        };
        let held = self
            .connections
            .iter()
            .filter_map(ConnectionWatch::connection);
        held.fold(past, |sum, connection| {
            let stats = connection.stats();
            sum.sum(PathTotals {
                send_errors: SendErrors::default(),
                black_holes: stats.black_holes,
                least_mtu: connection.end().is_none().then_some(stats.mtu),
            })
        })
    }
}

/// What the sockets and paths of a dialler have seen, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathTotals {
    /// What the kernel refused to send since the dialler was made.
    pub send_errors: SendErrors,
    /// How often large packets stopped to arrive since the dialler was made.
    pub black_holes: u64,
    /// The smallest path MTU of the connections that stand, bytes; none where none stands.
    pub least_mtu: Option<u16>,
}

impl PathTotals {
    /// Of two groups of paths together.
    #[must_use]
    pub(crate) fn sum(self, other: Self) -> Self {
        Self {
            send_errors: self.send_errors.sum(other.send_errors),
            black_holes: self.black_holes + other.black_holes,
            least_mtu: match (self.least_mtu, other.least_mtu) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }

    /// What was counted stays; what was a path's present state does not.
    fn of_the_past(self) -> Self {
        Self {
            least_mtu: None,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn a_dead_path_is_left_for_a_new_port() {
        let mut endpoints = Endpoints::new(IpAddr::from([127, 0, 0, 1]));
        let options = UdpOptions::default();
        let first = endpoints.current(&options).unwrap();
        assert_eq!(endpoints.current(&options).unwrap().port, first.port);
        endpoints.retire(first.port);
        let second = endpoints.current(&options).unwrap();
        assert_ne!(second.port, first.port);
        endpoints.retire(first.port);
        assert_eq!(
            endpoints.current(&options).unwrap().port,
            second.port,
            "a late word"
        );
    }

    #[tokio::test]
    async fn endpoints_are_bounded() {
        let mut endpoints = Endpoints::new(IpAddr::from([127, 0, 0, 1]));
        let options = UdpOptions::default();
        let mut ports = HashSet::new();
        for _ in 0..3 * ENDPOINTS_PER_FAMILY {
            let current = endpoints.current(&options).unwrap();
            endpoints.retire(current.port);
            ports.insert(current.port);
            assert!(endpoints.open.len() <= ENDPOINTS_PER_FAMILY);
        }
        assert!(ports.len() > 1);
    }

    #[tokio::test]
    async fn what_was_counted_outlives_the_endpoint_that_counted_it() {
        let mut endpoints = Endpoints::new(IpAddr::from([127, 0, 0, 1]));
        let options = UdpOptions::default();
        let first = endpoints.current(&options).unwrap();
        first.path.ended(3);
        for _ in 0..=ENDPOINTS_PER_FAMILY {
            let current = endpoints.current(&options).unwrap();
            endpoints.retire(current.port);
        }
        let ports: Vec<u16> = endpoints
            .open
            .iter()
            .map(|open| open.endpoint.port)
            .collect();
        assert!(!ports.contains(&first.port), "it is still open");
        assert_eq!(endpoints.totals().black_holes, 3);
    }
}
