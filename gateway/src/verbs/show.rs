//! How answers of the admin API look to a person.

use culvert_control::{
    api::{LinkStatus, Shown, Status},
    audit::{AuditEvent, Outcome},
    resource::ResourceKind,
};
use serde_json::{Map, Value};

use crate::exit::Failure;

/// One resource, as a file that `apply` takes.
pub(super) fn document(body: &Value) -> Result<String, Failure> {
    let text =
        serde_saphyr::to_string(body).map_err(|error| Failure::Internal(error.to_string()))?;
    Ok(text.trim_end().to_owned())
}

/// A list of resources.
pub(super) fn table(kind: ResourceKind, items: &[Shown]) -> String {
    if items.is_empty() {
        return format!("no {}", kind.plural().replace('-', " "));
    }
    let mut rows = vec![vec![
        "NAME".to_owned(),
        "REVISION".to_owned(),
        "SPEC".to_owned(),
        "STATUS".to_owned(),
    ]];
    for Shown { document, revision } in items {
        rows.push(vec![
            document.name.to_string(),
            revision.to_string(),
            brief(&Value::Object(document.spec.clone())),
            brief(&Value::Object(document.status.clone())),
        ]);
    }
    align(&rows)
}

/// What is configured, and the links.
pub(super) fn status(status: &Status) -> String {
    let counts = &status.counts;
    let mut text = format!(
        "culvert-gateway {}, trust domain {}, revision {}\n{} tenants, {} connectors, {} keys, {} planes, {} links\n",
        status.version,
        status.trust_domain,
        status.revision,
        counts.tenants,
        counts.connectors,
        counts.keys,
        counts.planes,
        status.links.len(),
    );
    if !status.links.is_empty() {
        let head = [
            "TENANT",
            "CONNECTOR",
            "AGENT",
            "PLANE",
            "STATE",
            "TRANSPORT",
            "GROUP",
            "RTT",
            "SERVICES",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(status.links.iter().map(link));
        text.push('\n');
        text.push_str(&align(&rows));
    }
    text.trim_end().to_owned()
}

/// One line of the audit log.
pub(super) fn event(event: &AuditEvent) -> String {
    let outcome = match event.outcome {
        Outcome::Done => String::new(),
        Outcome::Refused => format!(
            " refused: {}",
            event.reason.as_deref().unwrap_or("no reason kept")
        ),
    };
    let tenant = event
        .tenant
        .as_ref()
        .map(|tenant| format!(" of {tenant}"))
        .unwrap_or_default();
    format!(
        "{} {} {} {}{tenant}{outcome}",
        event.ts, event.actor, event.action, event.subject
    )
}

fn link(link: &LinkStatus) -> Vec<String> {
    let text = |name: &str| {
        let found = link.more.get(name);
        let plain = found.and_then(Value::as_str).map(str::to_owned);
        plain
            .or_else(|| found.map(Value::to_string))
            .unwrap_or_else(|| "-".to_owned())
    };
    let rtt = link.more.get("rtt_us").and_then(Value::as_u64);
    let rtt = rtt.map_or_else(
        || "-".to_owned(),
        |us| format!("{}.{:01} ms", us / 1000, us % 1000 / 100),
    );
    let services = link.more.get("services").and_then(Value::as_array);
    let services = services.into_iter().flatten().map(|service| {
        let of = |name: &str| service.get(name).and_then(Value::as_str).unwrap_or("?");
        format!("{} ({}, {})", of("name"), of("kind"), of("state"))
    });
    vec![
        link.tenant.to_string(),
        link.connector.to_string(),
        link.agent.to_string(),
        link.plane.clone(),
        text("state"),
        text("transport"),
        text("group"),
        rtt,
        services.collect::<Vec<_>>().join(", "),
    ]
}

fn brief(value: &Value) -> String {
    const WIDTH: usize = 60;
    let empty = value.as_object().is_some_and(Map::is_empty);
    let text = if empty {
        "-".to_owned()
    } else {
        value.to_string()
    };
    if text.chars().count() <= WIDTH {
        return text;
    }
    let cut: String = text.chars().take(WIDTH - 1).collect();
    format!("{cut}…")
}

/// Columns two spaces apart; the last one is not padded.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["A".into(), "B".into()],
            vec!["long".into(), "x".into()],
        ];
        assert_eq!(align(&rows), "A     B\nlong  x");
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(brief(&Value::from("x".repeat(100))).chars().count(), 60);
        assert_eq!(brief(&Value::Object(Map::new())), "-");
    }
}
