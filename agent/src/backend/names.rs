//! Names become addresses: each is looked up once at a time, for all who wait for it.
//!
//! The system's resolver cannot be interrupted: a look-up holds a thread until it gives up by
//! itself, however long ago the last of those who asked has gone. So a name that is being looked
//! up is not looked up again, and a resolver that is dead holds a bounded number of threads; the
//! files and the audit log are written on others of the same pool.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::ConnectError;

/// Look-ups at once, each on a thread: a small part of the 512 that tokio has for such work.
const MAX_LOOKUPS: usize = 32;

/// The resolver of all backends. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Names(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What is being looked up now.
    asked: Mutex<HashMap<String, Asked>>,
    places: Semaphore,
    tasks: TaskTracker,
    source: Source,
}

/// Where answers come from.
#[derive(Debug)]
enum Source {
    /// The system's resolver.
    System,
    /// One that answers when it may.
    #[cfg(test)]
    Held(tests::Held),
}

type Asked = watch::Receiver<Option<Answer>>;
type Answer = Result<Arc<[IpAddr]>, Arc<io::Error>>;

impl Names {
    /// Look-ups run in `tasks`.
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self::of(Source::System, tasks)
    }

    fn of(source: Source, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            asked: Mutex::default(),
            places: Semaphore::new(MAX_LOOKUPS),
            tasks,
            source,
        }))
    }

    /// The addresses of a name, or of an address written out.
    pub(super) async fn look_up(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let mut asked = self.ask(host);
        let answer = match asked.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        let gone = || Arc::new(io::Error::other("the look-up was given up"));
        let addresses = answer.ok_or_else(gone).flatten();
        let addresses = addresses.map_err(ConnectError::Resolve)?;
        let with_port = |ip: &IpAddr| SocketAddr::new(*ip, port);
        Ok(addresses.iter().map(with_port).collect())
    }

    /// The look-up of a name that is under way, or a new one.
    fn ask(&self, host: &str) -> Asked {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = asked.get(host) {
            return under_way.clone();
        }
        let (tell, answer) = watch::channel(None);
        asked.insert(host.to_owned(), answer.clone());
        let (names, host) = (Arc::clone(&self.0), host.to_owned());
        self.0.tasks.spawn(async move {
            let answer = names.answer(&host).await;
            let mut asked = names.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.remove(&host);
            drop(asked);
            tell.send_replace(Some(answer));
        });
        answer
    }
}

impl Inner {
    async fn answer(&self, host: &str) -> Answer {
        let _place = self.places.acquire().await.map_err(io::Error::other)?;
        match &self.source {
            Source::System => {
                let addresses = tokio::net::lookup_host((host, 0)).await?;
                Ok(addresses.map(|addr| addr.ip()).collect())
            }
            #[cfg(test)]
            Source::Held(held) => held.answer().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    /// Answers `192.0.2.1` as often as it is let.
    #[derive(Debug)]
    pub(super) struct Held {
        begun: Arc<AtomicUsize>,
        may_answer: Arc<Semaphore>,
    }

    impl Held {
        pub(super) async fn answer(&self) -> Answer {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let may = self.may_answer.acquire().await.map_err(io::Error::other)?;
            may.forget();
            Ok(Arc::from([IpAddr::from([192, 0, 2, 1])]))
        }
    }

    struct Dead {
        names: Names,
        begun: Arc<AtomicUsize>,
        may_answer: Arc<Semaphore>,
    }

    fn dead() -> Dead {
        let begun = Arc::<AtomicUsize>::default();
        let may_answer = Arc::new(Semaphore::new(0));
        let held = Held {
            begun: Arc::clone(&begun),
            may_answer: Arc::clone(&may_answer),
        };
        Dead {
            names: Names::of(Source::Held(held), TaskTracker::new()),
            begun,
            may_answer,
        }
    }

    /// Everybody gives up at once.
    async fn in_vain(names: &Names, hosts: impl Iterator<Item = String>) {
        let asking = hosts.map(|host| async move {
            let asked = names.look_up(&host, 80);
            tokio::time::timeout(Duration::from_millis(10), asked).await
        });
        assert!(join_all(asking).await.iter().all(Result::is_err));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_resolver_holds_one_look_up_for_each_name() {
        let dead = dead();
        for _ in 0..10 {
            in_vain(&dead.names, (0..100).map(|_| "vllm.internal".to_owned())).await;
        }
        assert_eq!(dead.begun.load(Ordering::SeqCst), 1);

        // Once it answers, those who wait have its answer, and the next look-up is a new one.
        dead.may_answer.add_permits(1);
        let addr = "192.0.2.1:80".parse().expect("an address");
        let got = dead.names.look_up("vllm.internal", 80).await;
        assert_eq!(got.expect("an answer"), [addr]);
        dead.may_answer.add_permits(1);
        let got = dead.names.look_up("vllm.internal", 80).await;
        assert_eq!(got.expect("an answer"), [addr]);
        assert_eq!(dead.begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_resolver_holds_a_bounded_number_of_threads() {
        let dead = dead();
        in_vain(&dead.names, (0..1_000).map(|n| format!("h{n}.internal"))).await;
        assert_eq!(dead.begun.load(Ordering::SeqCst), MAX_LOOKUPS);
        // An address needs no look-up.
        let got = dead.names.look_up("::1", 80).await;
        let addr = "[::1]:80".parse().expect("an address");
        assert_eq!(got.expect("an address"), [addr]);
    }
}
