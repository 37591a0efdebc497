//! What a key may call: patterns over `<connector>/<model or service>`.
//!
//! A pattern is `[model:|mcp:|http:]<glob>`; `*` stands for any run of characters, also across `/`,
//! because model ids contain it. Without a kind the pattern covers all of them.

/// The kinds of things that a key may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A model, by the id that its backend gives it.
    Model,
    /// An MCP server.
    Mcp,
    /// An HTTP service.
    Http,
}

impl Kind {
    /// The kind as patterns, records and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Mcp => "mcp",
            Self::Http => "http",
        }
    }
}

/// The right of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Everything of the tenant.
    All,
    /// What matches one of these.
    Patterns(Vec<Pattern>),
}

impl Allow {
    /// Whether `<connector>/<name>` of this kind may be called.
    pub fn permits(&self, kind: Kind, connector: &str, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Patterns(patterns) => patterns.iter().any(|p| p.matches(kind, connector, name)),
        }
    }
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    kind: Option<Kind>,
    glob: String,
}

impl Pattern {
    /// Reads a pattern; every text is one.
    pub fn parse(text: &str) -> Self {
        let kinds = [Kind::Model, Kind::Mcp, Kind::Http];
        let split = text.split_once(':').and_then(|(prefix, glob)| {
            kinds
                .into_iter()
                .find(|kind| kind.name() == prefix)
                .map(|kind| (kind, glob))
        });
        match split {
            Some((kind, glob)) => Self {
                kind: Some(kind),
                glob: glob.to_owned(),
            },
            None => Self {
                kind: None,
                glob: text.to_owned(),
            },
        }
    }

    fn matches(&self, kind: Kind, connector: &str, name: &str) -> bool {
        self.kind.is_none_or(|own| own == kind)
            && glob_matches(
                self.glob.as_bytes(),
                [connector.as_bytes(), b"/", name.as_bytes()],
            )
    }
}

/// Linear in pattern times text: on a mismatch only the last `*` grows.
fn glob_matches(glob: &[u8], parts: [&[u8]; 3]) -> bool {
    let text: Vec<u8> = parts.concat();
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if glob.get(g) == Some(&b'*') {
            star = Some((g, t));
            g += 1;
        } else if glob.get(g) == Some(&text[t]) {
            g += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            g = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn permits(pattern: &str, kind: Kind, path: &str) -> bool {
        let (connector, name) = path.split_once('/').unwrap();
        Allow::Patterns(vec![Pattern::parse(pattern)]).permits(kind, connector, name)
    }

    #[test]
    fn patterns() {
        for (pattern, path, wanted) in [
            ("*", "dev/a/b", true),
            ("dev/*", "dev/a/b", true),
            ("dev/*", "devx/a", false),
            ("dev/meta/*", "dev/meta/llama", true),
            ("dev/meta/*", "dev/other", false),
            ("*/llama*8b", "dev/meta/llama-3-8b", true),
            ("*/llama*8b", "dev/llama-70b", false),
            ("dev/llama3:8b", "dev/llama3:8b", true),
            ("mcp:dev/*", "dev/a", false),
            ("model:dev/*", "dev/a", true),
            ("", "dev/a", false),
            ("dev/a", "dev/a", true),
            ("dev/a", "dev/ab", false),
        ] {
            assert_eq!(
                permits(pattern, Kind::Model, path),
                wanted,
                "{pattern} {path}"
            );
        }
        assert!(permits("mcp:dev/*", Kind::Mcp, "dev/tickets"));
        assert!(!permits("http:dev/*", Kind::Mcp, "dev/tickets"));
        assert!(Allow::All.permits(Kind::Http, "x", "y"));
        assert!(!Allow::Patterns(vec![]).permits(Kind::Http, "x", "y"));
    }

    proptest! {
        #[test]
        fn a_pattern_made_from_a_name_matches_it(
            name in "[a-z/:]{1,20}", cut in 0_usize..20, len in 0_usize..20,
        ) {
            let from = cut.min(name.len());
            let to = (from + len).min(name.len());
            let pattern = format!("*/{}*{}", &name[..from], &name[to..]);
            let path = format!("c/{name}");
            prop_assert!(permits(&pattern, Kind::Model, &path));
        }
    }
}
