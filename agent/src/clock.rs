//! The wall clock, as text.

/// Now, RFC 3339 in UTC with milliseconds.
pub fn now_text() -> String {
    text(jiff::Timestamp::now())
}

/// A moment, RFC 3339 in UTC with milliseconds.
pub fn text(moment: jiff::Timestamp) -> String {
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn moments_read_as_rfc_3339() {
        let text =
            super::text(jiff::Timestamp::from_millisecond(1_794_873_600_005).expect("a moment"));
        assert_eq!(text, "2026-11-17T00:00:00.005Z");
    }
}
