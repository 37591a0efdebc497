//! Times as they travel: whole seconds since the epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;

/// Seconds since the epoch; times before it count as zero.
pub(crate) fn to_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The time `secs` after the epoch, if the platform can tell it.
pub(crate) fn from_secs(secs: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(secs))
}

/// The time that WebPKI compares validity with.
pub(crate) fn to_unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(to_secs(time)))
}

/// serde of a [`SystemTime`] as whole seconds since the epoch.
pub(crate) mod serde_secs {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(super::to_secs(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        super::from_secs(u64::deserialize(from)?)
            .ok_or_else(|| D::Error::custom("the time is out of range"))
    }
}
