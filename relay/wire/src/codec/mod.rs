//! The CBOR side of frames: how field types that `minicbor` does not know are written, and bounds
//! that hold while decoding, not after it.

mod http;

use bytes::{Bytes, BytesMut};
use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

pub(crate) use self::http::{headers, method, names, status, target, trailers};
use crate::code::Code;
use crate::ids::ServiceName;
use crate::limits::NAME_MAX_BYTES;

/// The payload that is being decoded. Values that outlive the decoder are slices of it, not copies.
#[derive(Debug, Default)]
pub(crate) struct Payload(Bytes);

impl Payload {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// A decoding context that can share its input.
///
/// Only the frames' derived codecs use it, through this crate's own decoders.
pub trait Share {
    /// The part of the input that `part` borrows from it.
    fn share(&self, part: &[u8]) -> Bytes;
}

impl Share for Payload {
    fn share(&self, part: &[u8]) -> Bytes {
        // An empty slice need not point into the payload.
        if part.is_empty() {
            Bytes::new()
        } else {
            self.0.slice_ref(part)
        }
    }
}

/// Writes CBOR at the end of a buffer, without failing.
#[derive(Debug)]
pub(crate) struct Tail<'a>(pub(crate) &'a mut BytesMut);

impl Write for Tail<'_> {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

type Decoded<T> = Result<T, decode::Error>;
type Encoded<W> = Result<(), encode::Error<<W as Write>::Error>>;

/// A name of at most 256 bytes.
pub(crate) fn text<Ctx>(d: &mut Decoder<'_>, _: &mut Ctx) -> Decoded<String> {
    let text = d.str()?;
    if text.len() > NAME_MAX_BYTES {
        return Err(decode::Error::message("name too long"));
    }
    Ok(text.to_owned())
}

/// A name of at most 256 bytes, or none.
pub(crate) fn optional_text<Ctx>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<Option<String>> {
    text(d, ctx).map(Some)
}

/// A text of at most `MAX` bytes, or none.
pub(crate) fn short_text<Ctx, const MAX: usize>(
    d: &mut Decoder<'_>,
    _: &mut Ctx,
) -> Decoded<Option<String>> {
    let text = d.str()?;
    if text.len() > MAX {
        return Err(decode::Error::message("text too long"));
    }
    Ok(Some(text.to_owned()))
}

/// At most `MAX` names.
pub(crate) fn texts<Ctx, const MAX: usize>(
    d: &mut Decoder<'_>,
    ctx: &mut Ctx,
) -> Decoded<Vec<String>> {
    list_of::<_, _, MAX>(d, ctx, |d, ctx| text(d, ctx))
}

/// At most `MAX` items.
pub(crate) fn list<'b, Ctx, T: Decode<'b, Ctx>, const MAX: usize>(
    d: &mut Decoder<'b>,
    ctx: &mut Ctx,
) -> Decoded<Vec<T>> {
    list_of::<_, _, MAX>(d, ctx, |d, ctx| T::decode(d, ctx))
}

/// At most `MAX` items, each by `item`. The bound holds before the vector grows, because an item
/// of one byte on the wire can be hundreds in memory.
fn list_of<'b, Ctx, T, const MAX: usize>(
    d: &mut Decoder<'b>,
    ctx: &mut Ctx,
    mut item: impl FnMut(&mut Decoder<'b>, &mut Ctx) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    let count = definite(d.array()?)?;
    if count > MAX as u64 {
        return Err(decode::Error::message("list too long"));
    }
    (0..count).map(|_| item(d, ctx)).collect()
}

/// The length of a list; those of indefinite length are not deterministic and not used.
fn definite(length: Option<u64>) -> Decoded<u64> {
    length.ok_or_else(|| decode::Error::message("indefinite length"))
}

/// Opaque bytes, shared with the payload.
#[expect(
    clippy::needless_pass_by_ref_mut,
    reason = "the signature is minicbor's"
)]
pub(crate) mod shared {
    use super::{Bytes, Decoded, Decoder, Encoded, Encoder, Share, Write};

    pub(crate) fn decode<Ctx: Share>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<Bytes> {
        d.bytes().map(|part| ctx.share(part))
    }

    pub(crate) fn encode<Ctx, W: Write>(
        bytes: &Bytes,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        e.bytes(bytes)?.ok()
    }
}

/// Opaque bytes or none, shared with the payload.
pub(crate) mod optional_shared {
    use super::{Bytes, Decoded, Decoder, Encoded, Encoder, Share, Write};

    pub(crate) fn decode<Ctx: Share>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<Option<Bytes>> {
        super::shared::decode(d, ctx).map(Some)
    }

    pub(crate) fn encode<Ctx, W: Write>(
        bytes: &Option<Bytes>,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        match bytes {
            Some(bytes) => e.bytes(bytes)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(crate) fn nil() -> Option<Option<Bytes>> {
        Some(None)
    }

    pub(crate) fn is_nil(bytes: &Option<Bytes>) -> bool {
        bytes.is_none()
    }
}

impl<Ctx> Encode<Ctx> for Code {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut Ctx) -> Encoded<W> {
        e.u16(self.to_u16())?.ok()
    }
}

impl<'b, Ctx> Decode<'b, Ctx> for Code {
    fn decode(d: &mut Decoder<'b>, _: &mut Ctx) -> Decoded<Self> {
        d.u16().map(Self::from_u16)
    }
}

impl<Ctx> Encode<Ctx> for ServiceName {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut Ctx) -> Encoded<W> {
        e.str(self)?.ok()
    }
}

impl<'b, Ctx> Decode<'b, Ctx> for ServiceName {
    fn decode(d: &mut Decoder<'b>, _: &mut Ctx) -> Decoded<Self> {
        Self::new(d.str()?).map_err(decode::Error::custom)
    }
}

/// Codec of an enum whose unknown numbers read as its default.
macro_rules! open_enum {
    ($name:ident { $($variant:ident = $number:literal),* }) => {
        impl<Ctx> minicbor::Encode<Ctx> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut Ctx,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                let number = match self {
                    $(Self::$variant => $number,)*
                };
                e.u8(number)?.ok()
            }
        }

        impl<'b, Ctx> minicbor::Decode<'b, Ctx> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut Ctx) -> Result<Self, minicbor::decode::Error> {
                Ok(match d.u64()? {
                    $($number => Self::$variant,)*
                    _ => Self::default(),
                })
            }
        }
    };
}

pub(crate) use open_enum;
