//! set_roles.

use moh_messages::{DsErrorCode, DsRequestBody, List, Message, Rbac, UserId, extension_type};
use moh_server::Environment;

use crate::clock::MINUTE_MS;
use crate::home::home_of;
use crate::made::Made;
use crate::member::Plan;
use crate::parts::{self, by_value, set};
use crate::proposals::{refused_besides, refused_instead};
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene, admins};
use crate::site::Mail;

const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const UNAUTHORIZED: DsErrorCode = DsErrorCode::UNAUTHORIZED;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;
const EXTERNAL_SENDERS: u16 = 5;
const REQUIRED_CAPABILITIES: u16 = 3;

fn body(made: &Made) -> DsRequestBody {
    made.sent_as(DsRequestBody::SetRoles)
}

type Change<'a> = &'a dyn Fn(&mut parts::Extensions);

impl Scene {
    /// A member's commit that sets the GroupContext's extensions.
    fn sets(&mut self, by: usize, change: Change<'_>) -> Made {
        let mut made = self.made(by, Plan::default());
        let member = &self.members[by];
        let mut extensions = member.context_extensions();
        change(&mut extensions);
        let proposal = parts::group_context_extensions(&extensions);
        made.edit(&member.device, member, |commit| {
            commit.proposals = parts::bytes(by_value(&proposal));
        });
        made
    }

    /// A member sets the admins; everybody hears of it.
    async fn sets_admins(&mut self, by: usize, names: &[&str]) -> Made {
        let context = self.members[by].context_with_rbac(&admins(names));
        self.commits(by, Plan::context(context), body).await
    }
}

fn to(rbac: &Rbac) -> impl Fn(&mut parts::Extensions) + use<> {
    let content = rbac.encode();
    move |extensions| set(extensions, extension_type::RBAC, Some(content.clone()))
}

#[tokio::test]
async fn one_group_context_extensions() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let both = admins(&[ALL[ALICE], ALL[BOB]]);
    let made = scene.sets(ALICE, &to(&both));
    assert!(made.is_valid(&scene.members[ALICE]));
    refused_besides(&scene, ALICE, &made, "GroupContextExtensions", body).await;
    let mut twice = made.clone();
    let alice = &scene.members[ALICE];
    let again = made.parts().proposals;
    twice.edit(&alice.device, alice, |commit| commit.also(again.as_slice()));
    scene.refuses(ALICE, "twice", VIOLATION, body(&twice)).await;
    let made = scene.made(ALICE, Plan::default());
    scene.refuses(ALICE, "none", VIOLATION, body(&made)).await;
    refused_instead(&scene, ALICE, &made, "GroupContextExtensions", body).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn it_changes_rbac_alone() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let both = to(&admins(&[ALL[ALICE], ALL[BOB]]));
    let other = home_of("a.example")
        .keys
        .ds_sender(scene.device(ALICE).suite);
    let other = List::<_, 4>::new(vec![other.unwrap()]).unwrap().encode();
    let no_senders = List::<u8, 4>::new(Vec::new()).unwrap().encode();
    let more_required = required(&extension_type::ALL, &[1, 2]);
    let cases: [(&str, Change<'_>); 6] = [
        ("a further extension", &|all| {
            set(all, 0xF4FE, Some(vec![1]))
        }),
        ("no moh", &|all| set(all, extension_type::MOH, None)),
        ("moh of the other type", &|all| {
            set(all, extension_type::MOH, Some(vec![0, 1, 1]));
        }),
        ("other required_capabilities", &|all| {
            set(all, REQUIRED_CAPABILITIES, Some(more_required.clone()));
        }),
        ("another external sender", &|all| {
            set(all, EXTERNAL_SENDERS, Some(other.clone()));
        }),
        ("no external sender", &|all| {
            set(all, EXTERNAL_SENDERS, Some(no_senders.clone()));
        }),
    ];
    for (what, change) in cases {
        let besides = scene.sets(ALICE, &|all| {
            both(all);
            change(all);
        });
        let instead = scene.sets(ALICE, change);
        for made in [besides, instead] {
            scene.refuses(ALICE, what, VIOLATION, body(&made)).await;
        }
    }
    scene.goes_on().await;
}

fn required(extensions: &[u16], credentials: &[u16]) -> Vec<u8> {
    let list = |all: &[u16]| List::<u16, 16>::new(all.to_vec()).unwrap().encode();
    [list(extensions), list(&[]), list(credentials)].concat()
}

#[tokio::test]
async fn rbac_exists_from_creation_or_never() {
    let mut scene = Scene::set().await;
    let made = scene.sets(ALICE, &to(&admins(&[ALL[ALICE]])));
    assert!(made.is_valid(&scene.members[ALICE]));
    scene.refuses(ALICE, "added", VIOLATION, body(&made)).await;
    scene.goes_on().await;

    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let made = scene.sets(ALICE, &|all| set(all, extension_type::RBAC, None));
    assert!(made.is_valid(&scene.members[ALICE]));
    scene
        .refuses(ALICE, "taken away", VIOLATION, body(&made))
        .await;
    scene.goes_on().await;
}

#[tokio::test]
async fn rbac_that_is_none() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let users = (0..65).map(|i| format!("mimi://a.example/u/user{i}").parse().unwrap());
    let users: Vec<UserId> = users.collect();
    let too_many = List::<UserId, 100>::new(users).unwrap().encode();
    for (what, content) in [
        ("no list", vec![9]),
        (
            "with a rest",
            [admins(&[ALL[ALICE]]).encode(), vec![0]].concat(),
        ),
        ("more than 64 admins", too_many),
    ] {
        let made = scene.sets(ALICE, &|all| {
            set(all, extension_type::RBAC, Some(content.clone()));
        });
        scene.refuses(ALICE, what, VIOLATION, body(&made)).await;
    }
    scene.goes_on().await;
}

#[tokio::test]
async fn nothing_need_change() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    scene.sets_admins(ALICE, &[ALL[ALICE]]).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn an_admin_has_a_leaf() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    for (what, names) in [
        ("nobody", &[][..]),
        ("somebody without a leaf", &["dave/phone@c.example"]),
    ] {
        let made = scene.sets(ALICE, &to(&admins(names)));
        assert!(made.is_valid(&scene.members[ALICE]));
        scene.refuses(ALICE, what, UNAUTHORIZED, body(&made)).await;
    }
    // Whoever has none confers nothing, and does no harm.
    let names = [ALL[BOB], "dave/phone@c.example"];
    scene.sets_admins(ALICE, &names).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn only_admins() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let made = scene.sets(CAROL, &to(&admins(&[ALL[ALICE], ALL[CAROL]])));
    scene
        .refuses(CAROL, "a member", UNAUTHORIZED, body(&made))
        .await;
    // It is users who are admins, with any of their clients.
    scene.sets_admins(ALICE, &[ALL[BOB]]).await;
    scene.sets_admins(BOBS_LAPTOP, &[ALL[CAROL]]).await;
    let made = scene.sets(ALICE, &to(&admins(&[ALL[ALICE]])));
    let what = "who was one";
    scene.refuses(ALICE, what, UNAUTHORIZED, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn everybody_where_no_admin_has_a_leaf() {
    let mut scene = Scene::with_admins(&[ALL[CAROL], ALL[ALICE]]).await;
    scene.sets_admins(ALICE, &[ALL[CAROL]]).await;
    // Her provider says that she is gone.
    scene.is_deleted(CAROL).await;
    scene.updates(BOB).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP], 4).await;
    // She confers nothing any more.
    let dave = scene.site.device("dave/phone@c.example").key_package();
    let made = scene.made(BOB, Plan::add(vec![dave]));
    let what = "what is for admins";
    scene.refuses(BOB, what, UNAUTHORIZED, made.as_add()).await;
    let made = scene.sets(BOB, &to(&admins(&[ALL[CAROL]])));
    let unchanged = scene.sets(BOB, &|_| {});
    let what = "the same again";
    scene
        .refuses(BOB, what, UNAUTHORIZED, body(&unchanged))
        .await;
    let what = "still without an admin";
    scene.refuses(BOB, what, UNAUTHORIZED, body(&made)).await;
    scene.sets_admins(BOB, &[ALL[AMY]]).await;
    let made = scene.sets(BOB, &to(&admins(&[ALL[BOB]])));
    let what = "after that";
    scene.refuses(BOB, what, UNAUTHORIZED, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_path_is_needed() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let mut made = scene.sets(ALICE, &to(&admins(&[ALL[ALICE], ALL[BOB]])));
    let alice = &scene.members[ALICE];
    made.edit(&alice.device, alice, |commit| commit.path = None);
    scene.refuses(ALICE, "no path", INVALID, body(&made)).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn roles_count_from_then_on() {
    let mut scene = Scene::with_admins(&[ALL[ALICE]]).await;
    let before = scene.site.mail().await;
    let made = scene.sets_admins(ALICE, &[ALL[BOB]]).await;
    let others = scene.devices(&[AMY, BOB, BOBS_LAPTOP, CAROL]);
    let expected = Mail::of(others, &[&made.commit]);
    assert_eq!(scene.site.mail().await.since(&before), expected);
    let dave = scene.site.device("dave/phone@c.example").key_package();
    let made = scene.made(ALICE, Plan::add(vec![dave.clone()]));
    let what = "who was an admin";
    scene
        .refuses(ALICE, what, UNAUTHORIZED, made.as_add())
        .await;
    scene
        .commits(BOBS_LAPTOP, Plan::add(vec![dave]), Made::as_add)
        .await;
    scene.goes_on_with(6).await;
}

#[tokio::test]
async fn an_old_external_sender_is_replaced_by_the_current_one() {
    for with_admins in [false, true] {
        let mut scene = match with_admins {
            true => Scene::with_admins(&[ALL[ALICE]]).await,
            false => Scene::set().await,
        };
        let random = Environment::system().random;
        let secret = scene.site.secret_keys().with_new_group_keys(&*random);
        scene.site.set_secret_keys(secret);
        scene.site.restart().await;
        // Removes are signed by the key that the group still names.
        scene.is_deleted(CAROL).await;
        scene.updates(ALICE).await;

        let own = &scene.site.homes["a.example"].keys;
        let current = own.ds_sender(scene.device(ALICE).suite).unwrap();
        let senders = List::<_, 4>::new(vec![current]).unwrap().encode();
        let change = |all: &mut parts::Extensions| {
            set(all, EXTERNAL_SENDERS, Some(senders.clone()));
        };
        if with_admins {
            let made = scene.sets(BOB, &change);
            let what = "not an admin";
            scene.refuses(BOB, what, UNAUTHORIZED, body(&made)).await;
            let roles = to(&admins(&[ALL[BOB], ALL[ALICE]]));
            let made = scene.sets(ALICE, &|all| {
                change(all);
                roles(all);
            });
            scene.refuses(ALICE, "both", VIOLATION, body(&made)).await;
        }
        let mut context = scene.members[ALICE].context_extensions();
        change(&mut context);
        scene.commits(ALICE, Plan::context(context), body).await;
        // From then on by the new one.
        scene.site.clock.pass(MINUTE_MS);
        scene.is_deleted(AMY).await;
        scene.updates(BOB).await;
        scene.agree(&[ALICE, BOB, BOBS_LAPTOP], 3).await;
        scene.goes_on().await;
    }
}
