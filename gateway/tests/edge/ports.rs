//! Which port serves whom.

use crate::{
    tls::{connect, is_served},
    world::World,
};

#[tokio::test]
async fn callers_and_links_share_a_port() {
    let world = World::start().await;
    assert_eq!(world.callers, world.links);
    let caller = connect(world.callers, world.roots.roots()).await;
    assert!(is_served(&mut caller.unwrap()).await);
}

#[tokio::test]
async fn links_may_have_a_port_of_their_own() {
    let any = "127.0.0.1:0".parse().unwrap();
    let world = World::with(|plane| plane.callers_listen = Some(any)).await;
    assert_ne!(world.callers, world.links);
    let caller = connect(world.callers, world.roots.roots()).await;
    assert!(is_served(&mut caller.unwrap()).await);
    let there = connect(world.links, world.roots.roots()).await;
    let served = match there {
        Ok(mut caller) => is_served(&mut caller).await,
        Err(_) => false,
    };
    assert!(!served, "no caller is served where the links are");
}
