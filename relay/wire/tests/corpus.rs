//! Replays the committed corpus of the fuzz targets, so that what was found once stays found.

use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Runs a target over its corpus.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        let input = std::fs::read(&path).expect("readable");
        let result = std::panic::catch_unwind(|| target(&input));
        assert!(result.is_ok(), "{}", path.display());
        // Everything shorter must hold as well.
        for cut in 0..input.len().min(200) {
            let result = std::panic::catch_unwind(|| target(&input[..cut]));
            assert!(result.is_ok(), "{} cut at {cut}", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn control() {
    replay("control", targets::control);
}

#[test]
fn request() {
    replay("request", targets::request);
}

#[test]
fn answer() {
    replay("answer", targets::answer);
}

#[test]
fn machines() {
    replay("machines", targets::machines);
}

#[test]
fn head() {
    replay("head", targets::head);
}

#[test]
fn names() {
    replay("names", targets::names);
}
