//! Replays the corpus of the fuzz targets.

#[path = "../fuzz/targets.rs"]
mod targets;

#[test]
fn the_matcher_holds_over_its_corpus() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/matcher");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let seed = std::fs::read(entry.expect("an entry").path()).expect("a seed");
        targets::matcher(&seed);
        // And every prefix of it.
        (0..seed.len()).for_each(|end| targets::matcher(&seed[..end]));
        count += 1;
    }
    assert!(count > 0, "the corpus is empty");
}
