//! From a name to the services that may serve it: the second half of routing.
//!
//! A name is looked up among what the key may call and nothing else, so that what is forbidden and what
//! does not exist cannot be told apart. The order is the contract's: a virtual model (none exist yet:
//! their names share the connectors' name space), else `<connector>/<model id>`, else a bare id that
//! exactly one connector has.

use culvert_certs::name::ConnectorName;
use culvert_control::resource::{Allow, Pattern};
use culvert_wire::{ServiceKind, ServiceName};

use super::{
    catalog::{Catalog, Connector, Service},
    endpoint::ServicePath,
};
use crate::error::{CallerCode, Problem};

/// How many names an error lists.
const CANDIDATES: usize = 20;
/// How much of a caller's name an error repeats, in characters.
const ECHO: usize = 128;

/// Where a call may go: services of one connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The connector.
    pub connector: ConnectorName,
    /// Its services that may serve the call; not empty.
    pub services: Vec<ServiceName>,
    /// The model, by the id that its backend gives it.
    pub model: Option<String>,
}

/// Finds the services that offer the model that a caller named.
pub fn model(name: &str, catalog: &Catalog, allow: &Allow) -> Result<Target, Problem> {
    if let Some((connector, id)) = name.split_once('/')
        && let Some((own, entry)) = catalog.connector(connector)
    {
        let services = entry.offering(own, id, allow);
        return target(own, entry, services, id).ok_or_else(|| {
            let known = !entry.linked && reaches(allow, own);
            if known {
                unlinked()
            } else {
                absent(name, catalog, allow)
            }
        });
    }
    let mut having = catalog
        .connectors()
        .map(|(own, entry)| (own, entry, entry.offering(own, name, allow)))
        .filter(|(_, _, services)| !services.is_empty());
    match (having.next(), having.next()) {
        (Some((own, entry, services)), None) => {
            target(own, entry, services, name).ok_or_else(unlinked)
        }
        (Some((first, ..)), Some((second, ..))) => {
            let rest = having.map(|(own, ..)| own);
            let names = [first, second]
                .into_iter()
                .chain(rest)
                .map(|own| format!("{own}/{name}"));
            let what = format!("Model `{}` is offered by several connectors.", echo(name));
            Err(not_found(&what, names.collect()))
        }
        (None, _) => Err(absent(name, catalog, allow)),
    }
}

/// Finds the service that a path names.
pub fn service(
    path: &ServicePath,
    kind: ServiceKind,
    catalog: &Catalog,
    allow: &Allow,
) -> Result<Target, Problem> {
    let ServicePath { connector, service } = path;
    let permitted = match kind {
        ServiceKind::Model => permits_some_model(allow, connector, service, catalog),
        ServiceKind::Mcp | ServiceKind::Http => allow.permits(connector, service.as_str(), None),
    };
    match catalog.connector(connector.as_str()).filter(|_| permitted) {
        Some((_, entry)) if !entry.linked => Err(unlinked()),
        Some((_, entry)) if entry.service(service, kind).is_some() => Ok(Target {
            connector: connector.clone(),
            services: vec![service.clone()],
            model: None,
        }),
        Some(_) | None => Err(Problem::new(
            CallerCode::RouteNotFound,
            format!(
                "There is no {} service `{connector}/{service}`.",
                kind_name(kind)
            ),
        )),
    }
}

/// Finds the target of a call that names no model: the one that the caller's header names, else the
/// only one that the key may call, else the one that is remembered.
pub fn unnamed(
    wanted: Option<&str>,
    remembered: Option<&ServicePath>,
    catalog: &Catalog,
    allow: &Allow,
) -> Result<Target, Problem> {
    if let Some(wanted) = wanted {
        let path = ServicePath::parse(wanted).ok_or_else(|| {
            Problem::new(
                CallerCode::BadRequest,
                "`x-culvert-target` is not `<connector>/<service>`.",
            )
        })?;
        return service(&path, ServiceKind::Model, catalog, allow);
    }
    let mut callable = catalog.connectors().flat_map(|(own, entry)| {
        let may = |s: &&Service| permits_model_of(allow, own, s);
        entry.services.iter().filter(may).map(move |s| (own, s))
    });
    match (callable.next(), callable.next()) {
        (Some((own, only)), None) => Ok(Target {
            connector: own.clone(),
            services: vec![only.name.clone()],
            model: None,
        }),
        (None | Some(_), _) => match remembered {
            Some(path) => service(path, ServiceKind::Model, catalog, allow),
            None => Err(Problem::new(
                CallerCode::ModelNotFound,
                "Nothing in this request names a target: send `x-culvert-target: <connector>/<service>`.",
            )),
        },
    }
}

/// The kind as errors, records and metrics write it.
pub const fn kind_name(kind: ServiceKind) -> &'static str {
    match kind {
        ServiceKind::Model => "model",
        ServiceKind::Mcp => "mcp",
        ServiceKind::Http => "http",
    }
}

fn target(
    own: &ConnectorName,
    entry: &Connector,
    services: Vec<ServiceName>,
    id: &str,
) -> Option<Target> {
    (entry.linked && !services.is_empty()).then(|| Target {
        connector: own.clone(),
        services,
        model: Some(id.to_owned()),
    })
}

fn permits_some_model(
    allow: &Allow,
    own: &ConnectorName,
    name: &ServiceName,
    catalog: &Catalog,
) -> bool {
    let entry = catalog.connector(own.as_str()).map(|(_, entry)| entry);
    entry
        .and_then(|entry| entry.service(name, ServiceKind::Model))
        .is_some_and(|service| permits_model_of(allow, own, service))
}

fn permits_model_of(allow: &Allow, own: &ConnectorName, service: &Service) -> bool {
    let name = service.name.as_str();
    service.kind == ServiceKind::Model
        && (allow.permits(own, name, None)
            || service
                .models
                .iter()
                .any(|id| allow.permits(own, name, Some(id))))
}

/// Whether the key may call anything of a connector, so that it may learn that nothing is connected.
fn reaches(allow: &Allow, own: &ConnectorName) -> bool {
    match allow {
        Allow::All => true,
        Allow::Only(patterns) => patterns.iter().any(|pattern| {
            let text = pattern.to_string();
            let connector = text
                .split('/')
                .next()
                .and_then(|part| part.parse::<Pattern>().ok());
            connector.is_some_and(|connector| connector.matches(own.as_str()))
        }),
    }
}

/// The one answer for what is forbidden and what does not exist.
fn absent(name: &str, catalog: &Catalog, allow: &Allow) -> Problem {
    let names: Vec<String> = catalog
        .models(allow)
        .into_iter()
        .map(|(own, id)| format!("{own}/{id}"))
        .collect();
    not_found(
        &format!("Model `{}` was not found.", echo(name)),
        nearest(name, names),
    )
}

fn unlinked() -> Problem {
    Problem::new(
        CallerCode::AgentUnavailable,
        "No agent of this connector is connected.",
    )
}

fn not_found(what: &str, names: Vec<String>) -> Problem {
    let more = names.len().saturating_sub(CANDIDATES);
    let list: Vec<String> = names
        .into_iter()
        .take(CANDIDATES)
        .map(|n| format!("`{n}`"))
        .collect();
    let list = match (list.is_empty(), more) {
        (true, _) => "This key can call no model now.".to_owned(),
        (false, 0) => format!("Candidates: {}.", list.join(", ")),
        (false, _) => format!("Candidates: {}, and {more} more.", list.join(", ")),
    };
    Problem::new(CallerCode::ModelNotFound, format!("{what} {list}")).about("model")
}

/// Puts names that share their last segment, or a piece of it, with the wanted one first.
fn nearest(wanted: &str, mut names: Vec<String>) -> Vec<String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let wanted = last(wanted);
    names.sort_by_cached_key(|name| {
        let own = last(name);
        let distance = match own == wanted {
            true => 0,
            false if own.contains(&wanted) || wanted.contains(&own) => 1,
            false => 2,
        };
        (distance, name.clone())
    });
    names
}

fn echo(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(ECHO)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service_of(name: &str, kind: ServiceKind, models: &[&str]) -> Service {
        let models = models.iter().map(|m| (*m).to_owned()).collect();
        Service {
            name: name.parse().unwrap(),
            kind,
            models,
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        let dev = vec![
            service_of("a", ServiceKind::Model, &["meta/llama", "qwen"]),
            service_of("b", ServiceKind::Model, &["meta/llama", "shared"]),
            service_of("tickets", ServiceKind::Mcp, &[]),
            service_of("billing", ServiceKind::Http, &[]),
        ];
        catalog.insert(
            "dev".parse().unwrap(),
            Connector {
                linked: true,
                services: dev,
            },
        );
        let prod = vec![service_of("c", ServiceKind::Model, &["shared", "secret"])];
        catalog.insert(
            "prod".parse().unwrap(),
            Connector {
                linked: true,
                services: prod,
            },
        );
        let down = vec![service_of("d", ServiceKind::Model, &["gone"])];
        catalog.insert(
            "down".parse().unwrap(),
            Connector {
                linked: false,
                services: down,
            },
        );
        catalog
    }

    fn only(patterns: &[&str]) -> Allow {
        Allow::Only(patterns.iter().map(|p| p.parse().unwrap()).collect())
    }

    fn code(result: Result<Target, Problem>) -> CallerCode {
        result.unwrap_err().code()
    }

    #[test]
    fn connector_and_id_pool_the_services() {
        let target = model("dev/meta/llama", &catalog(), &Allow::All).unwrap();
        assert_eq!(target.connector.as_str(), "dev");
        assert_eq!(target.services, ["a", "b"]);
        assert_eq!(target.model.as_deref(), Some("meta/llama"));
    }

    #[test]
    fn a_bare_id_must_have_one_connector() {
        assert_eq!(
            model("qwen", &catalog(), &Allow::All).unwrap().services,
            ["a"]
        );
        assert_eq!(
            model("meta/llama", &catalog(), &Allow::All)
                .unwrap()
                .services,
            ["a", "b"]
        );
        let problem = model("shared", &catalog(), &Allow::All).unwrap_err();
        assert_eq!(problem.code(), CallerCode::ModelNotFound);
        let text = problem.message();
        assert!(
            text.contains("`dev/shared`") && text.contains("`prod/shared`"),
            "{text}"
        );
        assert_eq!(
            model("shared", &catalog(), &only(&["prod/*"]))
                .unwrap()
                .services,
            ["c"]
        );
    }

    #[test]
    fn what_is_forbidden_reads_as_what_is_not_there() {
        let allow = only(&["dev/*"]);
        for (forbidden, unknown) in [
            ("prod/secret", "prod/nothin"),
            ("secret", "nothin"),
            ("down/gone", "none/gone"),
            ("gone", "nope"),
        ] {
            let a = model(forbidden, &catalog(), &allow).unwrap_err();
            let b = model(unknown, &catalog(), &allow).unwrap_err();
            assert_eq!(
                a.message().replace(forbidden, "X"),
                b.message().replace(unknown, "X")
            );
            assert_eq!(a.code(), CallerCode::ModelNotFound);
            let listed = a.message().replace(forbidden, "");
            assert!(
                !listed.contains("prod/") && !listed.contains("down/"),
                "{listed}"
            );
        }
    }

    #[test]
    fn nothing_connected_is_503_for_who_may_call_it() {
        for name in ["down/gone", "gone", "down/anything"] {
            assert_eq!(
                code(model(name, &catalog(), &Allow::All)),
                CallerCode::AgentUnavailable,
                "{name}"
            );
        }
    }

    #[test]
    fn candidates_are_near_first_and_few() {
        let mut catalog = catalog();
        let many: Vec<String> = (0..100).map(|i| format!("m{i:03}")).collect();
        let many = many.iter().map(String::as_str).collect::<Vec<_>>();
        catalog.insert(
            "big".parse().unwrap(),
            Connector {
                linked: true,
                services: vec![service_of("x", ServiceKind::Model, &many)],
            },
        );
        let text = model("wrong/llama", &catalog, &Allow::All)
            .unwrap_err()
            .message();
        assert!(text.contains("Candidates: `dev/meta/llama`"), "{text}");
        assert!(text.matches('`').count() <= 2 * (CANDIDATES + 1), "{text}");
        let long = model(&"\u{1}x".repeat(5000), &catalog, &Allow::All)
            .unwrap_err()
            .message();
        assert!(long.len() < 2000 && !long.contains('\u{1}'));
    }

    #[test]
    fn services_by_path() {
        let path = |c: &str, s: &str| ServicePath {
            connector: c.parse().unwrap(),
            service: s.parse().unwrap(),
        };
        let all = Allow::All;
        assert!(service(&path("dev", "tickets"), ServiceKind::Mcp, &catalog(), &all).is_ok());
        for (c, s, kind) in [
            ("dev", "billing", ServiceKind::Mcp),
            ("dev", "none", ServiceKind::Mcp),
            ("no", "x", ServiceKind::Http),
        ] {
            assert_eq!(
                code(service(&path(c, s), kind, &catalog(), &all)),
                CallerCode::RouteNotFound
            );
        }
        let billing = path("dev", "billing");
        assert_eq!(
            code(service(
                &billing,
                ServiceKind::Http,
                &catalog(),
                &only(&["dev/tickets"])
            )),
            CallerCode::RouteNotFound
        );
        assert_eq!(
            code(service(
                &path("down", "d"),
                ServiceKind::Http,
                &catalog(),
                &all
            )),
            CallerCode::AgentUnavailable
        );
    }

    #[test]
    fn unnamed_calls_need_the_header_unless_one_target_is_left() {
        let catalog = catalog();
        assert_eq!(
            unnamed(Some("dev/a"), None, &catalog, &Allow::All)
                .unwrap()
                .services,
            ["a"]
        );
        assert_eq!(
            code(unnamed(Some("nonsense"), None, &catalog, &Allow::All)),
            CallerCode::BadRequest
        );
        assert_eq!(
            unnamed(None, None, &catalog, &only(&["prod/*"]))
                .unwrap()
                .services,
            ["c"]
        );
        let known = ServicePath::parse("dev/b").unwrap();
        let found = unnamed(None, Some(&known), &catalog, &Allow::All).unwrap();
        assert_eq!(found.services, ["b"]);
        assert!(unnamed(None, Some(&known), &catalog, &only(&["prod/c", "prod/d"])).is_ok());
        let problem = unnamed(None, None, &catalog, &Allow::All).unwrap_err();
        assert!(problem.message().contains("x-culvert-target"));
    }

    #[test]
    fn a_connector_that_lost_its_links_is_remembered() {
        let mut now = Catalog::default();
        now.insert("dev".parse().unwrap(), Connector::default());
        now.insert(
            "prod".parse().unwrap(),
            Connector {
                linked: true,
                services: vec![],
            },
        );
        now.remember(&catalog());
        assert_eq!(
            code(model("qwen", &now, &Allow::All)),
            CallerCode::AgentUnavailable
        );
        assert_eq!(
            code(model("secret", &now, &Allow::All)),
            CallerCode::ModelNotFound
        );
        assert!(now.models(&Allow::All).is_empty());
    }
}
