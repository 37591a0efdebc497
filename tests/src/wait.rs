//! Level-triggered waiting: a condition, a deadline, and the last status for whoever reads the failure.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::HarnessError;

/// Time between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The deadline of everything that should come within a second or two, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until `look` gives a value; its `Err` is the status that a failure shows.
///
/// # Errors
/// [`HarnessError::TimedOut`] with the last status.
pub async fn until<T, F>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T, HarnessError>
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    let mut last = "nothing was seen".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(status)) => last = status,
            Err(_) => last = format!("{last} (and a look that did not return)"),
        }
        if Instant::now() >= deadline {
            return Err(HarnessError::TimedOut {
                what: what.to_owned(),
                within,
                last,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
