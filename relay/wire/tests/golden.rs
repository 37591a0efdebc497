//! The bytes of every frame. They are the contract: a change here is a change of the protocol.

mod support;

use bytes::Bytes;
use culvert_wire::{CallItem, ControlDecoder, FrameType};
use support::samples;

/// Name of the sample, and its bytes: u8 type, u32 length, payload.
#[rustfmt::skip]
const GOLDEN: &[(&str, &str)] = &[
    ("hello_small", "0100000019a3000102500101010101010101010101010101010104a10000"),
    (
        "hello",
        "01000000e8a50001018169612d666561747572650250010101010101010101010101010101010350\
         0202020202020202020202020202020204a200040183a400656c6c616d610101028178206d657461\
         2d6c6c616d612f4c6c616d612d332e312d38422d496e737472756374035820d1d1d1d1d1d1d1d1d1\
         d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1a300677469636b6574730102035820d1d1\
         d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1a3006762696c6c696e67\
         0103035820d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
    ),
    (
        "welcome",
        "020000008ea600500202020202020202020202020202020201500303030303030303030303030303\
         030302a20062555301634f52460382a300500404040404040404040404040404040401826d313932\
         2e302e322e313a343433715b323030313a6462383a3a315d3a343433020aa2005005050505050505\
         050505050505050505020004a10002058169612d66656174757265",
    ),
    ("reject_busy", "0300000003a10006"),
    ("reject_upgrade", "0300000005a200010102"),
    ("reject_revoked", "0300000016a2000202517369676e656420627920636f6e74726f6c"),
    (
        "offer",
        "04000000b4a200040183a400656c6c616d610101028178206d6574612d6c6c616d612f4c6c616d61\
         2d332e312d38422d496e737472756374035820d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
         d1d1d1d1d1d1d1d1d1d1d1a300677469636b6574730102035820d1d1d1d1d1d1d1d1d1d1d1d1d1d1\
         d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1a3006762696c6c696e670103035820d1d1d1d1d1d1d1\
         d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
    ),
    ("offer_of_nothing", "0400000003a10005"),
    (
        "health",
        "0500000040a10083a600656c6c616d610101020303184004a3000301010219036b0519bb80a50067\
         7469636b6574730102020003000500a500636e65770100020003000500",
    ),
    ("ping", "0600000003a10007"),
    ("pong", "0700000003a10007"),
    ("pong_with_probe", "0700000012a3001b0000010000000000011905dc0218fa"),
    ("ask", "080000001ba200a20050070707070707070707070707070707070101011904d2"),
    ("answer_unknown", "0900000019a200a200500707070707070707070707070707070701010100"),
    ("answer_never_seen", "0900000019a200a200500707070707070707070707070707070701010101"),
    ("answer_seen", "0900000019a200a200500707070707070707070707070707070701010102"),
    ("renew", "0a00000010a1004d63737220616e642070726f6f66"),
    ("renewed", "0b00000008a10045636861696e"),
    ("renewed_refused", "0b00000003a10104"),
    ("planes", "0c00000010a1004d7369676e656420706c616e6573"),
    ("go_away", "0d0000000ba2001a000493e001191388"),
    ("drain", "0e00000007a1001a000493e0"),
    ("drain_ack", "0f00000000"),
    ("revoked", "1000000014a100517369676e6564207265766f636174696f6e"),
    (
        "open_small",
        "2000000033a600656c6c616d6101a2005007070707070707070707070707070707010004a005f407\
         63474554086a2f76312f6d6f64656c73",
    ),
    (
        "open",
        "20000000fdaa00656c6c616d6101a200500707070707070707070707070707070701000219753003\
         a40050aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0148bbbbbbbbbbbbbbbb0201036876656e646f723d\
         3104a3006461636d6501626b31026f6b696d406578616d706c652e636f6d05f50669776562736f63\
         6b65740764504f535408781b2f76312f636861742f636f6d706c6574696f6e733f626574613d3109\
         8a6c636f6e74656e742d74797065506170706c69636174696f6e2f6a736f6e666163636570745174\
         6578742f6576656e742d73747265616d6e636f6e74656e742d6c656e67746842343267782d747769\
         6365436f6e6567782d74776963654374776f",
    ),
    (
        "forward",
        "2100000069a4006461636d65016870726f642d767063028250080808080808080808080808080808\
         08500909090909090909090909090909090903a600656c6c616d6101a20050070707070707070707\
         07070707070707010004a005f40763474554086a2f76312f6d6f64656c73",
    ),
    ("accepted", "2200000000"),
    ("refused", "2300000004a1001866"),
    ("head_small", "2400000004a10018cc"),
    (
        "head",
        "2400000057a30018c801866c636f6e74656e742d7479706551746578742f6576656e742d73747265\
         616d6d63616368652d636f6e74726f6c486e6f2d636163686567782d6c6174696e44636166e90281\
         6b677270632d737461747573",
    ),
    ("data", "2500003ff4"),
    ("end", "2600000000"),
    ("end_with_trailers", "2600000019a100846b677270632d737461747573413065782d73756d4161"),
    ("abort", "2700000004a10018c8"),
    ("abort_of_a_later_version", "2700000005a10019012b"),
    ("enough", "2800000000"),
    ("probe", "2900000003a10003"),
    ("probe_ack", "2a00000003a10003"),
];

#[test]
fn every_frame_is_written_as_it_always_was() {
    let written: Vec<(String, String)> = samples::all()
        .into_iter()
        .map(|(name, frame)| (name.to_owned(), hex(&frame)))
        .collect();
    let golden: Vec<(String, String)> = GOLDEN
        .iter()
        .map(|(name, bytes)| (name.to_string(), bytes.to_string()))
        .collect();
    for (written, golden) in written.iter().zip(&golden) {
        assert_eq!(written, golden);
    }
    assert_eq!(
        written.len(),
        golden.len(),
        "a sample without golden bytes, or the reverse"
    );
}

#[test]
fn every_type_has_golden_bytes() {
    for kind in FrameType::ALL {
        let number = format!("{:02x}", *kind as u8);
        assert!(
            GOLDEN.iter().any(|(_, bytes)| bytes.starts_with(&number)),
            "{kind:?}"
        );
    }
}

#[test]
fn golden_bytes_are_read_as_the_frames_they_were() {
    for (name, frame) in samples::control() {
        let mut decoder = ControlDecoder::new();
        decoder.push(golden(name));
        assert_eq!(decoder.next_frame(), Ok(Some(frame)), "{name}");
        assert_eq!(decoder.next_frame(), Ok(None), "{name}");
    }
    for (name, frame) in samples::call() {
        let mut decoder = support::decoder_before(frame.kind());
        decoder.push(golden(name));
        assert_eq!(
            decoder.next_item(),
            Ok(Some(CallItem::Frame(frame))),
            "{name}"
        );
        assert_eq!(decoder.next_item(), Ok(None), "{name}");
    }
}

fn golden(name: &str) -> Bytes {
    let found = GOLDEN
        .iter()
        .find(|(golden, _)| *golden == name)
        .expect(name);
    support::unhex(found.1)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
