//! A group, as its owner sees it.

use std::collections::BTreeMap;

use moh_client::{ClientId, DsError, DsErrorCode, ProviderName};
use moh_messages::{
    BasicCredential, CreateGroup, DsAuth, DsRequest, DsRequestBody, DsResponseBody, Extension,
    ExternalCommitInfo, ExternalSender, GroupType, HandshakeBytes, List, Message, MlsBytes,
    MlsGroupUpdate, Opaque, PublicKey, RequestGroupId, SendMessage, Signature, SignatureScheme,
    SignedLast, TreeBytes, WelcomeInfo, label,
};
use openmls::group::{ProposalStore, PublicGroup};
use openmls::prelude::{
    LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, ProtocolMessage, RatchetTreeIn,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_memory_storage::MemoryStorage;
use openmls_rust_crypto::RustCrypto;
use tls_codec::{DeserializeBytes, Serialize};

use super::{Failure, State, refuse, verify};

/// The owner's state of a group.
pub(crate) struct Group {
    pub(super) owner: ProviderName,
    pub(super) public: PublicGroup,
    pub(super) storage: MemoryStorage,
    /// Answers to messages, by the message.
    pub(super) answers: BTreeMap<Vec<u8>, DsResponseBody>,
    pub(super) trees: BTreeMap<u64, Vec<u8>>,
    /// Pending in this epoch.
    pub(super) proposals: Vec<Pending>,
    pub(super) group_info: HandshakeBytes,
    pub(super) is_deleted: bool,
    /// A connection group; whether somebody was invited already.
    pub(super) connection: Option<bool>,
    /// Messages have to be of the current epoch: more than the protocol asks for.
    pub(crate) is_strict: bool,
}

/// A proposal to remove a leaf.
pub(super) struct Pending {
    pub(super) message: HandshakeBytes,
    pub(super) target: LeafNodeIndex,
    pub(super) by_owner: bool,
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
        match (&request.auth, request.signature()) {
            // Its client's provider fills that in.
            (DsAuth::Provider { provider_auth, .. }, _) => assert!(provider_auth.is_blank()),
            (_, Some(signature)) => verify(label::DS_REQUEST, &tbs, &key, signature)?,
            (_, None) => {}
        }
        let owner = request.recipient.clone();
        match request.body {
            DsRequestBody::RequestGroupId(RequestGroupId { cipher_suite }) => {
                self.group_ids += 1;
                let own = format!("group-{}@{owner}", self.group_ids).into_bytes();
                Ok(DsResponseBody::GroupId {
                    group_id: Opaque::new(self.next_group_id.take().unwrap_or(own)).unwrap(),
                    ds_sender: self.ds_sender(&owner, cipher_suite.signature_scheme().unwrap()),
                })
            }
            DsRequestBody::CreateGroup(create) => self.create(owner, create),
            DsRequestBody::SendMessage(message) => self.send(client, &message),
            DsRequestBody::SelfRemoveClient(leave) => self.self_remove(client, &leave),
            DsRequestBody::WelcomeInfo(info) => self.welcome_info(&info, &request.auth),
            DsRequestBody::ExternalCommitInfo(info) => {
                self.external_commit_info(client, &info, &request.auth)
            }
            body => self.change(client, body, &request.auth),
        }
    }

    fn ds_sender(&mut self, owner: &ProviderName, scheme: SignatureScheme) -> ExternalSender {
        let place = self.sender_keys.entry((owner.clone(), scheme.0));
        let scheme = openmls_traits::types::SignatureScheme::try_from(scheme.0).unwrap();
        let key = place.or_insert_with(|| SignatureKeyPair::new(scheme).unwrap());
        ExternalSender {
            signature_key: PublicKey::new(key.public()).unwrap(),
            credential: BasicCredential::Basic {
                identity: Opaque::new(owner.as_str()).unwrap(),
            },
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
                group_info: create.group_info.clone(),
                is_deleted: false,
                connection: (create.group_type == GroupType::Connection).then_some(false),
                is_strict: true,
            },
        );
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
        group.check_member(client)?;
        if group.is_strict {
            // So that clients have to encrypt anew.
            group.check_epoch(message.epoch().as_u64())?;
        }
        if group.proposals.iter().any(|pending| pending.by_owner) {
            return Err(group.proposals_first());
        }
        let answer = DsResponseBody::Ok {
            epoch: group.epoch(),
            accepted_at: 1,
        };
        group.answers.insert(bytes.to_vec(), answer.clone());
        let (owner, members) = (group.owner.clone(), group.members());
        let id = message.group_id().as_slice().to_vec();
        for member in members.iter().filter(|member| *member != client) {
            self.deliver_in(&id, member, &owner, &MlsBytes::new(bytes).unwrap());
        }
        self.remove_unreachable(&id);
        Ok(answer)
    }

    fn welcome_info(&self, info: &WelcomeInfo, auth: &DsAuth) -> Result<DsResponseBody, Failure> {
        assert!(matches!(auth, DsAuth::KeyPackage { .. }));
        let group = self.groups.get(info.group_id.as_slice());
        let group = group.ok_or(refuse(DsErrorCode::UNKNOWN_GROUP))?;
        if group.is_deleted {
            return Err(refuse(DsErrorCode::GROUP_DELETED));
        }
        let tree = group
            .trees
            .get(&info.epoch)
            .ok_or(refuse(DsErrorCode::EPOCH_NOT_KEPT))?;
        Ok(DsResponseBody::WelcomeInfo {
            ratchet_tree: TreeBytes::new(tree.clone()).unwrap(),
            provider_keys: List::empty(),
        })
    }

    fn external_commit_info(
        &self,
        client: &ClientId,
        info: &ExternalCommitInfo,
        auth: &DsAuth,
    ) -> Result<DsResponseBody, Failure> {
        let group = self.groups.get(info.group_id.as_slice());
        let group = group.ok_or(refuse(DsErrorCode::UNKNOWN_GROUP))?;
        let user = client.user_id();
        let is_known = match auth {
            DsAuth::Leaf { leaf_index, .. } => {
                group.client_at(LeafNodeIndex::new(*leaf_index)).as_ref() == Some(client)
            }
            DsAuth::Provider { on_behalf_of, .. } => {
                on_behalf_of == client && group.members().iter().any(|m| m.user_id() == user)
            }
            _ => false,
        };
        if !is_known {
            return Err(refuse(DsErrorCode::UNKNOWN_GROUP));
        }
        if group.is_deleted {
            return Err(refuse(DsErrorCode::GROUP_DELETED));
        }
        Ok(group.external_commit_info())
    }
}

impl Group {
    pub(crate) fn epoch(&self) -> u64 {
        self.public.group_context().epoch().as_u64()
    }

    pub(super) fn external_commit_info(&self) -> DsResponseBody {
        DsResponseBody::ExternalCommitInfo {
            group_info: self.group_info.clone(),
            ratchet_tree: TreeBytes::new(self.tree()).unwrap(),
            provider_keys: List::empty(),
        }
    }

    pub(super) fn external_commit_info_with_tree(&self) -> DsResponseBody {
        let tree = Extension {
            extension_type: 2,
            extension_data: Opaque::new(self.tree()).unwrap(),
        };
        let extensions = List::<_, 1>::new(vec![tree]).unwrap();
        let tbs = self.group_info_tbs(&extensions.encode(), LeafNodeIndex::new(0));
        let signature = Signature::new(*b"a fake's").unwrap();
        DsResponseBody::ExternalCommitInfo {
            group_info: group_info(&tbs, &signature),
            ratchet_tree: TreeBytes::new(self.tree()).unwrap(),
            provider_keys: List::empty(),
        }
    }

    /// GroupContext + extensions + confirmation tag + signer.
    fn group_info_tbs(&self, extensions: &[u8], signer: LeafNodeIndex) -> Vec<u8> {
        let context = self.public.group_context().tls_serialize_detached();
        let tag = self.public.confirmation_tag().tls_serialize_detached();
        [
            context.unwrap(),
            extensions.to_vec(),
            tag.unwrap(),
            signer.u32().to_be_bytes().to_vec(),
        ]
        .concat()
    }

    /// What holds for whoever is to be heard at all.
    pub(super) fn check_member(&self, client: &ClientId) -> Result<(), Failure> {
        if !self.members().contains(client) {
            return Err(refuse(DsErrorCode::UNKNOWN_GROUP));
        }
        if self.is_deleted {
            return Err(refuse(DsErrorCode::GROUP_DELETED));
        }
        Ok(())
    }

    pub(super) fn tree(&self) -> Vec<u8> {
        let tree = self.public.export_ratchet_tree();
        tree.tls_serialize_detached().unwrap()
    }

    pub(super) fn check_epoch(&self, epoch: u64) -> Result<(), Failure> {
        if epoch == self.epoch() {
            return Ok(());
        }
        let error = DsError::new(DsErrorCode::WRONG_EPOCH, "").with_data(&self.epoch());
        Err(Failure::Refused(error))
    }

    pub(super) fn proposals_first(&self) -> Failure {
        let proposals = self.proposals.iter().map(|pending| pending.message.clone());
        let proposals = List::<_, 256>::new(proposals.collect()).unwrap();
        let error = DsError::new(DsErrorCode::PENDING_PROPOSALS, "").with_data(&proposals);
        Failure::Refused(error)
    }

    pub(crate) fn members(&self) -> Vec<ClientId> {
        let members = self.public.members();
        members.map(|member| named(member.credential)).collect()
    }

    pub(super) fn client_at(&self, leaf: LeafNodeIndex) -> Option<ClientId> {
        Some(named(self.public.leaf(leaf)?.credential().clone()))
    }

    /// What it says must verify under the new leaf: it is the GroupInfo that others can join by.
    pub(super) fn take_group_info(&mut self, signer: LeafNodeIndex, update: &MlsGroupUpdate) {
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
        let tbs = self.group_info_tbs(&info.group_info_extensions.encode(), signer);
        let leaf = self.public.leaf(signer).unwrap();
        let key = PublicKey::new(leaf.signature_key().as_slice()).unwrap();
        let signature = Signature::new(info.signature.as_slice()).unwrap();
        let verified = verify(label::GROUP_INFO, &tbs, &key, &signature);
        assert!(
            verified.is_ok(),
            "the GroupInfo does not belong to the new epoch"
        );
        self.group_info = group_info(&tbs, &signature);
    }
}

/// An MLSMessage of version mls10 with a GroupInfo.
fn group_info(tbs: &[u8], signature: &Signature) -> HandshakeBytes {
    HandshakeBytes::new([&[0, 1, 0, 4][..], tbs, &signature.encode()].concat()).unwrap()
}

fn named(credential: openmls::prelude::Credential) -> ClientId {
    let basic = openmls::prelude::BasicCredential::try_from(credential).unwrap();
    std::str::from_utf8(basic.identity())
        .unwrap()
        .parse()
        .unwrap()
}

pub(super) fn invalid(text: &str) -> Failure {
    Failure::Refused(DsError::new(DsErrorCode::INVALID_MESSAGE, text))
}
