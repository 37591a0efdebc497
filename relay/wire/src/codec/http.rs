//! `http` types in CBOR, checked while they are read and before they are written.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};

use super::{Decoded, Encoded, Share, definite, list_of};
use crate::error::HeadError;
use crate::head;
use crate::limits::{METHOD_MAX_BYTES, TARGET_MAX_BYTES, TRAILERS_MAX};

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
