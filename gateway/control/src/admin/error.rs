//! From what went wrong to an answer: the one map to statuses and codes.

use axum::{
    Json,
    extract::{Request, rejection::BytesRejection},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use super::REQUEST_TIMEOUT;
use crate::{
    api::{ErrorBody, ErrorDetail, ErrorInfo},
    error::ControlError,
    resource::{FileError, Finding},
};

/// An answer that is not a success.
#[derive(Debug)]
pub(super) enum ApiError {
    /// No key, or none that works: they look the same.
    InvalidKey,
    /// The key does not permit it, whether there is such a thing or not.
    NotAllowed,
    /// `Host` or `Origin` are not ours.
    WrongOrigin,
    NoSuchPath,
    NoSuchMethod,
    /// The request cannot be understood, and why.
    BadRequest(String),
    /// The body's document cannot stand.
    Document(Vec<FileError>),
    BodyTooLarge,
    UnsupportedMediaType,
    /// `If-Match` or `If-None-Match` do not hold.
    PreconditionFailed,
    TooManyWatches,
    TimedOut,
    Control(ControlError),
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Self::BodyTooLarge
        } else {
            Self::BadRequest("the body could not be read".to_owned())
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status();
        if let Self::Control(error) = &self
            && status.is_server_error()
        {
            tracing::error!(
                error = error as &dyn std::error::Error,
                code,
                "an admin request failed"
            );
        }
        let (message, details) = (self.message(), self.details());
        let error = ErrorInfo {
            code: code.to_owned(),
            message,
            details,
        };
        let mut response = (status, Json(ErrorBody { error })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl ApiError {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidKey => (StatusCode::UNAUTHORIZED, "invalid_key"),
            Self::NotAllowed => (StatusCode::FORBIDDEN, "not_allowed"),
            Self::WrongOrigin => (StatusCode::FORBIDDEN, "wrong_origin"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "route_not_found"),
            Self::NoSuchMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Document(_) => (StatusCode::BAD_REQUEST, "invalid_document"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Self::TooManyWatches => (StatusCode::SERVICE_UNAVAILABLE, "too_many_watches"),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "timed_out"),
            Self::Control(error) => status_of(error),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::InvalidKey => "An admin key is needed: authorization: Bearer cvadm_...".into(),
            Self::NotAllowed => "This key's role or tenant does not permit this.".into(),
            Self::WrongOrigin => "This name or origin is not one of the admin API's.".into(),
            Self::NoSuchPath => "There is no such path.".into(),
            Self::NoSuchMethod => "This path does not take this method.".into(),
            Self::BadRequest(why) => format!("The request cannot be understood: {why}."),
            Self::Document(errors) => match errors.first() {
                Some(first) => format!("The document cannot stand: {}.", first.finding),
                None => "The document cannot stand.".into(),
            },
            Self::BodyTooLarge => format!("A body has at most {} bytes.", super::MAX_BODY),
            Self::UnsupportedMediaType => {
                "The body must be application/json or application/yaml.".into()
            }
            Self::PreconditionFailed => {
                "It has been changed since it was read. Read it again.".into()
            }
            Self::TooManyWatches => "There are too many watches. Try again later.".into(),
            Self::TimedOut => "The request took too long.".into(),
            Self::Control(error) => message_of(error),
        }
    }

    fn details(&self) -> Vec<ErrorDetail> {
        let detail = |line: u64, finding: &Finding| ErrorDetail {
            path: finding.path.clone(),
            line,
            message: finding.problem.to_string(),
        };
        match self {
            Self::Document(errors) => errors.iter().map(|e| detail(e.line, &e.finding)).collect(),
            Self::Control(ControlError::Invalid(invalid)) => {
                invalid.0.iter().map(|finding| detail(0, finding)).collect()
            }
            Self::InvalidKey
            | Self::NotAllowed
            | Self::WrongOrigin
            | Self::NoSuchPath
            | Self::NoSuchMethod
            | Self::BadRequest(_)
            | Self::BodyTooLarge
            | Self::UnsupportedMediaType
            | Self::PreconditionFailed
            | Self::TooManyWatches
            | Self::TimedOut
            | Self::Control(_) => Vec::new(),
        }
    }
}

fn status_of(error: &ControlError) -> (StatusCode, &'static str) {
    match error {
        ControlError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        ControlError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_document"),
        ControlError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        ControlError::Ruled(_) => (StatusCode::CONFLICT, "ruled_out"),
        ControlError::Retired(_) => (StatusCode::CONFLICT, "name_retired"),
        ControlError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        ControlError::Forged(..) | ControlError::Make(..) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
    }
}

/// The insides of a failure are for the log.
fn message_of(error: &ControlError) -> String {
    match error {
        ControlError::NotFound(_)
        | ControlError::Invalid(_)
        | ControlError::Conflict(_)
        | ControlError::Ruled(_)
        | ControlError::Retired(_) => format!("{error}."),
        ControlError::Store(_) => "The store does not answer. Try again.".into(),
        ControlError::Forged(..) | ControlError::Make(..) => {
            "Control failed. Its log says why.".into()
        }
    }
}

pub(super) async fn no_such_path() -> ApiError {
    ApiError::NoSuchPath
}

pub(super) async fn no_such_method() -> ApiError {
    ApiError::NoSuchMethod
}

/// Bounds every request in time; what a watch streams afterwards has bounds of its own.
pub(super) async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::TimedOut.into_response(),
    }
}
