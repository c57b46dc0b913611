//! Who is in a group, by leaf, and who gets its messages, by provider.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moh_messages::{
    AudienceDigest, ClientId, List, ProviderName, PublicKey, QueueConfig, Recipients,
    SignatureScheme, UserId, audience_digest,
};
use openmls::prelude::{LeafNode, Signature};

use super::leaf;

/// A member, as the leaf says.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The client.
    pub client_id: ClientId,
    /// How it verifies.
    pub scheme: SignatureScheme,
    /// Its signature key.
    pub signature_key: PublicKey,
    /// Where its messages go.
    pub queue_config: QueueConfig,
    /// The last millisecond of its attestation.
    pub(super) attested_until: u64,
    /// The leaf's own signature, by which an unchanged leaf is known.
    leaf_signature: Signature,
}

impl Member {
    /// Reads a leaf that was checked when it entered its tree.
    pub(super) fn of(node: &LeafNode, scheme: SignatureScheme) -> Option<Self> {
        Some(Self {
            client_id: leaf::client_id(node)?,
            scheme,
            signature_key: PublicKey::new(node.signature_key().as_slice()).ok()?,
            queue_config: leaf::queue_config(node)?,
            attested_until: leaf::attested_until(node)?,
            leaf_signature: node.signature().clone(),
        })
    }
}

/// All leaves of a group that one provider delivers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    /// The provider.
    pub destination: ProviderName,
    /// Where the messages go there, in leaf order.
    pub recipients: Recipients,
    /// By what the provider knows the recipients.
    pub digest: AudienceDigest,
    /// The leaves of the recipients.
    leaves: Vec<u32>,
}

impl Audience {
    /// The recipients of these leaves, which are in order.
    fn of(destination: &ProviderName, members: Vec<(u32, &Member)>) -> Self {
        let leaves = members.iter().map(|(leaf, _)| *leaf).collect();
        let queues = members
            .into_iter()
            .map(|(_, m)| m.queue_config.client_queue_information.clone());
        let recipients = List::new(queues.collect()).expect("groups are smaller than audiences");
        let digest = audience_digest(&recipients);
        Self {
            destination: destination.clone(),
            recipients,
            digest,
            leaves,
        }
    }

    /// The position of a leaf in the audience.
    #[must_use]
    pub fn position(&self, leaf: u32) -> Option<u32> {
        self.leaves
            .binary_search(&leaf)
            .ok()
            .and_then(|p| u32::try_from(p).ok())
    }
}

/// The members of a group at one version.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: BTreeMap<u32, Arc<Member>>,
    audiences: Vec<Arc<Audience>>,
}

impl Roster {
    /// Reads the leaves of a tree; those that `before` has are taken from there.
    pub(super) fn of<'a>(
        leaves: impl Iterator<Item = (u32, &'a LeafNode)>,
        scheme: SignatureScheme,
        before: &Self,
    ) -> Option<Self> {
        let member = |(index, node): (u32, &LeafNode)| {
            let same = before
                .members
                .get(&index)
                .filter(|m| m.leaf_signature == *node.signature());
            let member = match same {
                Some(member) => member.clone(),
                None => Arc::new(Member::of(node, scheme)?),
            };
            Some((index, member))
        };
        let members: BTreeMap<_, _> = leaves.map(member).collect::<Option<_>>()?;
        let all = members.iter().map(|(&leaf, member)| (leaf, &**member));
        let audiences = audiences(all).into_iter().map(Arc::new).collect();
        Some(Self { members, audiences })
    }

    /// The member at a leaf.
    #[must_use]
    pub fn member(&self, leaf: u32) -> Option<&Arc<Member>> {
        self.members.get(&leaf)
    }

    /// All members, in leaf order.
    pub fn members(&self) -> impl Iterator<Item = (u32, &Arc<Member>)> {
        self.members.iter().map(|(&leaf, member)| (leaf, member))
    }

    /// How many leaves there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All members, one audience for each provider.
    #[must_use]
    pub fn audiences(&self) -> &[Arc<Audience>] {
        &self.audiences
    }

    /// Whether a user has a leaf.
    #[must_use]
    pub fn has_user(&self, user: &UserId) -> bool {
        self.members
            .values()
            .any(|m| m.client_id.user_id() == *user)
    }

    /// The leaves of a user.
    pub fn leaves_of_user(&self, user: &UserId) -> impl Iterator<Item = u32> {
        let theirs = move |(_, m): &(&u32, &Arc<Member>)| m.client_id.user_id() == *user;
        self.members.iter().filter(theirs).map(|(&leaf, _)| leaf)
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.members
            .values()
            .map(|m| m.client_id.user_id())
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// The leaf of a client.
    #[must_use]
    pub fn leaf_of(&self, client: &ClientId) -> Option<u32> {
        self.members
            .iter()
            .find(|(_, m)| m.client_id == *client)
            .map(|(&leaf, _)| leaf)
    }
}

/// Members, in leaf order, as one audience for each provider.
pub(super) fn audiences<'a>(members: impl Iterator<Item = (u32, &'a Member)>) -> Vec<Audience> {
    let mut by_provider: BTreeMap<&ProviderName, Vec<(u32, &Member)>> = BTreeMap::new();
    for (leaf, member) in members {
        by_provider
            .entry(&member.queue_config.provider)
            .or_default()
            .push((leaf, member));
    }
    by_provider
        .into_iter()
        .map(|(provider, members)| Audience::of(provider, members))
        .collect()
}
