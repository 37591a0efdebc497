//! Which tools of an MCP server can be called and seen: the customer's last word.
//!
//! A plane lets through what its own rules say; here the request is read by the agent, judged,
//! and sent in the agent's own writing, so that no server reads another call in it than the one
//! that was judged. Lists show what can be called.

mod events;
mod json;
mod list;
mod message;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::pattern::glob;

pub use events::{Events, TooLong};
pub use json::JsonError;
use list::Listed;
pub use message::{Request, Unreadable};

/// Longest message that is read to be judged, in bytes: of a request, and of an answer that lists.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Longest name of a tool that is learnt, in bytes.
const MAX_TOOL_NAME_BYTES: usize = 256;
/// Tools of one server that are learnt.
const MAX_TOOLS: usize = 4_096;

/// `tools` and `read_only` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolRules {
    /// What can be called.
    pub allow: Vec<NamePattern>,
    /// What cannot, whatever `allow` says.
    pub deny: Vec<NamePattern>,
    /// Only what the server says is for reading.
    pub read_only: bool,
}

/// A pattern of names: `*` stands for any number of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
    /// The pieces between the stars.
    pieces: Vec<String>,
}

/// The rules of a service as it runs, with what is known of its tools.
#[derive(Debug)]
pub struct ToolPolicy {
    rules: ToolRules,
    /// Tools that their server says are for reading, by the last list that came by.
    readers: Mutex<BTreeSet<String>>,
}

/// A tool that may not be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tool `{0}` is not allowed")]
pub struct ToolDenied(pub String);

impl ToolRules {
    fn names(&self, tool: &str) -> bool {
        let one_of = |list: &[NamePattern]| list.iter().any(|pattern| pattern.matches(tool));
        one_of(&self.allow) && !one_of(&self.deny)
    }
}

impl ToolPolicy {
    /// What is known of the tools is what was known `before`, of the same server.
    pub fn new(rules: ToolRules, before: Option<&Self>) -> Self {
        let readers = before.map(|before| {
            let readers = before.readers.lock();
            readers.unwrap_or_else(PoisonError::into_inner).clone()
        });
        Self {
            rules,
            readers: Mutex::new(readers.unwrap_or_default()),
        }
    }

    /// Whether everything that a request calls may be called.
    ///
    /// # Errors
    /// The first tool that may not.
    pub fn admit(&self, request: &Request) -> Result<(), ToolDenied> {
        match request.tools().find(|tool| !self.permits(tool)) {
            Some(tool) => Err(ToolDenied(tool.to_owned())),
            None => Ok(()),
        }
    }

    fn permits(&self, tool: &str) -> bool {
        let is_reader = || {
            let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.contains(tool)
        };
        self.rules.names(tool) && (!self.rules.read_only || is_reader())
    }

    /// The message of an answer with no other tools in its list than may be called; none where it
    /// is as it was.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn filter(&self, message: &[u8]) -> Result<Option<String>, JsonError> {
        list::filtered(message, |tool| {
            if self.rules.read_only {
                self.learn(tool);
            }
            self.rules.names(&tool.name) && (!self.rules.read_only || tool.is_read_only)
        })
    }

    /// An event of an answer, likewise.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn filter_event(&self, event: bytes::Bytes) -> Result<bytes::Bytes, JsonError> {
        let Some(data) = events::message(&event) else {
            return Ok(event);
        };
        if !may_list(&data) {
            return Ok(event);
        }
        Ok(match self.filter(&data)? {
            Some(filtered) => events::with_data(&event, &filtered),
            None => event,
        })
    }

    /// What the last list says counts.
    fn learn(&self, tool: &Listed) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if !tool.is_read_only {
            readers.remove(&tool.name);
        } else if readers.len() < MAX_TOOLS && tool.name.len() <= MAX_TOOL_NAME_BYTES {
            readers.insert(tool.name.clone());
        }
    }
}

/// Whether a message could have a member `tools`, however it is written: only `\u` hides a letter.
fn may_list(message: &[u8]) -> bool {
    let holds = |text: &[u8]| message.windows(text.len()).any(|at| at == text);
    holds(b"tools") || holds(b"\\u")
}

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_TOOL_NAME_BYTES || text.chars().any(char::is_control)
        {
            return Err(format!(
                "`{}` is not a pattern of names: 1 to {MAX_TOOL_NAME_BYTES} bytes, `*` for any characters",
                text.escape_default()
            ));
        }
        Ok(Self {
            text: text.to_owned(),
            pieces: text.split('*').map(str::to_owned).collect(),
        })
    }

    /// Any name.
    pub fn any() -> Self {
        Self {
            text: "*".to_owned(),
            pieces: vec![String::new(), String::new()],
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self.pieces.as_slice() {
            [exact] => name == exact,
            pieces => glob(pieces, name),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn policy(allow: &[&str], deny: &[&str], read_only: bool) -> ToolPolicy {
        let patterns = |list: &[&str]| {
            let pattern = |text: &&str| NamePattern::parse(text).expect("a pattern");
            list.iter().map(pattern).collect()
        };
        let rules = ToolRules {
            allow: patterns(allow),
            deny: patterns(deny),
            read_only,
        };
        ToolPolicy::new(rules, None)
    }

    #[expect(clippy::unwrap_in_result, reason = "the request is the test's own")]
    fn call(policy: &ToolPolicy, tools: &[&str]) -> Result<(), ToolDenied> {
        let calls = tools
            .iter()
            .map(|tool| serde_json::json!({"method": "tools/call", "params": {"name": tool}}));
        let body = serde_json::Value::from(calls.collect::<Vec<_>>()).to_string();
        let request = Request::read(&HeaderMap::new(), body.as_bytes()).expect("read");
        policy.admit(&request)
    }

    #[test]
    fn what_is_allowed_and_not_denied_can_be_called() {
        let policy = policy(&["search_*", "get"], &["*_secret"], false);
        assert_eq!(call(&policy, &["search_tickets", "get"]), Ok(()));
        for tool in [
            "search_secret",
            "get_all",
            "Search_tickets",
            "delete",
            "",
            "get ",
        ] {
            let denied = ToolDenied(tool.to_owned());
            assert_eq!(call(&policy, &[tool]), Err(denied.clone()));
            // Each element of a batch counts.
            assert_eq!(call(&policy, &["get", tool]), Err(denied));
        }
    }

    #[test]
    fn only_what_a_list_says_is_for_reading_is_read_only() {
        let policy = policy(&["*"], &["c"], true);
        assert!(call(&policy, &["a"]).is_err(), "nothing is known of it");
        let list = |hint: bool| {
            serde_json::json!({"result": {"tools": [
                {"name": "a", "annotations": {"readOnlyHint": hint}},
                {"name": "b"},
                {"name": "c", "annotations": {"readOnlyHint": true}},
            ]}})
            .to_string()
        };
        let seen = policy
            .filter(list(true).as_bytes())
            .expect("read")
            .expect("less");
        assert_eq!(
            seen,
            r#"{"result":{"tools":[{"annotations":{"readOnlyHint":true},"name":"a"}]}}"#
        );
        assert_eq!(call(&policy, &["a"]), Ok(()));
        assert!(call(&policy, &["b"]).is_err() && call(&policy, &["c"]).is_err());
        // What the server says now counts.
        policy.filter(list(false).as_bytes()).expect("read");
        assert!(call(&policy, &["a"]).is_err());
    }

    #[test]
    fn an_event_is_filtered_in_its_place() {
        let policy = policy(&["a"], &[], false);
        let event = bytes::Bytes::from_static(
            b"id: 3\nevent: message\ndata: {\"result\":\ndata: {\"tools\":[{\"name\":\"b\"}]}}\n\n",
        );
        assert_eq!(
            policy.filter_event(event).expect("read"),
            "id: 3\nevent: message\ndata: {\"result\":{\"tools\":[]}}\n\n"
        );
        // Neither another kind of event nor a message that cannot list anything is read.
        for other in [
            "event: endpoint\ndata: /x\n\n",
            "data: {\"a\":1,\"a\":2}\n\n",
        ] {
            let other = bytes::Bytes::from_static(other.as_bytes());
            assert_eq!(policy.filter_event(other.clone()), Ok(other));
        }
        assert!(
            policy
                .filter_event(bytes::Bytes::from_static(b"data: {\"tools\"\n\n"))
                .is_err()
        );
    }
}
