//! One end: a machine, and what its driver keeps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use culvert_wire::{ControlDecoder, End, FrameType, Machine, Observation};

use crate::world::Millis;

/// One end: a machine and what its driver keeps.
#[derive(Debug)]
pub(crate) struct Peer<M: Machine> {
    pub(crate) machine: M,
    decoder: ControlDecoder,
    pub(crate) received: u64,
    pub(crate) calls: u32,
    pub(crate) begun: u64,
    /// Why and when it was over.
    pub(crate) end: Option<(End, Millis)>,
    pub(crate) sent: BTreeMap<u8, u64>,
    /// Wake-ups without anything to do but the clock.
    pub(crate) timer_wakes: u64,
}

impl<M: Machine> Peer<M> {
    pub(crate) fn new(machine: M) -> Self {
        Self {
            machine,
            decoder: ControlDecoder::new(),
            received: 0,
            calls: 0,
            begun: 0,
            end: None,
            sent: BTreeMap::new(),
            timer_wakes: 0,
        }
    }

    pub(crate) fn observe(&mut self, now: Instant, round_trip: Duration) {
        self.machine.observe(
            now,
            Observation {
                received_bytes: self.received,
                round_trip,
                calls_in_flight: self.calls,
                calls_begun: self.begun,
            },
        );
    }

    /// Feeds bytes in two pieces, so that frames are cut anywhere.
    pub(crate) fn receive(&mut self, now: Instant, bytes: &Bytes, cut: usize) {
        self.received += bytes.len() as u64;
        let cut = cut.min(bytes.len());
        for piece in [bytes.slice(..cut), bytes.slice(cut..)] {
            self.decoder.push(piece);
            while let Some(frame) = self.decoder.next_frame().expect("frames of ours decode") {
                self.machine
                    .handle_frame(now, frame)
                    .expect("neither end breaks the protocol");
            }
        }
    }

    /// The driver's steps 3 to 5.
    pub(crate) fn poll(&mut self, now: Instant, at: Millis) -> (Vec<M::Event>, Bytes) {
        let events: Vec<M::Event> = std::iter::from_fn(|| self.machine.poll_event()).collect();
        let mut out = BytesMut::new();
        while let Some(frame) = self.machine.poll_frame(now) {
            *self.sent.entry(frame.kind() as u8).or_default() += 1;
            frame.encode(&mut out).expect("frames of ours encode");
        }
        if self.end.is_none()
            && let Some(end) = self.machine.end()
        {
            self.end = Some((end, at));
        }
        (events, out.freeze())
    }

    pub(crate) fn sent(&self, kind: FrameType) -> u64 {
        self.sent.get(&(kind as u8)).copied().unwrap_or(0)
    }

    /// Nothing more is said, whatever is done to it.
    pub(crate) fn assert_silent(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
        assert!(
            self.machine.poll_event().is_none(),
            "an event after the end"
        );
        assert!(
            self.machine.poll_frame(now).is_none(),
            "a frame after the end"
        );
        assert!(
            self.machine.poll_timeout().is_none(),
            "a timer after the end"
        );
        assert!(self.machine.end().is_some(), "the end stays");
    }
}
