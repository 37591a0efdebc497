//! `Server-Timing` as the gateway sends it.

/// The hops of one answer and their milliseconds, in the order of the header.
pub fn hops(header: &str) -> Vec<(String, f64)> {
    header.split(',').filter_map(hop).collect()
}

fn hop(entry: &str) -> Option<(String, f64)> {
    let mut parts = entry.split(';').map(str::trim);
    let name = parts.next()?;
    let duration = parts.find_map(|part| part.strip_prefix("dur="))?;
    Some((name.to_owned(), duration.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_durations_and_skips_the_rest() {
        let read = hops("gateway;dur=0.25, tunnel;desc=\"x\";dur=1, nothing, backend;dur=20.5");
        assert_eq!(
            read,
            [
                ("gateway".to_owned(), 0.25),
                ("tunnel".to_owned(), 1.0),
                ("backend".to_owned(), 20.5)
            ]
        );
    }
}
