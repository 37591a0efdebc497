//! Connections that are made once for several calls.
//!
//! A cold burst to an HTTP/2 backend needs one connection, not one for each call. Which protocol
//! is spoken is known only after a handshake, so before the first one everybody waits for the
//! same; afterwards as many calls wait for a connection as it will have places for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::connect::ConnectError;

/// A connection that is being made. It goes on for as long as one waits for it.
pub(super) type Dial<T> = Shared<Making<T>>;
type Making<T> = BoxFuture<'static, Result<Made<T>, Arc<ConnectError>>>;

/// What was made, for the first who takes it; on a shared one the others find their own place.
pub(super) struct Made<T>(Arc<Mutex<Option<T>>>);

impl<T> Made<T> {
    pub(super) fn new(made: T) -> Self {
        Self(Arc::new(Mutex::new(Some(made))))
    }

    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Clone for Made<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The dials of a pool that are under way.
pub(super) struct Dials<T> {
    under_way: Vec<(WeakShared<Making<T>>, u32)>,
    places: u32,
}

impl<T> Dials<T> {
    /// None yet, each for so many calls.
    pub(super) fn new(places: u32) -> Self {
        Self {
            under_way: Vec::new(),
            places,
        }
    }

    /// How many calls may wait for the same dial.
    pub(super) fn places(&self) -> u32 {
        self.places
    }

    /// A connection was made, and so many calls have a place on it.
    pub(super) fn learn(&mut self, places: u32) {
        self.places = places.max(1);
    }

    /// A dial to wait for: one that has a place left, or another.
    pub(super) fn join(&mut self, begin: impl FnOnce() -> Making<T>) -> Dial<T> {
        let going_on = |dial: &WeakShared<Making<T>>| {
            let dial = dial.upgrade()?;
            dial.peek().is_none().then_some(dial)
        };
        self.under_way.retain(|(dial, _)| going_on(dial).is_some());
        for (dial, joined) in &mut self.under_way {
            if *joined < self.places
                && let Some(dial) = going_on(dial)
            {
                *joined += 1;
                return dial;
            }
        }
        let dial = futures_util::FutureExt::shared(begin());
        self.under_way
            .extend(dial.downgrade().map(|weak| (weak, 1)));
        dial
    }
}

impl<T> fmt::Debug for Dials<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dials")
            .field("under_way", &self.under_way.len())
            .field("places", &self.places)
            .finish()
    }
}
