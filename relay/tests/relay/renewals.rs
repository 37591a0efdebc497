//! Renewals: carried to control one at a time for each agent.

use bytes::Bytes;
use culvert_relay::{ControlRequest, JoinRefusal};
use culvert_wire::{Code, DialerCommand, DialerEvent, Renewed};

use crate::agent::{TestAgent, TestLink, echo};
use crate::world::{World, done};

async fn ask(link: &TestLink) {
    link.order(DialerCommand::Renew(Bytes::from_static(b"a request")))
        .await;
}

async fn told(link: &mut TestLink) -> Renewed {
    link.event("the answer", |event| {
        if let DialerEvent::Renewed(renewed) = event {
            Some(renewed)
        } else {
            None
        }
    })
    .await
}

/// Two starts of one agent, or an agent with many links, are one agent to control.
#[tokio::test]
async fn an_agent_has_one_renewal_under_way_over_all_its_links() {
    let mut world = World::new().await;
    let agent = TestAgent::echo(&world);
    let again = TestAgent::new(agent.credentials.clone(), echo());
    let (mut first, mut second) = (agent.link(&world).await, again.link(&world).await);
    let other = TestAgent::echo(&world);
    let mut others = other.link(&world).await;

    ask(&first).await;
    let asked = done("the request", world.control.recv()).await.unwrap();
    ask(&second).await;
    assert_eq!(told(&mut second).await, Renewed::Refused(Code::Busy));
    // Whoever else asks is not held up by it.
    ask(&others).await;
    let of_other = done("the request", world.control.recv()).await.unwrap();
    answer(of_other);
    assert_eq!(told(&mut others).await, Renewed::Refused(Code::NotAllowed));

    answer(asked);
    assert_eq!(told(&mut first).await, Renewed::Refused(Code::NotAllowed));
    ask(&second).await;
    answer(done("the request", world.control.recv()).await.unwrap());
    assert_eq!(told(&mut second).await, Renewed::Refused(Code::NotAllowed));
}

fn answer(asked: ControlRequest) {
    match asked {
        ControlRequest::Renew { reply, .. } => reply.send(Err(JoinRefusal::Refused)).unwrap(),
        other @ ControlRequest::Join { .. } => panic!("{other:?}"),
    }
}
