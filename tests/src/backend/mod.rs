//! A model server in the dialects of OpenAI and Anthropic, and plain HTTP routes, for tests, the demo and benchmarks.
//!
//! A form is read as the JSON that it stands for; files of a form and spoken texts are told by length and digest.
//! Besides the model APIs (`/v1/...` and the same without `/v1`) it answers:
//! `/__stats` counts, `/__requests` the heads of the last requests as they arrived, `/__echo/...` the request itself as JSON,
//! `/bytes/<n>` so many bytes, `/sink` the length of the body, `/mirror` the body as it comes, `/status/<code>`, `/redirect`, `/dirty`
//! headers that a gateway must not pass.

mod answer;
mod anthropic;
mod form;
mod media;
mod odd;
mod openai;
mod plain;
mod responses;
mod scores;
pub mod script;
pub mod stats;
mod stream;
mod switch;

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::fault_io::{Break, FaultSwitch};
use crate::serve::{Body, Handler};
use script::{Fault, Script};
use stats::{Active, Seen, Stats};

/// The paths of the OpenAI dialect whose `POST` names a model.
const OPENAI_PATHS: [&str; 14] = [
    "/chat/completions",
    "/completions",
    "/responses",
    "/responses/compact",
    "/responses/input_tokens",
    "/embeddings",
    "/rerank",
    "/moderations",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/images/generations",
    "/images/edits",
    "/images/variations",
];

/// The backend; its counts are shared by all connections.
#[derive(Debug, Default)]
pub struct ModelBackend {
    stats: Stats,
    kept: responses::Kept,
    /// Connections that have changed their protocol.
    switched: TaskTracker,
}

/// Which dialect an error speaks.
#[derive(Clone, Copy, Debug)]
enum Dialect {
    OpenAi,
    Anthropic,
}

/// A request of a model API, read whole.
struct Ask {
    json: serde_json::Value,
    seen: Seen,
    script: Script,
    active: Active,
}

impl Handler for ModelBackend {
    async fn handle(&self, mut request: Request<Incoming>, switch: FaultSwitch) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/__stats" => return answer::json(StatusCode::OK, &self.stats.to_json()),
            "/__requests" => return answer::json(StatusCode::OK, &self.stats.seen_json()),
            "/health" => return answer::text(StatusCode::OK, "ok"),
            _ => {}
        }
        let api = path.strip_prefix("/v1").unwrap_or(&path).to_owned();
        let active = self.stats.begin(&format!("{} {api}", request.method()));
        let mut active = Some(active);
        if let Some(answer) = switch::handle(
            &api,
            &mut request,
            &mut active,
            (&self.stats, &self.switched),
        ) {
            return answer;
        }
        let Some(active) = active else {
            return answer::broken();
        };
        match (request.method(), api.as_str()) {
            (&Method::GET, models) if models == "/models" || models.starts_with("/models/") => {
                self.stats.remember(Seen::new(&request.into_parts().0, &[]));
                answer::done(active, openai::models(models.strip_prefix("/models/")))
            }
            (&Method::POST, path) if OPENAI_PATHS.contains(&path) => {
                self.model_call(Dialect::OpenAi, &api, request, switch, active)
                    .await
            }
            (&Method::POST, "/messages" | "/messages/count_tokens") => {
                self.model_call(Dialect::Anthropic, &api, request, switch, active)
                    .await
            }
            (method, path) if path.starts_with("/responses/") => {
                let rest = path.trim_start_matches("/responses/");
                let answer = self.kept.about(method, rest, active);
                self.stats.remember(Seen::new(&request.into_parts().0, &[]));
                answer
            }
            (_, path) if path.starts_with("/odd/") => {
                let what = path.trim_start_matches("/odd/");
                let known = odd::answer(what, request.into_body());
                let answer = known.unwrap_or_else(|| answer::text(StatusCode::NOT_FOUND, "odd"));
                answer::done(active, answer)
            }
            _ => plain::handle(&self.stats, &path, request, active).await,
        }
    }
}

impl ModelBackend {
    async fn model_call(
        &self,
        dialect: Dialect,
        api: &str,
        request: Request<Incoming>,
        switch: FaultSwitch,
        active: Active,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
        else {
            return answer::text(StatusCode::BAD_REQUEST, "the body was cut");
        };
        let seen = Seen::new(&parts, &body);
        self.stats.remember(seen.clone());
        let Some(json) = read(&parts, &body) else {
            return answer::done(
                active,
                dialect.error(
                    StatusCode::BAD_REQUEST,
                    "the body is neither JSON nor a form",
                ),
            );
        };
        let script = match Script::of(&json) {
            Ok(script) => script,
            Err(why) => return answer::done(active, dialect.error(StatusCode::BAD_REQUEST, &why)),
        };
        self.stats.model(json["model"].as_str().unwrap_or_default());
        let streaming = json["stream"].as_bool() == Some(true);
        if let Some(fault) = script.fault
            && let Some(failed) = fail_head(dialect, fault, streaming, &switch).await
        {
            return answer::done(active, failed);
        }
        let ask = Ask {
            json,
            seen,
            script,
            active,
        };
        let mut response = match dialect {
            Dialect::Anthropic => anthropic::answer(api, ask, switch).await,
            Dialect::OpenAi => self.openai_call(api, ask, switch).await,
        };
        response
            .headers_mut()
            .insert("x-fixture", http::HeaderValue::from_static("model-backend"));
        response
    }

    async fn openai_call(&self, api: &str, ask: Ask, switch: FaultSwitch) -> Response<Body> {
        match api {
            "/completions" => openai::completions(ask, switch).await,
            "/responses" => self.kept.create(ask, switch).await,
            "/responses/compact" => responses::compact(ask),
            "/responses/input_tokens" => responses::input_tokens(ask),
            "/embeddings" => openai::embeddings(ask),
            "/rerank" => scores::rerank(ask),
            "/moderations" => scores::moderations(ask),
            "/audio/speech" => media::speech(ask).await,
            "/audio/transcriptions" | "/audio/translations" => media::transcription(ask, switch),
            "/images/generations" | "/images/edits" | "/images/variations" => {
                media::images(ask).await
            }
            _ => openai::chat(ask, switch).await,
        }
    }
}

/// The body as JSON: itself, or the fields of a form.
fn read(parts: &http::request::Parts, body: &[u8]) -> Option<serde_json::Value> {
    let kind = parts.headers.get(http::header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("multipart/form-data") {
        return form::to_json(kind, body);
    }
    serde_json::from_slice(body).ok()
}

impl Dialect {
    fn error(self, status: StatusCode, message: &str) -> Response<Body> {
        match self {
            Self::OpenAi => openai::error(status, message),
            Self::Anthropic => anthropic::error(status, message),
        }
    }
}

/// The faults that come instead of a head; a fault of the stream gives `None` where the request asked for a stream.
async fn fail_head(
    dialect: Dialect,
    fault: Fault,
    streaming: bool,
    switch: &FaultSwitch,
) -> Option<Response<Body>> {
    match fault {
        Fault::Internal => Some(dialect.error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the fixture fails as told",
        )),
        Fault::RateLimited => {
            let mut response =
                dialect.error(StatusCode::TOO_MANY_REQUESTS, "the fixture is busy as told");
            response.headers_mut().insert(
                http::header::RETRY_AFTER,
                http::HeaderValue::from_static("7"),
            );
            Some(response)
        }
        Fault::Silent => {
            // Longer than any test: only the caller's leaving ends it.
            tokio::time::sleep(Duration::from_secs(86_400)).await;
            None
        }
        Fault::Garbage => {
            switch.set(Break::Garbage);
            Some(answer::text(StatusCode::OK, "never seen"))
        }
        Fault::HugeHeaders => Some(answer::huge_headers()),
        Fault::Redirect => Some(answer::redirect("http://127.0.0.1:1/elsewhere")),
        Fault::Reset | Fault::Cut | Fault::Stall if streaming => None,
        Fault::Reset => {
            switch.set(Break::Reset);
            Some(answer::broken())
        }
        Fault::Cut => Some(answer::broken()),
        Fault::Stall => {
            tokio::time::sleep(Duration::from_secs(86_400)).await;
            None
        }
    }
}
