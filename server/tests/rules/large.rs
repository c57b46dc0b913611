//! A group of thousands, and what each step takes in it.

use std::sync::Arc;

use moh_messages::{
    DsRequestBody, DsResponseBody, ExternalCommitInfo, GroupUpdate, MAX_TREE_BYTES, Message,
    QueuePayload, Recipients,
};
use moh_server::Limits;
use moh_server::store::Store as _;
use openmls::prelude::KeyPackage;
use tokio::time::Instant;

use crate::device::{Device, Door};
use crate::made::Made;
use crate::member::{Member, Plan};
use crate::peers;
use crate::site::Site;

/// How many members the group gets, if MOH_TEST_MEMBERS does not say another number.
const MEMBERS: usize = 10_000;
/// As many are added by one commit: their KeyPackages have to fit into 2 MiB.
const AT_ONCE: usize = 1_500;

/// A group, by its owner and its first member.
struct Large {
    site: Site,
    alice: Member,
}

/// A line of the table: what was done, in which time by the client, and by the owner.
fn note(what: &str, by_client: Option<Instant>, by_owner: Instant, bytes: usize) {
    let client = by_client.map_or(0, |start| (by_owner - start).as_millis());
    let owner = by_owner.elapsed().as_millis();
    println!("{what:<44} {client:>8} ms {owner:>8} ms {bytes:>10} bytes");
}

/// A line without anybody else.
fn note_own(what: &str, started: Instant) {
    let what = format!("({what})");
    println!("{what:<44} {:>8} ms", started.elapsed().as_millis());
}

/// Three of four are of the group's owner, the rest of two others.
fn name(number: usize) -> String {
    let provider = match number % 8 {
        3 => "b.example",
        7 => "c.example",
        _ => "a.example",
    };
    format!("u{number}/phone@{provider}")
}

impl Large {
    async fn set() -> Self {
        let site = Site::with_limits(Limits {
            max_members: 100_000,
            max_tree_bytes: MAX_TREE_BYTES,
            ..Limits::default()
        });
        let site = site.await;
        let device = site.device("alice/phone@a.example");
        let alice = site.group_of(&device).await;
        Self { site, alice }
    }

    /// A commit of Alice's, which is accepted.
    async fn commits(
        &mut self,
        what: &str,
        plan: Plan,
        body: impl FnOnce(&Made) -> DsRequestBody,
    ) -> Made {
        let started = Instant::now();
        let made = self.alice.commit(plan);
        let request = self.alice.ask(body(&made));
        let sent = Instant::now();
        self.site.ask(&request).await.unwrap();
        note(what, Some(started), sent, made.commit.len());
        self.alice.accept();
        made
    }

    async fn adds(&mut self, devices: &[Arc<Device>]) -> (Vec<KeyPackage>, Made) {
        let key_packages: Vec<_> = devices.iter().map(|d| d.key_package()).collect();
        let plan = Plan {
            without_path: true,
            ..Plan::add(key_packages.clone())
        };
        let what = format!("add_users of {}", devices.len());
        let made = self.commits(&what, plan, Made::as_add).await;
        (key_packages, made)
    }

    /// The tree that a Welcome leads to, of this epoch.
    async fn fetch(
        &self,
        what: &str,
        device: &Device,
        key_package: &KeyPackage,
        epoch: u64,
    ) -> Vec<u8> {
        let reference = device.reference(key_package);
        let request = device.welcome_info(&self.alice.group_id(), epoch, &reference);
        let sent = Instant::now();
        match self.site.ask(&request).await.unwrap() {
            DsResponseBody::WelcomeInfo { ratchet_tree, .. } => {
                note(what, None, sent, ratchet_tree.as_slice().len());
                ratchet_tree.into_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    /// A further device of a member joins without a Welcome.
    async fn enters(&mut self, device: &Arc<Device>) -> (Made, Member) {
        let group_id = self.alice.group_id();
        let body = DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id });
        let request = self.site.on_behalf_of(device, body);
        let sent = Instant::now();
        let DsResponseBody::ExternalCommitInfo {
            group_info,
            ratchet_tree,
            ..
        } = self.site.ask(&request).await.unwrap()
        else {
            panic!("not external_commit_info");
        };
        let bytes = group_info.as_slice().len() + ratchet_tree.as_slice().len();
        note("external_commit_info", None, sent, bytes);
        let door = Door {
            group_info: group_info.into_vec(),
            tree: ratchet_tree.into_vec(),
        };
        let started = Instant::now();
        let (made, member) = device.enter(&door);
        let body = DsRequestBody::ExternalJoin(GroupUpdate {
            group_update: made.group_update(),
        });
        let request = self.site.on_behalf_of(device, body);
        let sent = Instant::now();
        self.site.ask(&request).await.unwrap();
        note("external_join", Some(started), sent, made.commit.len());
        (made, member)
    }

    async fn says(&mut self, what: &str, text: &str) -> Vec<u8> {
        let body = self.alice.message(text);
        let DsRequestBody::SendMessage(message) = &body else {
            panic!("not a message");
        };
        let message = message.message.as_slice().to_vec();
        let request = self.alice.ask(body);
        let sent = Instant::now();
        self.site.ask(&request).await.unwrap();
        note(what, None, sent, message.len());
        message
    }

    /// Adds this many members less one; one of the last of them joins.
    async fn fill(&mut self, members: usize) -> Member {
        let devices: Vec<_> = (1..members).map(|n| self.site.device(&name(n))).collect();
        let mut first = None;
        let mut last = None;
        for chunk in devices.chunks(AT_ONCE) {
            let (key_packages, made) = self.adds(chunk).await;
            let epoch = self.alice.epoch();
            first.get_or_insert((chunk[0].clone(), key_packages[0].clone(), epoch));
            let here = |device: &Arc<Device>| device.id.provider().as_str() == "a.example";
            let place = chunk.iter().rposition(here).unwrap();
            last = Some((chunk[place].clone(), key_packages[place].clone(), made));
        }
        assert_eq!(self.alice.group.members().count(), members);
        let (device, key_package, epoch) = first.unwrap();
        let what = "welcome_info, of the first epoch";
        self.fetch(what, &device, &key_package, epoch).await;
        let (device, key_package, made) = last.unwrap();
        let epoch = self.alice.epoch();
        let tree = self.fetch("welcome_info", &device, &key_package, epoch);
        let tree = tree.await;
        assert!(tree == self.alice.tree());
        let started = Instant::now();
        let member = device.join(made.welcome.unwrap().as_slice(), &tree);
        note_own("joining", started);
        member
    }

    /// One commit of each kind, and a member who came by the last of them.
    async fn change(&mut self, members: usize) -> (Vec<Vec<u8>>, Member) {
        let mut commits = Vec::new();
        for what in ["update_client, no keys in the tree yet", "update_client"] {
            let made = self.commits(what, Plan::default(), Made::as_update).await;
            commits.push(made.commit);
        }
        let gone = self.alice.group.members().nth(members / 2).unwrap();
        let plan = Plan::remove(&[gone.index.u32()]);
        let made = self.commits("remove_users of one", plan, |made| {
            made.sent_as(DsRequestBody::RemoveUsers)
        });
        commits.push(made.await.commit);
        let laptop = self.site.device("alice/laptop@a.example");
        let plan = Plan::add(vec![laptop.key_package()]);
        let made = self.commits("add_clients of one", plan, |made| {
            made.adds_as(DsRequestBody::AddClients)
        });
        commits.push(made.await.commit);
        let watch = self.site.device("alice/watch@a.example");
        let (made, watch) = self.enters(&watch).await;
        self.alice.hear(&made.commit);
        commits.push(made.commit);
        (commits, watch)
    }

    /// What is last in the queue of a client of the owner's.
    async fn last_in_queue(&self, device: &Device) -> Vec<u8> {
        let store = &self.site.store;
        let rows = store.queue(&device.id, 0, usize::MAX, usize::MAX).await;
        let last = QueuePayload::decode(&rows.unwrap().last().unwrap().payload).unwrap();
        peers::message(&last).unwrap()
    }

    /// What is stored is what these have; the tree and the audiences are as they should be.
    async fn agrees(&self, members: &[&Member]) {
        let started = Instant::now();
        let stored = self.site.stored(&self.alice).await;
        note_own("restoring the group", started);
        let tree = stored.ratchet_tree().unwrap();
        for member in members {
            assert!(tree.as_slice() == member.tree());
        }
        let audiences = stored.roster().audiences().iter();
        let audiences = audiences.filter(|a| a.destination.as_str() == "a.example");
        let sizes: Vec<_> = audiences.map(|a| a.recipients.len()).collect();
        println!("audiences at the owner: {sizes:?}");
        let total: usize = sizes.iter().sum();
        assert_eq!(sizes.len() > 1, total > Recipients::MAX_ITEMS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of minutes: --ignored --nocapture shows what each step takes"]
async fn a_large_group() {
    let members = std::env::var("MOH_TEST_MEMBERS");
    let members = members.map_or(MEMBERS, |number| number.parse().unwrap());
    println!("{:<44} {:>11} {:>11}", "", "client", "owner");
    let mut large = Large::set().await;
    let mut bob = large.fill(members).await;
    let (mut commits, mut watch) = large.change(members).await;
    large.says("send_message, the first to these", "hear").await;
    let message = large.says("send_message", "hello").await;
    assert!(large.last_in_queue(&bob.device).await == message);

    let started = Instant::now();
    large.site.restart().await;
    note_own("restart", started);
    large
        .says("send_message, the first after it", "again")
        .await;
    let made = large.commits("update_client", Plan::default(), Made::as_update);
    let made = made.await;
    watch.hear(&made.commit);
    commits.push(made.commit);
    let started = Instant::now();
    for commit in &commits {
        bob.hear(commit);
    }
    note_own("hearing all of that", started);
    large.agrees(&[&large.alice, &bob, &watch]).await;
    assert_eq!(large.alice.group.members().count(), members + 1);
    large.site.end().await;
}
