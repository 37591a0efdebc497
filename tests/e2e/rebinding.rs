//! DNS rebinding: a name that leads to an allowed address at first, and to a forbidden one at the next look-up.
//!
//! The agent lives in a mount namespace of its own, whose `/etc/hosts` is a file of the test that changes under it.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use culvert_tests::client::Reply;
use culvert_tests::effort;
use culvert_tests::wait::{self, PATIENCE};
use culvert_tests::world::{Agent, AgentSpec, World};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::Command;
use tokio::task::JoinSet;

const NAME: &str = "backend.rebinding.test";
/// The length of the file that names resolve by.
const HOSTS_BYTES: usize = 128;
/// What the name leads to next, and words of the reason why nobody goes there.
const FORBIDDEN: [(&str, &str); 9] = [
    ("169.254.169.254", "169.254.169.254 is a"),
    ("127.0.0.1", "127.0.0.1 is loopback"),
    ("::1", "::1 is loopback"),
    ("::ffff:127.0.0.1", "127.0.0.1 is loopback"),
    ("169.254.7.7", "169.254.7.7 is a"),
    ("fe80::1", "fe80::1 is a"),
    ("::ffff:169.254.169.254", "169.254.169.254 is a"),
    ("fd00:ec2::254", "fd00:ec2::254 is a"),
    ("0.0.0.0", "0.0.0.0 is a"),
];

/// What the name leads to; it closes after each answer, so that each call looks the name up again.
struct Canary {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Canary {
    async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut head = [0_u8; 8 * 1024];
                // How a connection ends is the caller's to see.
                if stream.read(&mut head).await.is_ok() {
                    let answer =
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\ncanary";
                    drop(stream.write_all(answer.as_bytes()).await);
                }
            }
        });
        Self {
            address,
            connections,
            _task: task,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An address of this machine that is not loopback. Nothing is sent to find it.
async fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    socket
        .connect("192.0.2.1:9")
        .await
        .expect("a network besides loopback");
    let address = socket.local_addr().unwrap().ip();
    assert!(!address.is_loopback(), "{address}");
    address
}

/// What runs a program in a mount namespace where `folder/hosts` is all that names resolve by.
async fn namespace(folder: &Path) -> Option<Vec<String>> {
    let script = format!(
        "mount --bind '{0}/hosts' /etc/hosts && mount --bind '{0}/nsswitch.conf' /etc/nsswitch.conf && exec \"$@\"",
        folder.display()
    );
    for privilege in [&[][..], &["--map-root-user"]] {
        let mut wrapper: Vec<String> = ["unshare", "--mount"].map(str::to_owned).to_vec();
        wrapper.extend(privilege.iter().map(|word| (*word).to_owned()));
        wrapper.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
        let tried = Command::new(&wrapper[0])
            .args(&wrapper[1..])
            .arg("true")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if tried.is_ok_and(|status| status.success()) {
            return Some(wrapper);
        }
    }
    None
}

/// Lets the name lead to `address`: in place, because a bind mount is of the file and not of its name; at one
/// length and in one write, because who looks up meanwhile must find one of the two.
fn bind(hosts: &Path, address: &str) {
    let text = format!("127.0.0.1 localhost\n{address} {NAME}\n");
    let mut file = fs::OpenOptions::new().write(true).open(hosts).unwrap();
    file.write_all(format!("{text:\n<HOSTS_BYTES$}").as_bytes())
        .unwrap();
}

async fn call(world: &World) -> Reply {
    world.client().get("/http/dev/web/x").await.unwrap()
}

/// Waits until a call reaches what the name leads to.
async fn served(world: &World) {
    let served = wait::until("an answer of the allowed address", PATIENCE, || async {
        let reply = call(world).await;
        if reply.text() == "canary" {
            Ok(())
        } else {
            Err(reply.text())
        }
    });
    served.await.map_err(|error| world.explain(&error)).unwrap();
}

#[tokio::test]
async fn a_name_that_rebinds_between_two_look_ups_is_refused_at_the_connected_address() {
    let folder = TempDir::new().unwrap();
    let hosts = folder.path().join("hosts");
    fs::write(folder.path().join("nsswitch.conf"), "hosts: files\n").unwrap();
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let Some(wrapper) = namespace(folder.path()).await else {
        assert!(
            !effort::is_full(),
            "the full tests need root or user namespaces"
        );
        println!("NOT TESTED: this needs root or user namespaces, for a mount namespace");
        return;
    };
    let outside = Canary::start(SocketAddr::new(own_address().await, 0)).await;
    // The same port on loopback, as if it were the host's own admin interface: it would answer, were it let.
    let port = outside.address.port();
    let inside = Canary::start(SocketAddr::from(([127, 0, 0, 1], port))).await;
    let binds = |address: &str| bind(&hosts, address);
    binds(&outside.address.ip().to_string());
    let mut world = World::builder().without_agent().start().await.unwrap();
    let mut spec = AgentSpec::joining(&world.gateway.line.join_token);
    spec.wrapper = wrapper;
    spec.environment = vec![("CULVERT_LOG".to_owned(), "debug".to_owned())];
    spec.file = Some(format!(
        "services:\n  - name: web\n    kind: http\n    url: http://{NAME}:{port}\n    connect_timeout: 2s\n    health: {{ path: /x, every: 1s }}\n    allow: [{{ methods: [GET], paths: [\"/x\"] }}]\n"
    ));
    world.agent = Some(Agent::start(spec).await.unwrap());
    served(&world).await;
    assert!(outside.connections() > 0);
    let agent = &world.agent.as_ref().unwrap().process;
    for (rebound, reason) in FORBIDDEN {
        let refusals = agent.log().count(&[reason]);
        binds(rebound);
        // A call that tries is told so; one that comes after a probe is told that nobody serves. What was
        // dialled before the name changed may still serve the first ones.
        let codes = ["backend_unreachable", "agent_unavailable"];
        wait::until(&format!("a refusal for {rebound}"), PATIENCE, || async {
            let before = outside.connections();
            let told = call(&world).await.text();
            let refused = codes.iter().any(|code| told.contains(code));
            if refused && outside.connections() == before {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await
        .unwrap();
        wait::until(&format!("{reason:?} for {rebound}"), PATIENCE, || async {
            if agent.log().count(&[reason]) > refusals {
                Ok(())
            } else {
                Err(agent.log().text())
            }
        })
        .await
        .unwrap();
        // And back: the refusal was about the address, not about the name. Its reason is logged when what was
        // up is down, so the next turn waits for that.
        binds(&outside.address.ip().to_string());
        wait::until("the backend is up", PATIENCE, || async {
            let count = |words| agent.log().count(&[words]);
            if count("a backend is up") > count("a backend is down") {
                Ok(())
            } else {
                Err(agent.log().text())
            }
        })
        .await
        .unwrap();
        served(&world).await;
    }
    assert_eq!(inside.connections(), 0, "loopback was dialled");
}
