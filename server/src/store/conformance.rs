//! What every backend must do, as tests.
//!
//! A backend says how its data is opened ([`Data`]), and `conformance_tests!` makes one test of
//! each check, on fresh data:
//!
//! ```text
//! conformance_tests!(Temporary::new());
//! ```

mod bindings;
mod changes;
mod connections;
mod groups;
mod key_packages;
mod model;
mod outbox;
mod queues;
mod upkeep;
mod users;

pub(crate) use bindings::*;
pub(crate) use changes::*;
pub(crate) use connections::*;
pub(crate) use groups::*;
pub(crate) use key_packages::*;
pub(crate) use model::*;
pub(crate) use outbox::*;
pub(crate) use queues::*;
pub(crate) use upkeep::*;
pub(crate) use users::*;

use std::collections::BTreeSet;
use std::sync::Arc;

use moh_messages::{
    AudienceDigest, ClientId, DeliveryId, GroupId, KeyPackageRef, Nonce, ProviderName, PublicKey,
    SignatureScheme, UserId,
};

use crate::change::{
    Answer, Change, Client, Ending, Expect, KeyPackage, OUTBOX_LANES, OutboxBounds, OutboxDelivery,
    Pool, PoolState, Seat, Whose, Write, outbox_lane,
};
use crate::store::{CommitError, OutboxItem, OutboxRow, QueueRow, Store};

/// Data of a store, empty at first.
pub(crate) trait Data {
    /// Opens it. What was opened before has been dropped, or works on the same data.
    fn open(&self) -> Arc<dyn Store>;
}

/// One test for each check, on what the expression makes.
macro_rules! conformance_tests {
    ($data:expr) => {
        $crate::store::conformance::conformance_tests!(
            $data =>
            a_change_is_made_whole_or_not_at_all,
            each_expectation_can_hold_or_not,
            one_of_many_changes_of_a_version_wins,
            what_is_committed_is_still_there_when_opened_again,
            numbers_are_never_given_twice,
            a_group_is_its_snapshot_and_its_log,
            a_group_as_it_was_at_an_epoch,
            what_leads_to_old_epochs_alone_is_forgotten,
            a_version_that_does_not_follow_fails,
            answers_are_kept_until_forgotten,
            an_answer_is_whose_it_was,
            groups_are_due_at_their_time,
            a_removal_is_wanted_of_a_group_or_of_all,
            removals_are_done_or_wait,
            the_groups_of_a_client_follow_its_leaves,
            a_group_that_is_forgotten_leaves_its_name,
            an_audience_is_what_it_was_first,
            a_queue_is_in_order_and_without_what_is_excepted,
            a_queue_is_read_in_portions,
            a_client_that_is_in_an_audience_twice,
            a_queue_across_many_old_audiences,
            acknowledging_goes_forward_only,
            readers_miss_nothing_while_others_write,
            a_queue_is_bound_to_whoever_delivers_first,
            one_of_many_who_deliver_first_is_bound,
            a_shared_queue_takes_from_everybody,
            a_client_that_is_gone_takes_nothing,
            peers_are_told_of_a_client_that_is_gone,
            deliveries_are_taken_once,
            a_sweep_forgets_what_nobody_needs,
            a_sweep_forgets_what_is_old,
            the_outbox_is_in_order_for_each_destination,
            the_outbox_without_some_groups,
            recipients_stay_while_deliveries_wait,
            the_lanes_of_a_destination,
            what_is_set_aside_can_wait_again,
            what_is_set_aside_is_dropped_or_swept,
            recipients_stay_while_something_is_set_aside,
            the_outbox_is_brought_within_bounds,
            clients_and_their_users,
            who_is_deleted_is_gone_for_good,
            an_invitation_is_used_once,
            a_nonce_is_taken_once,
            key_packages_in_the_order_of_use,
            pools_are_apart,
            key_packages_are_known_until_they_expire,
            key_packages_that_are_not_kept_go,
            what_has_expired_can_be_dropped,
            a_pool_is_told_to_be_low_once,
            key_packages_far_in_the_future,
            consent_is_given_and_taken_back,
            a_peer_asks_and_is_let_in,
            who_is_declined_finds_no_queues,
            to_withdraw_leaves_what_is_undecided,
            who_is_blocked_notices_nothing,
            what_was_handed_out_is_for_who_asked,
            a_provider_is_blocked_with_all_its_users,
            connections_and_blocks_are_listed_by_name,
            a_user_that_is_forgotten,
            random_changes_do_what_a_simple_model_does,
        );
    };
    ($data:expr => $($check:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $check() {
                $crate::store::conformance::$check(&$data).await;
            }
        )*
    };
}
pub(crate) use conformance_tests;

pub(crate) fn provider(name: &str) -> ProviderName {
    format!("{name}.example").parse().unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(&provider("here"), name).unwrap()
}

pub(crate) fn client(name: &str) -> ClientId {
    ClientId::new(&user(name), "phone").unwrap()
}

pub(crate) fn digest(number: u8) -> AudienceDigest {
    AudienceDigest::new([number; 32]).unwrap()
}

pub(crate) fn group_id(name: &str) -> GroupId {
    GroupId::new(name.as_bytes()).unwrap()
}

pub(crate) fn delivery_id(number: u8) -> DeliveryId {
    DeliveryId::new([number; 16]).unwrap()
}

/// A new group that is never due and has nobody in its index.
pub(crate) fn create(name: &str) -> Write {
    Write::CreateGroup {
        group_id: group_id(name),
        snapshot: b"at 0".to_vec(),
        due_at: u64::MAX,
        members: Vec::new(),
    }
}

pub(crate) fn change(expect: Vec<Expect>, writes: Vec<Write>) -> Change {
    Change { expect, writes }
}

pub(crate) async fn write(store: &dyn Store, writes: Vec<Write>) {
    store.commit(change(Vec::new(), writes)).await.unwrap();
}

pub(crate) async fn conflicts(store: &dyn Store, expect: Vec<Expect>, writes: Vec<Write>) {
    let result = store.commit(change(expect, writes)).await;
    assert!(matches!(result, Err(CommitError::Conflict)), "{result:?}");
}

pub(crate) fn audience(number: u8, members: &[Option<&str>]) -> Write {
    Write::Audience {
        sender: provider("a"),
        digest: digest(number),
        members: members.iter().map(|name| name.map(client)).collect(),
    }
}

pub(crate) fn message(audience: u8, except: Option<u32>, payload: &str) -> Write {
    Write::Message {
        sender: provider("a"),
        digest: digest(audience),
        except,
        received_at: 1_000,
        payload: payload.as_bytes().to_vec(),
    }
}

pub(crate) fn delivery(destination: &str, audience: u8, payload: &str) -> OutboxDelivery {
    OutboxDelivery {
        destination: provider(destination),
        group_id: group_id("g"),
        delivery_id: delivery_id(audience),
        digest: digest(audience),
        except: Some(3),
        created_at: 1_000,
        payload: payload.as_bytes().to_vec(),
    }
}

pub(crate) fn known_client(key: &str) -> Client {
    Client {
        scheme: SignatureScheme::ED25519,
        signature_key: PublicKey::new(key.as_bytes()).unwrap(),
        registered_at: 5,
    }
}

pub(crate) fn key_package(
    number: u8,
    suite: u16,
    last_resort: bool,
    expires_at: u64,
) -> KeyPackage {
    KeyPackage {
        reference: KeyPackageRef::new([number; 32]).unwrap(),
        client_id: client("alice"),
        cipher_suite: suite,
        for_connections: false,
        last_resort,
        expires_at,
        bytes: vec![number; 100],
    }
}

pub(crate) fn pool(name: &str) -> Pool {
    Pool {
        client_id: client(name),
        for_connections: false,
    }
}

/// How many KeyPackages of alice can be handed out, of either pool, the last resort included.
pub(crate) async fn count_key_packages(store: &dyn Store, now: u64) -> u64 {
    let mut all = 0;
    for for_connections in [false, true] {
        let client_id = client("alice");
        let pool = Pool {
            client_id,
            for_connections,
        };
        all += store.key_packages(&pool, now).await.unwrap().all();
    }
    all
}

pub(crate) fn an_answer(epoch: u64) -> Answer {
    Answer {
        epoch,
        accepted_at: 77,
        whose: Whose::Key(PublicKey::new(*b"key").unwrap()),
    }
}

pub(crate) fn payloads(rows: &[QueueRow]) -> Vec<&str> {
    rows.iter()
        .map(|row| std::str::from_utf8(&row.payload).unwrap())
        .collect()
}

/// All of a client's queue after `after`.
pub(crate) async fn queue(store: &dyn Store, name: &str, after: u64) -> Vec<QueueRow> {
    store
        .queue(&client(name), after, usize::MAX, usize::MAX)
        .await
        .unwrap()
}

/// What waits for a provider, in whatever lane, oldest first.
pub(crate) async fn waiting_for(store: &dyn Store, name: &str) -> Vec<OutboxRow> {
    let mut rows = Vec::new();
    let (destination, but) = (provider(name), BTreeSet::new());
    for lane in 0..OUTBOX_LANES {
        let lane = store.outbox(&destination, lane, &but, usize::MAX, usize::MAX);
        rows.extend(lane.await.unwrap());
    }
    rows.sort_by_key(|row| row.id);
    rows
}
