//! A gateway in this process, and callers that write their requests byte by byte.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use culvert_certs::TrustBundle;
use culvert_control::{Actor, AuthorityKey, ControlConfig, PlaneKey};
use culvert_gateway::{
    exchange::Place,
    node::{Node, NodeSpec},
    plane::{Advertise, PlaneSpec},
    server::Bounds,
    settings::EdgeSpec,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

/// Longest that anything here may take: five times what a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    folder: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) links: SocketAddr,
    /// Callers' TLS.
    pub(crate) callers: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// What the plane's own certificate is issued under.
    pub(crate) roots: Arc<TrustBundle>,
    pub(crate) key: String,
    pub(crate) narrow_key: String,
    pub(crate) revoked_key: String,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<Result<(), culvert_gateway::exit::Failure>>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A world whose plane differs from the usual.
    pub(crate) async fn with(change: impl FnOnce(&mut PlaneSpec)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = spec(folder.path()).await;
        change(spec.plane.as_mut().unwrap());
        let node = Node::start(spec).await.unwrap();
        let dev = node.control.bootstrap_dev(None).await.unwrap();
        let narrow: Map<String, Value> = [("allow".to_owned(), json!(["dev/only"]))]
            .into_iter()
            .collect();
        let actor = Actor::control();
        let narrow = node
            .control
            .create_key(&actor, &dev.tenant, "narrow", narrow)
            .await
            .unwrap();
        let gone = node
            .control
            .create_key(&actor, &dev.tenant, "gone", all())
            .await
            .unwrap();
        let key = culvert_control::resource::ResourceKind::Key;
        node.control
            .revoke_key(&actor, key, Some(&dev.tenant), "gone")
            .await
            .unwrap();
        node.control.refresh().await.unwrap();
        let plane = node.plane.as_ref().unwrap();
        let (address, admin) = (plane.plain.unwrap(), node.admin);
        let (links, callers) = (plane.links, plane.callers);
        let roots = Arc::clone(node.control.bundle());
        let (stop, stopped) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(node.run(async move {
            let _sender_gone = stopped.await;
        }));
        Self {
            folder,
            address,
            links,
            callers,
            admin,
            roots,
            key: dev.api_key.expose().to_owned(),
            narrow_key: narrow.secret.expose().to_owned(),
            revoked_key: gone.secret.expose().to_owned(),
            stop: Some(stop),
            tasks,
        }
    }

    /// Sends these bytes and reads all that comes, until the gateway closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        exchange(self.address, bytes).await
    }

    pub(crate) async fn send(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let mut head = format!("{line} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n");
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        Answer::parse(&self.raw(format!("{head}\r\n{body}").as_bytes()).await)
    }

    pub(crate) fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.key)
    }

    /// Ends the gateway and reads its records.
    pub(crate) async fn records(mut self) -> Vec<Value> {
        drop(self.stop.take());
        let ended = timeout(PATIENCE, self.tasks.join_next())
            .await
            .unwrap()
            .unwrap();
        ended.unwrap().unwrap();
        let text = std::fs::read_to_string(self.folder.path().join("records.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn all() -> Map<String, Value> {
    [("all".to_owned(), Value::Bool(true))]
        .into_iter()
        .collect()
}

pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .unwrap();
    assert!(read.is_ok() || !text.is_empty(), "{read:?}");
    String::from_utf8(text).unwrap()
}

async fn spec(folder: &Path) -> NodeSpec {
    let authority = AuthorityKey::from_file(&folder.join("authority.key"), true).unwrap();
    let domain = "culvert.test".parse().unwrap();
    let store = folder.join("culvert.redb");
    let control = ControlConfig::embedded(&store, authority, domain);
    let any = "127.0.0.1:0".parse().unwrap();
    NodeSpec {
        control: control.await.unwrap(),
        admin_listen: any,
        admin_hosts: Vec::new(),
        plane: Some(PlaneSpec {
            place: Place {
                region: "US".parse().unwrap(),
                zone: "ORF".parse().unwrap(),
            },
            key: PlaneKey::from_file(&folder.join("plane.key"), true).unwrap(),
            link_listen: any,
            callers_listen: None,
            advertise: Advertise {
                host: "127.0.0.1".into(),
                port: None,
            },
            plain_listen: Some(any),
            tls: None,
            drain_timeout: Duration::from_secs(5),
            leave_after: Duration::ZERO,
            bounds: Bounds {
                connections: 64,
                ..Bounds::default()
            },
            records: Some(folder.join("records.jsonl")),
            edge: EdgeSpec {
                origins: vec!["https://app.example".into()],
                ..EdgeSpec::default()
            },
        }),
    }
}

impl Answer {
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Self {
            status: status.unwrap_or_default(),
            head: head.to_ascii_lowercase(),
            body: body.into(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.map(str::trim)
    }
}
