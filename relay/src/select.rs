//! Which link takes a call.
//!
//! Among the links that offer the service *and* the model, are healthy and take new calls: the
//! agent of the caller's session if it is there, else, of those that define the service as that one
//! did, the cheaper of two at random. Two random choices spread load almost as well as knowing all,
//! and no crowd runs to the one that looked best a moment ago.

use std::sync::Arc;
use std::time::Duration;

use culvert_certs::ConnectorName;
use culvert_wire::{ServiceKind, ServiceName, ServiceState};
use rand::{Rng, RngExt as _};

use crate::call::Affinity;
use crate::link::{LinkEntry, LinkId, LinkState};
use crate::meter::ServiceMeter;
use crate::view::{ServiceLink, TenantView};

/// What a call needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Services that are equally good.
    pub(crate) candidates: &'a [(ConnectorName, ServiceName)],
    pub(crate) model: Option<&'a str>,
    /// Where the caller's session is.
    pub(crate) affinity: Option<Affinity>,
    /// Links that were tried, or are not to be tried.
    pub(crate) excluded: &'a [LinkId],
}

/// The link for a call, and the name of the service there.
#[derive(Debug)]
pub(crate) struct Selected<H> {
    pub(crate) service: ServiceName,
    pub(crate) kind: ServiceKind,
    pub(crate) definition: [u8; 32],
    pub(crate) link: Arc<LinkEntry<H>>,
    pub(crate) meter: Arc<ServiceMeter>,
}

/// Why no link can take a call: the least of the obstacles that were met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoTarget {
    /// Every link that could was tried already.
    #[error("every agent that could serve was tried")]
    Tried,
    /// Links offer it, but their agents know the backend to be down.
    #[error("the backend is down at every agent that offers it")]
    Unhealthy,
    /// Links offer it, but none takes new calls.
    #[error("every agent that offers it is leaving or waits for approval")]
    NotServing,
    /// The agent of the session is gone, and no other one defines the service as that one did.
    #[error("no agent is left that defines the service as the session's did")]
    OtherDefinition,
    /// Links offer the service, but none the model.
    #[error("no agent offers the model")]
    NoModel,
    /// No link offers the service.
    #[error("no agent is connected that offers the service")]
    NoLink,
}

/// Assumed for a link whose answers have not been timed, when nobody else's have been either.
const USUAL_HEAD: Duration = Duration::from_millis(50);

/// Chooses the link for a call.
pub(crate) fn select<H>(
    view: &TenantView<H>,
    wanted: &Wanted<'_>,
    rng: &mut impl Rng,
) -> Result<Selected<H>, NoTarget> {
    let bound = wanted
        .affinity
        .filter(|affinity| holds(view, wanted, affinity));
    let mut eligible = Vec::new();
    let mut obstacle = NoTarget::NoLink;
    for (connector, name) in wanted.candidates {
        let Some(service) = view.service(connector, name) else {
            continue;
        };
        let of_session =
            |link: &&ServiceLink<H>| bound.is_none_or(|affinity| affinity.agent == link.link.agent);
        for link in service.links.iter().filter(of_session) {
            match check(link, wanted) {
                None => eligible.push(Candidate {
                    name,
                    kind: service.kind,
                    link,
                }),
                Some(found) => obstacle = obstacle.min(found),
            }
        }
    }
    let chosen = choose(&eligible, rng).ok_or(obstacle)?;
    Ok(Selected {
        service: chosen.name.clone(),
        kind: chosen.kind,
        definition: chosen.link.digest,
        link: Arc::clone(&chosen.link.link),
        meter: Arc::clone(&chosen.link.meter),
    })
}

/// Whether the agent of a session still has it: a call of it that another one takes while this one
/// is only busy would end it.
fn holds<H>(view: &TenantView<H>, wanted: &Wanted<'_>, affinity: &Affinity) -> bool {
    let services = wanted
        .candidates
        .iter()
        .filter_map(|(connector, name)| view.service(connector, name));
    let mut links = services.flat_map(|service| &service.links);
    links.any(|link| {
        link.link.agent == affinity.agent
            && affinity.admits(link)
            && link.link.state() == LinkState::Serving
    })
}

impl Affinity {
    /// Whether a link may have the session, or take it over.
    fn admits<H>(&self, link: &ServiceLink<H>) -> bool {
        match self.definition {
            Some(definition) => definition == link.digest,
            None => link.link.agent == self.agent,
        }
    }
}

/// A link that could take the call.
struct Candidate<'a, 'v, H> {
    name: &'a ServiceName,
    kind: ServiceKind,
    link: &'v ServiceLink<H>,
}

/// What stands against this link, if anything.
fn check<H>(link: &ServiceLink<H>, wanted: &Wanted<'_>) -> Option<NoTarget> {
    if wanted
        .model
        .is_some_and(|model| !link.models.contains(model))
    {
        return Some(NoTarget::NoModel);
    }
    if wanted
        .affinity
        .is_some_and(|affinity| !affinity.admits(link))
    {
        return Some(NoTarget::OtherDefinition);
    }
    if link.link.state() != LinkState::Serving {
        return Some(NoTarget::NotServing);
    }
    if link.meter.state() == ServiceState::Down {
        return Some(NoTarget::Unhealthy);
    }
    wanted
        .excluded
        .contains(&link.link.id)
        .then_some(NoTarget::Tried)
}

fn choose<'c, 'a, 'v, H>(
    eligible: &'c [Candidate<'a, 'v, H>],
    rng: &mut impl Rng,
) -> Option<&'c Candidate<'a, 'v, H>> {
    match eligible {
        [] => None,
        [one] => Some(one),
        many => {
            let first = rng.random_range(0..many.len());
            let second = (first + rng.random_range(1..many.len())) % many.len();
            let (first, second) = (&many[first], &many[second]);
            let (left, right) = (&first.link.meter, &second.link.meter);
            // Who has not been timed is taken to be as fast as the other one.
            let usual = left.head_time().or(right.head_time()).unwrap_or(USUAL_HEAD);
            Some(if right.cost(usual) < left.cost(usual) {
                second
            } else {
                first
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use culvert_certs::AgentId;
    use culvert_wire::{ServiceHealth, ServiceOffer, SessionId};
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;
    use crate::directory::tests::{health, newcomer, service};
    use crate::directory::{Directory, Registration};
    use crate::limits::REBUILD_EVERY;

    /// Three agents that offer `llama`, two of them the model `big`, one `tools`.
    fn world() -> (Arc<Directory<u8>>, Vec<Registration<u8>>) {
        let directory = Arc::new(Directory::new());
        let llama = |models: &[&str]| service("llama", ServiceKind::Model, models);
        let offers: [Vec<ServiceOffer>; 3] = [
            vec![llama(&["small", "big"])],
            vec![llama(&["small", "big"])],
            vec![llama(&["small"]), service("tools", ServiceKind::Mcp, &[])],
        ];
        let mut links = Vec::new();
        let now = Instant::now();
        for (n, offer) in (1..).zip(offers) {
            links.push(
                directory
                    .register(newcomer(n, n, n, offer), n, now)
                    .unwrap(),
            );
        }
        directory.publish_due(now + REBUILD_EVERY);
        (directory, links)
    }

    fn candidates(names: &[&str]) -> Vec<(ConnectorName, ServiceName)> {
        names
            .iter()
            .map(|name| ("vpc".parse().unwrap(), name.parse().unwrap()))
            .collect()
    }

    fn wanted<'a>(
        candidates: &'a [(ConnectorName, ServiceName)],
        model: Option<&'a str>,
    ) -> Wanted<'a> {
        Wanted {
            candidates,
            model,
            affinity: None,
            excluded: &[],
        }
    }

    /// How often each link was chosen in so many calls that do not end.
    fn spread(directory: &Directory<u8>, wanted: &Wanted<'_>, calls: u32) -> BTreeMap<u8, u32> {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut chosen = BTreeMap::new();
        let view = directory.view(&"acme".parse().unwrap());
        for _ in 0..calls {
            let selected = select(&view, wanted, &mut rng).unwrap();
            selected.meter.call_started();
            *chosen.entry(selected.link.handle).or_default() += 1;
        }
        chosen
    }

    fn obstacle(directory: &Directory<u8>, wanted: &Wanted<'_>) -> NoTarget {
        let mut rng = SmallRng::seed_from_u64(7);
        select(&directory.view(&"acme".parse().unwrap()), wanted, &mut rng)
            .map(|_| ())
            .unwrap_err()
    }

    #[test]
    fn only_links_with_this_service_and_this_model_are_chosen() {
        let (directory, _links) = world();
        let llama = candidates(&["llama"]);
        let big = spread(&directory, &wanted(&llama, Some("big")), 200);
        assert_eq!(big.keys().copied().collect::<Vec<_>>(), [1, 2]);
        let tools = candidates(&["tools"]);
        assert_eq!(
            spread(&directory, &wanted(&tools, None), 10),
            BTreeMap::from([(3, 10)])
        );
    }

    #[test]
    fn two_random_choices_keep_the_load_even() {
        let (directory, _links) = world();
        let llama = candidates(&["llama"]);
        for (link, calls) in spread(&directory, &wanted(&llama, Some("small")), 300) {
            assert!(
                (95..=105).contains(&calls),
                "link {link} has {calls} of 300 calls"
            );
        }
    }

    #[test]
    fn a_slow_or_full_agent_gets_less() {
        let (directory, _links) = world();
        let llama = candidates(&["llama"]);
        let view = directory.view(&"acme".parse().unwrap());
        let service = view.service(&"vpc".parse().unwrap(), "llama").unwrap();
        for (link, ms) in service.links.iter().zip([10, 10, 100]) {
            link.meter.measured(Duration::from_millis(ms));
        }
        let spread = spread(&directory, &wanted(&llama, Some("small")), 210);
        assert!(spread[&3] < 20, "{spread:?}");
        let full = ServiceHealth {
            in_flight: 500,
            capacity: 4,
            ..health("llama", ServiceState::Up)
        };
        service.links[0].meter.report(&full);
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..100 {
            let two = wanted(&llama, Some("big"));
            assert_eq!(select(&view, &two, &mut rng).unwrap().link.handle, 2);
        }
    }

    #[test]
    fn the_sessions_agent_comes_first_and_others_when_it_is_gone() {
        let (directory, mut links) = world();
        let llama = candidates(&["llama"]);
        let bound = Wanted {
            affinity: Some(session_at(2)),
            ..wanted(&llama, Some("small"))
        };
        assert_eq!(spread(&directory, &bound, 50), BTreeMap::from([(2, 50)]));
        drop(links.remove(1));
        assert!(!spread(&directory, &bound, 50).contains_key(&2));
    }

    fn session_at(agent: u8) -> Affinity {
        Affinity {
            agent: AgentId::from_bytes([agent; 16]),
            definition: Some([0; 32]),
        }
    }

    #[test]
    fn what_only_one_agent_can_have_goes_nowhere_else() {
        let (directory, mut links) = world();
        let llama = candidates(&["llama"]);
        let bound = Wanted {
            affinity: Some(Affinity {
                definition: None,
                ..session_at(2)
            }),
            ..wanted(&llama, None)
        };
        assert_eq!(spread(&directory, &bound, 20), BTreeMap::from([(2, 20)]));
        drop(links.remove(1));
        directory.publish_due(Instant::now() + 2 * REBUILD_EVERY);
        assert_eq!(obstacle(&directory, &bound), NoTarget::OtherDefinition);
    }

    #[test]
    fn a_session_does_not_leave_its_agent_for_being_busy() {
        let (directory, links) = world();
        let llama = candidates(&["llama"]);
        let id = links[1].entry().id;
        let excluded = [id];
        let tried = Wanted {
            affinity: Some(session_at(2)),
            excluded: &excluded,
            ..wanted(&llama, Some("small"))
        };
        assert_eq!(obstacle(&directory, &tried), NoTarget::Tried);
        links[1].health(&[health("llama", ServiceState::Down)]);
        let down = Wanted {
            excluded: &[],
            ..tried
        };
        assert_eq!(obstacle(&directory, &down), NoTarget::Unhealthy);
        links[1].leaving();
        assert!(!spread(&directory, &down, 50).contains_key(&2));
    }

    #[test]
    fn a_session_goes_only_to_who_defines_its_service_alike() {
        let (directory, mut links) = world();
        let llama = candidates(&["llama"]);
        let now = Instant::now();
        let other = ServiceOffer {
            digest: [1; 32],
            ..service("llama", ServiceKind::Model, &["small"])
        };
        let newcomer = newcomer(4, 4, 4, vec![other]);
        links.push(directory.register(newcomer, 4, now).unwrap());
        directory.publish_due(now + 2 * REBUILD_EVERY);
        let bound = |agent, definition| Wanted {
            affinity: Some(Affinity {
                definition: Some(definition),
                ..session_at(agent)
            }),
            ..wanted(&llama, None)
        };
        let four = BTreeMap::from([(4, 20)]);
        assert_eq!(spread(&directory, &bound(4, [1; 32]), 20), four);
        // Whose agent has changed its file since.
        assert!(!spread(&directory, &bound(4, [0; 32]), 50).contains_key(&4));
        assert_eq!(spread(&directory, &bound(1, [1; 32]), 20), four);
        let gone = bound(4, [2; 32]);
        assert_eq!(obstacle(&directory, &gone), NoTarget::OtherDefinition);
    }

    #[test]
    fn the_reason_for_no_link_is_the_nearest_obstacle() {
        let (directory, links) = world();
        let llama = candidates(&["llama"]);
        assert_eq!(
            obstacle(&directory, &wanted(&candidates(&["none"]), None)),
            NoTarget::NoLink
        );
        assert_eq!(
            obstacle(&directory, &wanted(&llama, Some("none"))),
            NoTarget::NoModel
        );
        let all: Vec<_> = links.iter().map(|link| link.entry().id).collect();
        let tried = Wanted {
            excluded: &all,
            ..wanted(&llama, None)
        };
        assert_eq!(obstacle(&directory, &tried), NoTarget::Tried);
        for link in &links {
            link.health(&[health("llama", ServiceState::Down)]);
        }
        assert_eq!(
            obstacle(&directory, &wanted(&llama, None)),
            NoTarget::Unhealthy
        );
        for link in &links {
            link.leaving();
        }
        assert_eq!(
            obstacle(&directory, &wanted(&llama, None)),
            NoTarget::NotServing
        );
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let (directory, _links) = world();
        let llama = candidates(&["llama"]);
        let id = |n| LinkId {
            session: SessionId::from_bytes([n; 16]),
            connection: 0,
        };
        let rest = Wanted {
            excluded: &[id(1), id(3)],
            ..wanted(&llama, Some("small"))
        };
        assert_eq!(spread(&directory, &rest, 20), BTreeMap::from([(2, 20)]));
    }
}
