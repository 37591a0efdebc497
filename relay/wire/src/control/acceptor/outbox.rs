//! What the relay has to write, each kind in a place of its own, so that it cannot pile up.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::{Asks, Prober};
use crate::frame::{ControlFrame, GoAway, Renewed};

/// Revocations that wait to be written to one agent; the first one already ends its link.
const REVOKED_QUEUED_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// `Welcome` or `Reject`.
    pub(super) greeting: Option<ControlFrame>,
    pub(super) drain_ack: bool,
    /// The nonce of the newest ping.
    pub(super) pong: Option<u64>,
    pub(super) renewed: Option<Renewed>,
    /// The newest list.
    pub(super) planes: Option<Bytes>,
    pub(super) go_away: Option<GoAway>,
    revoked: VecDeque<Bytes>,
}

impl Outbox {
    pub(super) fn revoked(&mut self, signed: Bytes) {
        if self.revoked.len() < REVOKED_QUEUED_MAX {
            self.revoked.push_back(signed);
        }
    }

    /// The next frame of a session that stands, the most urgent first.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        prober: &Prober,
        asks: &mut Asks,
    ) -> Option<ControlFrame> {
        if std::mem::take(&mut self.drain_ack) {
            return Some(ControlFrame::DrainAck);
        }
        let pong = self
            .pong
            .take()
            .map(|nonce| ControlFrame::Pong(prober.pong(now, nonce)));
        pong.or_else(|| self.revoked.pop_front().map(ControlFrame::Revoked))
            .or_else(|| self.go_away.take().map(ControlFrame::GoAway))
            .or_else(|| asks.poll().map(ControlFrame::Ask))
            .or_else(|| self.renewed.take().map(ControlFrame::Renewed))
            .or_else(|| self.planes.take().map(ControlFrame::Planes))
    }
}
