//! What the kernel refused to send, counted by what can be done about it.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use rustix::io::Errno;

/// What the kernel refused to send, datagrams or batches, since the socket was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendErrors {
    /// EPERM and EACCES: a local firewall.
    pub not_permitted: u64,
    /// EMSGSIZE: the search for the largest packet asks for these.
    pub too_big: u64,
    /// ENETUNREACH, EHOSTUNREACH, ENETDOWN: no route.
    pub unreachable: u64,
    /// Everything else, failed batches among it.
    pub other: u64,
    /// Batches that were sent again segment by segment.
    pub resent_batches: u64,
    /// The last error number that was not EMSGSIZE.
    pub last: Option<i32>,
}

impl SendErrors {
    /// All that a metric should count; a packet that was too big is how its size is found.
    pub fn total(&self) -> u64 {
        self.not_permitted + self.unreachable + self.other
    }

    /// Of two sockets together.
    #[must_use]
    pub fn sum(self, other: Self) -> Self {
        Self {
            not_permitted: self.not_permitted + other.not_permitted,
            too_big: self.too_big + other.too_big,
            unreachable: self.unreachable + other.unreachable,
            other: self.other + other.other,
            resent_batches: self.resent_batches + other.resent_batches,
            last: self.last.or(other.last),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct SendErrorCounters {
    not_permitted: AtomicU64,
    too_big: AtomicU64,
    unreachable: AtomicU64,
    other: AtomicU64,
    resent_batches: AtomicU64,
    last: AtomicI32,
}

impl SendErrorCounters {
    pub(crate) fn count(&self, error: &io::Error) {
        let counter = match Errno::from_io_error(error) {
            Some(Errno::PERM | Errno::ACCESS) => &self.not_permitted,
            Some(Errno::MSGSIZE) => &self.too_big,
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN) => &self.unreachable,
            Some(_) | None => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let number = error.raw_os_error().unwrap_or_default();
        if number != Errno::MSGSIZE.raw_os_error()
            && self.last.swap(number, Ordering::Relaxed) != number
        {
            tracing::debug!(%error, "the kernel refused to send a datagram");
        }
    }

    pub(crate) fn count_resent(&self) {
        self.resent_batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> SendErrors {
        let last = self.last.load(Ordering::Relaxed);
        SendErrors {
            not_permitted: self.not_permitted.load(Ordering::Relaxed),
            too_big: self.too_big.load(Ordering::Relaxed),
            unreachable: self.unreachable.load(Ordering::Relaxed),
            other: self.other.load(Ordering::Relaxed),
            resent_batches: self.resent_batches.load(Ordering::Relaxed),
            last: (last != 0).then_some(last),
        }
    }
}
