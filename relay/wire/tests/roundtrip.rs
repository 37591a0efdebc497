//! Properties of any frames: they come back as they went, however the bytes are cut, and never from
//! fewer bytes than were written.

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use culvert_wire::{CallDecoder, CallFrame, CallItem, ControlDecoder, ControlFrame, FrameError};
use proptest::collection::vec;
use proptest::prelude::*;
use support::any;

/// Frames read from pieces of a stream, until an error.
fn read_control(
    pieces: impl IntoIterator<Item = Bytes>,
) -> (Vec<ControlFrame>, Option<FrameError>) {
    let mut decoder = ControlDecoder::new();
    let mut frames = vec![];
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Frames and the bytes of the body of one direction, and how it ended.
fn read_call(
    mut decoder: CallDecoder,
    pieces: impl IntoIterator<Item = Bytes>,
) -> (Vec<CallFrame>, Vec<u8>, Result<(), FrameError>) {
    let (mut frames, mut body) = (vec![], vec![]);
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_item() {
                Ok(Some(CallItem::Frame(frame))) => frames.push(frame),
                Ok(Some(CallItem::Body(bytes))) => {
                    assert!(!bytes.is_empty(), "no empty pieces");
                    body.extend_from_slice(&bytes);
                }
                Ok(None) => break,
                Err(error) => return (frames, body, Err(error)),
            }
        }
    }
    (frames, body, decoder.finish())
}

fn bytewise(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    (0..bytes.len()).map(|at| bytes.slice(at..at + 1))
}

/// A direction as it stands on the wire, and the frames in it.
fn written(
    before: &[CallFrame],
    (first, body, last): (CallFrame, Vec<Bytes>, CallFrame),
) -> (Bytes, Vec<CallFrame>, Vec<u8>) {
    let mut frames = before.to_vec();
    frames.push(first);
    let mut out = BytesMut::new();
    for frame in &frames {
        frame.encode(&mut out).expect("can be sent");
    }
    for piece in &body {
        let data = CallFrame::data(piece.len()).expect("fits");
        data.encode(&mut out).expect("can be sent");
        out.extend_from_slice(piece);
        frames.push(data);
    }
    last.encode(&mut out).expect("can be sent");
    frames.push(last);
    (out.freeze(), frames, body.concat())
}

/// The same frames, each map with one more key than this version knows, and some of types that it
/// may skip in between.
fn from_a_later_version(frames: &[ControlFrame], unknown: &[(u8, Vec<u8>)]) -> Bytes {
    let mut out = BytesMut::new();
    for (at, frame) in frames.iter().enumerate() {
        let bytes = support::control_bytes(frame);
        let mut payload = bytes.slice(5..).to_vec();
        if let Some(first) = payload.first_mut() {
            assert_eq!(*first & 0xe0, 0xa0, "a map of known length");
            *first += 1;
            // Key 99: an array that holds a map and a text.
            payload.extend_from_slice(&[0x18, 0x63, 0x82, 0xa1, 0x01, 0x02, 0x61, 0x78]);
        }
        out.put_u8(bytes[0]);
        out.put_u32(payload.len() as u32);
        out.put_slice(&payload);
        if let Some((kind, payload)) = unknown.get(at) {
            out.put_u8(64 | kind);
            out.put_u32(payload.len() as u32);
            out.put_slice(payload);
        }
    }
    out.freeze()
}

proptest! {
    #[test]
    fn control_frames_come_back_whole_and_byte_by_byte(frames in vec(any::control_frame(), 0..6)) {
        let stream: Bytes = frames.iter().flat_map(support::control_bytes).collect();
        prop_assert_eq!(read_control([stream.clone()]), (frames.clone(), None));
        prop_assert_eq!(read_control(bytewise(&stream)), (frames, None));
    }

    #[test]
    fn a_control_stream_that_ends_early_yields_only_what_was_whole(
        frames in vec(any::control_frame(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut ends = vec![];
        let mut stream = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut stream).expect("can be sent");
            ends.push(stream.len());
        }
        let cut = cut.index(stream.len());
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let (read, error) = read_control([stream.freeze().slice(..cut)]);
        prop_assert_eq!(read, &frames[..whole]);
        prop_assert_eq!(error, None);
    }

    #[test]
    fn a_later_version_is_understood(
        frames in vec(any::control_frame(), 1..4),
        unknown in vec((0..64u8, vec(any::<u8>(), 0..50)), 0..4),
    ) {
        let stream = from_a_later_version(&frames, &unknown);
        prop_assert_eq!(read_control([stream]), (frames, None));
    }

    #[test]
    fn requests_come_back_whole_and_byte_by_byte(request in any::request()) {
        let (stream, frames, body) = written(&[], request);
        let whole = read_call(CallDecoder::request(), [stream.clone()]);
        prop_assert_eq!(&whole, &(frames, body, Ok(())));
        prop_assert_eq!(read_call(CallDecoder::request(), bytewise(&stream)), whole);
    }

    #[test]
    fn answers_come_back_whole_and_byte_by_byte(answer in any::answer()) {
        let (stream, frames, body) = written(&[CallFrame::Accepted, CallFrame::Enough], answer);
        let whole = read_call(CallDecoder::answer(), [stream.clone()]);
        prop_assert_eq!(&whole, &(frames, body, Ok(())));
        prop_assert_eq!(read_call(CallDecoder::answer(), bytewise(&stream)), whole);
    }

    /// A truncated body is never taken for a complete one.
    #[test]
    fn a_direction_that_ends_early_is_cut(
        request in any::request(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (stream, frames, body) = written(&[], request);
        let part = stream.slice(..cut.index(stream.len()));
        let (read, bytes, end) = read_call(CallDecoder::request(), [part]);
        prop_assert_eq!(end, Err(FrameError::Cut));
        prop_assert!(read.len() < frames.len() && frames.starts_with(&read));
        prop_assert!(body.starts_with(&bytes));
    }

    #[test]
    fn pieces_of_a_stream_are_shared_not_copied(body in vec(any::<u8>(), 1..2000)) {
        let (stream, _, _) = written(
            &[],
            (
                CallFrame::Open(Box::new(support::samples::small_open())),
                vec![Bytes::from(body)],
                CallFrame::End(http::HeaderMap::new()),
            ),
        );
        let range = stream.as_ptr_range();
        let mut decoder = CallDecoder::request();
        decoder.push(stream);
        while let Some(item) = decoder.next_item().expect("a request") {
            if let CallItem::Body(bytes) = item {
                prop_assert!(range.contains(&bytes.as_ptr()));
            }
        }
    }

    #[test]
    fn random_bytes_are_never_a_panic(bytes in vec(any::<u8>(), 0..600)) {
        let bytes = Bytes::from(bytes);
        let whole = read_control([bytes.clone()]);
        prop_assert_eq!(read_control(bytewise(&bytes)), whole);
        for decoder in [CallDecoder::request, CallDecoder::answer, CallDecoder::probe_answer] {
            let (frames, body, end) = read_call(decoder(), [bytes.clone()]);
            prop_assert_eq!(read_call(decoder(), bytewise(&bytes)), (frames, body, end));
        }
    }

    #[test]
    fn a_flipped_bit_is_a_frame_or_an_error(
        frames in vec(any::control_frame(), 1..3),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut stream: Vec<u8> = frames.iter().flat_map(support::control_bytes).collect();
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        let stream = Bytes::from(stream);
        let pieces = read_control(bytewise(&stream));
        prop_assert_eq!(pieces, read_control([stream]));
    }
}
