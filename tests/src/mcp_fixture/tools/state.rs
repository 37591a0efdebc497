//! Tools of the stateless era that hand the client a sealed state to bring back: what was changed on the way is refused.

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use rmcp::handler::server::tool::{InputResponses as Given, RequestState as Brought};
use rmcp::model::{CallToolResponse, InputRequiredResult};
use rmcp::{ErrorData, tool, tool_router};

use super::super::server::Fixture;
use super::input::{form, named, roots, sample, says, usable};

/// Every instance of the fixture opens what another has sealed.
const KEY: &[u8] = b"the fixture keeps no secret at all";

#[tool_router(router = state_tools, vis = "pub(in crate::mcp_fixture)")]
impl Fixture {
    #[tool(description = "Needs a yes, and its own state back")]
    async fn test_input_required_result_request_state(
        &self,
        Brought(state): Brought,
    ) -> Result<CallToolResponse, ErrorData> {
        confirmed(state)
    }

    #[tool(description = "Needs its own state back, unchanged")]
    async fn test_input_required_result_tampered_state(
        &self,
        Brought(state): Brought,
    ) -> Result<CallToolResponse, ErrorData> {
        confirmed(state)
    }

    #[tool(description = "Needs a form, a sample and roots at once")]
    async fn test_input_required_result_multiple_inputs(
        &self,
        Given(given): Given,
        Brought(state): Brought,
    ) -> Result<CallToolResponse, ErrorData> {
        let opened = state.as_deref().map(open).transpose()?;
        let answered = |name| usable(given.as_ref(), name).is_some();
        if opened.is_some()
            && ["user_name", "greeting", "client_roots"]
                .into_iter()
                .all(answered)
        {
            return Ok(says("All three are here."));
        }
        let wanted = named([
            ("user_name", form("Your name?", "name", "string")?),
            ("greeting", sample("Greet somebody.")),
            ("client_roots", roots()),
        ]);
        Ok(InputRequiredResult::new(Some(wanted), Some(seal("gather"))).into())
    }

    #[tool(description = "Needs two forms, one after the other")]
    async fn test_input_required_result_multi_round(
        &self,
        Brought(state): Brought,
    ) -> Result<CallToolResponse, ErrorData> {
        let (question, next) = match state.as_deref().map(open).transpose()?.as_deref() {
            None => (
                named([("step1", form("Your name?", "name", "string")?)]),
                "one",
            ),
            Some("one") => (
                named([("step2", form("A colour?", "color", "string")?)]),
                "two",
            ),
            Some(_) => return Ok(says("Both rounds are done.")),
        };
        Ok(InputRequiredResult::new(Some(question), Some(seal(next))).into())
    }
}

fn confirmed(state: Option<String>) -> Result<CallToolResponse, ErrorData> {
    let Some(state) = state else {
        let wanted = named([("confirm", form("Go on?", "ok", "boolean")?)]);
        return Ok(InputRequiredResult::new(Some(wanted), Some(seal("confirm"))).into());
    };
    open(&state)?;
    Ok(says("state-ok"))
}

/// `text` and its code of authentication.
fn seal(text: &str) -> String {
    let code = hmac::sign(&key(), text.as_bytes());
    format!("{text}.{}", BASE64URL_NOPAD.encode(code.as_ref()))
}

/// The text that was sealed.
fn open(sealed: &str) -> Result<String, ErrorData> {
    let refused = || ErrorData::invalid_params("the state was changed on the way", None);
    let (text, code) = sealed.rsplit_once('.').ok_or_else(refused)?;
    let code = BASE64URL_NOPAD
        .decode(code.as_bytes())
        .map_err(|_| refused())?;
    hmac::verify(&key(), text.as_bytes(), &code).map_err(|_| refused())?;
    Ok(text.to_owned())
}

fn key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, KEY)
}
