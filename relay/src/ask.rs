//! Asking an agent about a call that was lost with its link: over each of its other links in turn.

use culvert_wire::{CallId, CallKnowledge};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::book::Tenant;
use crate::handle::Link;
use crate::limits::ASK_TURN;
use crate::link::LinkEntry;

/// The first answer that any link brings: the agent is one, and asking it twice changes nothing. A
/// link that is lost over the question, or silent, is followed by the next one; `changes` of the
/// tenant's links may bring one. Goes on for as long as it is waited for.
pub(crate) async fn ask_in_turn(
    tenant: &Tenant<Link>,
    mut changes: watch::Receiver<u64>,
    lost: &LinkEntry<Link>,
    call_id: CallId,
    opened: Instant,
) -> CallKnowledge {
    let mut asked = vec![lost.id];
    let mut answers = FuturesUnordered::new();
    loop {
        let next = tenant.newest_link(lost.agent, lost.instance, |link| {
            link.handle.is_open() && !asked.contains(&link.id)
        });
        if let Some(link) = next {
            asked.push(link.id);
            answers.push(async move { link.handle.ask(call_id, opened.elapsed()).await });
        }
        tokio::select! {
            biased;
            Some(answer) = answers.next() => {
                if let Some(known) = answer {
                    return known;
                }
            }
            Ok(()) = changes.changed() => {}
            () = sleep(ASK_TURN) => {}
        }
    }
}
