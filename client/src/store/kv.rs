//! What MLS stores, in one table of the state database.
//!
//! Each value is JSON under its kind and the JSON of its key: openmls adds fields to its types
//! from one release to the next, and reads what an earlier one wrote only where the format
//! names its fields.

use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use rusqlite::{Connection, OptionalExtension};
use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

/// The storage of openmls, on a connection with or without an open transaction.
#[derive(Clone, Copy)]
pub(crate) struct Kv<'c> {
    conn: &'c Connection,
    /// Where this is the state that an external commit leads to: of which group.
    staged: Option<&'c [u8]>,
}

/// What kind of value it is. The numbers are in databases: they are never given to another.
#[derive(Clone, Copy)]
enum Kind {
    JoinConfig = 1,
    OwnLeafNodes = 2,
    ProposalRefs = 3,
    Proposal = 4,
    Tree = 5,
    TranscriptHash = 6,
    Context = 7,
    ConfirmationTag = 8,
    GroupState = 9,
    MessageSecrets = 10,
    ResumptionPsks = 11,
    OwnLeafIndex = 12,
    EpochSecrets = 13,
    SignatureKeyPair = 14,
    EncryptionKeyPair = 15,
    EpochKeyPairs = 16,
    KeyPackage = 17,
    Psk = 18,
}

impl<'c> Kv<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self { conn, staged: None }
    }

    /// Apart from all other state: what will be the state of this group.
    pub(crate) fn staged(conn: &'c Connection, group: &'c [u8]) -> Self {
        Self {
            conn,
            staged: Some(group),
        }
    }

    fn put(
        self,
        kind: Kind,
        key: &impl Serialize,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        let (kind, key, value) = (kind as i64, encode(key)?, encode(value)?);
        match self.staged {
            None => self
                .conn
                .prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3)")?
                .execute((kind, key, value))?,
            Some(group) => self
                .conn
                .prepare_cached("INSERT OR REPLACE INTO staged VALUES (?4, ?1, ?2, ?3)")?
                .execute((kind, key, value, group))?,
        };
        Ok(())
    }

    fn get<T: DeserializeOwned>(
        self,
        kind: Kind,
        key: &impl Serialize,
    ) -> Result<Option<T>, StoreError> {
        let (kind, key) = (kind as i64, encode(key)?);
        let value = |row: &rusqlite::Row<'_>| row.get(0);
        let value: Option<Vec<u8>> = match self.staged {
            None => self
                .conn
                .prepare_cached("SELECT value FROM kv WHERE kind = ?1 AND key = ?2")?
                .query_row((kind, key), value),
            Some(group) => self
                .conn
                .prepare_cached(
                    "SELECT value FROM staged WHERE kind = ?1 AND key = ?2 AND group_id = ?3",
                )?
                .query_row((kind, key, group), value),
        }
        .optional()?;
        value.map(|value| decode(&value)).transpose()
    }

    fn delete(self, kind: Kind, key: &impl Serialize) -> Result<(), StoreError> {
        let (kind, key) = (kind as i64, encode(key)?);
        match self.staged {
            None => self
                .conn
                .prepare_cached("DELETE FROM kv WHERE kind = ?1 AND key = ?2")?
                .execute((kind, key))?,
            Some(group) => self
                .conn
                .prepare_cached(
                    "DELETE FROM staged WHERE kind = ?1 AND key = ?2 AND group_id = ?3",
                )?
                .execute((kind, key, group))?,
        };
        Ok(())
    }

    fn list<T: DeserializeOwned>(
        self,
        kind: Kind,
        key: &impl Serialize,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.get(kind, key)?.unwrap_or_default())
    }

    /// A list whose items are encoded one by one, so that one can be added without reading the
    /// others.
    fn items<T: DeserializeOwned>(
        self,
        kind: Kind,
        key: &impl Serialize,
    ) -> Result<Vec<T>, StoreError> {
        let items: Vec<Vec<u8>> = self.list(kind, key)?;
        items.iter().map(|item| decode(item)).collect()
    }
}

/// MessagePack with the names of fields: compact, fast, and it tells openmls's untagged enums
/// apart.
fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(value).map_err(|error| StoreError::Value(error.to_string()))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    rmp_serde::from_slice(bytes).map_err(|error| StoreError::Value(error.to_string()))
}

/// `fn NAME(&self, key, value)`: a setter.
macro_rules! put {
    ($name:ident<$($generic:ident),+>($key:ident, $value:ident), $kind:ident) => {
        fn $name<$($generic: traits::$generic<CURRENT_VERSION>),+>(
            &self,
            key: &$key,
            value: &$value,
        ) -> Result<(), StoreError> {
            self.put(Kind::$kind, key, value)
        }
    };
}

/// `fn NAME(&self, key) -> Option<Value>`: a getter.
macro_rules! get {
    ($name:ident<$($generic:ident),+>($key:ident) -> $value:ident, $kind:ident) => {
        fn $name<$($generic: traits::$generic<CURRENT_VERSION>),+>(
            &self,
            key: &$key,
        ) -> Result<Option<$value>, StoreError> {
            self.get(Kind::$kind, key)
        }
    };
}

/// `fn NAME(&self, key)`: a deleter.
macro_rules! delete {
    ($name:ident<$key:ident>, $kind:ident) => {
        fn $name<$key: traits::$key<CURRENT_VERSION>>(&self, key: &$key) -> Result<(), StoreError> {
            self.delete(Kind::$kind, key)
        }
    };
}

impl StorageProvider<CURRENT_VERSION> for Kv<'_> {
    type Error = StoreError;

    put!(
        write_mls_join_config < GroupId,
        MlsGroupJoinConfig > (GroupId, MlsGroupJoinConfig),
        JoinConfig
    );
    put!(write_tree < GroupId, TreeSync > (GroupId, TreeSync), Tree);
    put!(
        write_interim_transcript_hash < GroupId,
        InterimTranscriptHash > (GroupId, InterimTranscriptHash),
        TranscriptHash
    );
    put!(
        write_context < GroupId,
        GroupContext > (GroupId, GroupContext),
        Context
    );
    put!(
        write_confirmation_tag < GroupId,
        ConfirmationTag > (GroupId, ConfirmationTag),
        ConfirmationTag
    );
    put!(
        write_group_state < GroupState,
        GroupId > (GroupId, GroupState),
        GroupState
    );
    put!(
        write_message_secrets < GroupId,
        MessageSecrets > (GroupId, MessageSecrets),
        MessageSecrets
    );
    put!(
        write_resumption_psk_store < GroupId,
        ResumptionPskStore > (GroupId, ResumptionPskStore),
        ResumptionPsks
    );
    put!(
        write_own_leaf_index < GroupId,
        LeafNodeIndex > (GroupId, LeafNodeIndex),
        OwnLeafIndex
    );
    put!(
        write_group_epoch_secrets < GroupId,
        GroupEpochSecrets > (GroupId, GroupEpochSecrets),
        EpochSecrets
    );
    put!(
        write_signature_key_pair < SignaturePublicKey,
        SignatureKeyPair > (SignaturePublicKey, SignatureKeyPair),
        SignatureKeyPair
    );
    put!(
        write_encryption_key_pair < EncryptionKey,
        HpkeKeyPair > (EncryptionKey, HpkeKeyPair),
        EncryptionKeyPair
    );
    put!(
        write_key_package < HashReference,
        KeyPackage > (HashReference, KeyPackage),
        KeyPackage
    );
    put!(write_psk < PskId, PskBundle > (PskId, PskBundle), Psk);

    get!(mls_group_join_config<GroupId, MlsGroupJoinConfig>(GroupId) -> MlsGroupJoinConfig, JoinConfig);
    get!(tree<GroupId, TreeSync>(GroupId) -> TreeSync, Tree);
    get!(interim_transcript_hash<GroupId, InterimTranscriptHash>(GroupId) -> InterimTranscriptHash, TranscriptHash);
    get!(group_context<GroupId, GroupContext>(GroupId) -> GroupContext, Context);
    get!(confirmation_tag<GroupId, ConfirmationTag>(GroupId) -> ConfirmationTag, ConfirmationTag);
    get!(group_state<GroupState, GroupId>(GroupId) -> GroupState, GroupState);
    get!(message_secrets<GroupId, MessageSecrets>(GroupId) -> MessageSecrets, MessageSecrets);
    get!(resumption_psk_store<GroupId, ResumptionPskStore>(GroupId) -> ResumptionPskStore, ResumptionPsks);
    get!(own_leaf_index<GroupId, LeafNodeIndex>(GroupId) -> LeafNodeIndex, OwnLeafIndex);
    get!(group_epoch_secrets<GroupId, GroupEpochSecrets>(GroupId) -> GroupEpochSecrets, EpochSecrets);
    get!(signature_key_pair<SignaturePublicKey, SignatureKeyPair>(SignaturePublicKey) -> SignatureKeyPair, SignatureKeyPair);
    get!(encryption_key_pair<HpkeKeyPair, EncryptionKey>(EncryptionKey) -> HpkeKeyPair, EncryptionKeyPair);
    get!(key_package<HashReference, KeyPackage>(HashReference) -> KeyPackage, KeyPackage);
    get!(psk<PskBundle, PskId>(PskId) -> PskBundle, Psk);

    delete!(delete_own_leaf_nodes<GroupId>, OwnLeafNodes);
    delete!(delete_group_config<GroupId>, JoinConfig);
    delete!(delete_tree<GroupId>, Tree);
    delete!(delete_confirmation_tag<GroupId>, ConfirmationTag);
    delete!(delete_group_state<GroupId>, GroupState);
    delete!(delete_context<GroupId>, Context);
    delete!(delete_interim_transcript_hash<GroupId>, TranscriptHash);
    delete!(delete_message_secrets<GroupId>, MessageSecrets);
    delete!(delete_all_resumption_psk_secrets<GroupId>, ResumptionPsks);
    delete!(delete_own_leaf_index<GroupId>, OwnLeafIndex);
    delete!(delete_group_epoch_secrets<GroupId>, EpochSecrets);
    delete!(
        delete_signature_key_pair<SignaturePublicKey>,
        SignatureKeyPair
    );
    delete!(delete_encryption_key_pair<EncryptionKey>, EncryptionKeyPair);
    delete!(delete_key_package<HashReference>, KeyPackage);
    delete!(delete_psk<PskId>, Psk);

    fn append_own_leaf_node<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        LeafNode: traits::LeafNode<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        leaf_node: &LeafNode,
    ) -> Result<(), StoreError> {
        let mut nodes: Vec<Vec<u8>> = self.list(Kind::OwnLeafNodes, group_id)?;
        nodes.push(encode(leaf_node)?);
        self.put(Kind::OwnLeafNodes, group_id, &nodes)
    }

    fn own_leaf_nodes<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        LeafNode: traits::LeafNode<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Vec<LeafNode>, StoreError> {
        self.items(Kind::OwnLeafNodes, group_id)
    }

    fn queue_proposal<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
        QueuedProposal: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        proposal_ref: &ProposalRef,
        proposal: &QueuedProposal,
    ) -> Result<(), StoreError> {
        let mut refs: Vec<Vec<u8>> = self.list(Kind::ProposalRefs, group_id)?;
        let new = encode(proposal_ref)?;
        if !refs.contains(&new) {
            refs.push(new);
        }
        self.put(Kind::ProposalRefs, group_id, &refs)?;
        self.put(Kind::Proposal, &(group_id, proposal_ref), proposal)
    }

    fn queued_proposal_refs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Vec<ProposalRef>, StoreError> {
        self.items(Kind::ProposalRefs, group_id)
    }

    fn queued_proposals<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
        QueuedProposal: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<Vec<(ProposalRef, QueuedProposal)>, StoreError> {
        let refs: Vec<ProposalRef> = self.items(Kind::ProposalRefs, group_id)?;
        refs.into_iter()
            .map(|proposal_ref| {
                let proposal = self
                    .get(Kind::Proposal, &(group_id, &proposal_ref))?
                    .ok_or(StoreError::Incomplete("a proposal that is listed"))?;
                Ok((proposal_ref, proposal))
            })
            .collect()
    }

    fn remove_proposal<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        proposal_ref: &ProposalRef,
    ) -> Result<(), StoreError> {
        let mut refs: Vec<Vec<u8>> = self.list(Kind::ProposalRefs, group_id)?;
        let gone = encode(proposal_ref)?;
        refs.retain(|kept| *kept != gone);
        self.put(Kind::ProposalRefs, group_id, &refs)?;
        self.delete(Kind::Proposal, &(group_id, proposal_ref))
    }

    fn clear_proposal_queue<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        ProposalRef: traits::ProposalRef<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
    ) -> Result<(), StoreError> {
        for proposal_ref in self.items::<ProposalRef>(Kind::ProposalRefs, group_id)? {
            self.delete(Kind::Proposal, &(group_id, &proposal_ref))?;
        }
        self.delete(Kind::ProposalRefs, group_id)
    }

    fn write_encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        epoch: &EpochKey,
        leaf_index: u32,
        key_pairs: &[HpkeKeyPair],
    ) -> Result<(), StoreError> {
        self.put(
            Kind::EpochKeyPairs,
            &(group_id, epoch, leaf_index),
            &key_pairs,
        )
    }

    fn encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        epoch: &EpochKey,
        leaf_index: u32,
    ) -> Result<Vec<HpkeKeyPair>, StoreError> {
        self.list(Kind::EpochKeyPairs, &(group_id, epoch, leaf_index))
    }

    fn delete_encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
    >(
        &self,
        group_id: &GroupId,
        epoch: &EpochKey,
        leaf_index: u32,
    ) -> Result<(), StoreError> {
        self.delete(Kind::EpochKeyPairs, &(group_id, epoch, leaf_index))
    }
}

#[cfg(test)]
mod tests;
