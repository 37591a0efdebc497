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
            from.connections.retain(ConnectionWatch::stands);
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

    pub(crate) fn send_errors(&self) -> SendErrors {
        let errors = self
            .open
            .iter()
            .map(|open| open.endpoint.path.send_errors());
        errors.fold(SendErrors::default(), SendErrors::sum)
    }

    /// Lets go of endpoints without connections, and where that is not enough, of the oldest on
    /// which none stands. Says whether there is room for another.
    fn make_room(&mut self) -> bool {
        self.open
            .retain(|open| open.endpoint.endpoint.open_connections() > 0);
        while self.open.len() >= ENDPOINTS_PER_FAMILY {
            let idle = |open: &Carrying| !open.connections.iter().any(ConnectionWatch::stands);
            let Some(oldest) = self.open.iter().position(idle) else {
                return false;
            };
            if let Some(oldest) = self.open.remove(oldest) {
                let endpoint = oldest.endpoint.endpoint;
                endpoint.close(error_code(Code::AgentGone), b"path died");
            }
        }
        true
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
}
