//! The CBOR side of frames: how field types that `minicbor` does not know are written, and bounds
//! that hold while decoding, not after it.

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use minicbor::decode::{self, Decode, Decoder};
use minicbor::encode::{self, Encode, Encoder, Write};

use crate::code::Code;
use crate::error::HeadError;
use crate::head;
use crate::ids::ServiceName;
use crate::limits::{METHOD_MAX_BYTES, NAME_MAX_BYTES, TARGET_MAX_BYTES, TRAILERS_MAX};

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

/// `http::Method` as text.
pub(crate) mod method {
    use super::{
        Decoded, Decoder, Encoded, Encoder, HeadError, METHOD_MAX_BYTES, Method, Write, decode,
    };

    pub(crate) fn decode<Ctx>(d: &mut Decoder<'_>, _: &mut Ctx) -> Decoded<Method> {
        let text = d.str()?;
        Method::from_bytes(text.as_bytes())
            .ok()
            .filter(|method| text.len() <= METHOD_MAX_BYTES && *method != Method::CONNECT)
            .ok_or_else(|| decode::Error::custom(HeadError::InvalidMethod))
    }

    pub(crate) fn encode<Ctx, W: Write>(
        method: &Method,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        e.str(method.as_str())?.ok()
    }
}

/// `http::uri::PathAndQuery` as text.
#[expect(
    clippy::needless_pass_by_ref_mut,
    reason = "the signature is minicbor's"
)]
pub(crate) mod target {
    use super::{
        Decoded, Decoder, Encoded, Encoder, HeadError, PathAndQuery, Share, TARGET_MAX_BYTES,
        Write, decode,
    };

    pub(crate) fn decode<Ctx: Share>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<PathAndQuery> {
        let text = d.str()?;
        // A fragment would be cut off silently, so compare.
        (text.len() <= TARGET_MAX_BYTES && (text.starts_with('/') || text == "*"))
            .then(|| PathAndQuery::from_maybe_shared(ctx.share(text.as_bytes())).ok())
            .flatten()
            .filter(|target| target.as_str() == text)
            .ok_or_else(|| decode::Error::custom(HeadError::InvalidTarget))
    }

    pub(crate) fn encode<Ctx, W: Write>(
        target: &PathAndQuery,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        if target.as_str().len() > TARGET_MAX_BYTES {
            return Err(super::encode::Error::custom(HeadError::InvalidTarget));
        }
        e.str(target.as_str())?.ok()
    }
}

/// `http::StatusCode` as a number: a final one, or 101.
pub(crate) mod status {
    use super::{
        Decoded, Decoder, Encoded, Encoder, HeadError, StatusCode, Write, decode, encode, head,
    };

    pub(crate) fn decode<Ctx>(d: &mut Decoder<'_>, _: &mut Ctx) -> Decoded<StatusCode> {
        StatusCode::from_u16(d.u16()?)
            .ok()
            .filter(|status| head::is_final_or_switching(*status))
            .ok_or_else(|| decode::Error::custom(HeadError::InvalidStatus))
    }

    pub(crate) fn encode<Ctx, W: Write>(
        status: &StatusCode,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        if !head::is_final_or_switching(*status) {
            return Err(encode::Error::custom(HeadError::InvalidStatus));
        }
        e.u16(status.as_u16())?.ok()
    }
}

/// Header fields of a head, as one flat list of names (text) and values (bytes).
pub(crate) mod headers {
    use super::{Decoded, Decoder, Encoded, Encoder, HeaderMap, Share, Write, fields, head};

    pub(crate) fn decode<Ctx: Share>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<HeaderMap> {
        fields::decode(d, ctx, &head::HEADERS)
    }

    pub(crate) fn encode<Ctx, W: Write>(
        map: &HeaderMap,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        fields::encode(map, e, &head::HEADERS)
    }

    pub(crate) fn is_nil(map: &HeaderMap) -> bool {
        map.is_empty()
    }

    pub(crate) fn nil() -> Option<HeaderMap> {
        Some(HeaderMap::new())
    }
}

/// Trailer fields, in the same form as headers.
pub(crate) mod trailers {
    use super::{Decoded, Decoder, Encoded, Encoder, HeaderMap, Share, Write, fields, head};

    pub(crate) fn decode<Ctx: Share>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<HeaderMap> {
        fields::decode(d, ctx, &head::TRAILERS)
    }

    pub(crate) fn encode<Ctx, W: Write>(
        map: &HeaderMap,
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        fields::encode(map, e, &head::TRAILERS)
    }

    pub(crate) fn is_nil(map: &HeaderMap) -> bool {
        map.is_empty()
    }

    pub(crate) fn nil() -> Option<HeaderMap> {
        Some(HeaderMap::new())
    }
}

/// Names of announced trailers.
pub(crate) mod names {
    use super::{
        Decoded, Decoder, Encoded, Encoder, HeadError, HeaderName, TRAILERS_MAX, Write, decode,
        list_of,
    };

    pub(crate) fn decode<Ctx>(d: &mut Decoder<'_>, ctx: &mut Ctx) -> Decoded<Vec<HeaderName>> {
        list_of::<_, _, TRAILERS_MAX>(d, ctx, |d, _| {
            HeaderName::from_lowercase(d.str()?.as_bytes())
                .map_err(|_| decode::Error::custom(HeadError::InvalidHeader))
        })
    }

    pub(crate) fn encode<Ctx, W: Write>(
        names: &[HeaderName],
        e: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Encoded<W> {
        e.array(names.len() as u64)?;
        for name in names {
            e.str(name.as_str())?;
        }
        Ok(())
    }
}

#[expect(
    clippy::needless_pass_by_ref_mut,
    reason = "the signature is minicbor's"
)]
mod fields {
    use super::{
        Decoded, Decoder, Encoded, Encoder, HeadError, HeaderMap, HeaderName, HeaderValue, Share,
        Write, decode, definite, encode,
    };
    use crate::head::Rules;

    pub(super) fn decode<Ctx: Share>(
        d: &mut Decoder<'_>,
        ctx: &mut Ctx,
        rules: &Rules,
    ) -> Decoded<HeaderMap> {
        let length = definite(d.array()?)?;
        if length % 2 != 0 {
            return Err(decode::Error::custom(HeadError::InvalidHeader));
        }
        let count = usize::try_from(length / 2).unwrap_or(usize::MAX);
        rules.count(count).map_err(decode::Error::custom)?;
        let mut map = HeaderMap::with_capacity(count);
        let mut bytes = 0;
        for _ in 0..count {
            let (name, value) = (d.str()?, d.bytes()?);
            bytes += name.len() + value.len();
            rules.bytes(bytes).map_err(decode::Error::custom)?;
            let (name, value) = field(name, ctx.share(value)).map_err(decode::Error::custom)?;
            rules.field(&name, &value).map_err(decode::Error::custom)?;
            map.append(name, value);
        }
        rules.whole(&map).map_err(decode::Error::custom)?;
        Ok(map)
    }

    fn field(name: &str, value: bytes::Bytes) -> Result<(HeaderName, HeaderValue), HeadError> {
        let name = HeaderName::from_lowercase(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(value);
        name.ok().zip(value.ok()).ok_or(HeadError::InvalidHeader)
    }

    pub(super) fn encode<W: Write>(
        map: &HeaderMap,
        e: &mut Encoder<W>,
        rules: &Rules,
    ) -> Encoded<W> {
        rules.check(map).map_err(encode::Error::custom)?;
        e.array(2 * map.len() as u64)?;
        for (name, value) in map {
            e.str(name.as_str())?.bytes(value.as_bytes())?;
        }
        Ok(())
    }
}
