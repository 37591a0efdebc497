//! A changed gateway file, taken while we serve: as a whole, or not at all where it has a mistake.
//!
//! Links, connections and requests under way are not touched. What is only read at a start is named in
//! the log, for as long as the file says otherwise than what runs.

use std::path::{Path, PathBuf};

use crate::{
    config::{self, GatewayFile},
    edge_tls,
    logs::Level,
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
    /// The files, since before they were read.
    pub files: Files,
}

/// The gateway file, and those that it names whose content is taken over.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    watch: FileWatch,
}

impl Files {
    /// Watches them from here on.
    pub fn of(path: &Path, file: &GatewayFile) -> Self {
        let paths = paths(path, file);
        Self {
            watch: FileWatch::new(paths.clone()),
            paths,
        }
    }

    /// Watches others, where the file names others now.
    fn follow(&mut self, path: &Path, file: &GatewayFile) {
        if self.paths != paths(path, file) {
            *self = Self::of(path, file);
        }
    }
}

impl Reload {
    /// Follows the file and SIGHUP until a signal asks for the end.
    pub async fn run(mut self, mut signals: Signals) {
        loop {
            tokio::select! {
                biased;
                asked = signals.any() => match asked {
                    Asked::End => return,
                    Asked::Reload => {}
                },
                () = self.files.watch.changed() => {}
            }
            match self.reload() {
                Err(error) => {
                    tracing::error!(error, "the changed configuration is not taken");
                }
                Ok(file) => self.files.follow(&self.path, &file),
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
            live.take(&file.edge.spec(), tls, file.edge.bounds());
        }
        let later = self.started.differs(&file).join(", ");
        if !later.is_empty() {
            tracing::warn!(keys = later, "these take effect at the next start");
        }
        tracing::info!("the configuration was taken");
        Ok(file)
    }
}

fn paths(path: &Path, file: &GatewayFile) -> Vec<PathBuf> {
    let tls = file.plane.as_ref().and_then(|plane| plane.tls.as_ref());
    let named = tls.map(|tls| [tls.cert.clone(), tls.key.clone()]);
    let named = named.into_iter().flatten();
    [path.to_owned()].into_iter().chain(named).collect()
}
