//! A message that a member submits, which may have been accepted before: then it gets its first
//! answer again, and nothing happens twice.

use moh_messages::{
    DsAuth, DsRequest, DsResponseBody, GroupId, PublicKey, Signature, SignatureScheme, label,
};

use crate::authenticate::Claimed;
use crate::change::{Answer, Expect, Whose, Write};
use crate::crypto::{self, sha256};
use crate::error::Refusal;
use crate::node::Node;

/// A message in a request that is signed as a leaf.
pub(super) struct Submission<'a> {
    pub(super) node: &'a Node,
    pub(super) claimed: &'a Claimed<DsRequest>,
    pub(super) group_id: GroupId,
    pub(super) leaf_index: u32,
    pub(super) signature: &'a Signature,
    hash: [u8; 32],
}

impl<'a> Submission<'a> {
    /// `message` is what the request is recognized by; `read` reads it, and the group's name.
    ///
    /// # Errors
    /// `unauthenticated` when it is not a leaf that signs; whatever `read` finds.
    pub(super) fn new<T>(
        node: &'a Node,
        claimed: &'a Claimed<DsRequest>,
        message: &[u8],
        read: impl FnOnce() -> Result<(GroupId, T), Refusal>,
    ) -> Result<(Self, T), Refusal> {
        let DsAuth::Leaf {
            leaf_index,
            signature,
        } = &claimed.request.auth
        else {
            return Err(Refusal::Unauthenticated("a member signs this request"));
        };
        let (leaf_index, hash) = (*leaf_index, sha256(message));
        let (group_id, read) = read()?;
        let submission = Self {
            node,
            claimed,
            group_id,
            leaf_index,
            signature,
            hash,
        };
        Ok((submission, read))
    }

    /// The first answer, for whoever holds the key that the message was accepted from.
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
        let Whose::Key(signature_key) = whose else {
            return Err(Refusal::UnknownGroup);
        };
        let is_theirs = crypto::verify_with_label(
            scheme_of(&signature_key),
            &signature_key,
            label::DS_REQUEST,
            &self.claimed.signed,
            self.signature.as_slice(),
        );
        if is_theirs {
            Ok(Some(DsResponseBody::Ok { epoch, accepted_at }))
        } else {
            Err(Refusal::UnknownGroup)
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
    pub(super) fn answered(&self, epoch: u64, accepted_at: u64, signature_key: PublicKey) -> Write {
        Write::Answer {
            group_id: self.group_id.clone(),
            message_hash: self.hash,
            answer: Answer {
                epoch,
                accepted_at,
                whose: Whose::Key(signature_key),
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
