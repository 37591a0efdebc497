//! `dev`: control, one plane and the edge in one process, ready for the first agent.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use culvert_control::{
    Actor, AuthorityKey, ControlConfig, DevFile, PlaneKey, tokens::TOKEN_LIFETIME,
};
use serde_json::json;

use crate::{
    cli::DevArgs,
    exchange::Place,
    exit::Failure,
    node::{Node, NodeSpec},
    out,
    plane::{Advertise, PlaneSpec, gateway_url},
    server::Bounds,
    settings::EdgeSpec,
    signals::Signals,
};

/// The plane of `dev`.
const REGION: &str = "LOCAL";
const ZONE: &str = "DEV";
/// The world of `dev`: no name that somebody could own.
const TRUST_DOMAIN: &str = "culvert.local";
const LISTEN_PORT: u16 = 8080;
const LINK_PORT: u16 = 8443;
/// A developer who stops it does not wait five minutes for a stream.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until a signal.
///
/// # Errors
/// A port, the data folder or standard output cannot be used.
pub async fn run(args: DevArgs, mut signals: Signals) -> Result<(), Failure> {
    let folder = data_dir(args.data_dir.as_deref())?;
    let node = Node::start(spec(&args, &folder).await?).await?;
    let ready = Ready::make(&node, &folder).await?;
    ready
        .print(args.print_json)
        .map_err(|e| Failure::internal(&e))?;
    node.run(async move { signals.next().await }).await
}

/// Where `dev` keeps everything; also where the operator's verbs look for its keys.
///
/// # Errors
/// Neither a flag nor the environment names a place.
pub fn place(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let none = || Failure::Usage("neither XDG_STATE_HOME nor HOME is set: use --data-dir".into());
    state
        .map(|state| state.join("culvert/gateway"))
        .ok_or_else(none)
}

/// Where `dev.json` is in a data folder.
pub fn dev_file(folder: &Path) -> PathBuf {
    folder.join("dev.json")
}

/// Makes the folder, for its owner only.
fn data_dir(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder = place(given)?;
    let failed =
        |error: io::Error| Failure::Usage(format!("data folder {}: {error}", folder.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(failed)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(folder)
}

async fn spec(args: &DevArgs, folder: &Path) -> Result<NodeSpec, Failure> {
    let usage = |what: &str, error: &dyn std::fmt::Display| {
        Failure::Usage(format!("{what} in {}: {error}", folder.display()))
    };
    let key = |name: &str| folder.join(name);
    let authority = AuthorityKey::from_file(&key("authority.key"), true)
        .map_err(|error| usage("authority.key", &error))?;
    let plane_key =
        PlaneKey::from_file(&key("plane.key"), true).map_err(|error| usage("plane.key", &error))?;
    let trust_domain = TRUST_DOMAIN.parse().map_err(|e| Failure::internal(&e))?;
    let control = ControlConfig::embedded(&key("culvert.redb"), authority, trust_domain)
        .await
        .map_err(|e| Failure::usage(&e))?;
    let listen = |given: Option<SocketAddr>, port| listen(given, port, args.advertise.is_some());
    let link_listen = listen(args.link_listen, LINK_PORT);
    let plain_listen = listen(args.listen, LISTEN_PORT);
    let host = args
        .advertise
        .clone()
        .unwrap_or_else(|| reachable(link_listen.ip()));
    let plane = PlaneSpec {
        place: Place {
            region: REGION.parse().map_err(|e| Failure::internal(&e))?,
            zone: ZONE.parse().map_err(|e| Failure::internal(&e))?,
        },
        key: plane_key,
        link_listen,
        callers_listen: None,
        advertise: Advertise { host, port: None },
        plain_listen: Some(plain_listen),
        tls: None,
        drain_timeout: DRAIN_TIMEOUT,
        leave_after: Duration::ZERO,
        bounds: Bounds::default(),
        records: None,
        edge: EdgeSpec::default(),
    };
    let admin_hosts = args.advertise.clone().into_iter().collect();
    Ok(NodeSpec {
        control,
        admin_listen: args.admin_listen,
        admin_hosts,
        plane: Some(plane),
    })
}

/// The address to bind: what was asked for, else loopback, or all where we advertise ourselves.
fn listen(given: Option<SocketAddr>, port: u16, advertised: bool) -> SocketAddr {
    let all = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let default = SocketAddr::new(if advertised { all } else { here }, port);
    match given {
        Some(given) if advertised && given.ip().is_loopback() => SocketAddr::new(all, given.port()),
        Some(given) => given,
        None => default,
    }
}

/// An address that this machine itself can dial.
fn reachable(bound: IpAddr) -> String {
    if bound.is_unspecified() {
        Ipv4Addr::LOCALHOST.to_string()
    } else {
        bound.to_string()
    }
}

/// What a person, or a program, needs to go on.
struct Ready {
    gateway: String,
    links: String,
    admin: String,
    folder: PathBuf,
    dev: DevFile,
    join_token: culvert_certs::SecretText,
}

impl Ready {
    /// Makes what is missing, and a fresh join token.
    async fn make(node: &Node, folder: &Path) -> Result<Self, Failure> {
        let path = dev_file(folder);
        let file = |error: io::Error| Failure::Usage(format!("{}: {error}", path.display()));
        let kept = DevFile::read(&path).map_err(file)?;
        let made = node.control.bootstrap_dev(kept).await;
        let mut dev = made.map_err(|e| Failure::internal(&e))?;
        let plane = node
            .plane
            .as_ref()
            .ok_or_else(|| Failure::Internal("no plane".into()))?;
        let gateway = gateway_url(&plane.advertised, plane.plain);
        let admin = format!("http://{}", dialable(node.admin));
        (dev.admin, dev.gateway) = (Some(admin.clone()), Some(gateway.clone()));
        dev.write(&path).map_err(file)?;
        let minted = node
            .control
            .mint_connector_token(
                &Actor::control(),
                &dev.tenant,
                &dev.connector,
                TOKEN_LIFETIME,
            )
            .await
            .map_err(|e| Failure::internal(&e))?;
        let links = plane.advertised.to_string();
        let folder = folder.to_owned();
        Ok(Self {
            gateway,
            links,
            admin,
            folder,
            dev,
            join_token: minted.text,
        })
    }

    fn print(&self, as_json: bool) -> io::Result<()> {
        out::print(&if as_json { self.json() } else { self.text() })
    }

    fn json(&self) -> String {
        json!({
            "gateway": self.gateway,
            "links": self.links,
            "admin": self.admin,
            "api_key": self.dev.api_key.expose(),
            "admin_key": self.dev.admin_key.expose(),
            "join_token": self.join_token.expose(),
            "data_dir": self.folder,
        })
        .to_string()
    }

    fn text(&self) -> String {
        let Self {
            gateway,
            links,
            admin,
            folder,
            ..
        } = self;
        let (tenant, connector) = (&self.dev.tenant, &self.dev.connector);
        let (key, token) = (self.dev.api_key.expose(), self.join_token.expose());
        let folder = folder.display();
        format!(
            "\
Culvert is serving tenant `{tenant}`, connector `{connector}`.

  callers   {gateway}   (and https://{links})
  agents    {links}   TCP and UDP
  admin     {admin}
  data      {folder}

1. Connect a private network. On a machine that reaches your model server (the token is good for
   one hour and one agent; any OpenAI-compatible URL will do):

   culvert-agent run --join {token} \\
     --model llama=http://127.0.0.1:11434/v1

2. See what it offers:

   curl {gateway}/v1/models -H 'authorization: Bearer {key}'

3. Call a model by the id that the list shows, {connector}/<model>:

   curl {gateway}/v1/chat/completions -H 'authorization: Bearer {key}' \\
     -H 'content-type: application/json' \\
     -d '{{\"model\": \"{connector}/MODEL\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'

MCP servers (--mcp NAME=URL) are at {gateway}/mcp/{connector}/NAME, with the same key.
Stop with Ctrl-C."
        )
    }
}

fn dialable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
    } else {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertising_binds_all_addresses() {
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(listen(None, 8080, false).to_string(), "127.0.0.1:8080");
        assert_eq!(listen(None, 8080, true).to_string(), "0.0.0.0:8080");
        assert_eq!(
            listen(at("127.0.0.1:0"), 8080, true).to_string(),
            "0.0.0.0:0"
        );
        assert_eq!(
            listen(at("10.0.0.1:1"), 8080, true).to_string(),
            "10.0.0.1:1"
        );
        assert_eq!(reachable("0.0.0.0".parse().unwrap()), "127.0.0.1");
    }
}
