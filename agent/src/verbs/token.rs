//! `token inspect`: what a join token says, without its secret.

use std::time::SystemTime;

use culvert_certs::JoinToken;

use super::print;
use crate::clock;
use crate::error::AgentError;

pub(super) fn inspect(token: &JoinToken) -> Result<(), AgentError> {
    print(&describe(token, SystemTime::now()))
}

fn describe(token: &JoinToken, now: SystemTime) -> String {
    let addresses: Vec<String> = token.addresses.iter().map(ToString::to_string).collect();
    let expiry = jiff::Timestamp::try_from(token.expiry).map_or("unknown".to_owned(), clock::text);
    let state = if token.expiry <= now {
        "expired"
    } else {
        "valid until then, once"
    };
    format!(
        "token        {}\nfor          {}\ntrust domain {}\naddresses    {}\npins         {}\n             {} (next)\nexpires      {expiry} ({state})",
        token.id(),
        token.subject,
        token.trust_domain,
        addresses.join(", "),
        token.pins[0],
        token.pins[1],
    )
}
