//! Random changes, against a model that is too simple to be wrong.

mod upkeep;

use std::collections::{BTreeMap, BTreeSet};

use self::upkeep::{Upkeep, compare_upkeep};
use super::*;
use crate::store::StoredGroup;

/// Numbers that follow from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn small(&mut self, sides: u8) -> u8 {
        u8::try_from(self.roll(sides.into())).unwrap()
    }

    fn group(&mut self) -> &'static str {
        GROUPS[usize::from(self.small(6))]
    }

    fn name(&mut self) -> &'static str {
        NAMES[usize::from(self.small(4))]
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];
/// As many different KeyPackages there are.
const KEY_PACKAGES: u8 = 200;
const GROUPS: [&str; 6] = ["g", "h", "i", "j", "k", "l"];

#[derive(Clone, Default)]
struct Model {
    /// By name: the version, the epochs of all versions, and the versions with a snapshot.
    groups: BTreeMap<&'static str, (Vec<u64>, BTreeSet<u64>)>,
    upkeep: Upkeep,
    answers: BTreeMap<(&'static str, u8), u64>,
    audiences: BTreeMap<u8, Vec<Option<&'static str>>>,
    /// Audience, who is excepted, when, and the number in its payload.
    messages: Vec<(u8, Option<u32>, u64, u64)>,
    /// Up to which message, by its number in the store and in its payload.
    acknowledged: BTreeMap<&'static str, (u64, u64)>,
    delivered: BTreeMap<u8, u64>,
    outbox: Vec<(bool, String)>,
    key_packages: Vec<(u8, u16, bool)>,
    known_key_packages: BTreeSet<u8>,
    consents: BTreeSet<(&'static str, &'static str)>,
    /// The number in the newest payload.
    counter: u64,
    now: u64,
}

/// What a change would do, and whether it may.
struct Plan {
    change: Change,
    holds: bool,
    then: Model,
    sequences: BTreeMap<u64, u64>,
    ids: BTreeMap<String, u64>,
}

impl Plan {
    fn random(dice: &mut Dice, model: &Model, known: &Known) -> Self {
        let mut plan = Self {
            change: Change::default(),
            holds: true,
            then: model.clone(),
            sequences: known.sequences.clone(),
            ids: known.ids.clone(),
        };
        plan.then.now += dice.roll(3);
        for _ in 0..=dice.roll(4) {
            match dice.roll(10) {
                0 | 1 | 8 => plan.group(dice),
                2 => plan.answer(dice),
                3 | 4 => plan.message(dice),
                5 => plan.outbox(dice),
                6 => plan.key_package(dice),
                7 => plan.upkeep(dice),
                _ => plan.rest(dice),
            }
        }
        // What is expected is about the state before the whole change.
        plan.expect(dice, model);
        plan
    }

    fn payload(&mut self) -> String {
        self.then.counter += 1;
        format!("payload {}", self.then.counter)
    }

    fn expect(&mut self, dice: &mut Dice, model: &Model) {
        let name = dice.group();
        let version = model
            .groups
            .get(name)
            .map(|(epochs, _)| epochs.len() as u64 - 1);
        let wrong = dice.one_in(5);
        let expected = match (wrong, version) {
            (false, version) => version,
            (true, Some(version)) => Some(version + 1),
            (true, None) => Some(0),
        };
        let forgotten = model.upkeep.forgotten.contains(name);
        // Nothing holds of a group that is forgotten.
        if !forgotten || wrong {
            self.holds &= !wrong;
            let expect = Expect::Group(group_id(name), if forgotten { version } else { expected });
            self.change.expect.push(expect);
        }
        let number = dice.small(20);
        if dice.one_in(4) {
            self.holds &= !model.delivered.contains_key(&number);
            let expect = Expect::NewDelivery(provider("a"), delivery_id(number));
            self.change.expect.push(expect);
        }
        if dice.one_in(4) {
            let number = dice.small(KEY_PACKAGES);
            self.holds &= model.key_packages.iter().any(|(n, _, _)| *n == number);
            let reference = key_package(number, 1, false, 0).reference;
            self.change.expect.push(Expect::KeyPackage(reference));
        }
        if dice.one_in(4) {
            self.holds &= !model.answers.contains_key(&(name, number));
            let expect = Expect::NewMessage(group_id(name), [number; 32]);
            self.change.expect.push(expect);
        }
    }

    fn group(&mut self, dice: &mut Dice) {
        let name = dice.group();
        if self.then.upkeep.forgotten.contains(name) {
            return;
        }
        let (due, entered, left) = self.index(dice, name);
        let Some((epochs, snapshots)) = self.then.groups.get_mut(name) else {
            let group = (vec![0], BTreeSet::from([0]));
            self.then.groups.insert(name, group);
            self.change.writes.push(Write::CreateGroup {
                group_id: group_id(name),
                snapshot: b"at 0".to_vec(),
                due_at: due,
                members: entered,
            });
            return;
        };
        let version = epochs.len() as u64;
        let epoch = epochs.last().unwrap() + dice.roll(2);
        let keep = epoch.saturating_sub(dice.roll(5));
        epochs.push(epoch);
        let snapshot = dice.one_in(3).then_some(());
        if snapshot.is_some() {
            snapshots.insert(version);
            let epoch_of = |version: u64| epochs[usize::try_from(version).unwrap()];
            let kept = snapshots.iter().rev().find(|v| epoch_of(**v) <= keep);
            if let Some(kept) = kept.copied() {
                snapshots.retain(|version| *version >= kept);
            }
        }
        let mut append = append(name, version, epoch, snapshot, keep);
        if let Write::AppendGroup {
            due_at,
            entered: e,
            left: l,
            ..
        } = &mut append
        {
            (*due_at, *e, *l) = (due, entered, left);
        }
        self.change.writes.push(append);
    }

    fn answer(&mut self, dice: &mut Dice) {
        let (name, number) = (dice.group(), dice.small(20));
        let epoch = dice.roll(20);
        if dice.one_in(6) {
            let kept = |(group, _): &(&str, u8), e: &mut u64| *group != name || *e >= epoch;
            self.then.answers.retain(kept);
            self.change.writes.push(Write::ForgetAnswers {
                group_id: group_id(name),
                before_epoch: epoch,
            });
            return;
        }
        self.holds &= self.then.answers.insert((name, number), epoch).is_none();
        self.change.writes.push(Write::Answer {
            group_id: group_id(name),
            message_hash: [number; 32],
            answer: an_answer(epoch),
        });
    }

    fn message(&mut self, dice: &mut Dice) {
        let number = dice.small(12);
        let members: Vec<_> = (0..dice.roll(5))
            .map(|_| (!dice.one_in(5)).then(|| dice.name()))
            .collect();
        self.change.writes.push(audience(number, &members));
        self.then.audiences.entry(number).or_insert(members);
        for _ in 0..dice.roll(4) {
            let except = dice.one_in(3).then(|| u32::from(dice.small(5)));
            let (payload, received_at) = (self.payload(), self.then.now);
            self.change.writes.push(Write::Message {
                sender: provider("a"),
                digest: digest(number),
                except,
                received_at,
                payload: payload.into_bytes(),
            });
            let message = (number, except, received_at, self.then.counter);
            self.then.messages.push(message);
        }
        let delivery = dice.small(20);
        if dice.one_in(2) && !self.then.delivered.contains_key(&delivery) {
            self.then.delivered.insert(delivery, self.then.now);
            self.change.writes.push(Write::Delivered {
                sender: provider("a"),
                delivery_id: delivery_id(delivery),
                result: vec![delivery],
                received_at: self.then.now,
            });
        }
    }

    fn outbox(&mut self, dice: &mut Dice) {
        let waiting = &mut self.then.outbox;
        let some = waiting.get(usize::from(dice.small(8))).cloned();
        let id = some.and_then(|(_, payload)| Some((self.ids.get(&payload).copied()?, payload)));
        if let (Some((id, done)), true) = (id, dice.one_in(2)) {
            waiting.retain(|(_, payload)| *payload != done);
            let write = if dice.one_in(2) {
                Write::OutboxDone { id }
            } else {
                set_aside(id, Ending::Refused, 7)
            };
            self.change.writes.push(write);
            return;
        }
        let (payload, to_b) = (self.payload(), dice.one_in(2));
        let destination = if to_b { "b" } else { "c" };
        self.change.writes.push(Write::OutboxAudience {
            digest: digest(1),
            recipients: vec![1],
        });
        let delivery = delivery(destination, 1, &payload);
        self.change.writes.push(Write::Outbox(delivery));
        self.then.outbox.push((to_b, payload));
    }

    fn key_package(&mut self, dice: &mut Dice) {
        let (number, suite, last_resort) = (
            dice.small(KEY_PACKAGES),
            1 + u16::from(dice.small(3)),
            dice.one_in(4),
        );
        let there = |(n, _, _): &(u8, u16, bool)| *n == number;
        if dice.one_in(3) {
            let reference = key_package(number, 1, false, 0).reference;
            self.change.writes.push(Write::RemoveKeyPackage(reference));
            self.then.key_packages.retain(|package| !there(package));
            return;
        }
        let package = key_package(number, suite, last_resort, 1 << 40);
        self.change.writes.push(Write::KeyPackage(package));
        // Never twice, not even when it is gone.
        self.holds &= self.then.known_key_packages.insert(number);
        let package = (number, suite, last_resort);
        self.then.key_packages.push(package);
    }

    fn rest(&mut self, dice: &mut Dice) {
        let (name, peer) = (dice.name(), dice.name());
        let allowed = dice.one_in(2);
        if allowed {
            self.then.consents.insert((name, peer));
        } else {
            self.then.consents.remove(&(name, peer));
        }
        self.change.writes.push(Write::Consent {
            user: user(name),
            peer: user(peer),
            allowed,
            at: 1,
        });
        let at = usize::from(dice.small(u8::MAX)) * (self.sequences.len() + 1) / 255;
        if let Some((payload, sequence)) = self.sequences.iter().nth(at) {
            let (payload, sequence) = (*payload, *sequence);
            let acknowledged = self.then.acknowledged.entry(name).or_default();
            *acknowledged = (sequence, payload).max(*acknowledged);
            self.change.writes.push(Write::Acknowledge {
                client_id: client(name),
                sequence,
            });
        }
    }
}

/// The numbers that the store gave, by payload.
#[derive(Default)]
struct Known {
    sequences: BTreeMap<u64, u64>,
    ids: BTreeMap<String, u64>,
}

pub(crate) async fn random_changes_do_what_a_simple_model_does(data: &impl Data) {
    let seed = std::env::var("MOH_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("MOH_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let (mut model, mut known) = (Model::default(), Known::default());
    let mut store = data.open();
    for step in 0..600 {
        let plan = Plan::random(&mut dice, &model, &known);
        let result = store.commit(plan.change.clone()).await;
        match result {
            Ok(()) => assert!(plan.holds, "step {step}: {:?}", plan.change),
            Err(CommitError::Conflict) => assert!(!plan.holds, "step {step}: {:?}", plan.change),
            Err(error) => panic!("step {step}: {error}: {:?}", plan.change),
        }
        if plan.holds {
            model = plan.then;
        }
        if dice.one_in(40) {
            let before = model.now.saturating_sub(dice.roll(300));
            store.sweep(before).await.unwrap();
            model.messages.retain(|(_, _, at, _)| *at >= before);
            model.delivered.retain(|_, at| *at >= before);
            forget_audiences(&*store, &mut model).await;
        }
        if dice.one_in(60) {
            drop(store);
            store = data.open();
        }
        if step % 8 == 0 {
            compare(&*store, &model, &mut known).await;
        }
    }
    compare(&*store, &model, &mut known).await;
}

/// An audience that is not used may be forgotten, and then be another one.
async fn forget_audiences(store: &dyn Store, model: &mut Model) {
    for number in 0..12 {
        let members = store.audience(&provider("a"), &digest(number)).await;
        if members.unwrap().is_none() {
            model.audiences.remove(&number);
            // Not while it was used of late.
            assert!(!model.messages.iter().any(|(used, _, _, _)| *used == number));
        }
    }
}

async fn compare(store: &dyn Store, model: &Model, known: &mut Known) {
    compare_upkeep(store, model).await;
    for name in GROUPS {
        compare_group(store, model, name).await;
        for number in 0..20 {
            let answer = store.answer(&group_id(name), &[number; 32]).await.unwrap();
            let expected = model.answers.get(&(name, number)).copied();
            assert_eq!(answer, expected.map(an_answer));
        }
    }
    for number in 0..20 {
        let result = store.delivered(&provider("a"), &delivery_id(number)).await;
        let expected = model.delivered.contains_key(&number).then(|| vec![number]);
        assert_eq!(result.unwrap(), expected);
    }
    for name in NAMES {
        compare_queue(store, model, known, name).await;
        for peer in NAMES {
            let allowed = store.consent(&user(name), &user(peer)).await.unwrap();
            assert_eq!(allowed, model.consents.contains(&(name, peer)));
        }
    }
    for destination in ["b", "c"] {
        let mut found = Vec::new();
        for row in waiting_for(store, destination).await {
            let payload = String::from_utf8(row.delivery().unwrap().payload.clone()).unwrap();
            let id = known.ids.entry(payload.clone()).or_insert(row.id);
            assert_eq!(*id, row.id);
            found.push((destination == "b", payload));
        }
        let expected = model.outbox.iter();
        let expected = expected.filter(|(to_b, _)| *to_b == (destination == "b"));
        let bytes: usize = found.iter().map(|(_, payload)| payload.len()).sum();
        let waits = (found.len() as u64, bytes as u64);
        assert_eq!(found, expected.cloned().collect::<Vec<_>>());
        let totals = store.outbox_totals(None, 9).await.unwrap().into_iter();
        let mut totals = totals.filter(|t| t.destination == provider(destination));
        let total = totals
            .next()
            .map_or((0, 0), |t| (t.waiting, t.waiting_bytes));
        assert_eq!(total, waits);
    }
    for suites in [&[1][..], &[2], &[3], &[1, 3]] {
        let found = store
            .next_key_package(&pool("alice"), suites, 0)
            .await
            .unwrap();
        let fits = model
            .key_packages
            .iter()
            .filter(|(_, suite, _)| suites.contains(suite));
        // The first of the smallest: ordinary before last resort, then the oldest.
        let expected = fits.min_by_key(|(_, _, last_resort)| *last_resort);
        let found = found.map(|p| (p.reference.as_slice()[0], p.cipher_suite, p.last_resort));
        assert_eq!(found, expected.copied());
    }
}

async fn compare_group(store: &dyn Store, model: &Model, name: &str) {
    let stored = |snapshot_version: u64, version: u64| StoredGroup {
        version,
        snapshot_version,
        snapshot: format!("at {snapshot_version}").into_bytes(),
        log: (snapshot_version + 1..=version)
            .map(|version| format!("to {version}").into_bytes())
            .collect(),
    };
    let found = store.group(&group_id(name)).await.unwrap();
    let Some((epochs, snapshots)) = model.groups.get(name) else {
        assert_eq!(found, None);
        return;
    };
    let version = epochs.len() as u64 - 1;
    let stored_version = store.group_version(&group_id(name)).await.unwrap();
    assert_eq!(stored_version, Some(version));
    if model.upkeep.forgotten.contains(name) {
        assert_eq!(found, None);
        return;
    }
    let newest = *snapshots.last().unwrap();
    assert_eq!(found, Some(stored(newest, version)));
    for epoch in 0..epochs.last().unwrap() + 2 {
        let found = store.group_at_epoch(&group_id(name), epoch).await.unwrap();
        let epoch_of = |version: u64| epochs[usize::try_from(version).unwrap()];
        let from = snapshots.iter().rev().find(|v| epoch_of(**v) <= epoch);
        let reached =
            from.and_then(|from| (*from..=version).find(|version| epoch_of(*version) == epoch));
        let expected = from
            .zip(reached)
            .map(|(from, reached)| stored(*from, reached));
        assert_eq!(found, expected, "{name} at epoch {epoch}");
    }
}

/// What is beyond what a client has acknowledged: a sweep may have forgotten the rest.
async fn compare_queue(store: &dyn Store, model: &Model, known: &mut Known, name: &str) {
    let after = store.acknowledged(&client(name)).await.unwrap();
    let acknowledged = model.acknowledged.get(name).copied().unwrap_or_default();
    assert_eq!(after, acknowledged.0);
    let rows = queue(store, name, after).await;
    assert!(rows.is_sorted_by(|a, b| a.sequence < b.sequence));
    let mut found = Vec::new();
    for (row, payload) in rows.iter().zip(payloads(&rows)) {
        let number = payload.strip_prefix("payload ").unwrap().parse().unwrap();
        let sequence = known.sequences.entry(number).or_insert(row.sequence);
        assert_eq!(*sequence, row.sequence);
        found.push(number);
    }
    let is_for = |audience: u8, except: Option<u32>| {
        let positions = (0..).zip(&model.audiences[&audience]);
        let mut own = positions.filter(|(_, member)| **member == Some(name));
        own.any(|(position, _)| Some(position) != except)
    };
    let expected: Vec<u64> = model
        .messages
        .iter()
        .filter(|(audience, except, _, _)| is_for(*audience, *except))
        .map(|(_, _, _, number)| *number)
        .filter(|number| *number > acknowledged.1)
        .collect();
    assert_eq!(found, expected, "the queue of {name}");
}
