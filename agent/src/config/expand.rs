//! `${env:NAME}` and `${file:PATH}` inside a value of the file.
//!
//! They are expanded after YAML has been parsed, so that what they bring in is always
//! one string and never syntax.

use std::path::Path;

/// Most bytes read from one `${file:…}`.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where `${…}` looks values up. Tests give their own.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// A variable of the environment.
    pub env: fn(&str) -> Option<String>,
    /// The content of a file, or why there is none.
    pub file: fn(&Path) -> Result<String, String>,
}

impl Sources {
    /// The process environment and the file system.
    pub const SYSTEM: Self = Self {
        env: |name| std::env::var(name).ok(),
        file: read_bounded,
    };
}

/// The text with every `${env:…}` and `${file:…}` replaced; `$${` stands for `${`.
pub(crate) fn expand(text: &str, sources: &Sources) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner
            .find('}')
            .ok_or("`${` without its `}`; write `$${` for the two characters themselves")?;
        out.push_str(&lookup(&inner[..end], sources)?);
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn lookup(reference: &str, sources: &Sources) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => {
            (sources.env)(name).ok_or_else(|| format!("the environment has no {name}"))
        }
        Some(("file", path)) => (sources.file)(Path::new(path))
            .map(|content| content.trim_end_matches(['\r', '\n']).to_owned()),
        _ => Err(format!(
            "`${{{reference}}}` is unknown: only ${{env:NAME}} and ${{file:PATH}} are"
        )),
    }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let describe = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut content = String::new();
    std::fs::File::open(path)
        .map_err(describe)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut content)
        .map_err(describe)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "{}: larger than {MAX_FILE_BYTES} bytes",
            path.display()
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: Sources = Sources {
        env: |name| (name == "KEY").then(|| "s3cret: {x}".to_owned()),
        file: |path| match path.to_str() {
            Some("/k") => Ok("from-file\n".to_owned()),
            _ => Err("no such file".to_owned()),
        },
    };

    #[test]
    fn values_come_from_environment_and_file() {
        assert_eq!(
            expand("Bearer ${env:KEY}", &FIXED).as_deref(),
            Ok("Bearer s3cret: {x}")
        );
        assert_eq!(expand("${file:/k}!", &FIXED).as_deref(), Ok("from-file!"));
        assert_eq!(
            expand("a $${env:KEY} b", &FIXED).as_deref(),
            Ok("a ${env:KEY} b")
        );
        assert_eq!(
            expand("plain $5 {x}", &FIXED).as_deref(),
            Ok("plain $5 {x}")
        );
    }

    #[test]
    fn what_cannot_be_looked_up_is_an_error() {
        assert!(expand("${env:NONE}", &FIXED).is_err());
        assert!(expand("${file:/none}", &FIXED).is_err());
        assert!(expand("${KEY}", &FIXED).is_err());
        assert!(expand("${env:KEY", &FIXED).is_err());
    }
}
