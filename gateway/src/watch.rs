//! Notices that one of a few files has changed, also where a directory of links is swapped.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::sleep};

/// Changes that come together are one: a certificate and its key are two files.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches files; stops when dropped.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    /// What was in them when they were looked at last.
    seen: u64,
    /// Where there is none (the system has no watches left), only a signal reloads.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
}

impl FileWatch {
    /// Begins with the content as it is now.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let (tell, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_event: notify::Result<notify::Event>| {
            // Full means that somebody is about to look anyway.
            tell.try_send(()).ok();
        })
        .and_then(|mut watcher| {
            for path in &paths {
                // The directory: the file itself may be replaced, or be a link that is.
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                let directory = parent.unwrap_or(Path::new("."));
                watcher.watch(directory, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the file is not watched; SIGHUP reloads it");
        }
        Self {
            seen: content(&paths),
            paths,
            watcher: watcher.ok(),
            events,
        }
    }

    /// Resolves when the content is another than the last time.
    pub async fn changed(&mut self) {
        while self.watcher.is_some() {
            if self.events.recv().await.is_none() {
                break;
            }
            sleep(SETTLE).await;
            while self.events.try_recv().is_ok() {}
            let content = content(&self.paths);
            if content != self.seen {
                self.seen = content;
                return;
            }
        }
        std::future::pending().await
    }
}

/// Only a digest is kept: one of the files is a private key.
fn content(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        fs::read(path).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    async fn within<F: Future>(future: F) -> F::Output {
        timeout(Duration::from_secs(20), future).await.unwrap()
    }

    #[tokio::test]
    async fn a_change_is_noticed_however_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("gateway.yaml"), "a").unwrap();
        fs::create_dir(at("tls")).unwrap();
        fs::write(at("tls/key.pem"), "a").unwrap();
        let mut watch = FileWatch::new(vec![at("gateway.yaml"), at("tls/key.pem")]);

        fs::write(at("gateway.yaml"), "b").unwrap();
        within(watch.changed()).await;

        fs::write(at("fresh"), "b").unwrap();
        fs::rename(at("fresh"), at("tls/key.pem")).unwrap();
        within(watch.changed()).await;

        // As secrets are mounted: a link through a link to a directory, which is swapped.
        for (name, content) in [("v1", "c"), ("v2", "d")] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("gateway.yaml"), content).unwrap();
        }
        symlink("v1", at("data")).unwrap();
        fs::remove_file(at("gateway.yaml")).unwrap();
        symlink("data/gateway.yaml", at("gateway.yaml")).unwrap();
        within(watch.changed()).await;
        symlink("v2", at("data.new")).unwrap();
        fs::rename(at("data.new"), at("data")).unwrap();
        within(watch.changed()).await;
    }
}
