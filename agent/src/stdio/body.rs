//! A message on its way in. What is held of many at once is bounded together, from a message's
//! arrival until its line is written.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::Stdio;
use super::error::Problem;
use super::spec::MAX_LINE_BYTES;
use crate::backend::OutBody;

/// A message's share of the bytes that are held.
pub(super) type Place = OwnedSemaphorePermit;

impl Stdio {
    /// The whole of a message, and its share.
    pub(super) async fn collect(
        &self,
        headers: &HeaderMap,
        mut body: OutBody,
    ) -> Result<(Bytes, Place), Problem> {
        let declared = headers
            .get(CONTENT_LENGTH)
            .and_then(|n| n.to_str().ok()?.parse().ok());
        let most = declared.unwrap_or(MAX_LINE_BYTES);
        if most > MAX_LINE_BYTES {
            return Err(Problem::TooLarge(MAX_LINE_BYTES));
        }
        let places = u32::try_from(most).unwrap_or(u32::MAX);
        let mut place = Arc::clone(&self.holding)
            .try_acquire_many_owned(places)
            .map_err(|_| Problem::Busy)?;
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // No trailer says anything to an MCP server.
            let Ok(data) = frame.map_err(|_| Problem::Incomplete)?.into_data() else {
                break;
            };
            if whole.len() + data.len() > most {
                return Err(Problem::TooLarge(most));
            }
            whole.extend_from_slice(&data);
        }
        drop(place.split(most - whole.len()));
        Ok((whole.freeze(), place))
    }
}
