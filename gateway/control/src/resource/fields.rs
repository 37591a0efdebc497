//! Reading a document field by field, while noting what was read.

use std::{collections::BTreeSet, fmt, fmt::Display, str::FromStr};

use serde_json::{Map, Value};

/// Longest list that a field may hold: more than anything here needs, and what one page shows.
const MAX_LIST: usize = 1_000;

/// Longest text that a field may hold, in bytes.
const MAX_TEXT: usize = 4_096;

/// The fields of one object of a document. Whoever reads a field marks it as known.
#[derive(Debug)]
pub struct Fields<'d> {
    map: &'d Map<String, Value>,
    path: String,
    read: BTreeSet<&'d str>,
    findings: Vec<Finding>,
}

impl<'d> Fields<'d> {
    /// The fields of `map`, which stands at `path` of its document.
    #[must_use]
    pub fn new(map: &'d Map<String, Value>, path: &str) -> Self {
        Self {
            map,
            path: path.to_owned(),
            read: BTreeSet::new(),
            findings: Vec::new(),
        }
    }

    /// A text with a form of its own.
    pub fn text<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let value = self.value(name)?;
        self.note(self.path_of(name), parse(value))
    }

    /// As [`Fields::text`], but it must be there.
    pub fn required_text<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        if self.map.get(name).is_none_or(Value::is_null) {
            self.fail(name, Problem::Missing);
        }
        self.text(name)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.value(name)?;
        let flag = value.as_bool().ok_or("must be true or false".to_owned());
        self.note(self.path_of(name), flag)
    }

    /// A list of texts with a form of their own. `None` where the field is absent or bad.
    pub fn list<T>(&mut self, name: &str) -> Option<Vec<T>>
    where
        T: FromStr<Err: Display>,
    {
        let value = self.value(name)?;
        let Some(items) = value.as_array().filter(|items| items.len() <= MAX_LIST) else {
            self.invalid(name, format!("must be a list of at most {MAX_LIST}"));
            return None;
        };
        let before = self.findings.len();
        let parsed = items
            .iter()
            .enumerate()
            .filter_map(|(n, item)| self.note(format!("{}[{n}]", self.path_of(name)), parse(item)))
            .collect();
        (self.findings.len() == before).then_some(parsed)
    }

    /// An object that is read elsewhere, as a whole.
    pub fn object(&mut self, name: &str) -> Option<&'d Map<String, Value>> {
        let value = self.value(name)?;
        let object = value.as_object().ok_or("must be an object".to_owned());
        self.note(self.path_of(name), object)
    }

    /// Marks a field as known without looking at it.
    pub fn ignore(&mut self, name: &str) {
        self.value(name);
    }

    /// Notes that a field has a value which cannot stand.
    pub fn invalid(&mut self, name: &str, why: impl Into<String>) {
        self.fail(name, Problem::Invalid(why.into()));
    }

    /// Whether a field that was read could not stand.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Ends the reading: what is wrong, fields that nothing read last.
    #[must_use]
    pub fn finish(mut self) -> Vec<Finding> {
        for name in self.map.keys() {
            if !self.read.contains(name.as_str()) {
                self.findings.push(Finding {
                    path: self.path_of(name),
                    problem: Problem::Unknown,
                });
            }
        }
        self.findings
    }

    /// The field's value unless it is absent or null; marks it as read.
    fn value(&mut self, name: &str) -> Option<&'d Value> {
        let (name, value) = self.map.get_key_value(name)?;
        self.read.insert(name);
        (!value.is_null()).then_some(value)
    }

    fn note<T>(&mut self, path: String, outcome: Result<T, String>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(why) => {
                let problem = Problem::Invalid(why);
                self.findings.push(Finding { path, problem });
                None
            }
        }
    }

    fn fail(&mut self, name: &str, problem: Problem) {
        let path = self.path_of(name);
        self.findings.push(Finding { path, problem });
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

fn parse<T>(value: &Value) -> Result<T, String>
where
    T: FromStr<Err: Display>,
{
    let text = value.as_str().ok_or("must be a text")?;
    if text.len() > MAX_TEXT {
        return Err(format!("must have at most {MAX_TEXT} bytes"));
    }
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Something wrong at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, as `spec.services[2]`.
    pub path: String,
    /// What.
    pub problem: Problem,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// This build does not know it, so it could not enforce it.
    Unknown,
    /// It must be there and is not.
    Missing,
    /// Its value cannot stand, and why.
    Invalid(String),
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("is not known here"),
            Self::Missing => f.write_str("is missing"),
            Self::Invalid(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_nothing_reads_is_found() {
        let map = map(json!({"a": "1", "b": true, "c": 3, "d": null}));
        let mut fields = Fields::new(&map, "spec");
        assert_eq!(fields.text::<u8>("a"), Some(1));
        assert_eq!(fields.flag("b"), Some(true));
        assert_eq!(fields.flag("d"), None);
        let found = fields.finish();
        let unknown = Finding {
            path: "spec.c".into(),
            problem: Problem::Unknown,
        };
        assert_eq!(found, [unknown]);
    }

    #[test]
    fn bad_values_name_their_place() {
        let map = map(json!({"list": ["1", "x", 3], "flag": "yes", "text": 5}));
        let mut fields = Fields::new(&map, "spec");
        assert_eq!(fields.list::<u8>("list"), None);
        assert_eq!(fields.flag("flag"), None);
        assert_eq!(fields.text::<String>("text"), None);
        assert_eq!(fields.required_text::<String>("gone"), None);
        let found: Vec<_> = fields.finish().into_iter().map(|f| f.path).collect();
        let places = [
            "spec.list[1]",
            "spec.list[2]",
            "spec.flag",
            "spec.text",
            "spec.gone",
        ];
        assert_eq!(found, places);
    }
}
