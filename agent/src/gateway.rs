//! The gateway's URL, as it was told at joining: shown to people, used for nothing else.

use std::path::Path;

/// Below the state directory.
const FILE: &str = "gateway.txt";
/// Longest URL that is kept.
const MAX_BYTES: usize = 2048;

/// Keeps it over restarts. That it cannot is no reason to fail.
pub(crate) fn keep(state_dir: &Path, url: &str) {
    if !is_url(url) {
        return;
    }
    if let Err(error) = std::fs::write(state_dir.join(FILE), url) {
        tracing::warn!(%error, "the gateway's url cannot be kept");
    }
}

/// The one that was kept.
pub(crate) fn kept(state_dir: &Path) -> Option<String> {
    let url = std::fs::read_to_string(state_dir.join(FILE)).ok()?;
    is_url(&url).then_some(url)
}

/// A plane's word goes to a terminal: nothing but a url does.
fn is_url(text: &str) -> bool {
    let plain = |b: u8| (0x21..0x7f).contains(&b) && !b"'\"`$\\;|&<>".contains(&b);
    text.len() <= MAX_BYTES
        && text.bytes().all(plain)
        && url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_url_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in [
            "",
            "ftp://h",
            "http://h/$(x)",
            "http://h/\u{1b}[2J",
            "http://h/';x",
        ] {
            keep(dir.path(), bad);
            assert_eq!(kept(dir.path()), None, "{bad}");
        }
        keep(dir.path(), "http://127.0.0.1:8080");
        assert_eq!(kept(dir.path()).as_deref(), Some("http://127.0.0.1:8080"));
    }
}
