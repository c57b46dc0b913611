//! A group, as its owner sees it.

use std::collections::BTreeMap;

use moh_client::{ClientId, DsError, DsErrorCode, ProviderName};
use moh_messages::{
    AddMembers, BasicCredential, CreateGroup, DsAuth, DsRequest, DsRequestBody, DsResponseBody,
    ExternalSender, GroupUpdate, HandshakeBytes, List, Message, MlsBytes, MlsGroupUpdate, Opaque,
    PublicKey, SendMessage, Signature, SignedLast, TreeBytes, WelcomeInfo, label,
};
use openmls::extensions::SenderExtensionIndex;
use openmls::group::{ProposalStore, PublicGroup};
use openmls::messages::external_proposals::ExternalProposal;
use openmls::prelude::{
    LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, ProtocolMessage,
    RatchetTreeIn,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use tls_codec::{DeserializeBytes, Serialize};

use super::{Failure, State, refuse, verify};

/// The owner's state of a group.
pub(crate) struct Group {
    owner: ProviderName,
    public: PublicGroup,
    storage: MemoryStorage,
    /// Answers to messages, by the message.
    answers: BTreeMap<Vec<u8>, DsResponseBody>,
    trees: BTreeMap<u64, Vec<u8>>,
    /// Pending in this epoch, as MLSMessages.
    proposals: Vec<HandshakeBytes>,
}

impl State {
    pub(super) fn operate(
        &mut self,
        client: &ClientId,
        request: DsRequest,
        bytes: &[u8],
    ) -> Result<DsResponseBody, Failure> {
        let tbs = request.to_be_signed_of(bytes);
        let key = self.clients[client].key.clone();
        if let Some(signature) = request.signature()
            && !matches!(request.auth, DsAuth::Provider { .. })
        {
            verify(label::DS_REQUEST, &tbs, &key, signature)?;
        }
        let owner = request.recipient.clone();
        match request.body {
            DsRequestBody::RequestGroupId(_) => {
                self.group_ids += 1;
                Ok(DsResponseBody::GroupId {
                    group_id: Opaque::new(format!("group-{}@{owner}", self.group_ids)).unwrap(),
                    ds_sender: self.ds_sender(&owner),
                })
            }
            DsRequestBody::CreateGroup(create) => self.create(owner, create),
            DsRequestBody::AddUsers(add) | DsRequestBody::AddClients(add) => self.add(client, &add),
            DsRequestBody::UpdateClient(GroupUpdate { group_update }) => {
                self.commit(client, &group_update).map(|(answer, _)| answer)
            }
            DsRequestBody::SendMessage(message) => self.send(client, &message),
            DsRequestBody::WelcomeInfo(info) => self.welcome_info(&info, &request.auth),
            other => panic!("{} is not used", other.name()),
        }
    }

    fn ds_sender(&mut self, owner: &ProviderName) -> ExternalSender {
        let scheme = openmls_traits::types::SignatureScheme::ED25519;
        let key = self
            .sender_keys
            .entry(owner.clone())
            .or_insert_with(|| SignatureKeyPair::new(scheme).unwrap());
        ExternalSender {
            signature_key: PublicKey::new(key.public()).unwrap(),
            credential: BasicCredential::Basic {
                identity: Opaque::new(owner.as_str()).unwrap(),
            },
        }
    }

    pub(super) fn propose_removal(&mut self, id: &[u8], client: &ClientId) {
        let group = self.groups.get_mut(id).unwrap();
        let members = group.members();
        let leaf = members.iter().position(|member| member == client).unwrap();
        let proposal = ExternalProposal::new_remove::<OpenMlsRustCrypto>(
            LeafNodeIndex::new(u32::try_from(leaf).unwrap()),
            group.public.group_id().clone(),
            group.public.group_context().epoch(),
            &self.sender_keys[&group.owner],
            SenderExtensionIndex::new(0),
        )
        .unwrap();
        let bytes = proposal.to_bytes().unwrap();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&bytes).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        let processed = group
            .public
            .process_message(&RustCrypto::default(), message)
            .unwrap();
        let ProcessedMessageContent::ProposalMessage(proposal) = processed.into_content() else {
            panic!("not a proposal");
        };
        group
            .public
            .add_proposal(&group.storage, *proposal)
            .unwrap();
        group
            .proposals
            .push(HandshakeBytes::new(bytes.clone()).unwrap());
        let owner = group.owner.clone();
        for member in &members {
            self.deliver(member, &owner, &MlsBytes::new(bytes.clone()).unwrap());
        }
    }

    fn create(
        &mut self,
        owner: ProviderName,
        create: CreateGroup,
    ) -> Result<DsResponseBody, Failure> {
        let id = create.group_id.as_slice().to_vec();
        let message = create.group_info.as_slice().to_vec();
        if let Some(group) = self.groups.get(&id) {
            let first = group.answers.get(&message).cloned();
            return first.ok_or(refuse(DsErrorCode::GROUP_ID_IN_USE));
        }
        // A tree of one leaf: optional<Node> nodes<V>.
        let leaf = create.leaf_node.as_slice();
        let node = Opaque::<8192>::new([&[1, 1][..], leaf].concat())
            .unwrap()
            .encode();
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&node).unwrap();
        let info = MlsMessageIn::tls_deserialize_exact_bytes(&message).unwrap();
        let MlsMessageBodyIn::GroupInfo(info) = info.extract() else {
            panic!("not a GroupInfo");
        };
        assert!(info.extensions().external_pub().is_some());
        assert!(info.extensions().ratchet_tree().is_none());
        let storage = MemoryStorage::default();
        let (public, _) = PublicGroup::from_external(
            &RustCrypto::default(),
            &storage,
            tree,
            info,
            ProposalStore::new(),
        )
        .map_err(|_| refuse(DsErrorCode::INVALID_GROUP_INFO))?;
        let answer = DsResponseBody::Ok {
            epoch: 0,
            accepted_at: 1,
        };
        self.groups.insert(
            id,
            Group {
                owner,
                public,
                storage,
                answers: BTreeMap::from([(message, answer.clone())]),
                trees: BTreeMap::new(),
                proposals: Vec::new(),
            },
        );
        Ok(answer)
    }

    /// The answer, and who is to get the commit; nobody, where it was there before.
    fn commit(
        &mut self,
        client: &ClientId,
        update: &MlsGroupUpdate,
    ) -> Result<(DsResponseBody, Option<Vec<ClientId>>), Failure> {
        let bytes = update.commit.as_slice();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        assert!(matches!(message, ProtocolMessage::PublicMessage(_)));
        let group = self.groups.get_mut(message.group_id().as_slice()).unwrap();
        if let Some(answer) = group.answers.get(bytes) {
            return Ok((answer.clone(), None));
        }
        group.check_epoch(message.epoch().as_u64())?;
        let before = group.members();
        let crypto = RustCrypto::default();
        let processed = group
            .public
            .process_message(&crypto, message)
            .map_err(|error| invalid(&error.to_string()))?;
        let openmls::prelude::Sender::Member(sender) = *processed.sender() else {
            panic!("not a member");
        };
        let ProcessedMessageContent::StagedCommitMessage(commit) = processed.into_content() else {
            panic!("not a commit");
        };
        let by_reference = commit
            .queued_proposals()
            .filter(|queued| matches!(queued.sender(), openmls::prelude::Sender::External(_)))
            .count();
        if by_reference != group.proposals.len() {
            return Err(group.proposals_first());
        }
        group.proposals.clear();
        group.public.merge_commit(&group.storage, *commit).unwrap();
        group.check_group_info(sender, update);
        let tree = group
            .public
            .export_ratchet_tree()
            .tls_serialize_detached()
            .unwrap();
        group.trees.insert(group.epoch(), tree);
        let answer = DsResponseBody::Ok {
            epoch: group.epoch(),
            accepted_at: 1,
        };
        group.answers.insert(bytes.to_vec(), answer.clone());
        let owner = group.owner.clone();
        for member in before.iter().filter(|member| *member != client) {
            self.deliver(member, &owner, &MlsBytes::new(bytes).unwrap());
        }
        Ok((answer, Some(before)))
    }

    fn add(&mut self, client: &ClientId, add: &AddMembers) -> Result<DsResponseBody, Failure> {
        let (answer, before) = self.commit(client, &add.group_update)?;
        let Some(before) = before else {
            return Ok(answer);
        };
        let commit = add.group_update.commit.as_slice();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(commit).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        let group = &self.groups[message.group_id().as_slice()];
        let (owner, after) = (group.owner.clone(), group.members());
        assert_eq!(add.welcomes.len(), 1);
        for new in after.iter().filter(|member| !before.contains(member)) {
            self.deliver(new, &owner, &add.welcomes[0]);
        }
        Ok(answer)
    }

    fn send(&mut self, client: &ClientId, send: &SendMessage) -> Result<DsResponseBody, Failure> {
        let bytes = send.message.as_slice();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        assert!(matches!(message, ProtocolMessage::PrivateMessage(_)));
        let group = self.groups.get_mut(message.group_id().as_slice()).unwrap();
        if let Some(answer) = group.answers.get(bytes) {
            return Ok(answer.clone());
        }
        // Stricter than an owner is, so that clients have to encrypt anew.
        group.check_epoch(message.epoch().as_u64())?;
        if !group.proposals.is_empty() {
            return Err(group.proposals_first());
        }
        let answer = DsResponseBody::Ok {
            epoch: group.epoch(),
            accepted_at: 1,
        };
        group.answers.insert(bytes.to_vec(), answer.clone());
        let (owner, members) = (group.owner.clone(), group.members());
        for member in members.iter().filter(|member| *member != client) {
            self.deliver(member, &owner, &MlsBytes::new(bytes).unwrap());
        }
        Ok(answer)
    }

    fn welcome_info(&self, info: &WelcomeInfo, auth: &DsAuth) -> Result<DsResponseBody, Failure> {
        assert!(matches!(auth, DsAuth::KeyPackage { .. }));
        let group = self.groups.get(info.group_id.as_slice());
        let group = group.ok_or(refuse(DsErrorCode::UNKNOWN_GROUP))?;
        let tree = group
            .trees
            .get(&info.epoch)
            .ok_or(refuse(DsErrorCode::EPOCH_NOT_KEPT))?;
        Ok(DsResponseBody::WelcomeInfo {
            ratchet_tree: TreeBytes::new(tree.clone()).unwrap(),
            provider_keys: List::empty(),
        })
    }
}

impl Group {
    pub(crate) fn epoch(&self) -> u64 {
        self.public.group_context().epoch().as_u64()
    }

    fn check_epoch(&self, epoch: u64) -> Result<(), Failure> {
        if epoch == self.epoch() {
            return Ok(());
        }
        let error = DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&self.epoch());
        Err(Failure::Refused(error))
    }

    fn proposals_first(&self) -> Failure {
        let proposals = List::<_, 256>::new(self.proposals.clone()).unwrap();
        let error = DsError::new(DsErrorCode::PENDING_PROPOSALS, "").with_data(&proposals);
        Failure::Refused(error)
    }

    fn members(&self) -> Vec<ClientId> {
        self.public
            .members()
            .map(|member| {
                let basic = openmls::prelude::BasicCredential::try_from(member.credential).unwrap();
                std::str::from_utf8(basic.identity())
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect()
    }

    /// GroupContext + extensions + confirmation tag + signer must verify under the new leaf.
    fn check_group_info(&self, signer: LeafNodeIndex, update: &MlsGroupUpdate) {
        let info = &update.partial_group_info;
        assert!(
            info.group_info_extensions
                .iter()
                .any(|e| e.extension_type == 4)
        );
        assert!(
            info.group_info_extensions
                .iter()
                .all(|e| e.extension_type != 2)
        );
        let tbs = [
            self.public
                .group_context()
                .tls_serialize_detached()
                .unwrap(),
            info.group_info_extensions.encode(),
            self.public
                .confirmation_tag()
                .tls_serialize_detached()
                .unwrap(),
            signer.u32().to_be_bytes().to_vec(),
        ]
        .concat();
        let leaf = self.public.leaf(signer).unwrap();
        let key = PublicKey::new(leaf.signature_key().as_slice()).unwrap();
        let signature = Signature::new(info.signature.as_slice()).unwrap();
        let verified = verify(label::GROUP_INFO, &tbs, &key, &signature);
        assert!(
            verified.is_ok(),
            "the GroupInfo does not belong to the new epoch"
        );
    }
}

fn invalid(text: &str) -> Failure {
    Failure::Refused(DsError::new(DsErrorCode::INVALID_MESSAGE, text))
}
