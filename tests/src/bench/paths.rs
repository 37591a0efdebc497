//! The paths that are measured: direct, two nginx, a bare copy, ours.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::copy::CopyChain;
use super::driver::Call;
use super::nginx::NginxChain;
use crate::error::HarnessError;
use crate::world::{CONNECTOR, World};

const FILE: &str = "services:
  - { name: llm, kind: model, url: \"http://{backend}/v1\", limits: { concurrency: 4096 } }
  - { name: web, kind: http, url: \"http://{backend}\", allow: [{ methods: [GET, POST], paths: [\"/**\"] }], limits: { concurrency: 4096 } }
";

/// All paths to one backend.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) world: World,
    pub(super) nginx: Option<NginxChain>,
    pub(super) copy: CopyChain,
}

/// One way to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    Direct,
    Nginx,
    Copy,
    Ours,
}

impl Paths {
    /// Starts everything.
    pub(super) async fn start() -> Result<Self, HarnessError> {
        let world = World::builder().agent_file(FILE).start().await?;
        let nginx = NginxChain::start(&world.backend.address()).await?;
        let copy = CopyChain::start(&world.backend.address()).await?;
        Ok(Self { world, nginx, copy })
    }

    /// Where `path` starts, and with which key; `None` where the path is not there.
    fn entry(&self, path: Path) -> Option<(String, Option<String>)> {
        match path {
            Path::Direct => Some((self.world.backend.address(), None)),
            Path::Nginx => self
                .nginx
                .as_ref()
                .map(|chain| (chain.address.clone(), None)),
            Path::Copy => Some((self.copy.address.clone(), None)),
            Path::Ours => {
                let address = self
                    .world
                    .gateway
                    .url()
                    .trim_start_matches("http://")
                    .to_owned();
                Some((address, Some(self.world.gateway.line.api_key.clone())))
            }
        }
    }

    /// A chat completion of `path` with the fields of `more`.
    pub(super) fn chat(&self, path: Path, model: &str, more: &serde_json::Value) -> Option<Call> {
        let (address, key) = self.entry(path)?;
        let model = if path == Path::Ours {
            format!("{CONNECTOR}/{model}")
        } else {
            model.to_owned()
        };
        let question = "How does water find its way under a road? ".repeat(7);
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": question}]});
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        let body = Bytes::from(body.to_string());
        Some(Call {
            address,
            method: Method::POST,
            path: "/v1/chat/completions".to_owned(),
            key,
            body,
        })
    }

    /// A plain request of `path` for `target` of the backend.
    pub(super) fn plain(
        &self,
        path: Path,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Option<Call> {
        let (address, key) = self.entry(path)?;
        let path = if path == Path::Ours {
            format!("/http/{CONNECTOR}/web{target}")
        } else {
            target.to_owned()
        };
        Some(Call {
            address,
            method,
            path,
            key,
            body,
        })
    }

    /// The processes between caller and backend.
    pub(super) fn processes(&self, path: Path) -> Vec<u32> {
        match path {
            Path::Direct => Vec::new(),
            Path::Nginx => self.nginx.as_ref().map(NginxChain::ids).unwrap_or_default(),
            Path::Copy => self.copy.ids(),
            Path::Ours => {
                let agent = self
                    .world
                    .agent
                    .as_ref()
                    .and_then(|agent| agent.process.id());
                self.world
                    .gateway
                    .process
                    .id()
                    .into_iter()
                    .chain(agent)
                    .collect()
            }
        }
    }
}
