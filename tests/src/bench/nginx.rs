//! Two nginx in a row with TLS 1.3 and kept connections between them: what people build today.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::error::HarnessError;
use crate::process::Process;
use crate::wait::{self, PATIENCE};

/// The chain, and where callers reach it.
#[derive(Debug)]
pub(super) struct NginxChain {
    pub(super) address: String,
    edge: Process,
    inner: Process,
    _folder: TempDir,
}

impl NginxChain {
    /// Starts the chain before `backend`; `None` where nginx is not installed.
    pub(super) async fn start(backend: &str) -> Result<Option<Self>, HarnessError> {
        let Some(program) = program() else {
            return Ok(None);
        };
        let folder = TempDir::new()?;
        certificate(folder.path())?;
        let (edge_port, inner_port) = (free_port()?, free_port()?);
        let inner = launch(
            &program,
            folder.path(),
            "inner",
            &inner_server(inner_port, backend),
        )?;
        let edge = launch(
            &program,
            folder.path(),
            "edge",
            &edge_server(edge_port, inner_port),
        )?;
        let address = format!("127.0.0.1:{edge_port}");
        wait::until("nginx answers", PATIENCE, || async {
            TcpStream::connect(&address)
                .await
                .map(drop)
                .map_err(|error| format!("{error}\n{}", edge.log().text()))
        })
        .await?;
        Ok(Some(Self {
            address,
            edge,
            inner,
            _folder: folder,
        }))
    }

    /// The processes of the chain.
    pub(super) fn ids(&self) -> Vec<u32> {
        [&self.edge, &self.inner]
            .into_iter()
            .filter_map(Process::id)
            .collect()
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders
        .map(|folder| folder.join("nginx"))
        .find(|program| program.exists())
}

/// A port that was free a moment ago: nginx cannot say which one it got.
fn free_port() -> Result<u16, HarnessError> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn certificate(folder: &Path) -> Result<(), HarnessError> {
    let made = rcgen::generate_simple_self_signed(vec!["inner".to_owned()]);
    let made = made.map_err(|error| HarnessError::Http(error.to_string()))?;
    fs::write(folder.join("cert.pem"), made.cert.pem())?;
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

fn launch(
    program: &Path,
    folder: &Path,
    name: &str,
    server: &str,
) -> Result<Process, HarnessError> {
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, configuration(folder, name, server))?;
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(&file)
        .args(["-e", "stderr"]);
    Process::start(format!("nginx {name}"), command)
}

/// One process each, so that two of them use two cores as our two programs do.
fn configuration(folder: &Path, name: &str, server: &str) -> String {
    let folder = folder.display();
    let mut text = format!(
        "daemon off; master_process off; pid {folder}/{name}.pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_max_body_size 0; keepalive_requests 1000000000;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("{kind}_temp_path {folder}/{name}-{kind};\n"));
    }
    text.push_str(server);
    text.push_str("}\n");
    text
}

const PROXY: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering off;";

fn inner_server(port: u16, backend: &str) -> String {
    format!(
        "upstream backend {{ server {backend}; keepalive 512; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.3;\n\
         location / {{ proxy_pass http://backend; {PROXY} }} }}\n"
    )
}

fn edge_server(port: u16, inner: u16) -> String {
    format!(
        "upstream inner {{ server 127.0.0.1:{inner}; keepalive 512; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port};\n\
         location / {{ proxy_pass https://inner; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; {PROXY} }} }}\n"
    )
}
