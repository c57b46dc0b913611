//! Commits that were built, and are not sent.

use moh_messages::{
    AddMembers, DsRequestBody, Extension as RawExtension, GroupUpdate, HandshakeBytes, List,
    Message, MlsBytes, MlsGroupUpdate, PartialGroupInfo, Signature,
};
use openmls::group::CommitMessageBundle;
use openmls::prelude::{MlsMessageIn, MlsMessageOut, ProcessedMessageContent};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider;
use tls_codec::{DeserializeBytes, Serialize};

use crate::device::Device;
use crate::member::Member;
use crate::parts;

#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) commit: Vec<u8>,
    pub(crate) info: parts::GroupInfo,
    pub(crate) welcome: Option<MlsBytes>,
    /// The context that it was signed in.
    context: Vec<u8>,
}

impl Made {
    pub(crate) fn of(bundle: &CommitMessageBundle, context: Vec<u8>) -> Self {
        let info = MlsMessageOut::from(bundle.group_info().unwrap().clone());
        let welcome = bundle.to_welcome_msg();
        Self {
            commit: bundle.commit().to_bytes().unwrap(),
            info: parts::GroupInfo::decode(&info.to_bytes().unwrap()).unwrap(),
            welcome: welcome.map(|w| MlsBytes::new(w.to_bytes().unwrap()).unwrap()),
            context,
        }
    }

    pub(crate) fn partial(&self) -> PartialGroupInfo {
        let extensions: Vec<RawExtension> = self.info.extensions.clone().into_vec();
        PartialGroupInfo {
            group_info_extensions: List::new(extensions).unwrap(),
            signature: Signature::new(self.info.signature.as_slice()).unwrap(),
        }
    }

    pub(crate) fn parts(&self) -> parts::Commit {
        parts::Commit::decode(&self.commit).unwrap()
    }

    /// Changes the commit and signs it anew, in the group that `view` is in. If it is one that
    /// RFC 9420 allows, the GroupInfo is that of the epoch which it leads to: then there is
    /// nothing wrong with the whole but what was changed.
    pub(crate) fn edit(
        &mut self,
        by: &Device,
        view: &Member,
        edit: impl FnOnce(&mut parts::Commit),
    ) {
        let mut commit = self.parts();
        edit(&mut commit);
        commit.sign(&by.signer, self.info.signer, &self.context);
        self.finish(commit, view, &by.signer);
    }

    /// Signs the leaf in the path by another key, which is then that of the new leaf, and the
    /// rest anew.
    pub(crate) fn sign_leaf_by(&mut self, signer: &SignatureKeyPair, by: &Member) {
        let mut commit = self.parts();
        commit.sign(signer, self.info.signer, &self.context);
        commit.sign_but_not_the_leaf(&by.device.signer, &self.context);
        self.finish(commit, by, signer);
    }

    fn finish(&mut self, commit: parts::Commit, view: &Member, signer: &SignatureKeyPair) {
        self.commit = commit.encode();
        let Some(context) = self.leads_to(view) else {
            return;
        };
        self.info.context = context;
        self.info.confirmation_tag = commit.confirmation_tag;
        self.info.sign(signer);
    }

    /// The epoch that it leads to, as far as one can tell who has no secrets of the group.
    fn leads_to(&self, view: &Member) -> Option<parts::Context> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&self.commit).ok()?;
        let message = message.try_into_protocol_message().unwrap();
        let crypto = view.device.mls.crypto();
        let processed = view.group.public_group().process_message(crypto, message);
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.ok()?.into_content()
        else {
            panic!("not a commit");
        };
        let context = staged.group_context().tls_serialize_detached().unwrap();
        Some(parts::Context::decode(&context).unwrap())
    }

    /// Whether RFC 9420 allows it, as far as one can tell who has no secrets of the group.
    pub(crate) fn is_valid(&self, view: &Member) -> bool {
        self.leads_to(view).is_some()
    }

    /// Puts another KeyPackage into the place of the only one that is added.
    pub(crate) fn add_instead(&mut self, by: &Member, key_package: &parts::KeyPackage) {
        self.edit(&by.device, by, |commit| {
            commit.proposals = parts::bytes(parts::by_value(&parts::add(key_package)));
        });
        let welcome = self.welcome.as_ref().unwrap();
        let mut welcome = parts::Welcome::decode(welcome.as_slice()).unwrap();
        let mut secrets = welcome.secrets.into_vec();
        secrets[0].new_member = key_package.reference();
        welcome.secrets = List::new(secrets).unwrap();
        self.welcome = Some(MlsBytes::new(welcome.encode()).unwrap());
    }

    pub(crate) fn group_update(&self) -> MlsGroupUpdate {
        MlsGroupUpdate {
            commit: HandshakeBytes::new(self.commit.clone()).unwrap(),
            partial_group_info: self.partial(),
        }
    }

    /// The body of an operation without Welcomes.
    pub(crate) fn sent_as(&self, operation: fn(GroupUpdate) -> DsRequestBody) -> DsRequestBody {
        operation(GroupUpdate {
            group_update: self.group_update(),
        })
    }

    /// The body of an operation with Welcomes.
    pub(crate) fn adds_as(&self, operation: fn(AddMembers) -> DsRequestBody) -> DsRequestBody {
        operation(AddMembers {
            group_update: self.group_update(),
            welcomes: List::new(self.welcome.iter().cloned().collect()).unwrap(),
        })
    }

    pub(crate) fn as_update(&self) -> DsRequestBody {
        self.sent_as(DsRequestBody::UpdateClient)
    }

    pub(crate) fn as_add(&self) -> DsRequestBody {
        self.adds_as(DsRequestBody::AddUsers)
    }

    pub(crate) fn as_add_with(&self, welcomes: Vec<MlsBytes>) -> DsRequestBody {
        DsRequestBody::AddUsers(AddMembers {
            group_update: self.group_update(),
            welcomes: List::new(welcomes).unwrap(),
        })
    }
}
