//! The one place where this crate draws randomness.

/// `N` bytes of the system's cryptographic generator.
///
/// The generator is seeded before the first call returns and does not fail afterwards.
#[expect(
    clippy::expect_used,
    reason = "without randomness no key is safe: going on would be worse than stopping"
)]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}
