//! The arguments of tools that are repeated in headers, as the list of tools says
//! (2026-07-28, "Custom Headers from Tool Parameters").

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::error::Problem;
use super::instance::Instance;
use super::mirror::{decoded, single};
use super::rpc::Object;
use super::version;

/// A list of tools is believed for this long.
const BELIEVED: Duration = Duration::from_secs(60);
/// One that refuses a call is asked for again, unless it is younger than this.
const FRESH: Duration = Duration::from_secs(1);
/// How long a server may take for one page of its list.
const PAGE_WAIT: Duration = Duration::from_secs(10);
/// Pages that are read.
const MAX_PAGES: usize = 64;
/// Depth of a schema that is looked into.
const MAX_DEPTH: usize = 16;

/// What the list of tools of one process says.
#[derive(Debug)]
pub(super) struct Params {
    process: i32,
    asked: Instant,
    tools: BTreeMap<String, Vec<Repeated>>,
}

/// An argument that is repeated in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Repeated {
    path: Vec<String>,
    header: String,
}

/// The last list, for all callers.
#[derive(Debug, Default)]
pub(super) struct Known(tokio::sync::Mutex<Option<Params>>);

impl Known {
    /// Checks a call of a tool. The server is asked for its list where none is known, and where
    /// the one that is known refuses the call.
    pub(super) async fn check(
        &self,
        instance: &Arc<Instance>,
        headers: &HeaderMap,
        call: &Object,
    ) -> Result<(), Problem> {
        let mut known = self.0.lock().await;
        if let Some(params) = known.as_ref().filter(|p| p.process == instance.id()) {
            let age = params.asked.elapsed();
            let checked = params.check(headers, call);
            if age < FRESH || (age < BELIEVED && checked.is_ok()) {
                return checked;
            }
        }
        let fresh = Params::ask(instance).await;
        let checked = fresh.check(headers, call);
        *known = Some(fresh);
        checked
    }
}

impl Params {
    /// Asks a server. What it does not say is not checked.
    async fn ask(instance: &Arc<Instance>) -> Self {
        let mut tools = BTreeMap::new();
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let mut params = version::discover();
            if let Some(cursor) = cursor {
                params["cursor"] = json!(cursor);
            }
            let page = timeout(PAGE_WAIT, instance.ask("tools/list", params)).await;
            let Ok(Ok(page)) = page else { break };
            let result = page.at(&["result"]);
            let result: Value = match result.map(|result| serde_json::from_str(result.get())) {
                Some(Ok(result)) => result,
                Some(Err(_)) | None => break,
            };
            read(&result, &mut tools);
            cursor = result["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Self {
            process: instance.id(),
            asked: Instant::now(),
            tools,
        }
    }

    fn check(&self, headers: &HeaderMap, call: &Object) -> Result<(), Problem> {
        let tool = call.text_at(&["params", "name"]);
        let Some(all) = tool.and_then(|tool| self.tools.get(&tool)) else {
            return Ok(());
        };
        let arguments = call.at(&["params", "arguments"]);
        let arguments: Value = arguments
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        all.iter()
            .try_for_each(|repeated| repeated.check(headers, &arguments))
    }
}

impl Repeated {
    fn check(&self, headers: &HeaderMap, arguments: &Value) -> Result<(), Problem> {
        let name = &self.header;
        let wrong = |what: &str| Err(Problem::Headers(format!("{name} {what}")));
        let mut steps = self.path.iter();
        let argument = steps.try_fold(arguments, |value, key| value.get(key));
        let argument = argument.filter(|value| !value.is_null());
        let header = single(headers, name)?;
        match (header.map(decoded), argument) {
            (None, None) => Ok(()),
            (None, Some(_)) => wrong("is missing"),
            (Some(_), None) => wrong("repeats an argument that is not there"),
            (Some(None), Some(_)) => wrong("is not valid Base64"),
            (Some(Some(header)), Some(argument)) => {
                let same = match argument {
                    Value::String(text) => *text == header,
                    Value::Bool(is) => header == if *is { "true" } else { "false" },
                    // As numbers: 42.0 is 42.
                    Value::Number(number) => {
                        number.to_string() == header || header.parse().ok() == number.as_f64()
                    }
                    Value::Null | Value::Array(_) | Value::Object(_) => false,
                };
                if same {
                    Ok(())
                } else {
                    wrong("differs from the argument that it repeats")
                }
            }
        }
    }
}

/// The tools of a page that repeat something.
fn read(page: &Value, tools: &mut BTreeMap<String, Vec<Repeated>>) {
    for tool in page["tools"].as_array().into_iter().flatten() {
        let mut all = Vec::new();
        find(&tool["inputSchema"], &mut Vec::new(), &mut all);
        if let (Some(name), false) = (tool["name"].as_str(), all.is_empty()) {
            tools.insert(name.to_owned(), all);
        }
    }
}

fn find(schema: &Value, path: &mut Vec<String>, all: &mut Vec<Repeated>) {
    if path.len() >= MAX_DEPTH {
        return;
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        if let Some(header) = property["x-mcp-header"].as_str().filter(|h| !h.is_empty()) {
            all.push(Repeated {
                path: path.clone(),
                header: format!("mcp-param-{header}").to_ascii_lowercase(),
            });
        }
        find(property, path, all);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn params() -> Params {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "plain": {"type": "string"},
        }});
        let page = json!({"tools": [{"name": "query", "inputSchema": schema}, {"name": "other", "inputSchema": {}}]});
        let mut tools = BTreeMap::new();
        read(&page, &mut tools);
        Params {
            process: 1,
            asked: Instant::now(),
            tools,
        }
    }

    fn checked(name: &str, arguments: Value, headers: &[(&'static str, &str)]) -> bool {
        let call = json!({"params": {"name": name, "arguments": arguments}});
        let call: Object = serde_json::from_value(call).expect("an object");
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_str(value).expect("a value");
                (HeaderName::from_static(name), value)
            })
            .collect();
        params().check(&headers, &call).is_ok()
    }

    #[tokio::test]
    async fn what_is_repeated_has_to_be_the_same() {
        let region = |value| [("mcp-param-region", value)];
        let all = |region: &'static str, n| [("mcp-param-region", region), ("mcp-param-n", n)];
        let west = || json!({"region": "us-west1"});
        for (arguments, headers, is) in [
            (west(), region("us-west1").to_vec(), true),
            (west(), region("=?base64?dXMtd2VzdDE=?=").to_vec(), true),
            (west(), region("us-east1").to_vec(), false),
            (west(), region("=?base64?!?=").to_vec(), false),
            (west(), vec![], false),
            (json!({"region": null}), vec![], true),
            (json!({"region": null}), region("x").to_vec(), false),
            (json!({}), vec![], true),
            (
                json!({"region": "a", "deep": {"n": 42}}),
                all("a", "42.0").to_vec(),
                true,
            ),
            (
                json!({"region": "a", "deep": {"n": 42}}),
                all("a", "43").to_vec(),
                false,
            ),
            (
                json!({"region": "a", "deep": {"n": 42}}),
                region("a").to_vec(),
                false,
            ),
            (json!({"plain": "x"}), vec![], true),
        ] {
            let got = checked("query", arguments.clone(), &headers);
            assert_eq!(got, is, "{arguments} {headers:?}");
        }
        assert!(checked("other", west(), &[]));
        assert!(checked("unknown", west(), &[]));
    }
}
