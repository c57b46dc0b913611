//! Clients made of openmls alone, in a group.

use std::sync::Arc;

use moh_messages::{
    DsRequest, DsRequestBody, GroupId, HandshakeBytes, Message, Opaque, Rbac, SelfRemoveClient,
    SendMessage, extension_type,
};
use openmls::group::MlsGroup;
use openmls::prelude::{
    Extensions, GroupContext, KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsMessageBodyIn,
    MlsMessageIn, ProcessedMessageContent, Proposal, ProtocolMessage, QueuedProposal,
};
use openmls_traits::OpenMlsProvider;
use tls_codec::{DeserializeBytes, Serialize};

use crate::device::{Device, Door, Says};
use crate::made::Made;
use crate::parts;

/// A client's copy of a group.
pub(crate) struct Member {
    pub(crate) device: Arc<Device>,
    pub(crate) group: MlsGroup,
    /// How many of the messages that were delivered to it so far it has taken.
    pub(crate) heard: usize,
}

/// What a commit is to do.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) add: Vec<KeyPackage>,
    pub(crate) remove: Vec<u32>,
    /// What the GroupContext has afterwards.
    pub(crate) context: Option<parts::Extensions>,
    /// No UpdatePath, if nothing needs one.
    pub(crate) without_path: bool,
    /// Leaves whose pending Removes are not taken.
    pub(crate) leave_out: Vec<u32>,
}

impl Plan {
    pub(crate) fn add(key_packages: Vec<KeyPackage>) -> Self {
        Self {
            add: key_packages,
            ..Self::default()
        }
    }

    pub(crate) fn remove(leaves: &[u32]) -> Self {
        Self {
            remove: leaves.to_vec(),
            ..Self::default()
        }
    }

    pub(crate) fn context(extensions: parts::Extensions) -> Self {
        Self {
            context: Some(extensions),
            ..Self::default()
        }
    }
}

/// What a member has taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Commit,
    Proposal,
    Text(Vec<u8>),
    Welcome,
}

impl Member {
    pub(crate) fn new(device: &Arc<Device>, group: MlsGroup) -> Self {
        Self {
            device: Arc::clone(device),
            group,
            heard: 0,
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.group.own_leaf_index().u32()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    pub(crate) fn group_id(&self) -> GroupId {
        GroupId::new(self.group.group_id().as_slice()).unwrap()
    }

    pub(crate) fn tree(&self) -> Vec<u8> {
        self.group
            .export_ratchet_tree()
            .tls_serialize_detached()
            .unwrap()
    }

    pub(crate) fn own_leaf(&self) -> parts::Leaf {
        let leaf = self.group.own_leaf_node().unwrap();
        parts::Leaf::decode(&leaf.tls_serialize_detached().unwrap()).unwrap()
    }

    pub(crate) fn context(&self) -> Vec<u8> {
        let context = self.group.public_group().group_context();
        context.tls_serialize_detached().unwrap()
    }

    /// The GroupContext's extensions.
    pub(crate) fn context_extensions(&self) -> parts::Extensions {
        let context = parts::Context::decode(&self.context()).unwrap();
        context.extensions
    }

    /// The same with other roles.
    pub(crate) fn context_with_rbac(&self, rbac: &Rbac) -> parts::Extensions {
        let mut extensions = self.context_extensions();
        parts::set(&mut extensions, extension_type::RBAC, Some(rbac.encode()));
        extensions
    }

    /// What an external commit into this group begins with.
    pub(crate) fn door(&self) -> Door {
        let device = &self.device;
        let info = self
            .group
            .export_group_info(device.mls.crypto(), &device.signer, false);
        Door {
            group_info: info.unwrap().to_bytes().unwrap(),
            tree: self.tree(),
        }
    }

    /// Builds a commit; it is pending until it is taken back or accepted.
    pub(crate) fn commit(&mut self, plan: Plan) -> Made {
        self.commit_with(plan, LeafNodeParameters::default())
    }

    /// Builds a commit that is taken back at once.
    pub(crate) fn made(&mut self, plan: Plan) -> Made {
        let made = self.commit(plan);
        self.forget();
        made
    }

    /// Builds a commit with a leaf that says something else.
    pub(crate) fn commit_that_says(&mut self, says: &Says) -> Made {
        let leaf = LeafNodeParameters::builder()
            .with_extensions(Device::leaf_extensions(says))
            .build();
        self.commit_with(Plan::default(), leaf)
    }

    fn commit_with(&mut self, plan: Plan, leaf: LeafNodeParameters) -> Made {
        let context = self.context();
        let (mls, signer) = (&self.device.mls, &self.device.signer);
        let taken = |queued: &QueuedProposal| match queued.proposal() {
            Proposal::Remove(remove) => !plan.leave_out.contains(&remove.removed().u32()),
            _ => true,
        };
        let mut builder = self
            .group
            .commit_builder()
            .force_self_update(!plan.without_path)
            .propose_adds(plan.add)
            .propose_removals(plan.remove.into_iter().map(LeafNodeIndex::new))
            .leaf_node_parameters(leaf);
        if let Some(extensions) = plan.context {
            let extensions =
                Extensions::<GroupContext>::tls_deserialize_exact_bytes(&extensions.encode());
            builder = builder
                .propose_group_context_extensions(extensions.unwrap())
                .unwrap();
        }
        let bundle = builder
            .load_psks(mls.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(mls.rand(), mls.crypto(), signer, taken)
            .unwrap()
            .stage_commit(mls)
            .unwrap();
        Made::of(&bundle, context)
    }

    /// Takes the pending commit back.
    pub(crate) fn forget(&mut self) {
        let storage = self.device.mls.storage();
        self.group.clear_pending_commit(storage).unwrap();
    }

    /// The pending commit was accepted.
    pub(crate) fn accept(&mut self) {
        self.group.merge_pending_commit(&self.device.mls).unwrap();
    }

    /// Takes a commit of somebody else.
    pub(crate) fn hear(&mut self, commit: &[u8]) {
        assert_eq!(self.take(commit), Heard::Commit);
    }

    /// Takes a message of somebody else.
    pub(crate) fn take(&mut self, message: &[u8]) -> Heard {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(message).unwrap();
        let message = match message.extract() {
            MlsMessageBodyIn::PublicMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::PrivateMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::Welcome(_) => return Heard::Welcome,
            other => panic!("{other:?}"),
        };
        let mls = &self.device.mls;
        match self
            .group
            .process_message(mls, message)
            .unwrap()
            .into_content()
        {
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                self.group.merge_staged_commit(mls, *staged).unwrap();
                Heard::Commit
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                let storage = mls.storage();
                self.group
                    .store_pending_proposal(storage, *proposal)
                    .unwrap();
                Heard::Proposal
            }
            ProcessedMessageContent::ApplicationMessage(text) => Heard::Text(text.into_bytes()),
            other => panic!("{other:?}"),
        }
    }

    /// Whether a message is not one of another group.
    pub(crate) fn is_in_the_group_of(&self, message: &[u8]) -> bool {
        let head = parts::Head::of(message);
        head.is_none_or(|head| head.group_id.as_slice() == self.group.group_id().as_slice())
    }

    /// The leaves that it has heard pending Removes of.
    pub(crate) fn pending(&self) -> Vec<u32> {
        let removed = |queued: &QueuedProposal| match queued.proposal() {
            Proposal::Remove(remove) => remove.removed().u32(),
            other => panic!("{other:?}"),
        };
        let mut leaves: Vec<_> = self.group.pending_proposals().map(removed).collect();
        leaves.sort_unstable();
        leaves
    }

    /// The reference of the pending Remove of a leaf.
    pub(crate) fn pending_reference(&self, leaf: u32) -> [u8; 32] {
        let targets = |queued: &&QueuedProposal| match queued.proposal() {
            Proposal::Remove(remove) => remove.removed().u32() == leaf,
            _ => false,
        };
        let queued = self.group.pending_proposals().find(targets).unwrap();
        let reference = queued.proposal_reference_ref().as_slice();
        reference.try_into().unwrap()
    }

    /// The body of send_message.
    pub(crate) fn message(&mut self, text: &str) -> DsRequestBody {
        let device = &self.device;
        let message = self
            .group
            .create_message(&device.mls, &device.signer, text.as_bytes());
        let message = message.unwrap().to_bytes().unwrap();
        DsRequestBody::SendMessage(SendMessage {
            message: Opaque::new(message).unwrap(),
        })
    }

    /// The proposal to remove this member. It counts as heard by it.
    pub(crate) fn leave(&mut self) -> Vec<u8> {
        let device = &self.device;
        let proposal = self.group.leave_group(&device.mls, &device.signer);
        proposal.unwrap().to_bytes().unwrap()
    }

    /// A message with a proposal of this member, which its copy of the group does not know of.
    pub(crate) fn proposes(&self, proposal: &[u8]) -> Vec<u8> {
        let place = (self.group.group_id().as_slice(), self.epoch());
        let sender = parts::Sender::Member(self.index());
        let signer = &self.device.signer;
        parts::proposal_message(place, sender, proposal, signer, &self.context())
    }

    /// A request of this member.
    pub(crate) fn ask(&self, body: DsRequestBody) -> DsRequest {
        self.device.as_leaf(self.index(), body)
    }
}

/// The body of self_remove_client.
pub(crate) fn self_remove(proposal: impl Into<Vec<u8>>) -> DsRequestBody {
    DsRequestBody::SelfRemoveClient(SelfRemoveClient {
        proposal: HandshakeBytes::new(proposal).unwrap(),
    })
}
