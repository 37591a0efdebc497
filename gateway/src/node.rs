//! One process: control and a plane, bound, wired, served and drained.
//!
//! ```text
//!  callers --> server --> handler --> relay --> agents
//!  operators -> admin --> control --snapshot--> handler, relay (admission)
//!                            ^------ joins, renewals ------- relay
//! ```

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use culvert_control::{
    Control, ControlConfig,
    admin::{self, AdminOptions},
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    exit::{Failure, chain},
    ops::{self, Readiness},
    plane::{self, Addresses, Plane, PlaneSpec},
    settings::Live,
};

/// How long the last tasks may take to end once they were told to.
const LAST: Duration = Duration::from_secs(5);

/// What a process is made of.
#[derive(Debug)]
pub struct NodeSpec {
    /// The store and what opens it.
    pub control: ControlConfig,
    /// Where the admin API, health and metrics are served.
    pub admin_listen: SocketAddr,
    /// Names of the admin API, beside loopback and the address itself.
    pub admin_hosts: Vec<String>,
    /// The plane, if this process runs one.
    pub plane: Option<PlaneSpec>,
}

/// A process that serves.
#[derive(Debug)]
pub struct Node {
    /// Control.
    pub control: Control,
    /// Where the admin API is.
    pub admin: SocketAddr,
    /// Where the plane is, if there is one.
    pub plane: Option<Addresses>,
    running: Running,
}

/// What has to be told, and waited for, at the end.
#[derive(Debug)]
struct Running {
    readiness: Readiness,
    plane: Option<Plane>,
    /// Tells all but the relay to end.
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Node {
    /// Opens the store, binds every port, and serves.
    ///
    /// # Errors
    /// A key, the store or a port cannot be used.
    pub async fn start(spec: NodeSpec) -> Result<Self, Failure> {
        let control = Control::open(spec.control)
            .await
            .map_err(|e| Failure::usage(&e))?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (watching, ending) = (control.clone(), stop.clone());
        tasks.spawn(async move { watching.run(ending).await });
        let mut registry = Registry::default();
        let readiness = Readiness::default();
        let (mut addresses, mut plane) = (None, None);
        if let Some(node) = spec.plane {
            let (bound, running) = plane::start(node, &control, &mut registry, &mut tasks).await?;
            (addresses, plane) = (Some(bound), Some(running));
        }
        let listener = bind(spec.admin_listen, "the admin API").await?;
        let admin = listener.local_addr().map_err(|e| Failure::internal(&e))?;
        let options = AdminOptions {
            hosts: spec.admin_hosts,
            links: plane
                .as_ref()
                .map(|plane| Arc::new(plane.links()) as admin::LinksHook),
            open: Some(ops::router(readiness.clone(), Arc::new(registry))),
        };
        let (serving, ending) = (control.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = admin::serve(listener, serving, options, ending).await {
                tracing::error!(%error, "the admin API cannot be served");
            }
        });
        readiness.set(true);
        let running = Running {
            readiness,
            plane,
            stop,
            tasks,
        };
        Ok(Self {
            control,
            admin,
            plane: addresses,
            running,
        })
    }

    /// What of the plane may change while it serves, if there is one.
    pub fn live(&self) -> Option<Live> {
        self.running
            .plane
            .as_ref()
            .map(|plane| plane.live().clone())
    }

    /// Serves until `shutdown`, then drains: no new callers, agents elsewhere, then the end.
    ///
    /// # Errors
    /// A part of the process ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self {
            control,
            mut running,
            ..
        } = self;
        drop(control);
        let ended = tokio::select! {
            biased;
            () = shutdown => Ok(()),
            Some(part) = running.tasks.join_next() => Err(Failure::Internal(match part {
                Ok(()) => "a part of the gateway ended".to_owned(),
                Err(error) => chain(&error),
            })),
        };
        running.end().await;
        ended
    }
}

impl Running {
    async fn end(mut self) {
        self.readiness.set(false);
        if let Some(plane) = self.plane.take() {
            plane.end().await;
        }
        self.stop.cancel();
        let last = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST, last).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

/// Binds a port.
pub(crate) async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::Unreachable(format!("cannot listen on {address} for {what}: {error}"))
    })
}
