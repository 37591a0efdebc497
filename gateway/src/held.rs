//! Request bodies that are held whole: for how long, and what they may cost together.
//!
//! The memory of a body is counted before it is taken: while a body grows, the old and the new place
//! both count. A caller has to send half of what its body holds of the budget, but for the first piece.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use culvert_certs::TenantName;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    error::{CallerCode, Problem},
    limit::{self, Announced},
    metrics::EdgeMetrics,
};

/// Largest body that is held whole, in bytes: several images in base64.
pub const MAX_HELD_BODY: usize = 32 * 1024 * 1024;
/// Bytes of all held bodies of a replica together.
pub const HELD_BUDGET: usize = 1024 * 1024 * 1024;
/// Which part of them one tenant may hold: calls that never end keep their bodies, and nobody else pays.
const TENANT_PART: usize = 4;
/// What the budget is taken in, in bytes: a semaphore counts no further than `u32` permits at once.
const BUDGET_UNIT: usize = 4 * 1024;
/// How much of an announced length is reserved at once, in bytes: most prompts fit, and many callers
/// that only announce do not take the budget from the others.
const FIRST_PLACE: usize = 256 * 1024;
/// Longest silence in the middle of a body that is held.
const HELD_IDLE: Duration = Duration::from_secs(30);
/// Longest time for the whole of a body that is held: 32 MiB at 1 Mbit/s take 4.5 minutes.
const HELD_TOTAL: Duration = Duration::from_secs(300);

const _: () = assert!(HELD_BUDGET / MAX_HELD_BODY >= 32);
const _: () = assert!(HELD_BUDGET / TENANT_PART >= 4 * MAX_HELD_BODY);
const _: () = assert!(HELD_BUDGET / BUDGET_UNIT <= u32::MAX as usize);

/// The memory of a replica for bodies that are held whole.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    units: Arc<Semaphore>,
    /// The part of the tenant whose budget this is.
    own: Option<Arc<Semaphore>>,
    /// The parts of the tenants that hold something.
    tenants: Arc<Mutex<HashMap<TenantName, Weak<Semaphore>>>>,
    total: usize,
    metrics: EdgeMetrics,
}

/// A body that has been read whole. Its share of the budget is given back when it is dropped.
#[derive(Debug)]
pub struct HeldBody {
    /// All of it.
    pub bytes: Bytes,
    /// Its share.
    pub share: Share,
}

/// A share of the budget.
#[derive(Debug)]
pub struct Share {
    permit: Option<OwnedSemaphorePermit>,
    /// As much of the tenant's part.
    own: Option<OwnedSemaphorePermit>,
    budget: BodyBudget,
}

impl BodyBudget {
    /// A budget of this many bytes.
    pub fn new(bytes: usize, metrics: EdgeMetrics) -> Self {
        let total = bytes / BUDGET_UNIT;
        Self {
            units: Arc::new(Semaphore::new(total)),
            own: None,
            tenants: Arc::default(),
            total,
            metrics,
        }
    }

    /// The same budget, for the bodies of one tenant.
    #[must_use]
    pub fn of(&self, tenant: &TenantName) -> Self {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tenants.get(tenant).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            tenants.retain(|_, part| part.strong_count() > 0);
            let part = Arc::new(Semaphore::new(self.total / TENANT_PART));
            tenants.insert(tenant.clone(), Arc::downgrade(&part));
            part
        });
        Self {
            own: Some(own),
            ..self.clone()
        }
    }

    /// Reads a body to its end, by `until` where the caller has a deadline, and holds it. What is not
    /// wanted is read away.
    pub async fn hold<B>(
        &self,
        announced: Announced,
        until: Option<Instant>,
        mut body: B,
        read: &AtomicU64,
    ) -> Result<HeldBody, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if announced
            .length
            .is_some_and(|length| length > MAX_HELD_BODY as u64)
        {
            limit::discard(announced, body).await;
            return Err(too_large());
        }
        let whole = |_: &[u8]| Ok(false);
        let held = self
            .hold_until((announced, until), &mut body, read, whole)
            .await
            .map(|(held, _)| held);
        // After a time-out or a broken body nothing more comes.
        let refused = held.as_ref().err().map(Problem::code);
        if matches!(
            refused,
            Some(CallerCode::BodyTooLarge | CallerCode::Overloaded)
        ) {
            // It was asked for, whether the caller had waited for that or not.
            limit::drain(body).await;
        }
        held
    }

    /// Reads a body until `look`, which is shown each piece, says that it has seen enough; says whether
    /// the body has ended with that. `until` is the deadline of the caller, if it has one.
    pub async fn hold_until<B>(
        &self,
        (announced, until): (Announced, Option<Instant>),
        body: &mut B,
        read: &AtomicU64,
        mut look: impl FnMut(&[u8]) -> Result<bool, Problem>,
    ) -> Result<(HeldBody, bool), Problem>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut held = Growing::new(announced, self.clone());
        let end = Instant::now() + HELD_TOTAL;
        loop {
            let patience = end.min(Instant::now() + HELD_IDLE);
            let deadline = until.map_or(patience, |until| until.min(patience));
            let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
                if until == Some(deadline) {
                    too_late()
                } else {
                    limit::too_slow()
                }
            })?;
            let Some(frame) = frame else {
                return Ok((held.whole(), true));
            };
            let Ok(data) = frame.map_err(|_| limit::broken())?.into_data() else {
                continue;
            };
            read.fetch_add(data.len() as u64, Ordering::Relaxed);
            let enough = look(&data)?;
            held.push(data)?;
            if enough {
                return Ok((held.whole(), false));
            }
        }
    }

    fn report(&self) {
        let used = self.total.saturating_sub(self.units.available_permits());
        self.metrics.set_held_bytes((used * BUDGET_UNIT) as u64);
    }
}

impl Share {
    /// Makes it the share of this many bytes.
    fn resize(&mut self, bytes: usize) -> Result<(), Problem> {
        let wanted = bytes.div_ceil(BUDGET_UNIT);
        if let Some(part) = &self.budget.own {
            resize(&mut self.own, part, wanted)?;
        }
        resize(&mut self.permit, &self.budget.units, wanted)?;
        self.budget.report();
        Ok(())
    }
}

/// Makes a permit one of this many units.
fn resize(
    permit: &mut Option<OwnedSemaphorePermit>,
    units: &Arc<Semaphore>,
    wanted: usize,
) -> Result<(), Problem> {
    let held = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    if let Some(surplus) = held.checked_sub(wanted) {
        let given_back = permit.as_mut().and_then(|own| own.split(surplus));
        drop(given_back);
        return Ok(());
    }
    let missing = u32::try_from(wanted - held).map_err(|_| too_large())?;
    let more = Arc::clone(units)
        .try_acquire_many_owned(missing)
        .map_err(|_| overloaded())?;
    match permit {
        Some(permit) => permit.merge(more),
        None => *permit = Some(more),
    }
    Ok(())
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.permit.take().is_some() {
            self.budget.report();
        }
    }
}

/// A body that is still arriving; one that comes in one piece is never copied.
struct Growing {
    announced: Option<usize>,
    first: Bytes,
    rest: BytesMut,
    share: Share,
}

impl Growing {
    fn new(announced: Announced, budget: BodyBudget) -> Self {
        Self {
            announced: announced
                .length
                .and_then(|length| usize::try_from(length).ok()),
            first: Bytes::new(),
            rest: BytesMut::new(),
            share: Share {
                permit: None,
                own: None,
                budget,
            },
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), Problem> {
        let held = self.first.len() + self.rest.len();
        let length = held + data.len();
        if length > MAX_HELD_BODY {
            return Err(too_large());
        }
        if held == 0 {
            self.share.resize(length)?;
            self.first = data;
            return Ok(());
        }
        if length > self.rest.capacity() {
            self.move_to(self.place(length))?;
        }
        self.rest.extend_from_slice(&data);
        Ok(())
    }

    /// How large a place the body is moved to, to hold `length` bytes.
    fn place(&self, length: usize) -> usize {
        let doubled = 2 * self.rest.capacity();
        let wanted = match self.announced {
            Some(announced) => announced.min(doubled.max(FIRST_PLACE)),
            None => doubled.min(MAX_HELD_BODY),
        };
        wanted.max(length)
    }

    fn move_to(&mut self, capacity: usize) -> Result<(), Problem> {
        let old = self.first.len().max(self.rest.capacity());
        self.share.resize(old + capacity)?;
        let mut whole = BytesMut::with_capacity(capacity);
        whole.extend_from_slice(&self.first);
        whole.extend_from_slice(&self.rest);
        (self.first, self.rest) = (Bytes::new(), whole);
        self.share.resize(self.rest.capacity())
    }

    fn whole(self) -> HeldBody {
        let bytes = if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        };
        HeldBody {
            bytes,
            share: self.share,
        }
    }
}

fn too_large() -> Problem {
    let what = format!(
        "The body is larger than {} MiB.",
        MAX_HELD_BODY / (1024 * 1024)
    );
    Problem::new(CallerCode::BodyTooLarge, what).closing()
}

fn too_late() -> Problem {
    let what = "The deadline passed before the body had arrived.";
    Problem::new(CallerCode::DeadlineExceeded, what).closing()
}

fn overloaded() -> Problem {
    Problem::new(
        CallerCode::Overloaded,
        "This replica holds as many bodies as it can.",
    )
    .closing()
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::limit::{
        HeldUp, UpBody,
        script::{Script, script},
    };

    fn budget(bytes: usize) -> BodyBudget {
        BodyBudget::new(bytes, EdgeMetrics::new(&mut Registry::default()))
    }

    async fn hold(budget: &BodyBudget, body: Script) -> Result<HeldBody, CallerCode> {
        of_length(budget, None, body).await
    }

    async fn of_length(
        budget: &BodyBudget,
        length: Option<u64>,
        body: Script,
    ) -> Result<HeldBody, CallerCode> {
        let announced = Announced {
            length,
            waits: false,
        };
        let count = AtomicU64::new(0);
        let held = budget.hold(announced, None, body, &count);
        held.await.map_err(|problem| problem.code())
    }

    fn used(budget: &BodyBudget) -> usize {
        (budget.total - budget.units.available_permits()) * BUDGET_UNIT
    }

    #[tokio::test]
    async fn pieces_become_one_and_one_is_not_copied() {
        let budget = budget(HELD_BUDGET);
        let held = hold(&budget, script(&[3, 4, 5], false)).await.unwrap();
        assert_eq!(held.bytes.len(), 12);
        let piece = Bytes::from_static(b"{}");
        let held = hold(&budget, Script::of(vec![piece.clone()]))
            .await
            .unwrap();
        assert_eq!(held.bytes.as_ptr(), piece.as_ptr());
    }

    #[tokio::test]
    async fn what_is_held_is_counted_and_nothing_is_copied_at_the_end() {
        let pieces = [40_000; 100];
        let length = pieces.iter().sum::<usize>();
        for announced in [Some(length as u64), None] {
            let budget = budget(HELD_BUDGET);
            let announced = Announced {
                length: announced,
                waits: false,
            };
            let mut growing = Growing::new(announced, budget.clone());
            for piece in pieces {
                growing.push(Bytes::from(vec![b'x'; piece])).unwrap();
                let memory = growing.first.len() + growing.rest.capacity();
                assert!(memory <= used(&budget), "{memory} > {}", used(&budget));
            }
            let (at, capacity) = (growing.rest.as_ptr(), growing.rest.capacity());
            let held = growing.whole();
            assert_eq!((held.bytes.as_ptr(), held.bytes.len()), (at, length));
            assert_eq!(used(&budget), capacity.div_ceil(BUDGET_UNIT) * BUDGET_UNIT);
            if announced.length.is_some() {
                assert_eq!(capacity, length, "no more than was announced");
            }
            drop(held);
            assert_eq!(used(&budget), 0);
        }
    }

    #[tokio::test]
    async fn who_only_announces_holds_little() {
        let budget = budget(HELD_BUDGET);
        let announced = Announced {
            length: Some(MAX_HELD_BODY as u64),
            waits: false,
        };
        let mut growing = Growing::new(announced, budget.clone());
        for _ in 0..2 {
            growing.push(Bytes::from_static(b"{")).unwrap();
        }
        assert_eq!(used(&budget), FIRST_PLACE);
    }

    #[tokio::test]
    async fn growing_counts_the_old_place_and_the_new() {
        // Room for the body, but not for the moment in which it is moved.
        let budget = budget(3 * FIRST_PLACE - BUDGET_UNIT);
        let length = Some(2 * FIRST_PLACE as u64);
        let body = script(&[1, FIRST_PLACE, FIRST_PLACE - 1], false);
        let refused = of_length(&budget, length, body).await;
        assert_eq!(refused.unwrap_err(), CallerCode::Overloaded);
        assert_eq!(used(&budget), 0);
    }

    #[tokio::test]
    async fn a_tenant_that_holds_its_part_leaves_the_rest_to_others() {
        let budget = budget(8 * TENANT_PART * BUDGET_UNIT);
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let held = hold(&budget.of(&a), script(&[8 * BUDGET_UNIT], false)).await;
        let held = held.unwrap();
        let more = hold(&budget.of(&a), script(&[1], false)).await;
        assert_eq!(more.unwrap_err(), CallerCode::Overloaded);
        assert!(hold(&budget.of(&b), script(&[1], false)).await.is_ok());
        drop(held);
        assert!(hold(&budget.of(&a), script(&[1], false)).await.is_ok());
        assert_eq!(used(&budget), 0);
        let last = budget.of(&"c".parse().unwrap());
        assert_eq!(
            budget.tenants.lock().unwrap().len(),
            1,
            "nothing of those who hold nothing"
        );
        drop(last);
    }

    #[tokio::test]
    async fn too_large_by_word_or_by_deed() {
        let budget = budget(HELD_BUDGET);
        let announced = Announced {
            length: Some(MAX_HELD_BODY as u64 + 1),
            waits: false,
        };
        let early = budget
            .hold(announced, None, script(&[], false), &AtomicU64::new(0))
            .await
            .unwrap_err();
        assert!(early.code() == CallerCode::BodyTooLarge && early.closes());
        let late = hold(&budget, script(&[MAX_HELD_BODY, 1], false)).await;
        assert_eq!(late.unwrap_err(), CallerCode::BodyTooLarge);
        assert!(hold(&budget, script(&[MAX_HELD_BODY], false)).await.is_ok());
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_given_back() {
        let budget = budget(4 * BUDGET_UNIT);
        let first = hold(&budget, script(&[BUDGET_UNIT, 1], false))
            .await
            .unwrap();
        let second = hold(&budget, script(&[3 * BUDGET_UNIT], false)).await;
        assert_eq!(second.unwrap_err(), CallerCode::Overloaded);
        let HeldBody { bytes, share } = first;
        let up: UpBody<Script> = UpBody::Held(HeldUp::new(vec![bytes], share));
        let second = hold(&budget, script(&[3 * BUDGET_UNIT], false)).await;
        assert!(second.is_err());
        drop(up);
        let alone = hold(&budget, script(&[4 * BUDGET_UNIT], false)).await;
        assert!(alone.is_ok());
        drop(alone);
        assert_eq!(used(&budget), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_caller_is_given_up() {
        let began = Instant::now();
        let code = hold(&budget(HELD_BUDGET), script(&[1], true))
            .await
            .unwrap_err();
        assert_eq!((code, began.elapsed()), (CallerCode::BadRequest, HELD_IDLE));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_a_caller_covers_its_body() {
        let (budget, none) = (budget(HELD_BUDGET), Announced::default());
        let until = Some(Instant::now() + HELD_IDLE / 2);
        let count = AtomicU64::new(0);
        let held = budget.hold(none, until, script(&[1], true), &count);
        assert_eq!(held.await.unwrap_err().code(), CallerCode::DeadlineExceeded);
        let until = Some(Instant::now() + HELD_IDLE * 2);
        let held = budget.hold(none, until, script(&[1], true), &count);
        assert_eq!(held.await.unwrap_err(), limit::too_slow());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_to_be_asked_is_not_asked_for_what_is_refused() {
        let announced = Announced {
            length: Some(MAX_HELD_BODY as u64 + 1),
            waits: true,
        };
        let (budget, count) = (budget(HELD_BUDGET), AtomicU64::new(0));
        let mut body = script(&[10], true);
        let refused = budget.hold(announced, None, &mut body, &count).await;
        assert_eq!(refused.unwrap_err().code(), CallerCode::BodyTooLarge);
        assert_eq!(body.left(), 1);
    }
}
