//! A message that is submitted to a group, which may have been accepted before: then it gets its
//! first answer again, and nothing happens twice.

use moh_messages::{
    ClientId, DsAuth, DsRequest, DsResponseBody, Endpoint, GroupId, PublicKey, Signature,
    SignatureScheme, label,
};

use crate::authenticate::{Claimed, OnBehalf};
use crate::change::{Answer, Expect, Whose, Write};
use crate::crypto::{self, sha256};
use crate::error::Refusal;
use crate::group::{Group, Sender};
use crate::node::Node;
use crate::owner::Changed;

/// A message in a request.
pub(super) struct Submission<'a> {
    pub(super) node: &'a Node,
    pub(super) claimed: &'a Claimed<DsRequest>,
    pub(super) group_id: GroupId,
    by: By<'a>,
    hash: [u8; 32],
}

/// Who signed the request.
enum By<'a> {
    /// Whoever has this leaf: the group knows.
    Leaf(u32, &'a Signature),
    /// A provider, which has been verified.
    Provider(OnBehalf),
}

impl<'a> Submission<'a> {
    /// Of a member. `message` is what the request is recognized by; `group_id` reads the group's
    /// name in it.
    ///
    /// # Errors
    /// `unauthenticated` when it is not a leaf that signs; whatever `group_id` finds.
    pub(super) fn by_member(
        node: &'a Node,
        claimed: &'a Claimed<DsRequest>,
        message: &[u8],
        group_id: impl FnOnce() -> Result<GroupId, Refusal>,
    ) -> Result<Self, Refusal> {
        let DsAuth::Leaf {
            leaf_index,
            signature,
        } = &claimed.request.auth
        else {
            return Err(Refusal::Unauthenticated("a member signs this request"));
        };
        Ok(Self {
            node,
            claimed,
            group_id: group_id()?,
            by: By::Leaf(*leaf_index, signature),
            hash: sha256(message),
        })
    }

    /// Of a member, or of a client whose provider signs.
    ///
    /// # Errors
    /// As for `by_member`; what is wrong with the provider's signature.
    pub(super) async fn by_anybody(
        node: &'a Node,
        claimed: &'a Claimed<DsRequest>,
        message: &[u8],
        group_id: impl FnOnce() -> Result<GroupId, Refusal>,
    ) -> Result<Self, Refusal> {
        if !matches!(claimed.request.auth, DsAuth::Provider { .. }) {
            return Self::by_member(node, claimed, message, group_id);
        }
        let endpoint = Endpoint::GroupOperation;
        let on_behalf = node.authenticate_on_behalf(endpoint, claimed).await?;
        Ok(Self {
            node,
            claimed,
            group_id: group_id()?,
            by: By::Provider(on_behalf),
            hash: sha256(message),
        })
    }

    /// The leaf that the request says it is by.
    pub(super) fn leaf(&self) -> Option<(u32, &'a Signature)> {
        match &self.by {
            By::Leaf(leaf_index, signature) => Some((*leaf_index, signature)),
            By::Provider(_) => None,
        }
    }

    /// The client whose provider signed.
    pub(super) fn client(&self) -> Option<&ClientId> {
        match &self.by {
            By::Leaf(..) => None,
            By::Provider(on_behalf) => Some(on_behalf.client()),
        }
    }

    /// The member who signed.
    ///
    /// # Errors
    /// `unknown_group` when there is none.
    pub(super) fn sender(&self, group: &Group) -> Result<Sender, Refusal> {
        let (leaf_index, signature) = self.leaf().ok_or(Refusal::UnknownGroup)?;
        let Claimed { request, signed } = self.claimed;
        group.authenticate_leaf(request, signed, leaf_index, signature)
    }

    /// The first answer, for whoever the message was accepted from.
    ///
    /// # Errors
    /// `unknown_group` for everybody else; `unavailable` when the store fails.
    pub(super) async fn first_answer(&self) -> Result<Option<DsResponseBody>, Refusal> {
        let answer = self.node.store().answer(&self.group_id, &self.hash).await?;
        let Some(Answer {
            epoch,
            accepted_at,
            whose,
        }) = answer
        else {
            return Ok(None);
        };
        if self.is_by(&whose) {
            Ok(Some(DsResponseBody::Ok { epoch, accepted_at }))
        } else {
            Err(Refusal::UnknownGroup)
        }
    }

    fn is_by(&self, whose: &Whose) -> bool {
        match (&self.by, whose) {
            (By::Leaf(_, signature), Whose::Key(key)) => crypto::verify_with_label(
                scheme_of(key),
                key,
                label::DS_REQUEST,
                &self.claimed.signed,
                signature.as_slice(),
            ),
            (By::Provider(on_behalf), Whose::Provider(name)) => {
                on_behalf.client().provider() == *name
            }
            (By::Leaf(..), Whose::Provider(_)) | (By::Provider(_), Whose::Key(_)) => false,
        }
    }

    /// The answer, when the group was to be changed.
    ///
    /// # Errors
    /// The refusal, unless there is a first answer.
    pub(super) async fn answer(
        &self,
        changed: Result<Changed, Refusal>,
    ) -> Result<DsResponseBody, Refusal> {
        match changed {
            Ok(Changed { epoch, accepted_at }) => Ok(DsResponseBody::Ok { epoch, accepted_at }),
            Err(refusal) => self.first_answer_or(refusal).await,
        }
    }

    /// A refusal, unless there is a first answer.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn first_answer_or(
        &self,
        refusal: Refusal,
    ) -> Result<DsResponseBody, Refusal> {
        self.first_answer().await?.ok_or(refusal)
    }

    /// That there is no answer yet.
    pub(super) fn is_new(&self) -> Expect {
        Expect::NewMessage(self.group_id.clone(), self.hash)
    }

    /// The write that keeps the answer.
    pub(super) fn answered(&self, epoch: u64, accepted_at: u64, whose: Whose) -> Write {
        Write::Answer {
            group_id: self.group_id.clone(),
            message_hash: self.hash,
            answer: Answer {
                epoch,
                accepted_at,
                whose,
            },
        }
    }
}

/// The scheme of a key, by its length: the profile's two do not share one.
fn scheme_of(key: &PublicKey) -> SignatureScheme {
    match key.as_slice().len() {
        32 => SignatureScheme::ED25519,
        _ => SignatureScheme::ECDSA_SECP256R1_SHA256,
    }
}
