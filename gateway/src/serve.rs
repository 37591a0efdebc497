//! `serve`: the roles of a gateway file.

use std::{net::IpAddr, path::Path, sync::Arc};

use culvert_control::ControlConfig;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    config::{ControlFile, EdgeFile, GatewayFile, PlaneFile, TlsFile},
    exchange::Place,
    exit::Failure,
    node::{Node, NodeSpec},
    plane::{Advertise, PlaneSpec},
    server::Bounds,
    signals::{Asked, Signals},
};

/// Runs until a signal.
///
/// # Errors
/// A key, a certificate, the store or a port cannot be used.
pub async fn run(file: GatewayFile, mut signals: Signals) -> Result<(), Failure> {
    let control = file
        .control
        .ok_or_else(|| Failure::Usage("`control` is missing".into()))?;
    let store = file.store.path;
    let plane = file
        .plane
        .map(|plane| plane_node(plane, file.edge))
        .transpose()?;
    let node = Node::start(NodeSpec {
        admin_listen: control.admin_listen,
        admin_hosts: control.admin_hosts.clone(),
        control: open(&store, &control).await?,
        plane,
    })
    .await?;
    if let Some(plane) = &node.plane {
        tracing::info!(links = %plane.links, advertised = %plane.advertised, plain = ?plane.plain, "the plane serves");
    }
    tracing::info!(admin = %node.admin, "control serves");
    let ended = async move {
        while signals.any().await == Asked::Reload {
            tracing::warn!("SIGHUP: nothing was read again, this version needs a restart for that");
        }
    };
    node.run(ended).await
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

fn plane_node(plane: PlaneFile, edge: EdgeFile) -> Result<PlaneSpec, Failure> {
    let key = plane.plane_key.plane(true);
    Ok(PlaneSpec {
        place: Place {
            region: plane.region,
            zone: plane.zone,
        },
        key: key.map_err(|error| Failure::Usage(format!("plane.plane_key: {error}")))?,
        link_listen: plane.listen,
        advertise: advertise(&plane.advertise),
        plain_listen: edge.plain_listen,
        tls: plane.tls.as_ref().map(tls).transpose()?,
        drain_timeout: plane.drain_timeout,
        leave_after: plane.leave_after,
        bounds: Bounds {
            connections: edge.max_connections,
            ..Bounds::default()
        },
        records: edge.records,
        origins: edge.cors.origins,
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

/// The certificate for callers; no client certificate is asked for.
fn tls(file: &TlsFile) -> Result<Arc<ServerConfig>, Failure> {
    let cannot = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::Usage(format!("plane.tls: {}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(&file.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| cannot(&file.cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(&file.key).map_err(|e| cannot(&file.key, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| Failure::internal(&e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| cannot(&file.cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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
