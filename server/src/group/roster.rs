//! Who is in a group, by leaf and by client, and who gets its messages, by provider.
//!
//! A version's roster is made from the one before it: what a commit leaves as it was is taken
//! over, and costs a look at each leaf at most.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
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

/// Leaves of a group that one provider delivers to: all of them, where they are not too many
/// for one audience.
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
    fn of(destination: &ProviderName, members: &[(u32, &Member)]) -> Self {
        let leaves = members.iter().map(|(leaf, _)| *leaf).collect();
        let queues = members
            .iter()
            .map(|(_, m)| m.queue_config.client_queue_information.clone());
        let recipients = List::new(queues.collect()).expect("a part of a destination's leaves");
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
    /// The leaves, by the name of the client there. A user's clients stand together.
    by_client: Vec<u32>,
    users: usize,
    /// By destination, and then by leaf.
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
        Some(before.next(leaves.map(member).collect::<Option<_>>()?))
    }

    /// The roster of the next version, with these members.
    fn next(&self, members: BTreeMap<u32, Arc<Member>>) -> Self {
        let changes = changes(&self.members, &members);
        let mut next = Self {
            members,
            by_client: Vec::new(),
            users: self.users,
            audiences: self.audiences.clone(),
        };
        let moved = changes.iter().filter(|c| c.differs(|m| &m.client_id));
        let moved: BTreeMap<u32, &Changed> = moved.map(|c| (c.leaf, c)).collect();
        let kept = self.by_client.iter().copied();
        let kept = kept.filter(|leaf| !moved.contains_key(leaf)).collect();
        let new = moved.values().filter(|c| c.is.is_some()).map(|c| c.leaf);
        next.by_client = next.merged(kept, new.collect());
        let concerned = moved.values().flat_map(|c| c.was.iter().chain(&c.is));
        let users: BTreeSet<_> = concerned.map(|m| m.client_id.user_id()).collect();
        for user in users {
            next.users += usize::from(next.has_user(&user));
            next.users -= usize::from(self.has_user(&user));
        }
        let redirected = changes.iter().filter(|c| c.differs(|m| &m.queue_config));
        let redirected: BTreeSet<u32> = redirected.map(|c| c.leaf).collect();
        if !redirected.is_empty() {
            next.audiences = next.audiences_after(&self.audiences, &redirected);
        }
        next
    }

    /// Leaves in the order of their clients' names, with more of them.
    fn merged(&self, kept: Vec<u32>, mut new: Vec<u32>) -> Vec<u32> {
        let name = |leaf: &u32| self.members[leaf].client_id.as_str();
        new.sort_by(|a, b| name(a).cmp(name(b)));
        let mut merged = Vec::with_capacity(kept.len() + new.len());
        let mut rest = &kept[..];
        for leaf in new {
            let before = rest.partition_point(|other| name(other) < name(&leaf));
            let (first, after) = rest.split_at(before);
            merged.extend_from_slice(first);
            merged.push(leaf);
            rest = after;
        }
        merged.extend_from_slice(rest);
        merged
    }

    /// The audiences of all members. One of those before, none of whose leaves is `redirected`,
    /// is taken as it is.
    fn audiences_after(
        &self,
        before: &[Arc<Audience>],
        redirected: &BTreeSet<u32>,
    ) -> Vec<Arc<Audience>> {
        let all = self.members.iter().map(|(&leaf, member)| (leaf, &**member));
        let mut audiences = Vec::new();
        for (destination, members) in by_destination(all) {
            for part in parts(&members) {
                let leaves = part.iter().map(|(leaf, _)| leaf);
                let same = before
                    .binary_search_by(|old| {
                        let name = old.destination.cmp(destination);
                        name.then_with(|| old.leaves.first().cmp(&leaves.clone().next()))
                    })
                    .ok()
                    .map(|found| &before[found])
                    .filter(|old| old.leaves.iter().eq(leaves))
                    .filter(|old| !old.leaves.iter().any(|leaf| redirected.contains(leaf)));
                audiences.push(match same {
                    Some(audience) => audience.clone(),
                    None => Audience::of(destination, part).into(),
                });
            }
        }
        audiences
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

    /// All members: one audience for each provider, or several where one would be too large.
    #[must_use]
    pub fn audiences(&self) -> &[Arc<Audience>] {
        &self.audiences
    }

    /// Whether a user has a leaf.
    #[must_use]
    pub fn has_user(&self, user: &UserId) -> bool {
        !self.range_of(user).is_empty()
    }

    /// The leaves of a user.
    pub fn leaves_of_user(&self, user: &UserId) -> impl Iterator<Item = u32> {
        self.by_client[self.range_of(user)].iter().copied()
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users
    }

    /// The leaf of a client.
    #[must_use]
    pub fn leaf_of(&self, client: &ClientId) -> Option<u32> {
        let found = self
            .by_client
            .binary_search_by(|leaf| self.members[leaf].client_id.cmp(client));
        found.ok().map(|position| self.by_client[position])
    }

    /// Where a user's clients stand.
    fn range_of(&self, user: &UserId) -> Range<usize> {
        let prefix = format!("mimi://{}/d/{}/", user.provider(), user.user());
        let name = |leaf: &u32| self.members[leaf].client_id.as_str();
        let start = self.by_client.partition_point(|leaf| *name(leaf) < *prefix);
        let theirs = |leaf: &u32| name(leaf).starts_with(&prefix);
        start..start + self.by_client[start..].partition_point(theirs)
    }
}

/// A leaf that is not what it was.
struct Changed {
    leaf: u32,
    was: Option<Arc<Member>>,
    is: Option<Arc<Member>>,
}

impl Changed {
    /// Whether one of its members' values is another one.
    fn differs<T: PartialEq>(&self, value: impl Fn(&Member) -> &T) -> bool {
        self.was.as_deref().map(&value) != self.is.as_deref().map(&value)
    }
}

/// The leaves that differ between two versions.
fn changes(
    before: &BTreeMap<u32, Arc<Member>>,
    after: &BTreeMap<u32, Arc<Member>>,
) -> Vec<Changed> {
    let mut changes = Vec::new();
    let mut old = before.iter().peekable();
    let gone = |(&leaf, was): (&u32, &Arc<Member>)| Changed {
        leaf,
        was: Some(was.clone()),
        is: None,
    };
    for (&leaf, is) in after {
        while let Some(other) = old.next_if(|(old, _)| **old < leaf) {
            changes.push(gone(other));
        }
        let was = old.next_if(|(old, _)| **old == leaf).map(|(_, was)| was);
        if !was.is_some_and(|was| Arc::ptr_eq(was, is)) {
            changes.push(Changed {
                leaf,
                was: was.cloned(),
                is: Some(is.clone()),
            });
        }
    }
    changes.extend(old.map(gone));
    changes
}

/// Members, in leaf order, as audiences.
pub(super) fn audiences<'a>(members: impl Iterator<Item = (u32, &'a Member)>) -> Vec<Audience> {
    let mut audiences = Vec::new();
    for (destination, members) in by_destination(members) {
        let parts = parts(&members).into_iter();
        audiences.extend(parts.map(|part| Audience::of(destination, part)));
    }
    audiences
}

fn by_destination<'a>(
    members: impl Iterator<Item = (u32, &'a Member)>,
) -> BTreeMap<&'a ProviderName, Vec<(u32, &'a Member)>> {
    let mut by_destination: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (leaf, member) in members {
        by_destination
            .entry(&member.queue_config.provider)
            .or_default()
            .push((leaf, member));
    }
    by_destination
}

/// The members of one destination in parts that are small enough for an audience. Where they
/// have to be parted, it is by ranges of the leaves, and not by counting: so a member who
/// enters or leaves changes one part, and not all that are after it.
fn parts<'a, 'm>(members: &'a [(u32, &'m Member)]) -> Vec<&'a [(u32, &'m Member)]> {
    const MAX: usize = Recipients::MAX_ITEMS;
    if members.len() <= MAX {
        return vec![members];
    }
    let range = |leaf: u32| usize::try_from(leaf).unwrap_or(usize::MAX) / MAX;
    let parts = members.chunk_by(|(a, _), (b, _)| range(*a) == range(*b));
    parts.collect()
}

#[cfg(test)]
mod tests {
    use moh_messages::ClientQueueInformation;

    use super::*;

    const MAX: u32 = 10_000;

    /// A device of a user, whose messages go to a provider. Each one is made anew, and differs
    /// from all others in what `key` says.
    fn member(provider: &str, user: &str, device: &str, key: u8) -> Arc<Member> {
        let provider: ProviderName = format!("{provider}.example").parse().unwrap();
        let user = UserId::new(&provider, user).unwrap();
        let client_id = ClientId::new(&user, device).unwrap();
        let queue = client_id.as_str().as_bytes();
        Arc::new(Member {
            scheme: SignatureScheme::ED25519,
            signature_key: PublicKey::new(vec![key; 32]).unwrap(),
            queue_config: QueueConfig {
                client_queue_information: ClientQueueInformation::new(queue).unwrap(),
                provider,
            },
            attested_until: 0,
            leaf_signature: vec![key].into(),
            client_id,
        })
    }

    fn at(provider: &str, leaf: u32) -> (u32, Arc<Member>) {
        (leaf, member(provider, &format!("u{leaf}"), "phone", 1))
    }

    fn roster(members: impl IntoIterator<Item = (u32, Arc<Member>)>) -> Roster {
        Roster::default().next(members.into_iter().collect())
    }

    /// Destination, number of recipients, first and last leaf.
    fn shape(roster: &Roster) -> Vec<(String, usize, u32, u32)> {
        let shape = |a: &Arc<Audience>| {
            let (first, last) = (a.leaves[0], *a.leaves.last().unwrap());
            assert_eq!(a.recipients.len(), a.leaves.len());
            (a.destination.to_string(), a.leaves.len(), first, last)
        };
        roster.audiences().iter().map(shape).collect()
    }

    /// What is kept beside the members, as it would be if it were made from them alone.
    fn check(roster: &Roster) {
        let anew = Roster::default().next(roster.members.clone());
        assert_eq!(roster.by_client, anew.by_client);
        assert_eq!(roster.users, anew.users);
        assert_eq!(roster.audiences, anew.audiences);
        let mut users = BTreeSet::new();
        for (leaf, member) in roster.members() {
            let user = member.client_id.user_id();
            assert_eq!(roster.leaf_of(&member.client_id), Some(leaf));
            assert!(roster.leaves_of_user(&user).any(|l| l == leaf));
            let all = roster.leaves_of_user(&user).map(|l| &roster.members[&l]);
            assert!(all.map(|m| m.client_id.user_id()).all(|of| of == user));
            users.insert(user);
        }
        assert_eq!(roster.users(), users.len());
        let total: usize = roster.audiences.iter().map(|a| a.leaves.len()).sum();
        assert_eq!(total, roster.len());
    }

    #[test]
    fn names_that_begin_alike_are_different_users() {
        let members = [
            member("a", "al", "phone", 1),
            member("a", "alice", "desk", 1),
            member("a", "alice-b", "desk", 1),
            member("a", "alice", "phone", 1),
            member("b", "alice", "phone", 1),
            member("a", "alice.b", "desk", 1),
        ];
        let roster = roster((0..).zip(members));
        check(&roster);
        let user = |provider: &str, name| {
            UserId::new(&format!("{provider}.example").parse().unwrap(), name).unwrap()
        };
        let leaves = |user| roster.leaves_of_user(&user).collect::<Vec<_>>();
        assert_eq!(leaves(user("a", "alice")), [1, 3]);
        assert_eq!(leaves(user("b", "alice")), [4]);
        assert!(leaves(user("a", "ali")).is_empty());
        assert!(!roster.has_user(&user("a", "ali")) && roster.has_user(&user("a", "al")));
        assert_eq!(roster.users(), 5);
        let nobody = ClientId::new(&user("a", "alice"), "watch").unwrap();
        assert_eq!(roster.leaf_of(&nobody), None);
    }

    #[test]
    fn a_roster_follows_its_tree() {
        let before = roster((0..40).map(|leaf| at(["a", "b", "c"][leaf as usize % 3], leaf)));
        check(&before);
        let mut members = before.members.clone();
        // A new key at a leaf; one leaves, one enters at a blank; two change their places.
        members.insert(3, member("a", "u3", "phone", 2));
        members.remove(&7);
        members.insert(60, member("b", "u1", "desk", 1));
        let (four, eight) = (members[&4].clone(), members[&8].clone());
        members.insert(4, eight);
        members.insert(8, four);
        let after = before.next(members);
        check(&after);
        assert_eq!(after.users(), before.users() - 1);
        assert_eq!(after.leaf_of(&before.members[&4].client_id), Some(8));
        assert_eq!(after.leaf_of(&before.members[&7].client_id), None);
        // With the key alone changed, at a, the audience is the same one.
        assert!(Arc::ptr_eq(&before.audiences()[0], &after.audiences()[0]));
        assert!(!Arc::ptr_eq(&before.audiences()[1], &after.audiences()[1]));
        let nobody = after.next(BTreeMap::new());
        check(&nobody);
        assert!(nobody.is_empty() && nobody.users() == 0 && nobody.audiences().is_empty());
    }

    #[test]
    fn a_client_that_changes_its_queue_changes_audiences() {
        let before = roster((0..4).map(|leaf| at("a", leaf)));
        let mut moved = Member::clone(&before.members[&2]);
        moved.queue_config.provider = "b.example".parse().unwrap();
        let mut members = before.members.clone();
        members.insert(2, moved.into());
        let after = before.next(members);
        check(&after);
        let name = |p: &str| format!("{p}.example");
        let expected = [(name("a"), 3, 0, 3), (name("b"), 1, 2, 2)];
        assert_eq!(shape(&after), expected);
    }

    #[test]
    fn a_large_destination_has_several_audiences() {
        let name = |p: &str| format!("{p}.example");
        let few = roster((0..=MAX).map(|leaf| at(if leaf == 5 { "b" } else { "a" }, leaf)));
        let expected = [(name("a"), 10_000, 0, MAX), (name("b"), 1, 5, 5)];
        assert_eq!(shape(&few), expected);
        // One more, and they are parted by their leaves.
        let mut members = few.members.clone();
        members.extend([at("a", MAX + 1), at("a", 4 * MAX), at("b", 2 * MAX)]);
        let many = few.next(members);
        check(&many);
        let expected = [
            (name("a"), 9_999, 0, MAX - 1),
            (name("a"), 2, MAX, MAX + 1),
            (name("a"), 1, 4 * MAX, 4 * MAX),
            (name("b"), 2, 5, 2 * MAX),
        ];
        assert_eq!(shape(&many), expected);
        // Each leaf has a position in one of them.
        let positions = |leaf| many.audiences.iter().filter_map(move |a| a.position(leaf));
        for (leaf, position) in [(0, 0), (6, 5), (MAX, 0), (MAX + 1, 1), (2 * MAX, 1)] {
            assert_eq!(positions(leaf).collect::<Vec<_>>(), [position], "{leaf}");
        }
        // Who leaves changes one of them.
        let mut members = many.members.clone();
        members.remove(&9);
        let fewer = many.next(members);
        check(&fewer);
        let same = |(a, b)| Arc::ptr_eq(a, b);
        let same: Vec<_> = many
            .audiences
            .iter()
            .zip(&fewer.audiences)
            .map(same)
            .collect();
        assert_eq!(same, [false, true, true, true]);
    }
}
