//! What changes a group: commits, and proposals to remove somebody.

use moh_client::{ClientId, DsErrorCode};
use moh_messages::{
    AddMembers, DsAuth, DsRequestBody, DsResponseBody, GroupUpdate, HandshakeBytes, Message,
    MlsBytes, MlsGroupUpdate, Rbac, SelfRemoveClient, extension_type,
};
use openmls::extensions::SenderExtensionIndex;
use openmls::group::StagedCommit;
use openmls::messages::external_proposals::ExternalProposal;
use openmls::prelude::{
    LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, Proposal,
    ProposalOrRefType, ProtocolMessage, ProtocolVersion, Sender,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use tls_codec::DeserializeBytes;

use super::group::{Group, Pending, invalid};
use super::{Failure, State, refuse};

fn read(bytes: &[u8]) -> ProtocolMessage {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap();
    let message = message.try_into_protocol_message().unwrap();
    assert!(matches!(message, ProtocolMessage::PublicMessage(_)));
    message
}

impl State {
    pub(super) fn change(
        &mut self,
        client: &ClientId,
        body: DsRequestBody,
        auth: &DsAuth,
    ) -> Result<DsResponseBody, Failure> {
        let (update, add) = match &body {
            DsRequestBody::AddUsers(add) | DsRequestBody::AddClients(add) => {
                (&add.group_update, Some(add))
            }
            DsRequestBody::UpdateClient(GroupUpdate { group_update })
            | DsRequestBody::RemoveUsers(GroupUpdate { group_update })
            | DsRequestBody::RemoveClients(GroupUpdate { group_update })
            | DsRequestBody::SetRoles(GroupUpdate { group_update })
            | DsRequestBody::DeleteGroup(GroupUpdate { group_update })
            | DsRequestBody::ExternalJoin(GroupUpdate { group_update }) => (group_update, None),
            other => panic!("{} is not used", other.name()),
        };
        let commit = update.commit.as_slice();
        let message = read(commit);
        let id = message.group_id().as_slice().to_vec();
        let group = self.groups.get_mut(&id).unwrap();
        if let Some(answer) = group.answers.get(commit) {
            return Ok(answer.clone());
        }
        let before = group.members();
        let answer = group.commit(client, &body, auth, message, update)?;
        let (owner, after) = (group.owner.clone(), group.members());
        for member in before.iter().filter(|member| *member != client) {
            self.deliver_in(&id, member, &owner, &MlsBytes::new(commit).unwrap());
        }
        if let Some(AddMembers { welcomes, .. }) = add {
            assert_eq!(welcomes.len(), 1);
            let new = after.into_iter().filter(|member| !before.contains(member));
            let new: Vec<_> = new.collect();
            let is_invitation = matches!(body, DsRequestBody::AddUsers(_));
            if is_invitation && self.groups[&id].connection.is_some() {
                self.request_connection(&id, client, &new, &welcomes[0]);
            } else {
                for new in new {
                    self.deliver(&new, &owner, &welcomes[0]);
                }
            }
        }
        self.remove_unreachable(&id);
        if matches!(body, DsRequestBody::ExternalJoin(_)) {
            // What was proposed has lapsed.
            let group = self.groups.get_mut(&id).unwrap();
            for lapsed in std::mem::take(&mut group.proposals) {
                self.propose_removal_of(&id, lapsed.target);
            }
        }
        Ok(answer)
    }

    pub(super) fn self_remove(
        &mut self,
        client: &ClientId,
        leave: &SelfRemoveClient,
    ) -> Result<DsResponseBody, Failure> {
        let bytes = leave.proposal.as_slice();
        let message = read(bytes);
        let id = message.group_id().as_slice().to_vec();
        let group = self.groups.get_mut(&id).unwrap();
        if let Some(answer) = group.answers.get(bytes) {
            return Ok(answer.clone());
        }
        group.check_member(client)?;
        group.check_epoch(message.epoch().as_u64())?;
        if group.members().len() == 1 {
            return Err(refuse(DsErrorCode::POLICY_VIOLATION));
        }
        let target = group.take_proposal(bytes, false);
        assert_eq!(group.client_at(target).as_ref(), Some(client));
        let answer = DsResponseBody::Ok {
            epoch: group.epoch(),
            accepted_at: 1,
        };
        group.answers.insert(bytes.to_vec(), answer.clone());
        self.deliver_proposal(&id, bytes, Some(client));
        Ok(answer)
    }

    /// What was delivered to somebody was not taken.
    pub(super) fn remove_unreachable(&mut self, id: &[u8]) {
        let members = self.groups[id].members();
        for member in members {
            let is_closed = self.closed.contains(&(member.clone(), id.to_vec()));
            let is_proposed = self.groups[id]
                .proposals
                .iter()
                .any(|p| self.groups[id].client_at(p.target).as_ref() == Some(&member));
            if is_closed && !is_proposed && !self.groups[id].is_deleted {
                self.propose_removal(id, &member);
            }
        }
    }

    pub(super) fn propose_removal(&mut self, id: &[u8], client: &ClientId) {
        let group = &self.groups[id];
        let leaf = group
            .public
            .members()
            .map(|member| member.index)
            .find(|leaf| group.client_at(*leaf).as_ref() == Some(client));
        self.propose_removal_of(id, leaf.unwrap());
    }

    fn propose_removal_of(&mut self, id: &[u8], leaf: LeafNodeIndex) {
        let group = &self.groups[id];
        let proposal = ExternalProposal::new_remove::<OpenMlsRustCrypto>(
            leaf,
            group.public.group_id().clone(),
            group.public.group_context().epoch(),
            self.sender_key(group),
            SenderExtensionIndex::new(0),
        )
        .unwrap();
        let bytes = proposal.to_bytes().unwrap();
        let group = self.groups.get_mut(id).unwrap();
        group.take_proposal(&bytes, true);
        self.deliver_proposal(id, &bytes, None);
    }

    pub(super) fn signed_add(&mut self, id: &[u8], client: &ClientId) -> Vec<u8> {
        let account = self.clients.get_mut(client).unwrap();
        let (_, bytes) = account.key_packages.pop_front().unwrap();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes.as_slice()).unwrap();
        let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
            panic!("not a KeyPackage");
        };
        let crypto = RustCrypto::default();
        let key_package = key_package.validate(&crypto, ProtocolVersion::Mls10);
        let group = &self.groups[id];
        let proposal = ExternalProposal::new_add::<OpenMlsRustCrypto>(
            key_package.unwrap(),
            group.public.group_id().clone(),
            group.public.group_context().epoch(),
            self.sender_key(group),
            SenderExtensionIndex::new(0),
        );
        proposal.unwrap().to_bytes().unwrap()
    }

    pub(super) fn signed_context(&self, id: &[u8]) -> Vec<u8> {
        let group = &self.groups[id];
        let proposal = ExternalProposal::new_group_context_extensions::<OpenMlsRustCrypto>(
            group.public.group_context().extensions().clone(),
            group.public.group_id().clone(),
            group.public.group_context().epoch(),
            self.sender_key(group),
            SenderExtensionIndex::new(0),
        );
        proposal.unwrap().to_bytes().unwrap()
    }

    fn sender_key(&self, group: &Group) -> &SignatureKeyPair {
        let scheme = group.public.ciphersuite().signature_algorithm();
        &self.sender_keys[&(group.owner.clone(), scheme as u16)]
    }

    fn deliver_proposal(&mut self, id: &[u8], bytes: &[u8], except: Option<&ClientId>) {
        let group = &self.groups[id];
        let (owner, members) = (group.owner.clone(), group.members());
        for member in members.iter().filter(|member| Some(*member) != except) {
            self.deliver_in(id, member, &owner, &MlsBytes::new(bytes).unwrap());
        }
    }
}

impl Group {
    /// Whom it is to remove.
    fn take_proposal(&mut self, bytes: &[u8], by_owner: bool) -> LeafNodeIndex {
        let processed = self
            .public
            .process_message(&RustCrypto::default(), read(bytes))
            .unwrap();
        let ProcessedMessageContent::ProposalMessage(proposal) = processed.into_content() else {
            panic!("not a proposal");
        };
        let Proposal::Remove(remove) = proposal.proposal() else {
            panic!("not a Remove");
        };
        let target = remove.removed();
        if !by_owner {
            assert_eq!(*proposal.sender(), Sender::Member(target));
        }
        self.public.add_proposal(&self.storage, *proposal).unwrap();
        self.proposals.push(Pending {
            message: HandshakeBytes::new(bytes).unwrap(),
            target,
            by_owner,
        });
        target
    }

    fn commit(
        &mut self,
        client: &ClientId,
        body: &DsRequestBody,
        auth: &DsAuth,
        message: ProtocolMessage,
        update: &MlsGroupUpdate,
    ) -> Result<DsResponseBody, Failure> {
        let is_external = matches!(body, DsRequestBody::ExternalJoin(_));
        if !is_external {
            self.check_member(client)?;
        }
        if self.is_deleted {
            return Err(refuse(DsErrorCode::GROUP_DELETED));
        }
        self.check_epoch(message.epoch().as_u64())?;
        let crypto = RustCrypto::default();
        let processed = self
            .public
            .process_message(&crypto, message)
            .map_err(|error| invalid(&error.to_string()))?;
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(commit) = processed.into_content() else {
            panic!("not a commit");
        };
        assert!(commit.update_path_leaf_node().is_some(), "no path");
        let committer = match sender {
            Sender::Member(leaf) => {
                self.check_by_reference(leaf, &commit)?;
                self.check_role(client, body)?;
                self.check_by_value(leaf, &commit, body);
                assert!(
                    matches!(auth, DsAuth::Leaf { leaf_index, .. } if *leaf_index == leaf.u32())
                );
                leaf
            }
            Sender::NewMemberCommit => {
                assert!(is_external);
                self.check_external(client, &commit, auth)?;
                self.public.ext_commit_sender_index(&commit).unwrap()
            }
            other => panic!("by {other:?}"),
        };
        if !is_external {
            self.proposals.clear();
        }
        self.public.merge_commit(&self.storage, *commit).unwrap();
        assert_eq!(self.client_at(committer).as_ref(), Some(client));
        self.take_group_info(committer, update);
        self.is_deleted = matches!(body, DsRequestBody::DeleteGroup(_));
        if matches!(body, DsRequestBody::AddUsers(_)) {
            self.connection = self.connection.map(|_| true);
        }
        self.trees.insert(self.epoch(), self.tree());
        let answer = DsResponseBody::Ok {
            epoch: self.epoch(),
            accepted_at: 1,
        };
        self.answers
            .insert(update.commit.as_slice().to_vec(), answer.clone());
        Ok(answer)
    }

    fn check_by_reference(
        &self,
        leaf: LeafNodeIndex,
        commit: &StagedCommit,
    ) -> Result<(), Failure> {
        if self.proposals.iter().any(|pending| pending.target == leaf) {
            return Err(refuse(DsErrorCode::POLICY_VIOLATION));
        }
        let by_reference = commit
            .queued_proposals()
            .filter(|queued| queued.proposal_or_ref_type() == ProposalOrRefType::Reference)
            .count();
        if by_reference != self.proposals.len() {
            return Err(self.proposals_first());
        }
        Ok(())
    }

    fn check_role(&self, client: &ClientId, body: &DsRequestBody) -> Result<(), Failure> {
        let extensions = self.public.group_context().extensions();
        let Some(rbac) = extensions.unknown(extension_type::RBAC) else {
            return Ok(());
        };
        let is_for_admins = matches!(
            body,
            DsRequestBody::AddUsers(_)
                | DsRequestBody::RemoveUsers(_)
                | DsRequestBody::DeleteGroup(_)
                | DsRequestBody::SetRoles(_)
        );
        let admins = Rbac::decode(&rbac.0).unwrap().admins;
        if is_for_admins && !admins.contains(&client.user_id()) {
            return Err(refuse(DsErrorCode::UNAUTHORIZED));
        }
        Ok(())
    }

    /// The proposals by value are those of the operation.
    fn check_by_value(&self, own: LeafNodeIndex, commit: &StagedCommit, body: &DsRequestBody) {
        let by_value: Vec<_> = commit
            .queued_proposals()
            .filter(|queued| queued.proposal_or_ref_type() == ProposalOrRefType::Proposal)
            .map(|queued| queued.proposal())
            .collect();
        let removed: Vec<_> = commit
            .remove_proposals()
            .map(|removal| removal.remove_proposal().removed())
            .collect();
        let only = |is_meant: fn(&Proposal) -> bool| {
            assert!(!by_value.is_empty() && by_value.iter().all(|proposal| is_meant(proposal)));
        };
        match body {
            DsRequestBody::AddUsers(_) | DsRequestBody::AddClients(_) => {
                only(|proposal| matches!(proposal, Proposal::Add(_)));
                let is_invitation = matches!(body, DsRequestBody::AddUsers(_));
                if is_invitation {
                    assert_ne!(self.connection, Some(true), "one invitation");
                }
                for add in commit.add_proposals() {
                    let leaf = add.add_proposal().key_package().leaf_node();
                    let marker = extension_type::CONNECTION_KEY_PACKAGE;
                    let for_connections = leaf.extensions().unknown(marker).is_some();
                    assert_eq!(for_connections, is_invitation && self.connection.is_some());
                }
            }
            DsRequestBody::RemoveUsers(_) | DsRequestBody::RemoveClients(_) => {
                only(|proposal| matches!(proposal, Proposal::Remove(_)));
                let own_user = self.client_at(own).unwrap().user_id();
                let of_own_user = matches!(body, DsRequestBody::RemoveClients(_));
                for proposal in &by_value {
                    let Proposal::Remove(remove) = proposal else {
                        continue;
                    };
                    let user = self.client_at(remove.removed()).unwrap().user_id();
                    assert_eq!(user == own_user, of_own_user);
                }
            }
            DsRequestBody::SetRoles(_) => {
                assert_eq!(by_value.len(), 1);
                only(|proposal| matches!(proposal, Proposal::GroupContextExtensions(_)));
            }
            DsRequestBody::DeleteGroup(_) => {
                let members = self.public.members().map(|member| member.index);
                let kept: Vec<_> = members.filter(|leaf| !removed.contains(leaf)).collect();
                assert_eq!(kept, [own]);
            }
            _ => assert!(by_value.is_empty()),
        }
    }

    fn check_external(
        &self,
        client: &ClientId,
        commit: &StagedCommit,
        auth: &DsAuth,
    ) -> Result<(), Failure> {
        let removed: Vec<_> = commit
            .remove_proposals()
            .map(|removal| removal.remove_proposal().removed())
            .collect();
        assert_eq!(commit.queued_proposals().count(), 1 + removed.len());
        for leaf in &removed {
            assert_eq!(self.client_at(*leaf).as_ref(), Some(client));
        }
        assert_eq!(self.members().contains(client), removed.len() == 1);
        if self.proposals.iter().any(|p| removed.contains(&p.target)) {
            return Err(refuse(DsErrorCode::POLICY_VIOLATION));
        }
        match auth {
            DsAuth::Leaf { leaf_index, .. } => {
                assert_eq!(removed, [LeafNodeIndex::new(*leaf_index)]);
            }
            DsAuth::Provider { on_behalf_of, .. } => assert_eq!(on_behalf_of, client),
            _ => panic!("not by a leaf and not by a provider"),
        }
        Ok(())
    }
}
