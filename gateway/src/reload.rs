//! A changed gateway file, taken while we serve: as a whole, or not at all where it has a mistake.
//!
//! Links, connections and requests under way are not touched. What is only read at a start is named in
//! the log, for as long as the file says otherwise than what runs.

use std::path::PathBuf;

use crate::{
    config::{self, GatewayFile},
    edge_tls,
    logs::Level,
    serve,
    settings::Live,
    signals::{Asked, Signals},
    watch::FileWatch,
};

/// The gateway file, and all that follows it.
#[derive(Debug)]
pub struct Reload {
    /// Where the file is.
    pub path: PathBuf,
    /// What it said at the start.
    pub started: GatewayFile,
    /// What of the plane may change.
    pub live: Option<Live>,
    /// What is logged.
    pub level: Level,
}

impl Reload {
    /// Follows the file and SIGHUP until a signal asks for the end.
    pub async fn run(self, mut signals: Signals) {
        let mut files = self.files(&self.started);
        let mut watch = FileWatch::new(files.clone());
        loop {
            tokio::select! {
                biased;
                asked = signals.any() => match asked {
                    Asked::End => return,
                    Asked::Reload => {}
                },
                () = watch.changed() => {}
            }
            match self.reload() {
                Err(error) => {
                    tracing::error!(error, "the changed configuration is not taken");
                }
                Ok(file) => {
                    let now = self.files(&file);
                    if now != files {
                        watch = FileWatch::new(now.clone());
                        files = now;
                    }
                }
            }
        }
    }

    /// Takes the file as it is now; a bad one changes nothing.
    fn reload(&self) -> Result<GatewayFile, String> {
        let file = config::read(&self.path).map_err(|error| error.to_string())?;
        let tls = file.plane.as_ref().and_then(|plane| plane.tls.as_ref());
        let tls = tls.map(edge_tls::read).transpose()?;
        // The last that can fail, and nothing else has changed yet.
        self.level.set(&file.log)?;
        if let Some(live) = &self.live {
            live.take(&serve::edge(&file.edge), tls, file.edge.max_connections);
        }
        let later = self.started.differs(&file).join(", ");
        if !later.is_empty() {
            tracing::warn!(keys = later, "these take effect at the next start");
        }
        tracing::info!("the configuration was taken");
        Ok(file)
    }

    /// The file, and those that it names whose content is taken over.
    fn files(&self, file: &GatewayFile) -> Vec<PathBuf> {
        let tls = file.plane.as_ref().and_then(|plane| plane.tls.as_ref());
        let named = tls.map(|tls| [tls.cert.clone(), tls.key.clone()]);
        [self.path.clone()]
            .into_iter()
            .chain(named.into_iter().flatten())
            .collect()
    }
}
