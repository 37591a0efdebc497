//! What goes up with a call: the request as the agent gets it, and what is said about it.

use std::time::Duration;

use culvert_certs::TenantName;
use culvert_control::snapshot::KeyView;
use culvert_relay::{CallFailed, CallTarget, FailCause};
use culvert_wire::{Caller, TraceContext};
use http::{HeaderMap, HeaderName, Method, Request, Uri, uri::PathAndQuery};
use tokio::time::Instant;

use crate::{
    blame,
    error::{CallerCode, Problem},
    hygiene::TIMEOUT,
    record::Note,
    route::resolve::Target,
};

/// Longest deadline that a caller may set; more would only hide a mistake in the unit.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest `tracestate` that goes into the trace context, in bytes; the header itself passes.
const MAX_TRACE_STATE: usize = 512;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where the relay may send the call.
pub fn call_target(tenant: TenantName, target: &Target) -> CallTarget {
    let of = |service: &culvert_wire::ServiceName| (target.connector.clone(), service.clone());
    CallTarget {
        tenant,
        candidates: target.services.iter().map(of).collect(),
        model: target.model.clone(),
        affinity: None,
    }
}

/// Who calls, as the agent's audit log will say.
pub fn caller(key: &KeyView) -> Caller {
    Caller {
        tenant: key.tenant.to_string(),
        key_id: key.id.clone(),
        user: None,
    }
}

/// The request with the path that its service is asked for.
pub fn request<B>(
    method: Method,
    target: &str,
    headers: HeaderMap,
    body: B,
) -> Result<Request<B>, Problem> {
    let unfit = |_| Problem::new(CallerCode::BadRequest, "The path cannot be passed on.");
    let target: PathAndQuery = target.parse().map_err(unfit)?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = headers;
    Ok(request)
}

/// When the caller's time is over, if it said so.
pub fn deadline(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>, Problem> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let millis: Option<u64> = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let timeout = millis
        .map(Duration::from_millis)
        .filter(|t| !t.is_zero() && *t <= MAX_TIMEOUT);
    match timeout {
        Some(timeout) => Ok(Some(now + timeout)),
        None => Err(Problem::new(
            CallerCode::BadRequest,
            "The header `culvert-timeout-ms` is not a number of milliseconds up to seven days.",
        )
        .about("culvert-timeout-ms")),
    }
}

/// The caller's place in a trace (W3C Trace Context), if its header is well formed.
pub fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known =
        version.len() == 2 && version != "ff" && (version != "00" || parts.next().is_none());
    let trace_id: [u8; 16] = hex(trace)?;
    let span_id: [u8; 8] = hex(span)?;
    let [flags] = hex(flags)?;
    let state = headers
        .get(TRACESTATE)
        .and_then(|value| value.to_str().ok());
    (known && trace_id != [0; 16] && span_id != [0; 8]).then(|| TraceContext {
        trace_id,
        span_id,
        flags,
        state: state
            .filter(|text| text.len() <= MAX_TRACE_STATE)
            .map(str::to_owned),
    })
}

/// What the record says of a call that failed.
pub fn note_failure(failed: &CallFailed) -> Note {
    Note {
        attempts: u32::from(failed.attempts),
        maybe_executed: failed.maybe_executed,
        agent: failed.agent.map(|agent| agent.to_string()),
        ..Note::default()
    }
}

/// What the caller of a failed call is told.
pub fn failed(failed: &CallFailed) -> Problem {
    match &failed.cause {
        FailCause::Head(_) => Problem::new(
            CallerCode::BadRequest,
            "A header or the path of the request cannot be passed on.",
        ),
        FailCause::AtCap => Problem::new(
            CallerCode::Overloaded,
            "The links to the agents carry as many calls as they may.",
        ),
        FailCause::Leaving => {
            Problem::new(CallerCode::Overloaded, "This replica is leaving.").closing()
        }
        FailCause::NoTarget(_)
        | FailCause::Agent(_)
        | FailCause::LinkLost
        | FailCause::Deadline
        | FailCause::Caller => blame::no_answer(failed.code, failed.maybe_executed),
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    let bytes = data_encoding::HEXLOWER
        .decode(text.as_bytes())
        .ok()
        .filter(|_| lower)?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[tokio::test]
    async fn deadlines() {
        let now = Instant::now();
        let at = |value| deadline(&with(TIMEOUT, value), now);
        assert_eq!(deadline(&HeaderMap::new(), now), Ok(None));
        assert_eq!(at("1500"), Ok(Some(now + Duration::from_millis(1500))));
        for bad in [
            "",
            "0",
            "-1",
            "1s",
            "1e3",
            "604800001",
            "99999999999999999999",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn trace_parents() {
        let of = |value| trace(&with(TRACEPARENT, value));
        let good = of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(
            (good.trace_id[0], good.span_id[7], good.flags),
            (0x4b, 0xb7, 1)
        );
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn targets_are_passed_as_written() {
        let target = "/v1/%2e%2e//x;y?q=%20";
        let request = request(Method::GET, target, HeaderMap::new(), ()).unwrap();
        assert_eq!(request.uri().to_string(), target);
    }
}
