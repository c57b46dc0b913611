use openmls_traits::storage::Entity;

use super::*;

#[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug, Clone)]
struct Thing(u32);
impl Entity<CURRENT_VERSION> for Thing {}
impl openmls_traits::storage::Key<CURRENT_VERSION> for Thing {}
impl traits::GroupId<CURRENT_VERSION> for Thing {}
impl traits::ProposalRef<CURRENT_VERSION> for Thing {}
impl traits::QueuedProposal<CURRENT_VERSION> for Thing {}
impl traits::EpochKey<CURRENT_VERSION> for Thing {}
impl traits::HpkeKeyPair<CURRENT_VERSION> for Thing {}
impl traits::TreeSync<CURRENT_VERSION> for Thing {}
impl traits::LeafNode<CURRENT_VERSION> for Thing {}

fn with_kv(test: impl Fn(Kv<'_>)) {
    let conn = Connection::open_in_memory().unwrap();
    for step in super::super::STEPS {
        conn.execute_batch(step).unwrap();
    }
    test(Kv::new(&conn));
    test(Kv::staged(&conn, b"group"));
}

#[test]
fn a_value_is_read_until_it_is_deleted() {
    with_kv(|kv| {
        assert_eq!(kv.tree::<_, Thing>(&Thing(1)).unwrap(), None);
        kv.write_tree(&Thing(1), &Thing(7)).unwrap();
        kv.write_tree(&Thing(1), &Thing(8)).unwrap();
        assert_eq!(kv.tree(&Thing(1)).unwrap(), Some(Thing(8)));
        assert_eq!(kv.tree::<_, Thing>(&Thing(2)).unwrap(), None);
        kv.delete_tree(&Thing(1)).unwrap();
        assert_eq!(kv.tree::<_, Thing>(&Thing(1)).unwrap(), None);
    });
}

#[test]
fn proposals_keep_their_order() {
    with_kv(|kv| {
        let group = Thing(1);
        for n in [3, 1, 2, 3] {
            kv.queue_proposal(&group, &Thing(n), &Thing(n * 10))
                .unwrap();
        }
        kv.queue_proposal(&Thing(2), &Thing(9), &Thing(90)).unwrap();
        kv.remove_proposal(&group, &Thing(1)).unwrap();
        assert_eq!(
            kv.queued_proposals::<_, Thing, Thing>(&group).unwrap(),
            [(Thing(3), Thing(30)), (Thing(2), Thing(20))]
        );
        kv.clear_proposal_queue::<_, Thing>(&group).unwrap();
        assert!(
            kv.queued_proposal_refs::<_, Thing>(&group)
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            kv.queued_proposal_refs::<_, Thing>(&Thing(2)).unwrap(),
            [Thing(9)]
        );
    });
}

#[test]
fn lists_are_empty_where_nothing_was_written() {
    with_kv(|kv| {
        let (group, epoch) = (Thing(1), Thing(0));
        let read = || {
            kv.encryption_epoch_key_pairs::<_, _, Thing>(&group, &epoch, 4)
                .unwrap()
        };
        assert!(read().is_empty());
        kv.write_encryption_epoch_key_pairs(&group, &epoch, 4, &[Thing(5), Thing(6)])
            .unwrap();
        assert_eq!(read(), [Thing(5), Thing(6)]);
        kv.delete_encryption_epoch_key_pairs(&group, &epoch, 4)
            .unwrap();
        assert!(read().is_empty());
        kv.append_own_leaf_node(&group, &Thing(1)).unwrap();
        kv.append_own_leaf_node(&group, &Thing(2)).unwrap();
        assert_eq!(
            kv.own_leaf_nodes::<_, Thing>(&group).unwrap(),
            [Thing(1), Thing(2)]
        );
    });
}
