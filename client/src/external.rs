//! Joining without a Welcome, by a commit that comes from outside of the group: for a further
//! device, and for a member whose state of the group is lost or of no use.

use std::time::Duration;

use moh_messages::{
    Attestation, DsErrorCode, DsRequestBody, DsResponseBody, Endpoint, ExternalCommitInfo, GroupId,
    GroupUpdate, HandshakeBytes, Message, ProviderName, TreeBytes, extension_type,
};
use openmls::group::{CommitMessageBundle, MlsGroup};
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{LeafNodeParameters, MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn};
use openmls_traits::OpenMlsProvider;
use tls_codec::DeserializeBytes;

use crate::api::Reply;
use crate::client::Client;
use crate::error::Error;
use crate::events::{NotAttestedReason, Operation};
use crate::group::{Accepted, for_provider, group_update, signed_by_leaf};
use crate::mls::{self, LeafContent};
use crate::settle::{MAX_TRIES, Verdict, load};
use crate::store::{Pending, RejoinRow, Tx};
use crate::upkeep::is_to_go_on;

/// How often the queue is read before the old state is given up, at most.
const MAX_READS: u32 = 100;

/// A group as its owner shows it to those who join.
struct GroupState {
    group_info: HandshakeBytes,
    tree: TreeBytes,
    /// The epoch that this client was in when it asked; 0 if in none.
    known_epoch: u64,
    /// This client's leaf there, where it could show that it has one.
    old_leaf: Option<u32>,
    /// Whether only who has a leaf there is to join.
    only_again: bool,
}

impl Client {
    /// Joins a group that another device of this client's user is in, without anybody's help.
    /// Nothing is read that was written before.
    ///
    /// A device that was in the group, and lost what it knew of it, joins again by this; not one
    /// that lost its signature key as well, which has to be removed first: [`Error::OtherKey`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn join_group(
        &self,
        group: &GroupId,
        owner: &ProviderName,
    ) -> Result<Accepted, Error> {
        let _guard = self.lock_group(group).await;
        self.settle(group).await?;
        let id = group.clone();
        let is_member = self
            .store()
            .run(move |tx| Ok::<_, Error>(tx.owner(&id)?.is_some()))
            .await?;
        if is_member {
            return Err(Error::AlreadyMember(self.client_id().to_string()));
        }
        self.join_from_outside(group, owner, false).await
    }

    /// Joins a group again, in which this client cannot follow the others any more: because its
    /// state is that of a backup, or because a member has made a commit that locks it out. What
    /// was written meanwhile and cannot be read is lost.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rejoin(&self, group: &GroupId) -> Result<Accepted, Error> {
        let _guard = self.lock_group(group).await;
        if let Err(error) = self.settle(group).await {
            // A message that cannot be sent before must not stand in the way of this.
            let id = group.clone();
            let pending = self.store().run(move |tx| tx.pending(&id)).await?;
            if pending.is_some() {
                return Err(error);
            }
        }
        self.read_what_is_there().await?;
        let owner = self.owner(group).await?;
        self.join_from_outside(group, &owner, false).await
    }

    /// Joins a group again, of its own accord: only where its tree has a leaf with this client's
    /// name and key.
    pub(crate) async fn look_after_lost_group(&self, row: &RejoinRow) -> Result<(), Error> {
        let group = &row.group;
        let _guard = self.lock_group(group).await;
        if let Err(error) = self.settle(group).await {
            let id = group.clone();
            if self.store().run(move |tx| tx.pending(&id)).await?.is_some() {
                return Err(error);
            }
        }
        let (id, before) = (group.clone(), row.epoch);
        let is_lost = self
            .store()
            .run(move |tx| {
                if !tx.is_to_rejoin(&id)? {
                    return Ok(false);
                }
                if tx.owner(&id)?.is_none() {
                    return Ok(true);
                }
                match load(tx, &id) {
                    Ok(group) if group.epoch().as_u64() > before => {}
                    Ok(_) | Err(Error::UnknownGroup(_)) => return Ok(true),
                    Err(error) => return Err(error),
                }
                // What was missing has come.
                tx.forget_rejoin(&id)?;
                Ok::<_, Error>(false)
            })
            .await?;
        if !is_lost {
            return Ok(());
        }
        match self.join_from_outside(group, &row.owner, true).await {
            Ok(_) => Ok(()),
            Err(error) if is_to_go_on(&error) => Err(error),
            Err(error) => {
                tracing::debug!(%error, ?group, "not joined again");
                let (id, now_ms) = (group.clone(), self.api().now_ms());
                self.store()
                    .run(move |tx| {
                        tx.give_up_rejoin(&id, now_ms)?;
                        Ok::<_, Error>(())
                    })
                    .await
            }
        }
    }

    /// The old state may be good for some of what is in the queue.
    async fn read_what_is_there(&self) -> Result<(), Error> {
        for _ in 0..MAX_READS {
            let (cursor, items) = self.read_queue(Duration::ZERO).await?;
            if items.is_empty() {
                break;
            }
            self.process_and_acknowledge(cursor, items).await?;
        }
        Ok(())
    }

    /// Joins by an external commit; only again, where that is said. The caller holds the group's
    /// lock.
    pub(crate) async fn join_from_outside(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        only_again: bool,
    ) -> Result<Accepted, Error> {
        for losses in 0..MAX_TRIES {
            let leaf = LeafContent {
                attestation: self.attestation().await?,
                queue_config: self.queue_config().await?,
            };
            let (mut state, old_leaf) = self.group_state(group, owner).await?;
            self.check_newcomers(group, owner, &state).await?;
            state.old_leaf = old_leaf;
            state.only_again = only_again;
            let (this, id, owner) = (self.clone(), group.clone(), owner.clone());
            let pending = self
                .store()
                .run(move |tx| this.prepare_join(tx, id, owner, &state, &leaf))
                .await?;
            let error = match self.submit(&pending).await? {
                Verdict::Accepted(accepted) => {
                    self.take_up(&pending, false).await?;
                    return Ok(accepted);
                }
                Verdict::Refused(error) => error,
            };
            self.discard(&pending, &error, false).await?;
            if !is(&error, DsErrorCode::WRONG_EPOCH) {
                return Err(error);
            }
            self.pause(losses).await;
        }
        Err(Error::Outrun {
            group: group.clone(),
            tries: MAX_TRIES,
        })
    }

    /// What the owner shows, and this client's leaf there, where it could show that it has one.
    async fn group_state(
        &self,
        group: &GroupId,
        owner: &ProviderName,
    ) -> Result<(GroupState, Option<u32>), Error> {
        let api = self.api();
        let body = || {
            DsRequestBody::ExternalCommitInfo(ExternalCommitInfo {
                group_id: group.clone(),
            })
        };
        let known = self.known_state(group).await?;
        let known_epoch = known.map_or(0, |(epoch, _)| epoch);
        if let Some((_, leaf)) = known {
            let request = signed_by_leaf(api, owner, body(), leaf)?;
            match self.ask_for_state(group, owner, request, known_epoch).await {
                // The leaf is not there any more, or is another one's.
                Err(error) if is(&error, DsErrorCode::UNKNOWN_GROUP) => {}
                result => return result.map(|state| (state, Some(leaf))),
            }
        }
        let request = for_provider(api, owner, body());
        let state = self
            .ask_for_state(group, owner, request, known_epoch)
            .await?;
        Ok((state, None))
    }

    /// Whether those are attested who are in a group now and were not when this client knew it: an
    /// owner may show whom it likes.
    async fn check_newcomers(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        state: &GroupState,
    ) -> Result<(), Error> {
        let id = group.clone();
        let known = self
            .store()
            .run(move |tx| match tx.owner(&id)? {
                Some(_) => match load(tx, &id) {
                    Ok(group) => Ok(Some(mls::keys(&group))),
                    Err(Error::UnknownGroup(_)) => Ok(None),
                    Err(error) => Err(error),
                },
                None => Ok(None),
            })
            .await?;
        let Some(known) = known else {
            return Ok(());
        };
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(state.tree.as_slice())
            .map_err(|error| bad_answer(owner, &error.to_string()))?;
        for leaf in tree.leaves() {
            let client = mls::client_of(leaf.credential());
            let client = client.ok_or_else(|| bad_answer(owner, "a member without a name"))?;
            let key = leaf.signature_key().as_slice();
            if known
                .iter()
                .any(|(name, known)| *name == client && known == key)
            {
                continue;
            }
            let attestation = mls::extension_of(leaf, extension_type::ATTESTATION)
                .and_then(|bytes| Attestation::decode(&bytes).ok())
                .filter(|shown| shown.client_id == client && shown.signature_key.as_slice() == key);
            let verdict = match attestation {
                Some(attestation) => self.verify(&attestation, self.api().now_ms()).await?,
                None => Err(NotAttestedReason::Missing),
            };
            verdict.map_err(|reason| bad_answer(owner, &format!("{client}: {reason}")))?;
        }
        Ok(())
    }

    /// The epoch that this client is in, and its leaf there.
    async fn known_state(&self, group: &GroupId) -> Result<Option<(u64, u32)>, Error> {
        let id = group.clone();
        self.store()
            .run(move |tx| {
                if tx.owner(&id)?.is_none() {
                    return Ok(None);
                }
                match load(tx, &id) {
                    Ok(group) => Ok(Some((group.epoch().as_u64(), group.own_leaf_index().u32()))),
                    Err(Error::UnknownGroup(_)) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn ask_for_state(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        request: Vec<u8>,
        known_epoch: u64,
    ) -> Result<GroupState, Error> {
        let endpoint = Endpoint::ExternalCommitInformation;
        match self.api().ask_owner(owner, endpoint, request).await {
            Reply::Done(DsResponseBody::ExternalCommitInfo {
                group_info,
                ratchet_tree: tree,
                ..
            }) => Ok(GroupState {
                group_info,
                tree,
                known_epoch,
                old_leaf: None,
                only_again: false,
            }),
            Reply::Done(_) => Err(bad_answer(owner, "no external commit information")),
            Reply::Refused(error) => {
                self.give_up(group, Operation::ExternalJoin, &error, false)
                    .await?;
                Err(error)
            }
            Reply::Unknown(error) => Err(error),
        }
    }

    /// Makes the commit, and the state that it leads to, in one transaction. The state that
    /// there is stays as it is until the owner has taken the commit.
    fn prepare_join(
        &self,
        tx: &Tx<'_>,
        group: GroupId,
        owner: ProviderName,
        state: &GroupState,
        leaf: &LeafContent,
    ) -> Result<Pending, Error> {
        let api = self.api();
        if tx.pending(&group)?.is_some() {
            return Err(Error::Joining(group));
        }
        let group_info = self.read_group_info(&group, &owner, &state.group_info)?;
        if group_info.epoch().as_u64() < state.known_epoch {
            return Err(bad_answer(&owner, "the group as it was earlier"));
        }
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(state.tree.as_slice())
            .map_err(|error| bad_answer(&owner, &error.to_string()))?;
        let shown = mls::group_type(group_info.group_context().extensions());
        if tx
            .group_type(&group)?
            .is_some_and(|known| Some(known) != shown)
        {
            return Err(bad_answer(&owner, "a group of another kind"));
        }
        let replaces = self.has_leaf(&group, &owner, &tree)?;
        // Who was only asked to be connected, and said nothing, is no member: anybody may ask.
        let was_only_asked = tx.owner(&group)?.is_none() && self.was_only_asked(&tree);
        if state.only_again && (!replaces || was_only_asked) {
            return Err(Error::NotMember(api.client.to_string()));
        }
        tx.drop_staged(&group)?;
        let bundle =
            self.commit_from_outside(&tx.staged(&group), &owner, group_info, tree, leaf)?;
        let body = DsRequestBody::ExternalJoin(GroupUpdate {
            group_update: group_update(&bundle)?,
        });
        let request = match state.old_leaf {
            Some(leaf_index) if replaces => signed_by_leaf(api, &owner, body, leaf_index)?,
            _ => for_provider(api, &owner, body),
        };
        let pending = Pending {
            group,
            operation: Operation::ExternalJoin,
            owner,
            request,
            extra: Vec::new(),
        };
        tx.put_pending(&pending)?;
        Ok(pending)
    }

    fn read_group_info(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        bytes: &HandshakeBytes,
    ) -> Result<VerifiableGroupInfo, Error> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice())
            .map_err(|error| bad_answer(owner, &error.to_string()))?;
        let MlsMessageBodyIn::GroupInfo(group_info) = message.extract() else {
            return Err(bad_answer(owner, "not a GroupInfo"));
        };
        if group_info.group_id().as_slice() != group.as_slice() {
            return Err(bad_answer(owner, "the GroupInfo of another group"));
        }
        // openmls would take that one, and not the tree that is looked at here.
        if group_info.extensions().ratchet_tree().is_some() {
            return Err(bad_answer(owner, "a GroupInfo with a tree in it"));
        }
        let suite = mls::suite_of(group_info.ciphersuite());
        if suite.signature_scheme() != self.cipher_suite().signature_scheme() {
            return Err(Error::CipherSuite(suite));
        }
        Ok(group_info)
    }

    /// Whether a leaf of this client is in the tree. openmls finds it by its key alone, and has
    /// the commit remove it.
    fn has_leaf(
        &self,
        group: &GroupId,
        owner: &ProviderName,
        tree: &RatchetTreeIn,
    ) -> Result<bool, Error> {
        let api = self.api();
        let mut found = false;
        for leaf in tree.leaves() {
            let client = mls::client_of(leaf.credential());
            let client = client.ok_or_else(|| bad_answer(owner, "a member without a name"))?;
            let has_name = client == api.client;
            let has_key = leaf.signature_key().as_slice() == api.signer.public();
            match (has_name, has_key) {
                (true, true) => found = true,
                (true, false) => return Err(Error::OtherKey(group.clone())),
                (false, true) => {
                    return Err(bad_answer(owner, "another client with this one's key"));
                }
                (false, false) => {}
            }
        }
        Ok(found)
    }

    /// Whether this client's leaf is that of a KeyPackage for connection groups.
    fn was_only_asked(&self, tree: &RatchetTreeIn) -> bool {
        let marker = extension_type::CONNECTION_KEY_PACKAGE;
        let own = self.api().signer.public();
        tree.leaves()
            .filter(|leaf| leaf.signature_key().as_slice() == own)
            .any(|leaf| mls::extension_of(leaf, marker).is_some())
    }

    fn commit_from_outside(
        &self,
        staged: &Tx<'_>,
        owner: &ProviderName,
        group_info: VerifiableGroupInfo,
        tree: RatchetTreeIn,
        leaf: &LeafContent,
    ) -> Result<CommitMessageBundle, Error> {
        let leaf = LeafNodeParameters::builder()
            .with_capabilities(mls::capabilities())
            .with_extensions(leaf.extensions()?)
            .build();
        // The owner has checked lifetimes when leaves entered the tree; they may have ended since.
        let (_, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(mls::join_config())
            .skip_lifetime_validation()
            .build_group(staged, group_info, self.identity().credential())
            .map_err(|error| bad_answer(owner, &error.to_string()))?
            .leaf_node_parameters(leaf)
            .load_psks(staged.storage())
            .map_err(Error::mls)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(staged.rand(), staged.crypto(), &self.api().signer, |_| true)
            .map_err(Error::mls)?
            .finalize(staged)
            .map_err(Error::mls)?;
        Ok(bundle)
    }
}

fn is(error: &Error, code: DsErrorCode) -> bool {
    matches!(error, Error::Refused { error, .. } if error.code == code)
}

fn bad_answer(by: &ProviderName, detail: &str) -> Error {
    Error::BadAnswer {
        by: by.clone(),
        detail: detail.to_owned(),
    }
}
