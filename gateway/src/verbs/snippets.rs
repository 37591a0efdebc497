//! Ready snippets for the clients of a connector: curl, the SDKs, and the files of MCP clients.
//!
//! What an agent calls its models ends up in a person's shell and programs, so every name is quoted for
//! the language that it stands in.

use culvert_control::api::LinkStatus;
use serde_json::{Map, Value, json};

/// What can be called through one connector now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// Where callers reach the gateway, without a slash at the end.
    gateway: String,
    connector: String,
    /// As callers name them.
    models: Vec<String>,
    /// Names of MCP services.
    mcp: Vec<String>,
    /// Names of HTTP services.
    http: Vec<String>,
}

impl Offer {
    /// What the links of a connector offer; `None` where there is no link.
    pub(super) fn of(links: &[LinkStatus], tenant: &str, connector: &str) -> Option<Self> {
        let own = |link: &&LinkStatus| {
            link.tenant.as_str() == tenant && link.connector.as_str() == connector
        };
        let mut links = links.iter().filter(own).peekable();
        let gateway = links.peek()?.more.get("gateway")?.as_str()?;
        let mut offer = Self {
            gateway: gateway.trim_end_matches('/').to_owned(),
            connector: connector.to_owned(),
            ..Self::default()
        };
        let services = links.filter_map(|link| link.more.get("services")?.as_array());
        for service in services.flatten() {
            offer.add(service);
        }
        for names in [&mut offer.models, &mut offer.mcp, &mut offer.http] {
            names.sort_unstable();
            names.dedup();
        }
        Some(offer)
    }

    fn add(&mut self, service: &Value) {
        let Some(name) = service["name"].as_str() else {
            return;
        };
        match service["kind"].as_str() {
            Some("mcp") => self.mcp.push(name.to_owned()),
            Some("http") => self.http.push(name.to_owned()),
            Some("model") => {
                let names = service["model_names"].as_array();
                let names = names.into_iter().flatten().filter_map(Value::as_str);
                let named = names.map(|id| format!("{}/{id}", self.connector));
                self.models.extend(named);
            }
            Some(_) | None => {}
        }
    }

    /// All of it, for programs.
    pub(super) fn json(&self) -> Value {
        let at = |kind: &str, names: &[String]| -> Map<String, Value> {
            let url = |name: &String| (name.clone(), self.url(kind, name).into());
            names.iter().map(url).collect()
        };
        json!({
            "gateway": self.gateway,
            "models": self.models,
            "mcp": at("mcp", &self.mcp),
            "http": at("http", &self.http),
        })
    }

    /// All of it, for a person.
    pub(super) fn text(&self) -> String {
        let Self {
            gateway, connector, ..
        } = self;
        let mut text = format!(
            "\
# Connector `{connector}` at {gateway}
#
# The snippets take the key from the environment:
#   export CULVERT_API_KEY=$(culvert-gateway key create my-app --allow '{connector}/*')
"
        );
        if let Some(first) = self.models.first() {
            text.push_str(&self.model_snippets(first));
        }
        if !self.mcp.is_empty() {
            text.push_str(&self.mcp_files());
        }
        for name in &self.http {
            let url = self.url("http", name);
            text.push_str(&format!(
                "\n## HTTP service `{name}`, curl\n\ncurl {url}/ -H \"x-culvert-key: $CULVERT_API_KEY\"\n"
            ));
        }
        if self.models.is_empty() && self.mcp.is_empty() && self.http.is_empty() {
            text.push_str("\n# Its agents are connected, and offer nothing yet.\n");
        }
        text.trim_end().to_owned()
    }

    fn url(&self, kind: &str, service: &str) -> String {
        format!("{}/{kind}/{}/{service}", self.gateway, self.connector)
    }

    fn model_snippets(&self, first: &str) -> String {
        let gateway = &self.gateway;
        let literals: Vec<String> = self.models.iter().map(|name| literal(name)).collect();
        let (names, model) = (literals.join("\n#   "), literal(first));
        let body = json!({ "model": first, "messages": [{ "role": "user", "content": "Hello" }] });
        let body = shell(&printable(&body.to_string()));
        format!(
            r#"
# Models:
#   {names}

## curl

curl {gateway}/v1/chat/completions \
  -H "authorization: Bearer $CULVERT_API_KEY" \
  -H 'content-type: application/json' \
  -d {body}

## OpenAI SDK, Python (pip install openai)

import os
from openai import OpenAI

client = OpenAI(base_url="{gateway}/v1", api_key=os.environ["CULVERT_API_KEY"])
answer = client.chat.completions.create(
    model={model},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)

## OpenAI SDK, Node (npm install openai)

import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{gateway}/v1", apiKey: process.env.CULVERT_API_KEY }});
const answer = await client.chat.completions.create({{
  model: {model},
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(answer.choices[0].message.content);

## Anthropic SDK, Python (pip install anthropic; where the backend serves /v1/messages)

import os
from anthropic import Anthropic

client = Anthropic(base_url="{gateway}", api_key=os.environ["CULVERT_API_KEY"])
message = client.messages.create(
    model={model},
    max_tokens=256,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(message.content[0].text)

## Anthropic SDK, Node (npm install @anthropic-ai/sdk; where the backend serves /v1/messages)

import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({{ baseURL: "{gateway}", apiKey: process.env.CULVERT_API_KEY }});
const message = await client.messages.create({{
  model: {model},
  max_tokens: 256,
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(message.content[0].text);
"#
        )
    }

    fn mcp_files(&self) -> String {
        let servers = |one: &dyn Fn(String) -> Value| -> Value {
            let name = |service: &String| format!("{}-{service}", self.connector);
            let all = self.mcp.iter();
            all.map(|service| (name(service), one(self.url("mcp", service))))
                .collect::<Map<_, _>>()
                .into()
        };
        let bearer = |key: &str| json!({ "authorization": format!("Bearer {key}") });
        let code = json!({ "mcpServers": servers(&|url| json!({
            "type": "http", "url": url, "headers": bearer("${CULVERT_API_KEY}"),
        })) });
        let cursor = json!({ "mcpServers": servers(&|url| json!({
            "url": url, "headers": bearer("${env:CULVERT_API_KEY}"),
        })) });
        let vs_code = json!({
            "inputs": [{
                "type": "promptString", "id": "culvert-key", "password": true,
                "description": "API key of the gateway",
            }],
            "servers": servers(&|url| json!({
                "type": "http", "url": url, "headers": bearer("${input:culvert-key}"),
            })),
        });
        // It runs local servers only; a space in an argument does not survive on every system.
        let desktop = json!({ "mcpServers": servers(&|url| {
            let mut args = vec!["-y", "mcp-remote", &url];
            args.extend(url.starts_with("http:").then_some("--allow-http"));
            args.extend(["--header", "authorization:${CULVERT_BEARER}"]);
            json!({
                "command": "npx", "args": args,
                "env": { "CULVERT_BEARER": "Bearer YOUR-KEY" },
            })
        }) });
        let files = [
            ("Claude Code, .mcp.json", code),
            ("Claude Desktop, claude_desktop_config.json", desktop),
            ("Cursor, .cursor/mcp.json", cursor),
            ("VS Code, .vscode/mcp.json", vs_code),
        ];
        let file = |(place, content): (&str, Value)| format!("\n## {place}\n\n{content:#}\n");
        files.map(file).concat()
    }
}

/// A string literal that JSON, Python and JavaScript read alike.
fn literal(text: &str) -> String {
    printable(&Value::from(text).to_string())
}

/// JSON text without what a terminal would obey or turn around: as escapes, which mean the same.
pub(super) fn printable(json: &str) -> String {
    let odd = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if odd(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// One word of a shell, whatever is in it.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use culvert_certs::AgentId;

    use super::*;

    fn links(services: &Value) -> Vec<LinkStatus> {
        let link = |connector: &str, agent: &str| {
            json!({
                "tenant": "acme", "connector": connector, "agent": agent, "plane": "ORF",
                "gateway": "https://gw.example:443/", "services": services,
            })
        };
        let [one, two] = [1, 2].map(|n| AgentId::from_bytes([n; 16]).to_string());
        let all = json!([link("dev", &one), link("dev", &two), link("other", &one)]);
        serde_json::from_value(all).unwrap()
    }

    fn services() -> Value {
        json!([
            { "name": "llama", "kind": "model", "model_names": ["meta/llama", "it's $(touch x)\""] },
            { "name": "tickets", "kind": "mcp" },
            { "name": "billing", "kind": "http" },
        ])
    }

    #[test]
    fn what_all_links_of_a_connector_offer() {
        let offer = Offer::of(&links(&services()), "acme", "dev").unwrap();
        assert_eq!(offer.gateway, "https://gw.example:443");
        assert_eq!(offer.models, ["dev/it's $(touch x)\"", "dev/meta/llama"]);
        assert_eq!(
            offer.json()["mcp"]["tickets"],
            "https://gw.example:443/mcp/dev/tickets"
        );
        assert_eq!(Offer::of(&links(&services()), "other", "dev"), None);
        assert_eq!(Offer::of(&[], "acme", "dev"), None);
        let nothing = Offer::of(&links(&json!([])), "acme", "dev").unwrap();
        assert!(nothing.text().contains("offer nothing yet"));
    }

    #[test]
    fn no_name_gets_out_of_its_quotes() {
        let text = Offer::of(&links(&services()), "acme", "dev")
            .unwrap()
            .text();
        let after = &text[text.find("-d '").unwrap() + 3..];
        let word = &after[..after.find("\n\n").unwrap()];
        let script = format!("printf %s {word}");
        let said = Command::new("sh").args(["-c", &script]).output();
        let said = said.unwrap().stdout;
        let body: Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(body["model"], "dev/it's $(touch x)\"");
        assert!(text.contains(r#"model="dev/it's $(touch x)\"","#), "{text}");
    }

    #[test]
    fn no_name_moves_the_cursor() {
        let odd = "m\u{9b}2J\u{202e}x\u{7f}";
        let offered = json!([{ "name": "llama", "kind": "model", "model_names": [odd] }]);
        let text = Offer::of(&links(&offered), "acme", "dev").unwrap().text();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
        assert!(!text.contains('\u{202e}'));
        let read: String = serde_json::from_str(&literal(odd)).unwrap();
        assert_eq!(read, odd);
    }

    #[test]
    fn the_files_of_mcp_clients() {
        let text = Offer::of(&links(&services()), "acme", "dev")
            .unwrap()
            .text();
        let file = |place: &str| -> Value {
            let at = text.find(&format!("## {place}")).unwrap();
            let rest = &text[at..];
            let rest = &rest[rest.find("\n\n").unwrap()..];
            let end = rest.find("\n##").unwrap_or(rest.len());
            serde_json::from_str(&rest[..end]).unwrap()
        };
        let url = "https://gw.example:443/mcp/dev/tickets";
        let code = file("Claude Code");
        assert_eq!(code["mcpServers"]["dev-tickets"]["type"], "http");
        assert_eq!(code["mcpServers"]["dev-tickets"]["url"], url);
        assert_eq!(
            file("Cursor")["mcpServers"]["dev-tickets"]["headers"]["authorization"],
            "Bearer ${env:CULVERT_API_KEY}"
        );
        let vs_code = file("VS Code");
        assert_eq!(vs_code["servers"]["dev-tickets"]["url"], url);
        assert_eq!(vs_code["inputs"][0]["id"], "culvert-key");
        let desktop = file("Claude Desktop");
        let args = &desktop["mcpServers"]["dev-tickets"]["args"];
        assert_eq!(args[2], url);
        assert!(!args.to_string().contains("allow-http"));
    }
}
