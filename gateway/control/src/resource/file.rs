//! Files of resources: YAML or JSON, one or more documents, read strictly and with line numbers.

use std::{collections::BTreeMap, fmt};

use culvert_certs::name::TenantName;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use super::{
    document::{Document, InvalidDocument, ResourceKind},
    fields::{Fields, Finding, Problem},
};

/// Largest file that is read, in bytes: a thousand documents.
pub const MAX_FILE: usize = 1024 * 1024;

/// Most values in a file, also those that aliases repeat: a thousand documents of fifty.
const MAX_NODES: usize = 50_000;

/// Deepest nesting in a file; ours is four deep.
const MAX_DEPTH: usize = 16;

/// Most comment lines in a row.
const MAX_COMMENT_LINES: usize = 1_000;

/// One document of a file.
#[derive(Debug, Clone)]
pub struct FileDocument {
    /// What it says.
    pub document: Document,
    lines: Lines,
}

impl FileDocument {
    /// The line of the file (from 1) on which the field of this path stands, or the nearest field
    /// around it.
    #[must_use]
    pub fn line(&self, path: &str) -> u64 {
        self.lines.of(path)
    }
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {finding}")]
pub struct FileError {
    /// Which line, from 1; 0 where it cannot be told.
    pub line: u64,
    /// What, and of which field.
    pub finding: Finding,
}

/// Reads every document of a file, strictly.
///
/// # Errors
/// Everything wrong in it, but for what only control can see.
pub fn read_file(text: &str) -> Result<Vec<FileDocument>, Vec<FileError>> {
    if text.len() > MAX_FILE {
        let why = format!("must have at most {MAX_FILE} bytes");
        return Err(vec![unreadable(0, why)]);
    }
    let nodes: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| vec![syntax(&error)])?;
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for node in &nodes {
        match read_node(node) {
            Ok(document) => documents.push(document),
            Err(mut more) => errors.append(&mut more),
        }
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

/// Reads a text that is exactly one document, strictly but for its `spec`: that is for whoever
/// knows what it will replace.
///
/// # Errors
/// As [`read_file`].
pub fn read_one(text: &str) -> Result<FileDocument, Vec<FileError>> {
    let node: Node = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| vec![syntax(&error)])?;
    read_envelope(&node)
}

/// How files are parsed: `NO` is a text (and a zone), and what a small file can unfold to is
/// bounded.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            max_buffered_comment_events: MAX_COMMENT_LINES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
    }
}

fn syntax(error: &serde_saphyr::Error) -> FileError {
    let line = error.location().map_or(0, |location| location.line());
    unreadable(line, error.without_snippet().to_string())
}

fn unreadable(line: u64, why: String) -> FileError {
    let (path, problem) = (String::new(), Problem::Invalid(why));
    FileError {
        line,
        finding: Finding { path, problem },
    }
}

fn read_node(node: &Node) -> Result<FileDocument, Vec<FileError>> {
    let document = read_envelope(node)?;
    let findings = document.document.strict_findings(None);
    if findings.is_empty() {
        Ok(document)
    } else {
        Err(document.lines.locate(findings))
    }
}

fn read_envelope(node: &Node) -> Result<FileDocument, Vec<FileError>> {
    let mut lines = Lines::default();
    let value = node.flatten("", &mut lines);
    let Value::Object(map) = value else {
        return Err(vec![unreadable(node.line, "must be an object".into())]);
    };
    let mut fields = Fields::new(&map, "");
    let kind = fields.required_text("kind");
    let tenant: Option<TenantName> = fields.text("tenant");
    let name = fields.required_text::<String>("name");
    let spec = fields.object("spec").cloned().unwrap_or_default();
    // What control adds when it shows a document; a file that was got can be applied.
    fields.ignore("status");
    fields.ignore("revision");
    let findings = fields.finish();
    let (Some(kind), Some(name), true) = (kind, name, findings.is_empty()) else {
        return Err(lines.locate(findings));
    };
    match Document::new(kind, tenant, &name) {
        Ok(document) => Ok(FileDocument {
            document: Document { spec, ..document },
            lines,
        }),
        Err(InvalidDocument(findings)) => Err(lines.locate(findings)),
    }
}

impl std::str::FromStr for ResourceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.word() == text);
        kind.ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|kind| kind.word()).collect();
            format!("must be one of {}", words.join(", "))
        })
    }
}

/// On which line each field of a document stands.
#[derive(Debug, Clone, Default)]
struct Lines(BTreeMap<String, u64>);

impl Lines {
    fn of(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.0.get("").copied().unwrap_or(0),
            }
        }
    }

    fn locate(&self, findings: Vec<Finding>) -> Vec<FileError> {
        let locate = |finding: Finding| FileError {
            line: self.of(&finding.path),
            finding,
        };
        findings.into_iter().map(locate).collect()
    }
}

/// A value and the line on which it starts.
#[derive(Debug)]
struct Node {
    line: u64,
    value: NodeValue,
}

#[derive(Debug)]
enum NodeValue {
    Leaf(Value),
    List(Vec<Node>),
    /// The line of a field is its name's.
    Fields(Vec<(String, u64, Node)>),
}

impl Node {
    fn flatten(&self, path: &str, lines: &mut Lines) -> Value {
        lines.0.entry(path.to_owned()).or_insert(self.line);
        match &self.value {
            NodeValue::Leaf(value) => value.clone(),
            NodeValue::List(items) => items
                .iter()
                .enumerate()
                .map(|(n, item)| item.flatten(&format!("{path}[{n}]"), lines))
                .collect(),
            NodeValue::Fields(fields) => {
                let mut map = Map::new();
                for (name, line, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    let path = format!("{path}{dot}{name}");
                    lines.0.insert(path.clone(), *line);
                    map.insert(name.clone(), value.flatten(&path, lines));
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<NodeValue>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for NodeValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = NodeValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML or JSON value")
    }

    fn visit_unit<E>(self) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(
            Number::from_f64(value).map_or(Value::Null, Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<NodeValue, E> {
        Ok(NodeValue::Leaf(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(NodeValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<NodeValue, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = entries.next_entry::<Spanned<String>, Node>()? {
            fields.push((name.value, name.referenced.line(), value));
        }
        Ok(NodeValue::Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(text: &str) -> Vec<(u64, String)> {
        let errors = read_file(text).unwrap_err();
        errors
            .into_iter()
            .map(|e| (e.line, e.finding.path))
            .collect()
    }

    #[test]
    fn documents_are_read_with_their_lines() {
        let text = "kind: Tenant\nname: acme\n---\nkind: Connector\ntenant: acme\nname: dev\n\
                    spec:\n  services:\n    - llama\n    - \"tickets\"\n  zones: [NO, ORF]\n";
        let read = read_file(text).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].document.spec["zones"], json!(["NO", "ORF"]));
        assert_eq!(read[1].line("spec.services[1]"), 10);
        assert_eq!(read[1].line("spec.services"), 8);
        assert_eq!(read[1].line("spec.zones[1].nothing"), 11);
    }

    #[test]
    fn every_error_has_its_line_and_path() {
        let text = "kind: Connector\ntenant: acme\nname: Dev\n---\nkind: Key\ntenant: acme\n\
                    name: ci\nspec:\n  allow:\n    - dev/*\n    - what\n  limit: 5\nspecs: {}\n";
        assert_eq!(errors(text), [(3, "name".into()), (13, "specs".into())]);
        let text = text.replace("specs: {}\n", "").replace("Dev", "dev");
        let expected = [(11, "spec.allow[1]"), (12, "spec.limit")];
        assert_eq!(
            errors(&text),
            expected.map(|(line, path)| (line, path.to_owned()))
        );
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (text, line) in [
            ("- a\n", 1),
            ("a: 1\nb: [\n", 2),
            ("kind: Tenant\nkind: Tenant\n", 2),
        ] {
            assert_eq!(errors(text)[0].0, line, "{text}");
        }
        assert_eq!(errors("kind: Nothing\nname: x\n"), [(1, "kind".into())]);
        assert_eq!(errors("kind: Tenant\n"), [(1, "name".into())]);
    }

    #[test]
    fn small_files_that_unfold_are_refused() {
        let deep = format!("kind: {}", "[".repeat(100_000));
        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for n in 1..20 {
            let last = format!("*a{}, ", n - 1).repeat(9);
            bomb += &format!("a{n}: &a{n} [{last}x]\n");
        }
        for text in [deep, bomb, "a: ".repeat(50_000), "- ".repeat(50_000)] {
            assert!(read_file(&text).is_err(), "{}", &text[..40]);
        }
    }

    #[test]
    fn long_values_and_long_comments_are_read() {
        let long = "x".repeat(4_000);
        let json = format!(
            r#"{{"kind": "Tenant", "name": "acme", "spec": {{"display_name": "{long}"}}}}"#
        );
        assert_eq!(
            read_one(&json).unwrap().document.spec["display_name"],
            json!(long)
        );
        let comments = "# a comment\n".repeat(500);
        let yaml =
            format!("kind: Tenant\n{comments}name: acme\nspec:\n{comments}  retention: 5d\n");
        assert_eq!(read_one(&yaml).unwrap().line("spec.retention"), 1_004);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_file_holds_it_is_read_or_refused(text in "[ a-z0-9:{}\\[\\],&*!|>#'\"\n-]{0,200}") {
            drop(read_file(&text));
            drop(read_one(&text));
        }
    }

    #[test]
    fn json_is_read_too_and_what_was_shown_can_be_applied() {
        let text = r#"{"kind": "Tenant", "name": "acme", "spec": {"display_name": "Acme"},
            "status": {"created": "x"}, "revision": 7}"#;
        let read = read_one(text).unwrap();
        assert_eq!(read.document.spec["display_name"], json!("Acme"));
        assert!(read.document.status.is_empty());
    }
}
