//! `serve`: the roles of a gateway file.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use culvert_control::ControlConfig;

use crate::{
    config::{ControlFile, EdgeFile, GatewayFile, PlaneFile},
    edge_tls,
    exchange::Place,
    exit::Failure,
    logs::Level,
    node::{Node, NodeSpec},
    plane::{Advertise, PlaneSpec},
    reload::{Files, Reload},
    signals::Signals,
};

/// Runs what the file at `path` says, until a signal.
///
/// # Errors
/// A key, a certificate, the store or a port cannot be used.
pub async fn run(
    path: PathBuf,
    file: GatewayFile,
    level: Level,
    signals: Signals,
) -> Result<(), Failure> {
    let files = Files::of(&path, &file);
    let control = file
        .control
        .as_ref()
        .ok_or_else(|| Failure::Usage("`control` is missing".into()))?;
    let plane = file.plane.as_ref();
    let plane = plane
        .map(|plane| plane_node(plane, &file.edge))
        .transpose()?;
    let node = Node::start(NodeSpec {
        admin_listen: control.admin_listen,
        admin_hosts: control.admin_hosts.clone(),
        control: open(&file.store.path, control).await?,
        plane,
    })
    .await?;
    if let Some(plane) = &node.plane {
        tracing::info!(links = %plane.links, callers = %plane.callers, advertised = %plane.advertised, plain = ?plane.plain, "the plane serves");
    }
    tracing::info!(admin = %node.admin, "control serves");
    let reload = Reload {
        path,
        started: file,
        live: node.live(),
        level,
        files,
    };
    node.run(reload.run(signals)).await
}

async fn open(store: &Path, control: &ControlFile) -> Result<ControlConfig, Failure> {
    // A new key for an old store could open nothing, and would only hide that the right one is gone.
    let first = !store.exists();
    let key = control.authority_key.authority(first);
    let key = key.map_err(|error| Failure::Usage(format!("control.authority_key: {error}")))?;
    let domain = control.trust_domain.clone();
    ControlConfig::embedded(store, key, domain)
        .await
        .map_err(|e| Failure::usage(&e))
}

fn plane_node(plane: &PlaneFile, file: &EdgeFile) -> Result<PlaneSpec, Failure> {
    let key = plane.plane_key.plane(true);
    let tls = plane.tls.as_ref().map(edge_tls::read).transpose();
    Ok(PlaneSpec {
        place: Place {
            region: plane.region.clone(),
            zone: plane.zone.clone(),
        },
        key: key.map_err(|error| Failure::Usage(format!("plane.plane_key: {error}")))?,
        link_listen: plane.links_listen.unwrap_or(plane.listen),
        callers_listen: plane.links_listen.map(|_| plane.listen),
        advertise: advertise(&plane.advertise),
        plain_listen: file.plain_listen,
        tls: tls.map_err(Failure::Usage)?,
        drain_timeout: plane.drain_timeout,
        leave_after: plane.leave_after,
        bounds: file.bounds(),
        records: file.records.clone(),
        edge: file.spec(),
    })
}

/// `host`, `host:port`, an address, or `[address]:port`.
fn advertise(text: &str) -> Advertise {
    if text.parse::<IpAddr>().is_ok() {
        return Advertise {
            host: text.to_owned(),
            port: None,
        };
    }
    let split = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.map_or((text, None), |(host, port)| (host, Some(port)));
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Advertise { host, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_names_and_ports() {
        for (text, host, port) in [
            ("orf.example", "orf.example", None),
            ("orf.example:8443", "orf.example", Some(8443)),
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:443", "192.0.2.1", Some(443)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", Some(443)),
        ] {
            assert_eq!(
                advertise(text),
                Advertise {
                    host: host.into(),
                    port
                },
                "{text}"
            );
        }
    }
}
