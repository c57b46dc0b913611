//! Who becomes a user, and how clients and users end.

use moh_messages::client_api::{
    Acknowledge, Boolean, ClientChanged, ClientRequestBody, ClientResponseBody, Cursor,
    DeleteAccount, DeleteClient, Forward, GetQueueConfigs, ListClients, QueueItemPayload,
    SetConsent, UploadKeyPackages,
};
use moh_messages::{DsErrorCode, DsRequestBody, Endpoint, List, Opaque};
use moh_server::config::Registration;
use moh_server::store::Store as _;

use crate::clock::DAY_MS;
use crate::device::{Device, create_group};
use crate::home::home_of;
use crate::member::Plan;
use crate::phone::{OK, Told, UNAUTHENTICATED, UNAUTHORIZED, attestation, read_queue};
use crate::site::{PATIENCE, Site};

const PHONE: &str = "alice/phone@a.example";
const LAPTOP: &str = "alice/laptop@a.example";

fn delete(device: &Device) -> ClientRequestBody {
    let client = device.id.clone();
    ClientRequestBody::DeleteClient(DeleteClient { client })
}

fn changed(device: &Device, registered: Boolean) -> QueueItemPayload {
    QueueItemPayload::ClientChanged(ClientChanged {
        client: device.id.clone(),
        registered,
    })
}

impl Site {
    /// A new code, good for some days.
    fn invite(&self, days: u64) -> String {
        let home = &self.homes["a.example"];
        let not_after = home.now_ms() + days * DAY_MS;
        home.keys.invite(&*home.environment.random, not_after)
    }
}

#[tokio::test]
async fn where_registration_is_off_users_have_further_clients_all_the_same() {
    let site = Site::of(Registration::Off).await;
    let phone = site.device(PHONE);
    assert_eq!(phone.register(&site.node, "").await, UNAUTHORIZED);
    let code = site.invite(1);
    assert_eq!(phone.register(&site.node, &code).await, UNAUTHORIZED);
    site.end().await;
}

#[tokio::test]
async fn an_invitation_makes_one_user() {
    let mut site = Site::of(Registration::Invitation).await;
    let (phone, laptop) = (site.device(PHONE), site.device(LAPTOP));
    let bob = site.device("bob/phone@a.example");
    assert_eq!(phone.register(&site.node, "").await, UNAUTHORIZED);
    assert_eq!(phone.register(&site.node, "please").await, UNAUTHORIZED);
    let code = site.invite(1);
    let first = attestation(phone.register(&site.node, &code).await);
    // An answer that was lost is given again, and attestations are renewed without a code.
    for code in [code.as_str(), ""] {
        let again = attestation(phone.register(&site.node, code).await);
        assert_eq!(again.signature_key, first.signature_key);
    }
    // It is used up, however it is written, and also for whoever asks after a restart.
    assert_eq!(bob.register(&site.node, &code).await, UNAUTHORIZED);
    let upper = code.to_uppercase();
    assert_eq!(bob.register(&site.node, &upper).await, UNAUTHORIZED);
    site.restart().await;
    assert_eq!(bob.register(&site.node, &code).await, UNAUTHORIZED);
    // Further clients need none.
    attestation(laptop.register_by(&site.node, &phone).await);
    let code = site.invite(1);
    attestation(bob.register(&site.node, &code).await);
    site.end().await;
}

#[tokio::test]
async fn an_invitation_is_good_for_its_time_at_its_provider() {
    let site = Site::of(Registration::Invitation).await;
    let phone = site.device(PHONE);
    let other = home_of("a.example");
    let foreign = other.keys.invite(&*other.environment.random, u64::MAX / 2);
    assert_eq!(phone.register(&site.node, &foreign).await, UNAUTHORIZED);
    let (late, in_time) = (site.invite(2), site.invite(3));
    site.clock.pass(2 * DAY_MS + 60_000);
    assert_eq!(phone.register(&site.node, &late).await, UNAUTHORIZED);
    attestation(phone.register(&site.node, &in_time).await);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_with_one_invitation_one_becomes_a_user() {
    let site = Site::of(Registration::Invitation).await;
    let code = site.invite(1);
    let all = (0..32).map(|number| {
        let device = site.device(&format!("user{number}/phone@a.example"));
        let (node, code) = (site.node.clone(), code.clone());
        tokio::spawn(async move { device.register(&node, &code).await })
    });
    let mut registered = 0;
    for told in all.collect::<Vec<_>>() {
        match told.await.unwrap() {
            Ok(_) => registered += 1,
            refused => assert_eq!(refused, UNAUTHORIZED),
        }
    }
    assert_eq!(registered, 1);
    site.end().await;
}

#[tokio::test]
async fn the_clients_of_a_user_with_what_is_left_of_their_key_packages() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    site.registered("alicia/phone@a.example").await;
    let mut packages: Vec<_> = (0..3).map(|_| phone.key_package()).collect();
    packages.push(phone.connection_key_package());
    let uploaded = phone.upload(&site.node, &packages, Boolean::False);
    assert_eq!(uploaded.await, OK);
    for device in [&phone, &laptop] {
        let clients = device.clients(&site.node).await;
        let clients: Vec<_> = clients
            .iter()
            .map(|c| {
                (
                    &c.client,
                    &c.signature_key,
                    c.key_packages,
                    c.connection_key_packages,
                )
            })
            .collect();
        let expected = [
            (&laptop.id, &laptop.public_key(), 0, 0),
            (&phone.id, &phone.public_key(), 3, 1),
        ];
        assert_eq!(clients, expected);
    }
    site.end().await;
}

#[tokio::test]
async fn other_clients_hear_of_a_new_one_and_of_one_that_is_gone() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let bob = site.registered("bob/phone@a.example").await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    // Once more, nothing new.
    attestation(laptop.register_by(&site.node, &phone).await);
    let tablet = site.registered_by("alice/tablet@a.example", &laptop).await;
    let (new, gone) = (Boolean::True, Boolean::False);
    assert_eq!(tablet.tell(&site.node, delete(&laptop)).await, OK);
    // Once more, it is gone already.
    assert_eq!(tablet.tell(&site.node, delete(&laptop)).await, OK);
    let expected = [
        changed(&laptop, new),
        changed(&tablet, new),
        changed(&laptop, gone),
    ];
    assert_eq!(phone.notices(&site.node).await, expected);
    assert_eq!(tablet.notices(&site.node).await, [changed(&laptop, gone)]);
    assert_eq!(bob.notices(&site.node).await, []);
    site.end().await;
}

/// Everything that a client may ask, but to register.
fn all_requests(device: &Device) -> Vec<ClientRequestBody> {
    vec![
        ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count: 1 }),
        ClientRequestBody::UploadKeyPackages(UploadKeyPackages {
            replace: Boolean::True,
            key_packages: List::empty(),
        }),
        read_queue(0),
        ClientRequestBody::Acknowledge(Acknowledge {
            cursor: Cursor::empty(),
        }),
        ClientRequestBody::Forward(Forward {
            destination: "a.example".parse().unwrap(),
            endpoint: Endpoint::VerificationKey,
            request: Opaque::empty(),
        }),
        ClientRequestBody::SetConsent(SetConsent {
            peer: "mimi://b.example/u/bob".parse().unwrap(),
            allowed: Boolean::True,
        }),
        ClientRequestBody::ListClients(ListClients {}),
        delete(device),
        ClientRequestBody::DeleteAccount(DeleteAccount {}),
    ]
}

#[tokio::test]
async fn who_is_deleted_is_refused_whatever_it_asks() {
    let mut site = Site::start().await;
    let phone = site.registered(PHONE).await;
    for (round, by_itself) in [false, true].into_iter().enumerate() {
        let name = format!("alice/d{round}@a.example");
        let gone = site.registered_by(&name, &phone).await;
        let by = if by_itself { &gone } else { &phone };
        assert_eq!(by.tell(&site.node, delete(&gone)).await, OK);
        for restarted in [false, true] {
            if restarted {
                site.restart().await;
            }
            for body in all_requests(&phone) {
                let told = gone.tell(&site.node, body.clone()).await;
                assert_eq!(told, UNAUTHENTICATED, "{body:?}");
            }
            // Its name is not given again: not to its own key, nor to another.
            let other = site.device(&name);
            for device in [&gone, &other] {
                assert_eq!(device.register(&site.node, "").await, UNAUTHORIZED);
                let by_phone = device.register_by(&site.node, &phone).await;
                assert_eq!(by_phone, UNAUTHORIZED);
            }
            // And its word counts for nothing.
            let further = site.device("alice/further@a.example");
            let told = further.register_by(&site.node, &gone).await;
            assert_eq!(told, UNAUTHORIZED);
        }
        let left = phone.clients(&site.node).await;
        assert_eq!(left.len(), 1);
    }
    site.end().await;
}

/// Who asks to be registered and is refused learns nothing of who is here, or was.
#[tokio::test]
async fn strangers_do_not_learn_who_is_here() {
    let site = Site::of(Registration::Invitation).await;
    let (phone, gone) = (site.device(PHONE), site.device("bob/phone@a.example"));
    for device in [&phone, &gone] {
        attestation(device.register(&site.node, &site.invite(1)).await);
    }
    assert_eq!(gone.tell(&site.node, delete(&gone)).await, OK);
    let mut answers = std::collections::BTreeSet::new();
    // Nobody; a client, of another key; its user; one who is gone, and that user.
    for name in [
        "nobody/phone@a.example",
        PHONE,
        LAPTOP,
        "bob/phone@a.example",
        "bob/laptop@a.example",
    ] {
        let stranger = site.device(name);
        for code in ["", "no code"] {
            let request = stranger.request_home(stranger.registration(None, code));
            let answer = site.node.answer_client(&request).await;
            answers.insert((answer.status, answer.body));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    site.end().await;
}

/// Its attestation is still good, and the name that it has got for a group.
#[tokio::test]
async fn who_is_deleted_makes_no_group() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    let founding = site.founding(&laptop).await;
    let (member, info) = laptop.found(&founding);
    assert_eq!(phone.tell(&site.node, delete(&laptop)).await, OK);
    let before = site.state();
    let body = create_group(&founding, &member.own_leaf(), &info);
    let refused = site.ask(&laptop.as_leaf(0, body)).await;
    assert_eq!(refused, Err(DsErrorCode::UNAUTHENTICATED));
    assert!(site.state() == before);
    site.end().await;
}

#[tokio::test]
async fn clients_of_others_are_not_deleted() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let bob = site.registered("bob/phone@a.example").await;
    let foreign = site.device("alice/phone@b.example");
    let before = site.state();
    for other in [&bob, &foreign] {
        let told = phone.tell(&site.node, delete(other)).await;
        assert_eq!(told, UNAUTHORIZED);
    }
    // One that never was is as good as gone.
    let nobody = site.device("alice/nobody@a.example");
    assert_eq!(phone.tell(&site.node, delete(&nobody)).await, OK);
    assert!(site.state() == before);
    site.end().await;
}

#[tokio::test]
async fn with_its_last_client_a_user_is_gone() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    assert_eq!(phone.tell(&site.node, delete(&phone)).await, OK);
    let stranger = site.device("alice/another@a.example");
    assert_eq!(stranger.register(&site.node, "").await, UNAUTHORIZED);
    site.end().await;
}

#[tokio::test]
async fn an_account_ends_with_everything_in_it() {
    let mut site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    let bob = site.registered("bob/phone@a.example").await;
    for device in [&phone, &laptop] {
        let packages = [device.key_package(), device.connection_key_package()];
        let uploaded = device.upload(&site.node, &packages, Boolean::False);
        assert_eq!(uploaded.await, OK);
    }
    laptop.consents_to(&site.node, &bob).await;
    let end = ClientRequestBody::DeleteAccount(DeleteAccount {});
    assert_eq!(laptop.tell(&site.node, end.clone()).await, OK);
    for device in [&phone, &laptop] {
        let told = device.tell(&site.node, end.clone()).await;
        assert_eq!(told, UNAUTHENTICATED);
    }
    site.restart().await;
    let (alice, bobs) = (phone.id.user_id(), bob.id.user_id());
    assert_eq!(site.store.clients(&alice).await.unwrap(), []);
    assert!(!site.node.consents(&alice, &bobs).await.unwrap());
    let stranger = site.device("alice/another@a.example");
    assert_eq!(stranger.register(&site.node, "").await, UNAUTHORIZED);
    assert_eq!(bob.clients(&site.node).await.len(), 1, "others stay");
    site.end().await;
}

/// Who waits for its queue does not wait any longer.
#[tokio::test]
async fn a_poll_of_who_is_deleted_ends() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    let node = site.node.clone();
    let poll = laptop.tell(&node, read_queue(u32::MAX));
    tokio::pin!(poll);
    // It has come as far as it comes, while others ask for this and that.
    let others = async {
        for _ in 0..20 {
            assert_eq!(phone.clients(&site.node).await.len(), 2);
        }
    };
    tokio::select! {
        told = &mut poll => panic!("{told:?}"),
        () = others => {}
    }
    assert_eq!(phone.tell(&site.node, delete(&laptop)).await, OK);
    let told = tokio::time::timeout(PATIENCE / 4, poll).await;
    assert_eq!(told.unwrap(), UNAUTHENTICATED);
    site.end().await;
}

/// Whatever is first: nothing of a deleted client is handed out afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_comes_in_while_a_client_is_deleted_is_gone_with_it() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    for round in 0..8 {
        let laptop = site
            .registered_by(&format!("alice/d{round}@a.example"), &phone)
            .await;
        let further = site.device(&format!("alice/further{round}@a.example"));
        let packages = [laptop.key_package(), laptop.connection_key_package()];
        let (uploaded, deleted, registered) = tokio::join!(
            laptop.upload(&site.node, &packages, Boolean::False),
            phone.tell(&site.node, delete(&laptop)),
            further.register_by(&site.node, &laptop),
        );
        assert_eq!(deleted, OK);
        assert!([OK, UNAUTHENTICATED].contains(&uploaded), "{uploaded:?}");
        for for_connections in [false, true] {
            let pool = moh_server::change::Pool {
                client_id: laptop.id.clone(),
                for_connections,
            };
            let left = site.store.key_packages(&pool, 0).await.unwrap();
            assert_eq!(left.all(), 0);
        }
        let is_there = site.store.client(&further.id).await.unwrap().is_some();
        let was_let_in = matches!(registered, Ok(ClientResponseBody::Registered { .. }));
        assert_eq!(is_there, was_let_in, "{registered:?}");
    }
    site.end().await;
}

/// The provider's own groups lose a client with its account.
#[tokio::test]
async fn who_is_deleted_is_removed_from_the_groups_here() {
    let site = Site::start().await;
    let phone = site.registered(PHONE).await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    let mut member = site.group_of(&phone).await;
    let made = member.commit(Plan::add(vec![laptop.key_package()]));
    let add = made.adds_as(DsRequestBody::AddClients);
    site.ask(&member.ask(add)).await.unwrap();
    member.accept();
    let before = site.mail().await;
    assert_eq!(phone.tell(&site.node, delete(&laptop)).await, OK);
    let mail = site
        .mail_when(|mail| !mail.since(&before).to(&phone).is_empty())
        .await;
    for message in mail.since(&before).to(&phone) {
        member.take(message);
    }
    assert_eq!(member.pending().len(), 1);
    site.end().await;
}

#[tokio::test]
async fn a_user_has_as_many_clients_as_the_limit_says() {
    let limits = moh_server::Limits {
        max_clients_per_user: 2,
        ..Default::default()
    };
    let site = Site::with_limits(limits).await;
    let phone = site.registered(PHONE).await;
    let laptop = site.registered_by(LAPTOP, &phone).await;
    let third = site.device("alice/third@a.example");
    let refused: Told = Err(DsErrorCode::LIMIT_EXCEEDED);
    assert_eq!(third.register_by(&site.node, &phone).await, refused);
    assert_eq!(phone.tell(&site.node, delete(&laptop)).await, OK);
    attestation(third.register_by(&site.node, &phone).await);
    site.end().await;
}
