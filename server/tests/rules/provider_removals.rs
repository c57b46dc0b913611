//! Whom the provider itself wants removed, and what that holds up.

use moh_messages::{
    Audience, Delivery, DeliveryId, DeliveryResult, DsErrorCode, DsProtocolVersion, DsRequestBody,
    Endpoint, List, Message, MlsBytes, ProviderAuth, QueueConfig, QueuePayload,
    QueueingServiceRequest, QueueingServiceResponse, extension_type,
};
use moh_server::Environment;
use moh_server::change::{Change, Write};
use moh_server::store::Store as _;

use crate::clock::{DAY_MS, HOUR_MS, MINUTE_MS};
use crate::device::Says;
use crate::home::secret_keys;
use crate::made::Made;
use crate::member::Plan;
use crate::parts;
use crate::pending_proposals::carried;
use crate::scene::{ALICE, ALL, AMY, BOB, BOBS_LAPTOP, CAROL, Scene};
use crate::site::Mail;

const PENDING: DsErrorCode = DsErrorCode::PENDING_PROPOSALS;

impl Scene {
    /// Nothing is proposed, whatever the provider looks after.
    pub(crate) async fn nothing_is_pending(&mut self) {
        self.site.restart().await;
        // What it does on its own has come before this is answered.
        self.another_is_tended().await;
        let nobody: [u32; 0] = [];
        self.hear().await;
        assert_eq!(self.members[ALICE].pending(), nobody);
    }

    /// Another group has been looked after, so this one has been as well.
    pub(crate) async fn another_is_tended(&mut self) {
        let (yan, zoe) = ("yan/phone@a.example", "zoe/phone@c.example");
        let (yan, zoe) = (self.site.device(yan), self.site.device(zoe));
        let mut other = self.site.group_of(&yan).await;
        self.site.add(&mut other, &[&zoe]).await;
        let request = self.site.on_behalf_of(&zoe, DsRequestBody::ClientDeleted);
        self.accepts("a deletion", 0, &request).await;
        self.site.mail_when(|mail| !mail.to(&yan).is_empty()).await;
    }

    /// These renew their leaves, and the attestations in them.
    pub(crate) async fn renews_all(&mut self, members: &[usize]) {
        for &by in members {
            let member = &mut self.members[by];
            let leaf = member.own_leaf();
            let says = Says {
                queue: parts::content(&leaf.extensions, extension_type::QUEUE_CONFIG),
                ..member.device.says()
            };
            let made = member.commit_that_says(&says);
            let (epoch, request) = (member.epoch() + 1, member.ask(made.as_update()));
            self.accepts("an update", epoch, &request).await;
            self.members[by].accept();
            self.hear().await;
        }
    }
}

#[tokio::test]
async fn application_messages_wait() {
    let mut scene = Scene::set().await;
    let senders = [ALICE, BOB, CAROL];
    let messages = senders.map(|member| scene.members[member].message("hello"));
    scene.is_deleted(CAROL).await;
    for (member, message) in senders.into_iter().zip(messages) {
        let error = scene.refuses(member, "pending", PENDING, message).await;
        let [proposal] = carried(&error).try_into().unwrap();
        let remove = parts::Remove::of(&proposal).unwrap();
        assert_eq!(remove.removed, scene.leaf(CAROL));
    }
    scene.updates(ALICE).await;
    let message = scene.members[BOB].message("hello");
    let request = scene.members[BOB].ask(message);
    scene.accepts("after the commit", 2, &request).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn application_messages_do_not_wait_for_self_removals() {
    let mut scene = Scene::set().await;
    let senders = [ALICE, BOB, CAROL];
    let messages = senders.map(|member| scene.members[member].message("hello"));
    scene.leaves(CAROL).await;
    for (member, message) in senders.into_iter().zip(messages) {
        let request = scene.members[member].ask(message);
        scene.accepts("a message", 1, &request).await;
    }
    scene.updates(ALICE).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn one_batch_in_a_minute() {
    let mut scene = Scene::set().await;
    scene.is_deleted(CAROL).await;
    let request = scene
        .site
        .on_behalf_of(scene.device(AMY), DsRequestBody::ClientDeleted);
    scene.accepts("a second one", 0, &request).await;
    scene.another_is_tended().await;
    let carol = scene.leaf(CAROL);
    scene.hear().await;
    assert_eq!(scene.members[ALICE].pending(), [carol]);
    scene.updates(ALICE).await;
    scene.site.clock.pass(MINUTE_MS - 1);
    scene.nothing_is_pending().await;
    scene.site.clock.pass(1);
    scene.site.restart().await;
    let amy = scene.leaf(AMY);
    scene.until_pending(ALICE, &[amy]).await;
    scene.updates(ALICE).await;
    scene.agree(&[ALICE, BOB, BOBS_LAPTOP], 3).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn anew_after_an_external_commit() {
    let mut scene = Scene::set().await;
    scene.is_deleted(CAROL).await;
    let tablet = scene.site.device("bob/tablet@b.example");
    let before = scene.site.mail().await;
    let made = scene.joins(&tablet).await;
    // At once, with the commit.
    let news = scene.site.mail().await.since(&before);
    let [commit, proposal] = news.to(scene.device(ALICE)) else {
        panic!("a commit and a proposal");
    };
    assert_eq!(*commit, made.commit);
    let remove = parts::Remove::of(proposal).unwrap();
    assert_eq!((remove.epoch, remove.removed), (2, scene.leaf(CAROL)));
    // Who has joined is told as well.
    let tablet = 5;
    assert_eq!(scene.members[tablet].pending(), [remove.removed]);
    scene.updates(tablet).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist() {
    let mut scene = Scene::set().await;
    let carol = scene.device(CAROL).clone();
    scene.site.peers.lose(&carol.id);
    scene.site.peers.open("c.example");
    // The next delivery is answered with invalid_client_queue_information.
    let made = scene.members[ALICE].commit(Plan::default());
    let request = scene.members[ALICE].ask(made.as_update());
    scene.accepts("an update", 2, &request).await;
    scene.members[ALICE].accept();
    let leaf = scene.leaf(CAROL);
    scene.members.truncate(CAROL);
    scene.until_pending(ALICE, &[leaf]).await;
    scene.updates(BOB).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP], 4).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_queue_of_its_own_that_does_not_exist() {
    let mut scene = Scene::set().await;
    let gone = Write::CloseClient {
        client_id: scene.device(AMY).id.clone(),
        at: scene.site.clock.now_ms(),
    };
    let change = Change {
        expect: Vec::new(),
        writes: vec![gone],
    };
    scene.site.store.commit(change).await.unwrap();
    scene.nothing_is_pending().await;
    // The next message finds that out.
    let message = scene.members[BOB].message("hello");
    let request = scene.members[BOB].ask(message);
    scene.accepts("a message", 1, &request).await;
    let leaf = scene.leaf(AMY);
    scene.until_pending(ALICE, &[leaf]).await;
    scene.updates(BOB).await;
    // Amy does not hear of it.
    assert_eq!(scene.members[AMY].epoch(), 1);
    let stored = scene.site.stored(&scene.members[ALICE]).await;
    assert_eq!((stored.epoch(), stored.roster().len()), (2, 4));
    scene.site.end().await;
}

/// What b.example gets for a message to a queue of a.example.
async fn delivers(scene: &Scene, queue: &QueueConfig) -> DeliveryResult {
    let recipients = List::new(vec![queue.client_queue_information.clone()]).unwrap();
    let delivery = Delivery {
        delivery_id: DeliveryId::new(Environment::system().random.bytes::<16>()).unwrap(),
        audience: Audience::Full { recipients },
        except: None,
        payload: QueuePayload::MlsMessage(MlsBytes::new(*b"nothing").unwrap()),
    };
    let mut request = QueueingServiceRequest {
        version: DsProtocolVersion::MOH1,
        sender: "b.example".parse().unwrap(),
        recipient: "a.example".parse().unwrap(),
        deliveries: List::new(vec![delivery]).unwrap(),
        provider_auth: ProviderAuth::blank(),
    };
    let (home, endpoint) = (&scene.site.homes["b.example"], Endpoint::DeliverMessage);
    home.keys
        .sign_request(&home.environment, endpoint, &mut request, |r| {
            Some(&mut r.provider_auth)
        });
    let answer = scene.site.node.answer(endpoint, request.encode().into());
    let response = QueueingServiceResponse::decode(&answer.await.body).unwrap();
    response.results.into_vec().pop().unwrap()
}

/// An update of Alice's with this queue, which she does not follow herself.
async fn takes_queue(scene: &mut Scene, queue: &QueueConfig) {
    let mut made = scene.made(ALICE, Plan::default());
    let alice = &scene.members[ALICE];
    made.edit(&alice.device, alice, |commit| {
        let leaf = &mut commit.path.as_mut().unwrap().leaf;
        leaf.set(extension_type::QUEUE_CONFIG, queue);
    });
    let request = alice.ask(made.as_update());
    let epoch = alice.epoch() + 1;
    scene.accepts("another queue", epoch, &request).await;
}

#[tokio::test]
async fn queues_are_bound_before_others_see_them() {
    let mut scene = Scene::of_these(&ALL[..1]).await;
    let invalid = DeliveryResult::InvalidClientQueueInformation {
        recipients: List::new(vec![0]).unwrap(),
    };
    let queue = scene.members[ALICE].own_leaf().queue();
    assert_eq!(delivers(&scene, &queue).await, invalid, "of the creator");
    let queue = scene.device(ALICE).says().queue;
    takes_queue(&mut scene, &queue).await;
    assert_eq!(delivers(&scene, &queue).await, invalid, "a new one");
    // One that nobody names is anybody's.
    let queue = scene.device(ALICE).says().queue;
    assert_eq!(delivers(&scene, &queue).await, DeliveryResult::Ok);
    scene.site.end().await;
}

#[tokio::test]
async fn a_queue_of_somebody_at_another_provider() {
    let mut scene = Scene::set().await;
    let mut queue = scene.members[BOB].own_leaf().queue();
    queue.provider = "a.example".parse().unwrap();
    takes_queue(&mut scene, &queue).await;
    let bob = scene.device(BOB).clone();
    let removed = |mail: &Mail| -> Vec<u32> {
        let removes = mail.to(&bob).iter().filter_map(|m| parts::Remove::of(m));
        removes.map(|remove| remove.removed).collect()
    };
    let mail = scene.site.mail_when(|mail| !removed(mail).is_empty()).await;
    assert_eq!(removed(&mail), [scene.leaf(ALICE)]);
    scene.site.end().await;
}

#[tokio::test]
async fn an_attestation_that_expired_thirty_days_ago() {
    let mut scene = Scene::with_open_peers().await;
    // Everybody is active, and has a new attestation; but for Carol, who keeps hers.
    let clock = scene.site.clock.clone();
    let expires_at = scene.members[CAROL].own_leaf().attestation().not_after;
    while clock.now_ms() + 40 * DAY_MS < expires_at + 30 * DAY_MS {
        scene.site.pass(40 * DAY_MS).await;
        scene.renews_all(&[ALICE, AMY, BOB, BOBS_LAPTOP]).await;
        if clock.now_ms() < expires_at {
            scene.updates(CAROL).await;
        }
    }
    let left_ms = expires_at + 30 * DAY_MS - clock.now_ms();
    scene.site.pass(left_ms - 1).await;
    scene.nothing_is_pending().await;
    scene.site.pass(1).await;
    scene.site.restart().await;
    let carol = scene.leaf(CAROL);
    scene.until_pending(ALICE, &[carol]).await;
    scene.updates(ALICE).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP], 4).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_client_that_is_added_as_it_is_removed_is_a_new_one() {
    let mut scene = Scene::with_open_peers().await;
    scene.site.pass(80 * DAY_MS).await;
    scene.renews_all(&[ALICE, AMY, BOB, CAROL]).await;
    scene.leaves(BOBS_LAPTOP).await;
    let laptop = scene.site.device(ALL[BOBS_LAPTOP]);
    let key_package = laptop.key_package();
    let adds = |made: &Made| made.adds_as(DsRequestBody::AddClients);
    let plan = Plan::add(vec![key_package.clone()]);
    let made = scene.commits(BOB, plan, adds).await;
    let bob = &scene.members[BOB];
    let joined = scene.site.join(&laptop, &key_package, bob, &made).await;
    scene.members[BOBS_LAPTOP] = joined;
    scene.site.pass(15 * DAY_MS).await;
    scene.nothing_is_pending().await;
    scene.goes_on().await;
}

/// The provider has lost the key that groups know, and gets it back.
#[tokio::test]
async fn removes_that_lapse_while_the_key_is_lost() {
    let mut scene = Scene::set().await;
    scene.is_deleted(CAROL).await;
    let secret = scene.site.secret_keys().clone();
    let mut lost = toml::Table::try_from(&secret).unwrap();
    let other = toml::Table::try_from(secret_keys()).unwrap();
    for key in ["group_key_ed25519", "group_key_p256"] {
        lost.insert(key.to_owned(), other[key].clone());
    }
    scene.site.set_secret_keys(lost.try_into().unwrap());
    scene.site.restart().await;
    let tablet = scene.site.device("bob/tablet@b.example");
    scene.joins(&tablet).await;
    scene.nothing_is_pending().await;
    scene.site.set_secret_keys(secret);
    scene.site.pass(HOUR_MS).await;
    scene.site.restart().await;
    let carol = scene.leaf(CAROL);
    scene.until_pending(ALICE, &[carol]).await;
    scene.updates(ALICE).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP, 5], 5).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_client_that_has_committed_nothing_for_ninety_days() {
    let mut scene = Scene::with_open_peers().await;
    scene.site.pass(60 * DAY_MS).await;
    scene.renews_all(&[ALICE, AMY, BOB, BOBS_LAPTOP]).await;
    // A message is no commit.
    let message = scene.members[CAROL].message("hello");
    let request = scene.members[CAROL].ask(message);
    let epoch = scene.members[CAROL].epoch();
    scene.accepts("a message", epoch, &request).await;
    scene.site.pass(30 * DAY_MS - 1).await;
    scene.nothing_is_pending().await;
    scene.site.pass(1).await;
    scene.site.restart().await;
    let carol = scene.leaf(CAROL);
    scene.until_pending(ALICE, &[carol]).await;
    scene.updates(ALICE).await;
    scene.agree(&[ALICE, AMY, BOB, BOBS_LAPTOP], 4).await;
    scene.goes_on().await;
}
