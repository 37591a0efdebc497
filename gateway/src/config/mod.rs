//! The gateway file: strict, with line and column; no port is bound by reading it.

mod edge;
mod secret;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use culvert_certs::{Region, TrustDomain, Zone};
use culvert_control::resource::Span;
use serde::{Deserialize, Deserializer, de};

pub use self::{
    edge::{CorsFile, EdgeFile, KeepAliveFile, PassFile, UsageFile},
    secret::KeySource,
};
use crate::logs::LogFile;

/// Largest gateway file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The whole file. The roles that run are those whose sections it has.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayFile {
    /// Where configuration is kept.
    pub store: StoreFile,
    /// The control role.
    pub control: Option<ControlFile>,
    /// The plane role.
    pub plane: Option<PlaneFile>,
    /// What callers meet.
    #[serde(default)]
    pub edge: EdgeFile,
    /// Logs.
    #[serde(default)]
    pub log: LogFile,
}

/// Where configuration is kept.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreFile {
    /// The file of the embedded store.
    pub path: PathBuf,
}

/// The control role.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlFile {
    /// Where the admin API, health and metrics are served.
    #[serde(default = "admin_listen")]
    pub admin_listen: SocketAddr,
    /// Names by which the admin API is called, beside loopback and the address itself.
    #[serde(default)]
    pub admin_hosts: Vec<String>,
    /// What opens the authority.
    pub authority_key: KeySource,
    /// The world of this authority; a later start must find the same.
    pub trust_domain: TrustDomain,
}

/// The plane role.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaneFile {
    /// Its label.
    pub region: Region,
    /// Its name.
    pub zone: Zone,
    /// Where links (UDP), joins and callers' TLS (TCP) are taken.
    pub listen: SocketAddr,
    /// Where links and joins are taken instead; then `listen` is for callers alone.
    pub links_listen: Option<SocketAddr>,
    /// The name or address by which agents and callers reach `listen`, with the port if it differs.
    pub advertise: String,
    /// What seals what the plane keeps; all its replicas have the same.
    pub plane_key: KeySource,
    /// The certificate for callers; by default one of our own authority.
    pub tls: Option<TlsFile>,
    /// How long a drain lets started calls finish.
    #[serde(default = "drain_timeout", deserialize_with = "span")]
    pub drain_timeout: Duration,
    /// How long the plane goes on serving while it says that it is not ready, so that balancers notice.
    #[serde(default = "leave_after", deserialize_with = "span")]
    pub leave_after: Duration,
}

/// The certificate for callers.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl GatewayFile {
    /// The keys in which another file differs and that are only read at a start.
    pub fn differs(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut check = |key, same: bool| {
            if !same {
                keys.push(key);
            }
        };
        check("store", self.store == other.store);
        check("control", self.control == other.control);
        check(
            "edge.plain_listen",
            self.edge.plain_listen == other.edge.plain_listen,
        );
        check("edge.records", self.edge.records == other.edge.records);
        check("log.format", self.log.format == other.log.format);
        match (&self.plane, &other.plane) {
            (Some(old), Some(new)) => {
                check("plane.region", old.region == new.region);
                check("plane.zone", old.zone == new.zone);
                check("plane.listen", old.listen == new.listen);
                check("plane.links_listen", old.links_listen == new.links_listen);
                check("plane.advertise", old.advertise == new.advertise);
                check("plane.plane_key", old.plane_key == new.plane_key);
                check(
                    "plane.drain_timeout",
                    old.drain_timeout == new.drain_timeout,
                );
                check("plane.leave_after", old.leave_after == new.leave_after);
            }
            (old, new) => check("plane", old == new),
        }
        keys
    }
}

/// Why a file is not one that can be served.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is far larger than any such file.
    #[error("{0}: larger than 1 MiB")]
    TooLarge(PathBuf),
    /// It says something that is not understood.
    #[error("{path}: {text}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What, with line and column.
        text: String,
    },
}

/// Reads and checks a file.
///
/// # Errors
/// See [`FileError`].
pub fn read(path: &Path) -> Result<GatewayFile, FileError> {
    let failed = |error| FileError::Read {
        path: path.to_owned(),
        error,
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|text| FileError::Content {
        path: path.to_owned(),
        text,
    })
}

fn parse(text: &str) -> Result<GatewayFile, String> {
    // Without the snippet: the line in question may hold a secret that stands in the wrong place.
    let file: GatewayFile =
        serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
    check(&file)?;
    Ok(file)
}

/// What types cannot say.
fn check(file: &GatewayFile) -> Result<(), String> {
    match (&file.control, &file.plane) {
        (None, None) => return Err("neither `control` nor `plane`: there is nothing to run".into()),
        (None, Some(_)) => {
            return Err(
                "`plane` without `control`: this version has no store that processes share, \
                        so both roles run in one process"
                    .into(),
            );
        }
        (Some(_), _) => {}
    }
    file.edge.check()
}

fn admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9990))
}

const fn drain_timeout() -> Duration {
    Duration::from_secs(300)
}

const fn leave_after() -> Duration {
    Duration::from_secs(5)
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map(Span::duration)
        .map_err(|error| de::Error::custom(format!("{text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::MAX_CONNECTIONS;

    const FULL: &str = r"
store: { path: /var/lib/culvert/culvert.redb }
control:
  admin_listen: 127.0.0.1:9990
  authority_key: ${file:/etc/culvert/authority.key}
  trust_domain: culvert.example
plane:
  region: US
  zone: ORF
  listen: 0.0.0.0:443
  advertise: orf.culvert.example
  plane_key: ${env:CULVERT_PLANE_KEY}
  drain_timeout: 60s
edge:
  plain_listen: 127.0.0.1:8080
  cors: { origins: [https://app.example] }
log: { format: json, level: debug }
";

    #[test]
    fn a_whole_file() {
        let file = parse(FULL).unwrap();
        let plane = file.plane.unwrap();
        assert_eq!(
            (plane.zone.as_str(), plane.drain_timeout.as_secs()),
            ("ORF", 60)
        );
        assert_eq!(plane.leave_after, leave_after());
        assert_eq!(file.edge.max_connections, MAX_CONNECTIONS);
    }

    #[test]
    fn mistakes_name_their_place() {
        for (from, to, wanted) in [
            ("zone: ORF", "zone: orf", "line 9"),
            ("region: US", "regoin: US", "regoin"),
            ("drain_timeout: 60s", "drain_timeout: 60", "60"),
            ("${env:CULVERT_PLANE_KEY}", "hunter2", "${file:"),
            ("https://app.example", "app.example", "edge.cors.origins"),
            (
                "cors: {",
                "keep_alive: { every: 100ms }\n  cors: {",
                "edge.keep_alive",
            ),
            (
                "cors: {",
                "pass: { cookies: [app] }\n  cors: {",
                "connector/service",
            ),
            (
                "advertise: orf.culvert.example",
                "proxy_protocol: [10.0.0.0/8]",
                "proxy_protocol",
            ),
        ] {
            let error = parse(&FULL.replace(from, to)).unwrap_err();
            assert!(error.contains(wanted), "{wanted}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_for_the_next_start_is_named() {
        let file = parse(FULL).unwrap();
        let differs = |from: &str, to: &str| file.differs(&parse(&FULL.replace(from, to)).unwrap());
        assert!(differs("", "").is_empty());
        assert!(differs("https://app.example", "https://other.example").is_empty());
        assert!(differs("level: debug", "level: info").is_empty());
        for (from, to, key) in [
            ("zone: ORF", "zone: LHR", "plane.zone"),
            (
                "advertise: orf",
                "links_listen: 0.0.0.0:8443\n  advertise: orf",
                "plane.links_listen",
            ),
            ("60s", "61s", "plane.drain_timeout"),
            ("127.0.0.1:8080", "127.0.0.1:8081", "edge.plain_listen"),
            ("culvert.redb", "other.redb", "store"),
            ("127.0.0.1:9990", "127.0.0.1:9991", "control"),
            ("format: json", "format: text", "log.format"),
        ] {
            assert_eq!(differs(from, to), [key]);
        }
    }

    #[test]
    fn a_plane_alone_is_refused_with_a_reason() {
        let at = FULL.find("control:").unwrap();
        let plane = FULL.find("plane:").unwrap();
        let error = parse(&format!("{}{}", &FULL[..at], &FULL[plane..])).unwrap_err();
        assert!(error.contains("one process"), "{error}");
    }
}
