//! Notices that the agent file has changed, also where a directory of links is swapped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes that come together are one.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches one file; stops when dropped.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    content: Option<Vec<u8>>,
    /// Where there is none (the system has no watches left), only a signal reloads.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
}

impl FileWatch {
    /// Begins with the content as it is now.
    pub fn new(path: &Path) -> Self {
        let (tell, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_event: notify::Result<notify::Event>| {
            // Full means that somebody is about to look anyway.
            tell.try_send(()).ok();
        })
        .and_then(|mut watcher| {
            // The directory: the file itself may be replaced, or be a link that is.
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            let directory = parent.unwrap_or(Path::new("."));
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the file is not watched; SIGHUP reloads it");
        }
        Self {
            path: path.to_owned(),
            content: std::fs::read(path).ok(),
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
            tokio::time::sleep(SETTLE).await;
            while self.events.try_recv().is_ok() {}
            let content = std::fs::read(&self.path).ok();
            if content.is_some() && content != self.content {
                self.content = content;
                return;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn within<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future)
            .await
            .expect("in time")
    }

    #[tokio::test]
    async fn a_change_is_noticed_however_it_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "a").expect("written");
        let mut watch = FileWatch::new(&path);

        std::fs::write(&path, "b").expect("written");
        within(watch.changed()).await;

        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, "c").expect("written");
        std::fs::rename(&fresh, &path).expect("renamed");
        within(watch.changed()).await;

        // As a ConfigMap is mounted: a link through a directory link that is swapped.
        for (name, content) in [("v1", "d"), ("v2", "e")] {
            let version = dir.path().join(name);
            std::fs::create_dir(&version).expect("a directory");
            std::fs::write(version.join("agent.yaml"), content).expect("written");
        }
        std::os::unix::fs::symlink("v1", dir.path().join("data")).expect("a link");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("data/agent.yaml", &path).expect("a link");
        within(watch.changed()).await;
        std::os::unix::fs::symlink("v2", dir.path().join("data.new")).expect("a link");
        std::fs::rename(dir.path().join("data.new"), dir.path().join("data")).expect("renamed");
        within(watch.changed()).await;
    }
}
