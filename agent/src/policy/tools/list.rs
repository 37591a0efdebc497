//! What a server answers: a message, whose list of tools holds only those that can be called.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json::{JsonError, normalised};

/// A tool of a list, as far as it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its name.
    pub(super) name: String,
    /// Whether its server says that it changes nothing.
    pub(super) is_read_only: bool,
}

/// The message, with only those tools in its list that are `kept`; none where nothing of it has
/// changed. Every listed tool is asked for once.
///
/// # Errors
/// [`JsonError`]: it has no single reading, so that nobody can say what it lists.
pub(super) fn filtered(
    message: &[u8],
    mut kept: impl FnMut(&Listed) -> bool,
) -> Result<Option<String>, JsonError> {
    let text = normalised(message)?;
    if text.starts_with('[') {
        return batch(&text, &mut kept);
    }
    one(&text, &mut kept)
}

fn batch(text: &str, kept: &mut impl FnMut(&Listed) -> bool) -> Result<Option<String>, JsonError> {
    let messages: Vec<&RawValue> = parsed(text)?;
    let mut changed = false;
    let mut out = Vec::with_capacity(messages.len());
    for message in messages {
        let filtered = one(message.get(), kept)?;
        changed |= filtered.is_some();
        out.push(filtered.map_or(Cow::Borrowed(message.get()), Cow::Owned));
    }
    Ok(changed.then(|| format!("[{}]", out.join(","))))
}

fn one(message: &str, kept: &mut impl FnMut(&Listed) -> bool) -> Result<Option<String>, JsonError> {
    let Some((mut members, at)) = member(message, "result")? else {
        return Ok(None);
    };
    let Some((mut result, tools_at)) = member(members[at].1.get(), "tools")? else {
        return Ok(None);
    };
    let tools = result[tools_at].1.get();
    if !tools.starts_with('[') {
        return Ok(None);
    }
    let listed: Vec<&RawValue> = parsed(tools)?;
    let count = listed.len();
    let left: Vec<&str> = listed
        .into_iter()
        .filter(|tool| judged(tool).is_some_and(|tool| kept(&tool)))
        .map(RawValue::get)
        .collect();
    if left.len() == count {
        return Ok(None);
    }
    let tools: Box<RawValue> = parsed(&format!("[{}]", left.join(",")))?;
    result[tools_at].1 = &tools;
    let result: Box<RawValue> = parsed(&written(&result))?;
    members[at].1 = &result;
    Ok(Some(written(&members)))
}

/// A tool without a name cannot be called, and is not listed.
fn judged(tool: &RawValue) -> Option<Listed> {
    let tool: Tool = serde_json::from_str(tool.get()).ok()?;
    // Whatever else stands there is no word for it.
    let hint = tool.annotations.get("readOnlyHint");
    Some(Listed {
        name: tool.name,
        is_read_only: hint == Some(&Value::Bool(true)),
    })
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    #[serde(default)]
    annotations: Value,
}

type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// The members of an object, and the place of one of them; none where it is not there.
fn member<'a>(object: &'a str, key: &str) -> Result<Option<(Members<'a>, usize)>, JsonError> {
    if !object.starts_with('{') {
        return Ok(None);
    }
    let Ordered(members) = parsed(object)?;
    let at = members.iter().position(|(name, _)| name == key);
    Ok(at.map(|at| (members, at)))
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    serde_json::from_str(text).map_err(|_| JsonError::Syntax)
}

fn written(members: &Members<'_>) -> String {
    let pairs: Vec<String> = members
        .iter()
        .map(|(key, value)| format!("{}:{value}", Value::from(key.as_ref())))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// An object's members in their order.
struct Ordered<'a>(Members<'a>);

impl<'de> Deserialize<'de> for Ordered<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Ordered<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            members.push((Cow::Owned(key), value));
        }
        Ok(Ordered(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep_search(message: &str) -> Result<Option<String>, JsonError> {
        filtered(message.as_bytes(), |tool| tool.name == "search")
    }

    #[test]
    fn a_list_holds_what_can_be_called() {
        let list = r#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"n","tools":[{"name":"search","x":1e400},{"name":"delete"},{"title":"nameless"},7],"ttlMs":5}}"#;
        let want = r#"{"jsonrpc":"2.0","id":1,"result":{"nextCursor":"n","tools":[{"name":"search","x":1e400}],"ttlMs":5}}"#;
        assert_eq!(keep_search(list).expect("read").as_deref(), Some(want));
        let batch = format!(r#"[{{"id":2,"result":{{}}}},{list}]"#);
        let wanted = format!(r#"[{{"id":2,"result":{{}}}},{want}]"#);
        assert_eq!(keep_search(&batch).expect("read"), Some(wanted));
        // However the server writes it.
        let spelt = list.replace("\"tools\"", " \"\\u0074ools\" ");
        assert_eq!(keep_search(&spelt).expect("read").as_deref(), Some(want));
    }

    #[test]
    fn what_lists_nothing_else_is_left_alone() {
        for message in [
            r#"{"result":{"tools":[{"name":"search"}]}}"#,
            r#"{"result":{"content":[{"tools":[{"name":"delete"}]}]}}"#,
            r#"{"result":{"tools":{"name":"delete"}}}"#,
            r#"{"method":"notifications/message","params":{}}"#,
            r#"{"error":{"code":1}}"#,
            "[]",
            "7",
        ] {
            assert_eq!(keep_search(message), Ok(None), "{message}");
        }
        assert_eq!(
            keep_search(r#"{"result":1,"result":{"tools":[]}}"#),
            Err(JsonError::Twice)
        );
    }

    #[test]
    fn a_hint_is_read_as_it_stands() {
        let mut seen = Vec::new();
        let list = r#"{"result":{"tools":[{"name":"a","annotations":{"readOnlyHint":true}},{"name":"b","annotations":{}},{"name":"c","annotations":null},{"name":"d","annotations":{"readOnlyHint":"true"}}]}}"#;
        let out = filtered(list.as_bytes(), |tool| {
            seen.push((tool.name.clone(), tool.is_read_only));
            true
        });
        let want = [("a", true), ("b", false), ("c", false), ("d", false)];
        assert_eq!(seen, want.map(|(name, hint)| (name.to_owned(), hint)));
        assert_eq!(out, Ok(None));
    }
}
