//! What is for admins, in groups that have some.

use moh_messages::DsErrorCode;

use crate::made::Made;
use crate::member::Plan;
use crate::operations::{MEMBERS_COMMITS, Stage};
use crate::scene::{ALICE, ALL, BOBS_LAPTOP, CAROL, Scene, admins};

const UNAUTHORIZED: DsErrorCode = DsErrorCode::UNAUTHORIZED;

/// The same operation, sent by a member who is no admin.
#[tokio::test]
async fn what_is_for_admins_alone() {
    let mut stage = Stage::set().await;
    let carol = stage.scene.leaf(CAROL);
    let others: Vec<_> = (0..6).filter(|leaf| *leaf != carol).collect();
    let context = admins(&[ALL[ALICE], ALL[CAROL]]);
    let context = stage.scene.members[CAROL].context_with_rbac(&context);
    let erin = stage.scene.site.device("erin/phone@c.example");
    for (name, plan) in [
        ("add_users", Plan::add(vec![erin.key_package()])),
        ("remove_users", Plan::remove(&[1])),
        ("delete_group", Plan::remove(&others)),
        ("set_roles", Plan::context(context)),
    ] {
        let body = stage.operation(name).await.commit.unwrap().body;
        let made = stage.scene.made(CAROL, plan);
        assert!(made.is_valid(&stage.scene.members[CAROL]));
        let scene = &stage.scene;
        scene.refuses(CAROL, name, UNAUTHORIZED, body(&made)).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn everything_else_is_for_everybody() {
    for name in MEMBERS_COMMITS {
        if ["add_users", "remove_users", "delete_group", "set_roles"].contains(&name) {
            continue;
        }
        let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
        let bob = scene.site.device("bob/tablet@b.example");
        let (plan, body): (_, fn(&Made) -> _) = match name {
            "add_clients" => (Plan::add(vec![bob.key_package()]), |made| {
                made.adds_as(moh_messages::DsRequestBody::AddClients)
            }),
            "remove_clients" => (Plan::remove(&[2]), |made| {
                made.sent_as(moh_messages::DsRequestBody::RemoveClients)
            }),
            "update_client" => (Plan::default(), Made::as_update),
            // It has a test of its own.
            "re_initialize_group" => continue,
            _ => panic!("{name}"),
        };
        scene.commits(BOBS_LAPTOP, plan, body).await;
        scene.site.end().await;
    }
}

#[tokio::test]
async fn an_admin_is_a_user_with_all_clients() {
    let mut scene = Scene::with_admins(&[ALL[ALICE], "bob/other@b.example"]).await;
    let dave = scene.site.device("dave/phone@c.example").key_package();
    scene
        .commits(BOBS_LAPTOP, Plan::add(vec![dave]), Made::as_add)
        .await;
    scene.goes_on_with(6).await;
}
