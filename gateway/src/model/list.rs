//! `GET /v1/models` and `/v1/models/{id}`, as either API has them.

use bytes::Bytes;
use culvert_certs::ConnectorName;
use serde_json::{Value, json};

use crate::dialect::Dialect;

/// Nobody tells us when a model was made: the beginning of the epoch stands for "not known".
const UNKNOWN_TIME: &str = "1970-01-01T00:00:00Z";

/// The list of what a key may call.
pub fn list(models: &[(&ConnectorName, &str)], dialect: Dialect) -> Bytes {
    let data: Vec<Value> = models
        .iter()
        .map(|(own, id)| object(own, id, dialect))
        .collect();
    let list = match dialect {
        Dialect::Anthropic => {
            let id = |entry: Option<&Value>| entry.map_or(Value::Null, |entry| entry["id"].clone());
            let (first, last) = (id(data.first()), id(data.last()));
            json!({ "data": data, "has_more": false, "first_id": first, "last_id": last })
        }
        Dialect::OpenAi | Dialect::OpenAiResponses | Dialect::JsonRpc => {
            json!({ "object": "list", "data": data })
        }
    };
    Bytes::from(list.to_string())
}

/// One entry of the list.
pub fn entry(own: &ConnectorName, id: &str, dialect: Dialect) -> Bytes {
    Bytes::from(object(own, id, dialect).to_string())
}

fn object(own: &ConnectorName, id: &str, dialect: Dialect) -> Value {
    let name = format!("{own}/{id}");
    match dialect {
        Dialect::Anthropic => {
            json!({ "type": "model", "id": name, "display_name": id, "created_at": UNKNOWN_TIME })
        }
        Dialect::OpenAi | Dialect::OpenAiResponses | Dialect::JsonRpc => {
            json!({ "id": name, "object": "model", "created": 0, "owned_by": own.as_str() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects() {
        let dev: ConnectorName = "dev".parse().unwrap();
        let models = [(&dev, "meta/llama"), (&dev, "qwen")];
        let openai: Value = serde_json::from_slice(&list(&models, Dialect::OpenAi)).unwrap();
        assert_eq!(openai["object"], "list");
        assert_eq!(openai["data"][0]["id"], "dev/meta/llama");
        assert_eq!(openai["data"][0]["owned_by"], "dev");
        let anthropic: Value = serde_json::from_slice(&list(&models, Dialect::Anthropic)).unwrap();
        assert_eq!(anthropic["data"][1]["type"], "model");
        assert_eq!(anthropic["last_id"], "dev/qwen");
        let empty: Value = serde_json::from_slice(&list(&[], Dialect::Anthropic)).unwrap();
        assert_eq!(empty["first_id"], Value::Null);
    }
}
