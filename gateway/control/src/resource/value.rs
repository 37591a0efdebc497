//! Values with a form of their own: times and durations.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

/// A text that is not what its field wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be {0}")]
pub struct ValueError(pub &'static str);

/// A duration as people write it: a whole number and one of `ms s m h d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// A duration of so many days.
    pub const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * 24 * 3600))
    }

    /// Its length.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const FORM: ValueError = ValueError("a whole number with ms, s, m, h or d");
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or(FORM)?;
        let (number, unit) = text.split_at(unit);
        let number: u64 = number.parse().map_err(|_| FORM)?;
        let ms_each = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(FORM),
        };
        let ms = number.checked_mul(ms_each).ok_or(FORM)?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

/// A moment in RFC 3339, in UTC and whole seconds when written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The moment as the system tells time.
    #[must_use]
    pub fn system(self) -> SystemTime {
        self.0.into()
    }
}

impl From<SystemTime> for Timestamp {
    /// Moments beyond the year 9999 become the last one before.
    fn from(time: SystemTime) -> Self {
        let exact = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
        Self(jiff::Timestamp::from_second(exact.as_second()).unwrap_or(exact))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let moment = text
            .parse()
            .map_err(|_| ValueError("a time such as 2027-01-31T12:00:00Z"))?;
        Ok(Self(moment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let ms = |text: &str| text.parse::<Span>().map(|span| span.0.as_millis());
        assert_eq!(ms("1500ms"), Ok(1_500));
        assert_eq!(ms("7d"), Ok(604_800_000));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "5w",
            "99999999999999999999s",
        ] {
            assert!(ms(bad).is_err(), "{bad}");
        }
        assert!("18446744073709551615d".parse::<Span>().is_err());
    }

    #[test]
    fn times_are_read_back_as_written() {
        let now =
            Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_999));
        assert_eq!(now.to_string(), "2026-09-21T14:13:20Z");
        assert_eq!(now.to_string().parse::<Timestamp>(), Ok(now));
        assert!("tomorrow".parse::<Timestamp>().is_err());
    }
}
