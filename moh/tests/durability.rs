//! What was answered `ok` is there, once and in order, whatever is killed: two providers as
//! processes, and SIGKILL.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use common::answer::{Answer, Http};
use common::device::{Device, message_of};
use common::member::{self, Member, Received};
use common::peer::Peer;
use common::scene::{add, invite};
use common::server::Server;
use common::{PATIENCE, now_ms};
use moh_messages::client_api::{Cursor, QueueItem};
use moh_messages::{
    ClientKeyPackageStatus, DsRequestBody, Endpoint, GroupUpdate, KeyPackageBytes,
    KeyPackageResponse, ProviderName,
};
use rustix::process::Signal;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const GROUP_OPERATION: &str = "/group_operation";
/// How long something that must not come is waited for.
const A_WHILE_MS: u32 = 400;

/// Alice at a.example, which owns the group, and Bob at b.example.
struct Pair {
    a: Server,
    b: Server,
    alice: Member,
    bob: Member,
}

impl Pair {
    async fn set() -> Self {
        let (a, b) = Server::start_two().await;
        let alice = Device::register(&a, "alice/phone").await;
        let bob = invite(&b, "bob/phone", &alice).await;
        let (mut alice, request) = Member::create(alice).await;
        let http = &alice.device.http;
        http.post(GROUP_OPERATION, &request).await.ok();
        let bob = add(&mut alice, bob).await;
        Self { a, b, alice, bob }
    }

    /// A message that is answered `ok`; its bytes.
    async fn send(&mut self, text: &str) -> Vec<u8> {
        let (request, message) = self.alice.message(text);
        let http = &self.alice.device.http;
        http.post(GROUP_OPERATION, &request).await.ok();
        message
    }

    /// Everything that came to Bob up to a last message, which is sent now; nothing comes after
    /// it, and reading again from the start gives the same.
    async fn all_items(&mut self) -> Vec<QueueItem> {
        let last = self.send("the last one").await;
        let mut items = Vec::new();
        while items.last().is_none_or(|item| message_of(item) != last) {
            items.extend(self.bob.device.next(1).await);
        }
        let late = self.bob.device.read(A_WHILE_MS).await;
        assert_eq!(late, [], "something came late");
        let mut again = Vec::new();
        let mut cursor = Cursor::empty();
        loop {
            let read = self.bob.device.read_after(cursor, 0).await;
            let Some(last) = read.last() else { break };
            cursor = last.cursor.clone();
            again.extend(read);
        }
        assert!(
            again.ends_with(&items),
            "it reads otherwise the second time"
        );
        items
    }

    /// Bob gets exactly these messages, and then the last one.
    async fn assert_arrive(&mut self, messages: &[Vec<u8>]) {
        // They come by themselves, and not because of what is sent after them.
        let mut items = self.bob.device.next(messages.len()).await;
        items.extend(self.all_items().await);
        for item in &items {
            assert_eq!(item.sender, self.a.name);
            assert!(matches!(self.bob.receive(item), Received::Text(_)));
        }
        items.pop();
        let got: Vec<_> = items.iter().map(message_of).collect();
        assert_eq!(got, messages);
    }
}

#[tokio::test]
async fn the_owner_is_killed_before_the_delivery_to_one_that_does_not_answer() {
    let mut pair = Pair::set().await;
    pair.b.stop();
    let message = pair.send("survives").await;
    pair.a.kill().await;
    pair.a.restart().await;
    pair.b.signal(Signal::CONT);
    pair.assert_arrive(&[message]).await;
}

#[tokio::test]
async fn the_owner_is_killed_before_the_delivery_to_one_that_is_not_there() {
    let mut pair = Pair::set().await;
    pair.b.kill().await;
    let messages = [pair.send("one").await, pair.send("two").await];
    pair.a.kill().await;
    pair.b.restart().await;
    pair.a.restart().await;
    pair.assert_arrive(&messages).await;
}

/// Here the owner notices after its restart, too, that nobody is there, and has to try again.
#[tokio::test]
async fn the_owner_is_killed_and_the_receiver_comes_back_later() {
    let mut pair = Pair::set().await;
    pair.b.kill().await;
    let mut messages = vec![pair.send("one").await];
    pair.a.kill().await;
    pair.a.restart().await;
    messages.push(pair.send("two").await);
    pair.b.restart().await;
    pair.assert_arrive(&messages).await;
}

/// The owner dies when its delivery was taken, and before it could know.
///
/// Linux tells how much a process has not read yet of what it was sent.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_owner_is_killed_before_it_reads_the_answer_to_a_delivery() {
    let mut pair = Pair::set().await;
    for text in ["one", "two", "three"] {
        pair.b.stop();
        let message = pair.send(text).await;
        until_unread(&pair.b).await;
        pair.a.stop();
        pair.b.signal(Signal::CONT);
        let cursor = pair.bob.device.cursor.clone();
        let items = pair.bob.device.next(1).await;
        assert_eq!(items.iter().map(message_of).collect::<Vec<_>>(), [&message]);
        pair.bob.device.cursor = cursor;
        pair.a.kill().await;
        pair.a.restart().await;
        // It is delivered again, and has arrived once.
        pair.assert_arrive(&[message]).await;
    }
}

/// The owner and the connection die while its delivery lies there unread.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_owner_is_killed_while_a_delivery_is_on_its_way() {
    let mut pair = Pair::set().await;
    pair.b.stop();
    let message = pair.send("on its way").await;
    until_unread(&pair.b).await;
    pair.a.kill().await;
    pair.a.restart().await;
    pair.b.signal(Signal::CONT);
    pair.assert_arrive(&[message]).await;
}

/// Waits until something is at a provider's sockets that it does not read.
#[cfg(target_os = "linux")]
async fn until_unread(server: &Server) {
    let arrives = async {
        while unread_bytes(server) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    common::in_time("something to be read", arrives).await;
}

/// What waits in the sockets of connections to a provider, in bytes.
#[cfg(target_os = "linux")]
fn unread_bytes(server: &Server) -> u64 {
    const ESTABLISHED: &str = "01";
    let port = format!(":{:04X}", server.address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let unread = sockets.lines().skip(1).filter_map(|line| {
        // Number, local and remote address, state, bytes to be sent and bytes to be read.
        let fields: Vec<_> = line.split_whitespace().collect();
        let ours = fields[1].ends_with(&port) && fields[3] == ESTABLISHED;
        let (_, unread) = fields[4].split_once(':')?;
        ours.then(|| u64::from_str_radix(unread, 16).unwrap())
    });
    unread.sum()
}

#[tokio::test]
async fn the_owner_is_killed_twice_and_a_commit_survives() {
    let mut pair = Pair::set().await;
    pair.b.stop();
    let request = pair.alice.update_client();
    let http = pair.alice.device.http.clone();
    assert_eq!(http.post(GROUP_OPERATION, &request).await.ok().0, 2);
    pair.alice.merge();
    for _ in 0..2 {
        pair.a.kill().await;
        pair.a.restart().await;
    }
    let message = pair.send("of the new epoch").await;
    pair.a.kill().await;
    pair.a.restart().await;
    pair.b.signal(Signal::CONT);
    let item = pair.bob.device.next(1).await.remove(0);
    assert_eq!(pair.bob.receive(&item), Received::Commit(2));
    pair.bob.device.cursor = item.cursor;
    pair.assert_arrive(&[message]).await;
}

#[tokio::test]
async fn the_receiver_is_killed_after_the_delivery() {
    let mut pair = Pair::set().await;
    let mut messages = Vec::new();
    for text in ["one", "two", "three"] {
        messages.push(pair.send(text).await);
        // It has arrived, and may be answered or not when the receiver dies.
        let items = pair.bob.device.next(1).await;
        assert_eq!(message_of(&items[0]), messages[messages.len() - 1]);
        pair.b.kill().await;
        pair.b.restart().await;
    }
    let bob = &mut pair.bob.device;
    let items = bob.read_after(Cursor::empty(), 0).await;
    let got: Vec<_> = items.iter().skip(1).map(message_of).collect();
    assert_eq!(got, messages, "after the Welcome");
    // What Bob has acknowledged is not there again.
    bob.acknowledge().await;
    pair.b.kill().await;
    pair.b.restart().await;
    assert_eq!(pair.bob.device.read_after(Cursor::empty(), 0).await, []);
    for item in items.iter().skip(1) {
        pair.bob.receive(item);
    }
    pair.assert_arrive(&[]).await;
}

/// SplitMix64.
struct Dice(Cell<u64>);

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// The answer to a request, however often it takes; none when it is given up, which is done half
/// of the times if it may be.
async fn insist(http: &Http, request: &[u8], may_give_up: bool, dice: &Dice) -> Option<Answer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match http.try_post(GROUP_OPERATION, request).await {
            Ok(answer) => return Some(answer),
            Err(_) if may_give_up && dice.roll(2) == 0 => return None,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends until `stop` says so, and a little more; what was sent, and whether it was answered.
async fn stream(alice: &mut Member, stop: &Cell<bool>, dice: &Dice) -> Vec<(Vec<u8>, bool)> {
    let mut sent = Vec::new();
    let http = alice.device.http.clone();
    let mut more = 3;
    while more > 0 {
        if stop.get() {
            more -= 1;
        }
        if dice.roll(6) == 0 {
            let group_update = alice.update();
            let commit = group_update.commit.as_slice().to_vec();
            let body = DsRequestBody::UpdateClient(GroupUpdate { group_update });
            let request = alice.signed(body);
            let answer = insist(&http, &request, false, dice).await.unwrap();
            alice.merge();
            assert_eq!(answer.ok().0, alice.epoch());
            sent.push((commit, true));
        } else {
            let (request, message) = alice.message("in a stream");
            let answer = insist(&http, &request, true, dice).await;
            sent.push((message, answer.map(|answer| answer.ok()).is_some()));
        }
    }
    sent
}

#[tokio::test]
async fn sigkill_at_any_moment_loses_nothing_that_was_answered() {
    const ROUNDS: usize = 8;
    const LONGEST_MS: u64 = 200;
    let seed = match std::env::var("MOH_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => now_ms(),
    };
    println!("MOH_TEST_SEED={seed}");
    let dice = Dice(Cell::new(seed));
    let mut pair = Pair::set().await;
    let mut sent = Vec::new();
    for round in 0..ROUNDS {
        let stop = Cell::new(false);
        let Pair { a, b, alice, .. } = &mut pair;
        let victim = if round % 3 == 2 { b } else { a };
        let killing = async {
            let moment = Duration::from_micros(dice.roll(LONGEST_MS * 1000));
            tokio::time::sleep(moment).await;
            victim.kill().await;
            victim.restart().await;
            stop.set(true);
        };
        let (more, ()) = tokio::join!(stream(alice, &stop, &dice), killing);
        sent.extend(more);
    }
    let answered = sent.iter().filter(|(_, answered)| *answered).count();
    println!("{} sent, {answered} answered", sent.len());
    let mut items = pair.all_items().await;
    for item in &items {
        pair.bob.receive(item);
    }
    assert_eq!(pair.bob.epoch(), pair.alice.epoch());
    items.pop();
    // What was not answered may have come; all that came, came in the order in which it was sent.
    let mut got = items.iter().map(message_of).peekable();
    for (number, (message, answered)) in sent.iter().enumerate() {
        if got.next_if(|next| next == message).is_none() {
            assert!(!answered, "message {number} of seed {seed} is lost");
        }
    }
    assert_eq!(got.next(), None, "seed {seed}");
}

/// Bob's provider, while many ask it for his KeyPackages.
struct Claims {
    http: Http,
    peer: Peer,
    target: ProviderName,
    left: Cell<usize>,
    /// What was handed out, by the answers that came.
    handed_out: RefCell<Vec<KeyPackageBytes>>,
    exhausted: Cell<usize>,
    /// Requests without an answer, or with one that says to come again.
    failed: Cell<usize>,
    /// Rings when something was handed out, and when the provider is there again.
    more: Notify,
    is_up: watch::Sender<bool>,
}

impl Claims {
    /// Asks until there are no claims left; where there is no answer, once the provider is there.
    async fn ask(&self) {
        let mut is_up = self.is_up.subscribe();
        while let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            is_up.wait_for(|is_up| *is_up).await.unwrap();
            let request = self.peer.group_key_packages(&self.target);
            let request = self.peer.signed(Endpoint::GroupKeyPackages, request);
            let path = Endpoint::GroupKeyPackages.path();
            let answer = self.http.try_post(path, &request).await;
            let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
                self.failed.set(self.failed.get() + 1);
                continue;
            };
            let response: KeyPackageResponse = answer.message(200);
            match &response.users[0].clients[0].status {
                ClientKeyPackageStatus::Success { key_package } => {
                    self.handed_out.borrow_mut().push(key_package.clone());
                    self.more.notify_one();
                }
                other => {
                    assert_eq!(*other, ClientKeyPackageStatus::Exhausted);
                    self.exhausted.set(self.exhausted.get() + 1);
                }
            }
        }
    }

    /// Kills the provider whenever so many have been handed out.
    async fn kill(&self, b: &mut Server, when: &[usize]) {
        for &count in when {
            while self.handed_out.borrow().len() < count {
                self.more.notified().await;
            }
            self.is_up.send_replace(false);
            b.kill().await;
            b.restart().await;
            self.is_up.send_replace(true);
        }
    }
}

/// In all answers that came, before and after it was killed, no KeyPackage is there twice.
#[tokio::test]
async fn a_key_package_is_handed_out_once_whatever_is_killed() {
    const PACKAGES: usize = 100;
    const CLAIMS: usize = 1_000;
    const AT_ONCE: usize = 32;
    let (a, mut b) = Server::start_two().await;
    let bob = Device::register(&b, "bob/phone").await;
    let queues = bob.queue_configs(PACKAGES.try_into().unwrap()).await;
    let packages = queues.iter().map(|queue| {
        let package = member::key_package(&bob, &bob.attestation, queue);
        member::encoded(&package)
    });
    let packages: Vec<_> = packages.collect();
    bob.upload(packages.clone()).await;
    bob.consent("mimi://a.example/u/alice".parse().unwrap())
        .await;
    let claims = Claims {
        http: b.http(),
        peer: Peer::of(&a).await,
        target: b.name.clone(),
        left: Cell::new(CLAIMS),
        handed_out: RefCell::default(),
        exhausted: Cell::new(0),
        failed: Cell::new(0),
        more: Notify::new(),
        is_up: watch::Sender::new(true),
    };
    let all = futures_util::future::join_all((0..AT_ONCE).map(|_| claims.ask()));
    let both = async { tokio::join!(all, claims.kill(&mut b, &[PACKAGES / 4, PACKAGES / 2])) };
    common::in_time("all answers", both).await;

    let handed_out = claims.handed_out.into_inner();
    let (exhausted, failed) = (claims.exhausted.get(), claims.failed.get());
    println!(
        "{} handed out, {exhausted} too late, {failed} without an answer",
        handed_out.len()
    );
    assert_eq!(handed_out.len() + exhausted + failed, CLAIMS);
    let distinct: BTreeSet<_> = handed_out.iter().map(|p| p.as_slice()).collect();
    assert_eq!(distinct.len(), handed_out.len(), "one was handed out twice");
    let uploaded: BTreeSet<_> = packages.iter().map(|p| p.as_slice()).collect();
    assert!(distinct.is_subset(&uploaded));
    // What is not among the answers was handed out by one that did not come.
    assert!(exhausted > 0 && failed > 0);
    assert!((PACKAGES / 2..=PACKAGES).contains(&distinct.len()));
    assert!(distinct.len() + failed >= PACKAGES, "some were lost");
}
