//! How much a test run tries.

/// Whether `CULVERT_TESTS=full` asks for more rounds than a developer wants to wait for.
pub fn is_full() -> bool {
    std::env::var("CULVERT_TESTS").is_ok_and(|value| value == "full")
}

/// Rounds of a test that repeats itself.
pub fn rounds() -> usize {
    if is_full() { 3 } else { 1 }
}
