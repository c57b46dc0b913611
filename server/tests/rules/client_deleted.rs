//! client_deleted.

use moh_messages::{ClientId, DsAuth, DsErrorCode, DsRequestBody, ExternalCommitInfo};

use moh_server::change::{Change, Write};
use moh_server::store::Store as _;

use crate::clock::{DAY_MS, MINUTE_MS};
use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};

#[tokio::test]
async fn providers_speak_for_their_own_clients() {
    let scene = Scene::set().await;
    let carol = scene.device(CAROL);
    let mut request = scene.site.on_behalf_of(carol, DsRequestBody::ClientDeleted);
    request.sender = "b.example".parse().unwrap();
    scene.site.homes["b.example"].sign_request(&mut request);
    let code = DsErrorCode::UNAUTHENTICATED;
    scene
        .refuses_request("another provider", code, &request)
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn ok_also_where_there_is_nothing_to_do() {
    let scene = Scene::set().await;
    for id in [
        "mimi://c.example/d/carol/other",
        "mimi://c.example/d/nobody/phone",
        "mimi://a.example/d/nobody/phone",
    ] {
        let id: ClientId = id.parse().unwrap();
        let home = &scene.site.homes[id.provider().as_str()];
        let request = home.request(&id, DsRequestBody::ClientDeleted);
        scene.accepts(id.as_str(), 0, &request).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn the_owner_proposes_to_remove_its_leaf() {
    let mut scene = Scene::set().await;
    let before = scene.site.mail().await;
    scene.is_deleted(BOB).await;
    let news = scene.site.mail().await.since(&before);
    // To everybody in the group, whom it removes included: one Remove, by the provider.
    let bob = scene.leaf(BOB);
    for member in [ALICE, AMY, BOB, BOBS_LAPTOP, CAROL] {
        let [message] = news.to(scene.device(member)) else {
            panic!("{member}");
        };
        let remove = parts::Remove::of(message).unwrap();
        assert_eq!(remove.sender, parts::Sender::External(0));
        assert_eq!((remove.epoch, remove.removed), (1, bob));
        assert_eq!(scene.members[member].pending(), [bob], "{member}");
    }
    // The user's other client can commit it.
    scene.updates(BOBS_LAPTOP).await;
    scene.agree(&[ALICE, AMY, BOBS_LAPTOP, CAROL], 4).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn from_every_group() {
    let mut scene = Scene::set().await;
    let carol = scene.site.device(ALL[CAROL]);
    let amy = scene.device(AMY).clone();
    let mut other = scene.site.group_of(&amy).await;
    let (added, _) = scene.site.add(&mut other, &[&carol]).await;
    let mut added = added.into_iter();
    scene.is_deleted(CAROL).await;
    let in_the_other = |mail: &crate::site::Mail| {
        let group = other.group.group_id().as_slice();
        let removes = mail.to(&amy).iter();
        let mut removes = removes.filter_map(|message| parts::Remove::of(message));
        removes.any(|remove| remove.group_id.as_slice() == group && remove.removed == 1)
    };
    scene.site.mail_when(in_the_other).await;
    drop(added.next());
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn once_for_each_leaf() {
    let mut scene = Scene::set().await;
    scene.is_deleted(CAROL).await;
    let before = scene.site.mail().await;
    scene.site.pass(MINUTE_MS).await;
    let again = scene
        .site
        .on_behalf_of(scene.device(CAROL), DsRequestBody::ClientDeleted);
    scene.accepts("again", 0, &again).await;
    scene.another_is_tended().await;
    // What comes next is another client's.
    scene.site.pass(MINUTE_MS).await;
    scene.is_deleted(AMY).await;
    let news = scene.site.mail().await.since(&before);
    let removed: Vec<_> = news.to(scene.device(ALICE)).iter().collect();
    let removed = removed.into_iter().map(|m| parts::Remove::of(m).unwrap());
    let removed: Vec<_> = removed.map(|remove| remove.removed).collect();
    assert_eq!(removed, [scene.leaf(AMY)]);
    scene.updates(ALICE).await;
    scene.agree(&[ALICE, BOB, BOBS_LAPTOP], 3).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_client_that_left_and_came_again_is_not_removed() {
    let mut scene = Scene::with_open_peers().await;
    scene.is_deleted(CAROL).await;
    scene.updates(ALICE).await;
    // A client of this name is made anew, and added.
    let carol = scene.site.device(ALL[CAROL]);
    let key_package = carol.key_package();
    let plan = Plan::add(vec![key_package.clone()]);
    let made = scene.commits(ALICE, plan, Made::as_add).await;
    let alice = &scene.members[ALICE];
    let joined = scene.site.join(&carol, &key_package, alice, &made).await;
    scene.members[CAROL] = joined;
    scene.nothing_is_pending().await;
    // Nor when the group is looked after another time, when it is about others.
    scene.site.pass(80 * DAY_MS).await;
    scene
        .renews_all(&[ALICE, AMY, BOB, BOBS_LAPTOP, CAROL])
        .await;
    scene.site.pass(15 * DAY_MS).await;
    scene.nothing_is_pending().await;
    scene.goes_on().await;
}

/// Amy goes, in some way, and then Alice's provider says that she is gone: nobody is left.
async fn everybody_goes(by_herself: bool) {
    let mut scene = Scene::of_these(&ALL[..2]).await;
    if by_herself {
        scene.leaves(AMY).await;
    } else {
        scene.is_deleted(AMY).await;
    }
    let request = scene
        .site
        .on_behalf_of(scene.device(ALICE), DsRequestBody::ClientDeleted);
    scene.accepts("the last one", 0, &request).await;
    let group_id = scene.group_id();
    let info = DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id });
    let request = scene.members[ALICE].ask(info);
    let deadline = tokio::time::Instant::now() + crate::site::PATIENCE;
    let mut answer = scene.site.ask(&request).await;
    while answer != Err(DsErrorCode::GROUP_DELETED) {
        assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        answer = scene.site.ask(&request).await;
    }
    scene.site.end().await;
}

#[tokio::test]
async fn a_group_without_anybody_is_deleted() {
    everybody_goes(false).await;
    everybody_goes(true).await;
}

#[tokio::test]
async fn owners_are_told_of_clients_of_ours() {
    let mut scene = Scene::with_open_peers().await;
    let (alice, amy) = (&scene.device(ALICE).id, &scene.device(AMY).id);
    let peer = |client: &ClientId, provider: &str| Write::ClientPeer {
        client_id: client.clone(),
        provider: provider.parse().unwrap(),
    };
    let gone = Write::CloseClient {
        client_id: alice.clone(),
        at: scene.site.clock.now_ms(),
    };
    let writes = vec![
        peer(alice, "b.example"),
        peer(amy, "c.example"),
        peer(alice, "c.example"),
        gone,
    ];
    let change = Change {
        expect: Vec::new(),
        writes,
    };
    let alice = alice.clone();
    scene.site.store.commit(change).await.unwrap();
    scene.site.restart().await;
    scene.site.settle().await;
    let mut told = scene.site.peers.operations();
    told.sort_by_key(|(provider, _)| provider.to_string());
    let providers: Vec<_> = told.iter().map(|(provider, _)| provider.as_str()).collect();
    assert_eq!(providers, ["b.example", "c.example"]);
    for (owner, request) in told {
        assert_eq!(request.body, DsRequestBody::ClientDeleted);
        let DsAuth::Provider { on_behalf_of, .. } = &request.auth else {
            panic!("{request:?}");
        };
        let names = (on_behalf_of, request.sender.as_str(), &request.recipient);
        assert_eq!(names, (&alice, "a.example", &owner));
    }
    scene.site.end().await;
}
