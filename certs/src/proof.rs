//! What proofs are signed over: a domain separator, then length-prefixed fields.
//!
//! The separators keep a signature made for one purpose from being taken for another, and the
//! lengths keep the bytes of one field from being taken for those of its neighbour.

/// Builds the input of a signature.
#[derive(Debug, Clone)]
pub(crate) struct SignedInput(Vec<u8>);

impl SignedInput {
    /// Starts with a domain separator, which ends in NUL.
    pub(crate) fn new(domain: &'static [u8]) -> Self {
        debug_assert_eq!(domain.last(), Some(&0));
        Self(domain.to_vec())
    }

    /// Adds a field: its length as four bytes, big-endian, and its bytes.
    ///
    /// Every field is bounded far below 4 GiB before it gets here; a longer one would yield an
    /// input that no verifier accepts.
    pub(crate) fn field(mut self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// The bytes to sign or to verify.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_apart() {
        let one = SignedInput::new(b"x\0").field(b"ab").field(b"c").finish();
        let other = SignedInput::new(b"x\0").field(b"a").field(b"bc").finish();
        assert_eq!(one, b"x\0\0\0\0\x02ab\0\0\0\x01c");
        assert_ne!(one, other);
    }
}
