//! Messages that come again.

use moh_messages::{DsErrorCode, DsRequest, DsResponseBody};

use crate::member::Plan;
use crate::scene::{ALICE, ALL, AMY, BOB, CAROL, Scene};

impl Scene {
    /// The same bytes again get this answer, and change nothing.
    async fn repeats(&self, what: &str, request: &DsRequest, first: &DsResponseBody) {
        let before = self.site.state();
        let again = self.site.answer(request).await;
        assert_eq!(again.as_ref(), Ok(first), "{what}");
        let changed = before.changed_in(&self.site.state());
        assert_eq!(changed, Vec::<String>::new(), "{what}");
    }
}

#[tokio::test]
async fn in_the_kept_epochs() {
    let mut scene = Scene::set().await;
    let made = scene.members[BOB].commit(Plan::default());
    let request = scene.members[BOB].ask(made.as_update());
    let first = scene.site.ask(&request).await.unwrap();
    scene.members[BOB].accept();
    scene.hear().await;
    for epochs in 0..5 {
        scene.site.clock.pass(1000);
        let what = format!("{epochs} epochs later");
        scene.repeats(&what, &request, &first).await;
        scene.epochs(1).await;
    }
    scene.site.restart().await;
    scene.repeats("after a restart", &request, &first).await;
    scene.epochs(1).await;
    let code = DsErrorCode::WRONG_EPOCH;
    scene.refuses_request("too late", code, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn by_the_key_that_it_was_accepted_with() {
    let mut scene = Scene::set().await;
    // Carol has another key since, and her old one still is the one for the message.
    let carol = scene.device(CAROL).clone();
    let message = scene.members[CAROL].message("hello");
    let request = scene.members[CAROL].ask(message.clone());
    let first = scene.site.ask(&request).await.unwrap();
    let removed = scene.leaf(CAROL);
    let remove = |made: &crate::made::Made| made.sent_as(moh_messages::DsRequestBody::RemoveUsers);
    scene.commits(ALICE, Plan::remove(&[removed]), remove).await;
    scene.repeats("who is out", &request, &first).await;
    let at_another_leaf = carol.as_leaf(0, message.clone());
    scene.repeats("at any leaf", &at_another_leaf, &first).await;
    let code = DsErrorCode::UNKNOWN_GROUP;
    for (what, device) in [
        ("another member", scene.device(AMY)),
        (
            "the same client with another key",
            &scene.site.device(ALL[CAROL]),
        ),
    ] {
        let request = device.as_leaf(removed, message.clone());
        scene.refuses_request(what, code, &request).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn also_after_the_group_has_ended() {
    let mut scene = Scene::set().await;
    let made = scene.members[BOB].commit(Plan::default());
    let update = scene.members[BOB].ask(made.as_update());
    let first = scene.site.ask(&update).await.unwrap();
    scene.members[BOB].accept();
    scene.hear().await;
    let message = scene.members[CAROL].message("hello");
    let message = scene.members[CAROL].ask(message);
    let second = scene.site.ask(&message).await.unwrap();
    scene.hear().await;
    let made = scene.members[ALICE].commit(Plan::remove(&[1, 2, 3, 4]));
    let end = scene.members[ALICE].ask(crate::delete_group::body(&made));
    let third = scene.site.ask(&end).await.unwrap();
    for what in ["at once", "after a restart"] {
        scene.repeats(what, &update, &first).await;
        scene.repeats(what, &message, &second).await;
        scene.repeats(what, &end, &third).await;
        scene.site.restart().await;
    }
    scene.site.end().await;
}

#[tokio::test]
async fn what_was_refused_is_looked_at_again() {
    let mut scene = Scene::set().await;
    let carol = scene.leaf(CAROL);
    scene.leaves(AMY).await;
    let plan = Plan {
        leave_out: vec![scene.leaf(AMY)],
        ..Plan::remove(&[carol])
    };
    let made = scene.made(ALICE, plan);
    let body = made.sent_as(moh_messages::DsRequestBody::RemoveUsers);
    let code = DsErrorCode::PENDING_PROPOSALS;
    for what in ["once", "twice"] {
        scene.refuses(ALICE, what, code, body.clone()).await;
    }
    scene.updates(ALICE).await;
    scene.goes_on().await;
}
