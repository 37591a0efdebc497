//! Durations and sizes as a person writes them: `500ms`, `5s`, `10m`, `64MiB`.

use std::time::Duration;

use crate::rate::RateSpec;

/// Most calls of a rate: with more, the time of one is less than the clock's own steps.
const MAX_RATE: u32 = 1_000_000;

/// A duration with its unit: `ms`, `s`, `m`, `h` or `d`, a whole number before it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write for example `5s`"))?;
    let scale_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("`{text}` needs a unit: ms, s, m, h or d")),
    };
    number
        .checked_mul(scale_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// A size in bytes: a whole number, alone or with `B`, `KiB`, `MiB` or `GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size; write for example `64MiB`"))?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` needs a unit: B, KiB, MiB or GiB")),
    };
    number
        .checked_mul(scale)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// A rate: calls in a second, minute, hour or day, as `10/s`.
pub(crate) fn rate(text: &str) -> Result<RateSpec, String> {
    let wrong = || format!("`{text}` is not a rate; write for example `10/s`, `600/m` or `1000/h`");
    let (calls, unit) = text.split_once('/').ok_or_else(wrong)?;
    let calls: u32 = calls.trim().parse().map_err(|_| wrong())?;
    let per = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if !(1..=MAX_RATE).contains(&calls) {
        return Err(format!("`{text}`: 1 to {MAX_RATE} calls"));
    }
    Ok(RateSpec {
        calls,
        per: Duration::from_secs(per),
    })
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..at], text[at..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("10 m"), Ok(Duration::from_secs(600)));
        assert!(duration("5").is_err());
        assert!(duration("-5s").is_err());
        assert!(duration("99999999999999999d").is_err());
    }

    #[test]
    fn a_rate_has_a_time() {
        let minute = RateSpec {
            calls: 600,
            per: Duration::from_secs(60),
        };
        assert_eq!(rate("600/m"), Ok(minute));
        for wrong in ["10", "10/", "0/s", "-1/s", "1.5/s", "10/5s", "2000000/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("12"), Ok(12));
        assert!(size("64MB").is_err());
        assert!(size("MiB").is_err());
    }
}
