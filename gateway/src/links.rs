//! What operators are told of the links: as the relay shows them, and what callers can ask for there.

use culvert_control::api::LinkStatus;
use culvert_relay::Relay;
use serde_json::Value;

/// Models that are named per service: enough to choose one from. The relay tells how many there are.
const NAMED: usize = 32;

/// The links of a plane whose callers are at `gateway`.
pub fn of(relay: &Relay, gateway: &str) -> Vec<LinkStatus> {
    let status = relay.status();
    let link = |link| {
        let mut link: LinkStatus = {
            let mut value = serde_json::to_value(link).ok()?;
            let fields = value.as_object_mut()?;
            fields.insert("plane".to_owned(), status.zone.clone().into());
            serde_json::from_value(value).ok()?
        };
        link.more.insert("gateway".to_owned(), gateway.into());
        name_models(relay, &mut link);
        Some(link)
    };
    status.links.iter().filter_map(link).collect()
}

/// Adds `model_names` to the services.
fn name_models(relay: &Relay, link: &mut LinkStatus) {
    let view = relay.directory().view(&link.tenant);
    let services = link.more.get_mut("services").and_then(Value::as_array_mut);
    for service in services
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        let found = service.get("name").and_then(Value::as_str);
        let Some(found) = found.and_then(|name| view.service(&link.connector, name)) else {
            continue;
        };
        let names: Vec<Value> = found
            .models
            .iter()
            .take(NAMED)
            .map(|name| name.as_str().into())
            .collect();
        service.insert("model_names".to_owned(), names.into());
    }
}
