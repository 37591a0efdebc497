//! The gateway file of a running process changes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    slice::from_ref,
};

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::{
    tls::connect,
    world::{Answer, PATIENCE, exchange},
};

const TAKEN: &str = "the configuration was taken";
const NOT_TAKEN: &str = "the changed configuration is not taken";

struct Gateway {
    folder: TempDir,
    child: Child,
    logs: Lines<BufReader<ChildStderr>>,
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        show(folder.path());
        write(folder.path(), &file(folder.path()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-gateway"))
            .args(["serve", "--config"])
            .arg(config(folder.path()))
            .env_remove("CULVERT_LOG")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        Self {
            folder,
            child,
            logs: BufReader::new(stderr).lines(),
        }
    }

    /// The next line of the log that says this.
    async fn logged(&mut self, message: &str) -> Value {
        let mut last = String::new();
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.logs.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap();
                if event["message"] == message {
                    return Some(event);
                }
                last = line;
            }
            None
        })
        .await;
        found
            .ok()
            .flatten()
            .unwrap_or_else(|| panic!("no `{message}`; last: {last}"))
    }

    fn signal(&self, name: &str) {
        let own = self.child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill")
            .args([name, &own])
            .status();
        assert!(sent.unwrap().success());
    }

    fn change(&self, from: &str, to: &str) {
        let text = file(self.folder.path());
        assert!(text.contains(from), "{from}");
        write(self.folder.path(), &text.replace(from, to));
    }
}

fn config(folder: &Path) -> PathBuf {
    folder.join("gateway.yaml")
}

fn write(folder: &Path, text: &str) {
    // As editors do it: never half a file.
    fs::write(folder.join("fresh"), text).unwrap();
    fs::rename(folder.join("fresh"), config(folder)).unwrap();
}

/// Puts a fresh certificate into its place.
fn show(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::create_dir_all(folder.join("tls")).unwrap();
    fs::write(folder.join("tls/key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("tls/cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

fn file(folder: &Path) -> String {
    let at = folder.display();
    format!(
        "\
store: {{ path: {at}/culvert.redb }}
control:
  admin_listen: 127.0.0.1:0
  authority_key: ${{file:{at}/authority.key}}
  trust_domain: culvert.test
plane:
  region: US
  zone: ORF
  listen: 127.0.0.1:0
  advertise: 127.0.0.1
  plane_key: ${{file:{at}/plane.key}}
  tls: {{ cert: {at}/tls/cert.pem, key: {at}/tls/key.pem }}
  leave_after: 1s
edge:
  plain_listen: 127.0.0.1:0
  cors: {{ origins: [https://one.example] }}
log: {{ format: json, level: info }}
"
    )
}

/// Whether a page of this origin may call.
async fn may_call(address: SocketAddr, origin: &str) -> bool {
    let asks = format!(
        "OPTIONS /v1/models HTTP/1.1\r\nhost: gw\r\nconnection: close\r\norigin: {origin}\r\n\
         access-control-request-method: GET\r\n\r\n"
    );
    Answer::parse(&exchange(address, asks.as_bytes()).await).status == 204
}

#[tokio::test]
async fn a_changed_file_is_taken_whole_or_not_at_all() {
    let mut gateway = Gateway::start();
    let up = gateway.logged("the plane serves").await;
    let address = |name: &str| {
        let text = up[name].as_str().unwrap();
        let text = text.trim_start_matches("Some(").trim_end_matches(')');
        text.parse::<SocketAddr>().unwrap()
    };
    let (plain, callers) = (address("plain"), address("callers"));
    assert!(may_call(plain, "https://one.example").await);

    // A renewed certificate, noticed by itself.
    let renewed = show(gateway.folder.path());
    gateway.logged(TAKEN).await;
    assert!(connect(callers, from_ref(&renewed)).await.is_ok());

    // Another origin, and something for the next start.
    gateway.change("one.example", "two.example");
    gateway.logged(TAKEN).await;
    assert!(may_call(plain, "https://two.example").await);
    assert!(!may_call(plain, "https://one.example").await);
    gateway.change("zone: ORF", "zone: LHR");
    let later = gateway.logged("these take effect at the next start").await;
    assert_eq!(later["keys"], "plane.zone");
    gateway.logged(TAKEN).await;

    // Mistakes change nothing.
    for (from, to, says) in [
        (
            "one.example] }",
            "three.example] }\n  nonsense: 1",
            "nonsense",
        ),
        ("tls/key.pem", "tls/cert.pem", "plane.tls"),
        ("level: info", "level: 'no=such=level'", "log.level"),
    ] {
        gateway.change(from, to);
        let refused = gateway.logged(NOT_TAKEN).await;
        assert!(
            refused["error"].as_str().unwrap().contains(says),
            "{refused}"
        );
        assert!(
            may_call(plain, "https://one.example").await,
            "as it was taken last"
        );
        assert!(connect(callers, from_ref(&renewed)).await.is_ok());
    }

    // SIGHUP looks at the file as it is.
    gateway.change("level: info", "level: debug");
    gateway.logged(TAKEN).await;
    gateway.signal("-HUP");
    gateway.logged(TAKEN).await;
    let garbage = exchange(plain, b"garbage\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    gateway.logged("a caller's connection broke").await;

    gateway.signal("-TERM");
    let ended = timeout(PATIENCE, gateway.child.wait()).await.unwrap();
    assert!(ended.unwrap().success());
}
