//! What the tests of frames share.

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod any;
pub(crate) mod samples;

use bytes::{Bytes, BytesMut};
use culvert_wire::{CallDecoder, CallFrame, CallItem, ControlFrame, FrameType};

pub(crate) fn control_bytes(frame: &ControlFrame) -> Bytes {
    let mut out = BytesMut::new();
    frame.encode(&mut out).expect("a sample can be encoded");
    out.freeze()
}

pub(crate) fn call_bytes(frame: &CallFrame) -> Bytes {
    let mut out = BytesMut::new();
    frame.encode(&mut out).expect("a sample can be encoded");
    out.freeze()
}

/// A decoder that stands where a frame of this type may come.
pub(crate) fn decoder_before(kind: FrameType) -> CallDecoder {
    let open = || CallFrame::Open(Box::new(samples::small_open()));
    let (mut decoder, before) = if [FrameType::Accepted, FrameType::Refused].contains(&kind) {
        (CallDecoder::answer(), vec![])
    } else if [FrameType::Head, FrameType::Enough].contains(&kind) {
        (CallDecoder::answer(), vec![CallFrame::Accepted])
    } else if [FrameType::Data, FrameType::End, FrameType::Abort].contains(&kind) {
        (CallDecoder::request(), vec![open()])
    } else if kind == FrameType::ProbeAck {
        (CallDecoder::probe_answer(), vec![])
    } else {
        (CallDecoder::request(), vec![])
    };
    for frame in before {
        decoder.push(call_bytes(&frame));
        assert_eq!(decoder.next_item(), Ok(Some(CallItem::Frame(frame))));
    }
    decoder
}

pub(crate) fn unhex(text: &str) -> Bytes {
    let digits = text.as_bytes();
    assert!(digits.len().is_multiple_of(2), "whole bytes");
    let nibble = |digit: &u8| char::from(*digit).to_digit(16).expect("hex") as u8;
    digits
        .chunks(2)
        .map(|pair| nibble(&pair[0]) << 4 | nibble(&pair[1]))
        .collect()
}
