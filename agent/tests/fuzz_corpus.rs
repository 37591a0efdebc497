//! Replays the corpus of the fuzz targets, and what a fuzzer would make of it.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Changed seeds that are tried. A failure prints the seed of its randomness, which stands in
/// `CULVERT_SEED` to try it again; with more rounds in `CULVERT_FUZZ_ROUNDS`.
const ROUNDS: u64 = 50_000;
/// Changes of one seed.
const MOST_CHANGES: usize = 6;
/// What paths and patterns are read by.
const WORDS: &[&str] = &[
    "/",
    "//",
    ".",
    "..",
    "%2e",
    "%2E",
    "%2f",
    "%5c",
    "\\",
    ";",
    "%3b",
    "%00",
    "\0",
    "%25",
    "%",
    "?",
    "#",
    "*",
    "**",
    "\n",
    " ",
    "%20",
    "%c3%a9",
    "é",
    "%ff",
    "/v1/invoices/",
    "..;/",
    ":",
    "@",
    "[",
    "\u{202e}",
];

fn corpus() -> Vec<Vec<u8>> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/matcher");
    let entries = std::fs::read_dir(dir).expect("the corpus");
    let seeds: Vec<_> = entries
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a seed"))
        .collect();
    assert!(!seeds.is_empty(), "the corpus is empty");
    seeds
}

#[test]
fn the_matcher_holds_over_its_corpus() {
    for seed in corpus() {
        targets::matcher(&seed);
        // And every prefix of it.
        (0..seed.len()).for_each(|end| targets::matcher(&seed[..end]));
    }
}

#[test]
fn the_matcher_holds_over_changes_of_its_corpus() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let chance = number("CULVERT_SEED").unwrap_or_else(rand::random);
    let rounds = number("CULVERT_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    // Shown where the test fails.
    println!("CULVERT_SEED={chance}");
    let mut rng = StdRng::seed_from_u64(chance);
    let mut seeds = corpus();
    for _ in 0..rounds {
        let mut data = seeds.choose(&mut rng).expect("a seed").clone();
        for _ in 0..rng.random_range(1..=MOST_CHANGES) {
            change(&mut data, &mut rng);
        }
        targets::matcher(&data);
        // What one change has made is the ground of others.
        if data.len() < 200 && rng.random_ratio(1, 50) {
            let at = rng.random_range(0..seeds.len());
            seeds[at] = data;
        }
    }
}

fn change(data: &mut Vec<u8>, rng: &mut StdRng) {
    let at = rng.random_range(0..=data.len());
    match rng.random_range(0..4) {
        0 => {
            let word = WORDS.choose(rng).expect("a word").as_bytes();
            data.splice(at..at, word.iter().copied());
        }
        1 if at < data.len() => data[at] = rng.random(),
        2 if at < data.len() => {
            let end = (at + rng.random_range(1..8)).min(data.len());
            data.drain(at..end);
        }
        _ => {
            let end = (at + rng.random_range(1..16)).min(data.len());
            let again: Vec<u8> = data[at..end].to_vec();
            data.splice(at..at, again);
        }
    }
}
