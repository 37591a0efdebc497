//! What is fuzzed: the matcher of what can be called. `cargo fuzz run matcher` drives it,
//! `cargo test` replays the corpus.

use culvert_agent::policy::{Allow, Base, PathRule, Rules, decode_path};
use http::Method;
use url::Url;

/// The first line is a pattern, the rest a target. Whatever they are: a path that is let
/// through has one reading, and what is sent is inside of what is allowed.
pub(crate) fn matcher(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (pattern, target) = text.split_once('\n').unwrap_or(("/**", text));
    one_reading(target);
    inside(target);
    let Ok(rule) = PathRule::parse(pattern) else {
        return;
    };
    let rules = Rules::Http(vec![Allow {
        methods: vec![Method::GET],
        paths: vec![rule.clone()],
        upgrade: Vec::new(),
    }]);
    let path = target.split('?').next().unwrap_or_default();
    let matches = decode_path(path).is_ok_and(|path| rule.matches(&path));
    if rules.admit(&Method::GET, target).is_ok() {
        assert!(matches, "{pattern:?} let {target:?} through");
    }
    assert!(rules.admit(&Method::POST, target).is_err());
}

/// What is sent reads as what was matched, also to a server that normalises.
fn one_reading(target: &str) {
    let path = target.split('?').next().unwrap_or_default();
    let Ok(clean) = decode_path(path) else {
        return;
    };
    let written = clean.to_string();
    assert_eq!(decode_path(&written).as_ref(), Ok(&clean), "{path:?}");
    let url = Url::parse(&format!("http://h{written}")).expect("a url");
    assert_eq!(url.path(), written, "{path:?}");
    assert_eq!(url.host_str(), Some("h"), "{path:?}");
    for segment in clean.segments() {
        assert!(!matches!(segment, "." | ".."), "{path:?}");
        assert!(!segment.contains(['/', '\\', ';', '\0']), "{path:?}");
    }
}

/// Nothing leaves the directory that one rule allows.
fn inside(target: &str) {
    let rules = Rules::Http(vec![Allow {
        methods: vec![Method::GET],
        paths: vec![PathRule::parse("/v1/invoices/*").expect("a pattern")],
        upgrade: Vec::new(),
    }]);
    let base = Base::new(&Url::parse("http://h/api").expect("a url")).expect("a base");
    if let Ok(admitted) = rules.admit(&Method::GET, target) {
        let sent = Url::parse(&format!("http://h{}", base.target(&admitted))).expect("a url");
        let rest = sent
            .path()
            .strip_prefix("/api/v1/invoices/")
            .expect("inside");
        assert!(!rest.is_empty() && !rest.contains('/'), "{target:?}");
    }
}
