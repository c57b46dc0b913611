//! What has to hold when everything is healed and quiet: nothing is lost, twice, or in another
//! order, in the queues and in the applications, and all states agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moh_client::{Client, ConnectionState, DisconnectReason, Event};
use moh_messages::client_api::QueueItemPayload;
use moh_messages::{ClientId, GroupId, UserId};
use moh_server::group::Group;
use moh_server::store::Store as _;

use crate::ledger::{Accepted, Book, Hash, Submitted, Text, What, hash_of};
use crate::person::Person;
use crate::scene::{Said, Scene};
use crate::tally::Deed;

/// What is wrong, in words.
pub(crate) type Wrongs = Vec<String>;

/// Everything that is wrong.
pub(crate) async fn check(scene: &Scene) -> Wrongs {
    let mut wrongs = Wrongs::new();
    let groups = scene.ledger.groups();
    for person in &scene.people {
        wrongs.extend(person.kept().complaints.iter().cloned());
    }
    check_answers(scene, &groups, &mut wrongs);
    let deleted = scene.ledger.deleted();
    let living = |person: &&Arc<Person>| !deleted.contains(&person.id);
    for person in scene.people.iter().filter(living) {
        check_queue(scene, &groups, person, &mut wrongs);
        for (id, book) in &groups {
            check_reading(scene, id, book, person, &mut wrongs);
        }
        if let Err(error) = check_states(scene, &groups, person, &mut wrongs).await {
            wrongs.push(format!("{}: {error}", person.id));
        }
    }
    for provider in &scene.providers {
        let waiting = provider.disk.content.outbox_lanes().await.unwrap();
        if !waiting.is_empty() {
            wrongs.push(format!("{}: still to be sent: {waiting:?}", provider.name));
        }
        let set_aside = provider.disk.content.set_aside(None, 0, 8).await.unwrap();
        for row in set_aside {
            wrongs.push(format!("{}: set aside: {row:?}", provider.name));
        }
    }
    wrongs
}

/// A group, in few letters.
fn short(group: &GroupId) -> String {
    hex::encode(&group.as_slice()[..4])
}

/// What was answered `ok` was accepted, and what was refused was not.
fn check_answers(scene: &Scene, groups: &BTreeMap<GroupId, Book>, wrongs: &mut Wrongs) {
    let mut accepted: BTreeMap<Text, u64> = BTreeMap::new();
    for book in groups.values() {
        scene
            .tally
            .deeds(Deed::Accepted, book.accepted.len() as u64);
        scene
            .tally
            .deeds(Deed::Epochs, book.epochs.len() as u64 - 1);
        for one in &book.accepted {
            match scene.ledger.submitted(&one.hash).map(|one| one.what) {
                Some(What::Text(text)) => *accepted.entry(text).or_default() += 1,
                Some(What::Join) => scene.tally.deed(Deed::Rejoined),
                Some(What::Handshake) => {}
                None => wrongs.push("an owner accepted what nobody has sent".to_owned()),
            }
        }
    }
    for (text, written) in (0..).zip(scene.written()) {
        let times = accepted.get(&text).copied().unwrap_or(0);
        let who = &written.by;
        match written.answer {
            Said::Accepted if times == 0 => {
                wrongs.push(format!("{text} of {who} was answered ok, and not accepted"));
            }
            Said::Accepted => scene.tally.deed(Deed::Answered),
            Said::Refused if times > 0 => {
                wrongs.push(format!("{text} of {who} was refused, and accepted"));
            }
            Said::Refused | Said::Nothing => {}
        }
    }
}

/// Whether somebody is to get what an owner has accepted.
fn is_owed(submitted: &Submitted, accepted: &Accepted, to: &ClientId) -> bool {
    submitted.by != *to && accepted.members.contains(to)
}

/// What is in somebody's queue: all that is owed, each once, in the order of the owner.
fn check_queue(
    scene: &Scene,
    groups: &BTreeMap<GroupId, Book>,
    person: &Person,
    wrongs: &mut Wrongs,
) {
    let mut places: BTreeMap<Hash, usize> = BTreeMap::new();
    let kept = person.kept();
    let messages = kept.items.values().filter_map(|item| match &item.payload {
        QueueItemPayload::MlsMessage(message) => Some(hash_of(message)),
        _ => None,
    });
    for (place, hash) in messages.enumerate() {
        if places.insert(hash, place).is_some() {
            let what = scene.ledger.submitted(&hash);
            wrongs.push(format!("{}: twice in the queue: {what:?}", person.id));
        }
    }
    for (id, book) in groups {
        let mut last = None;
        for (at, accepted) in book.accepted.iter().enumerate() {
            let Some(submitted) = scene.ledger.submitted(&accepted.hash) else {
                continue;
            };
            let place = places.get(&accepted.hash).copied();
            let (what, group) = (submitted.what, short(id));
            let who = &person.id;
            if !is_owed(&submitted, accepted, who) {
                if place.is_some() {
                    wrongs.push(format!("{who}: {at} of {group}, not for them: {what:?}"));
                }
                continue;
            }
            if place.is_none() && scene.has_declined(&person.id.user_id(), id) {
                continue;
            }
            scene.tally.deed(Deed::Owed);
            let Some(place) = place else {
                let by = &submitted.by;
                wrongs.push(format!("{who}: lost {at} of {group}: {what:?} by {by}"));
                continue;
            };
            scene.tally.deed(Deed::Delivered);
            if last.is_some_and(|last| place < last) {
                wrongs.push(format!("{who}: {at} of {group} in another order: {what:?}"));
            }
            last = Some(place);
        }
    }
}

/// What somebody was given of a group by the client library.
struct Reader<'a> {
    who: &'a ClientId,
    id: &'a GroupId,
    book: &'a Book,
    /// The epochs in which they began to follow the group: at first, and again.
    begun: Vec<u64>,
    /// By external commits.
    begun_again: Vec<u64>,
    is_member: bool,
    has_lost: bool,
    /// They were given what cannot be read, or by somebody who is not who they say.
    is_puzzled: bool,
    /// Another device of theirs has ended the connection that this group was of: what they had not
    /// read by then, they do not read.
    was_ended: bool,
    read: Vec<Text>,
}

impl<'a> Reader<'a> {
    fn of(scene: &Scene, id: &'a GroupId, book: &'a Book, person: &'a Person) -> Self {
        let who = &person.id;
        let kept = person.kept();
        let events = || kept.events.iter().filter(|e| e.group() == Some(id));
        let mut begun: Vec<u64> = events()
            .filter_map(|event| match event {
                Event::Joined { epoch, .. } | Event::Rejoined { epoch, .. } => Some(*epoch),
                Event::Connected { .. } => Some(0),
                _ => None,
            })
            .collect();
        if book.epochs.get(&0).is_some_and(|first| first.contains(who)) {
            begun.push(0);
        }
        let joins = book.accepted.iter().filter(|accepted| {
            let by = scene.ledger.submitted(&accepted.hash);
            by.is_some_and(|by| by.what == What::Join && by.by == *who)
        });
        let read = events().filter_map(|event| match event {
            Event::Message { content, .. } => std::str::from_utf8(content).ok()?.parse().ok(),
            _ => None,
        });
        Self {
            who,
            id,
            book,
            begun,
            begun_again: joins.map(|accepted| accepted.epoch).collect(),
            is_member: book.members.contains(who),
            has_lost: events().any(|event| matches!(event, Event::GroupLost { .. })),
            is_puzzled: events().any(|event| {
                matches!(event, Event::Undecodable { .. } | Event::NotAttested { .. })
            }),
            was_ended: was_ended_elsewhere(&kept.events, id),
            read: read.collect(),
        }
    }

    /// Whether they are a member from the epoch in which something was written until it is
    /// accepted.
    fn is_owed(&self, submitted: &Submitted, accepted: &Accepted) -> bool {
        let mut epochs = self.book.epochs.range(submitted.epoch..=accepted.epoch);
        is_owed(submitted, accepted, self.who)
            && epochs.all(|(_, members)| members.contains(self.who))
    }

    /// Whether the rules of MLS let them read it for certain: not where they have joined again in
    /// a later epoch, or were removed before they could follow the group.
    fn can_read(&self, submitted: &Submitted) -> bool {
        let epoch = submitted.epoch;
        let begun_again = self.begun_again.iter().any(|again| *again > epoch);
        let follows = self.begun.iter().any(|begun| *begun <= epoch);
        !begun_again && follows && !self.was_ended && (self.is_member || !self.has_lost)
    }
}

/// What somebody's application was given: all that is owed, each once, in the order of the owner.
fn check_reading(scene: &Scene, id: &GroupId, book: &Book, person: &Person, wrongs: &mut Wrongs) {
    let reader = Reader::of(scene, id, book, person);
    let (who, group) = (reader.who, short(reader.id));
    // What can come next, in order: each may be passed over that need not be read.
    let mut read = reader.read.iter().copied().peekable();
    let mut order = Vec::new();
    for accepted in &book.accepted {
        let Some(submitted) = scene.ledger.submitted(&accepted.hash) else {
            continue;
        };
        let What::Text(text) = submitted.what else {
            continue;
        };
        if !reader.is_owed(&submitted, accepted) {
            continue;
        }
        order.push(text);
        let is_next = read.next_if_eq(&text).is_some();
        let can_read = reader.can_read(&submitted);
        scene.tally.deed(match (can_read, is_next) {
            (true, _) => Deed::ToRead,
            (false, true) => continue,
            (false, false) => Deed::Exempt,
        });
        if is_next {
            scene.tally.deed(Deed::Read);
        } else if can_read {
            let by = &submitted.by;
            wrongs.push(format!("{who}: {text} of {group} by {by} was not read"));
        }
    }
    if reader.is_puzzled && !reader.has_lost && reader.begun_again.is_empty() {
        wrongs.push(format!("{who}: {group}: something that cannot be read"));
    }
    let rest: Vec<_> = read.collect();
    if !rest.is_empty() {
        let seen = &reader.read;
        wrongs.push(format!(
            "{who}: {group}: read twice, or in another order: {rest:?} of {seen:?}, not {order:?}"
        ));
    }
}

/// Everybody who is a member is so in the same epoch and with the same others, and nobody else.
async fn check_states(
    scene: &Scene,
    groups: &BTreeMap<GroupId, Book>,
    person: &Person,
    wrongs: &mut Wrongs,
) -> Result<(), moh_client::Error> {
    let who = &person.id;
    let Some(client) = person.client() else {
        wrongs.push(format!("{who}: does not run"));
        return Ok(());
    };
    let mine = groups_of(&client).await?;
    for (id, book) in groups {
        let store = &scene.provider(&book.owner).disk.content;
        let stored = store.group(id).await.unwrap();
        let theirs = stored.map(|stored| Group::restore(&stored).expect("it can be read"));
        let theirs = theirs.filter(|group| !group.has_ended());
        let members: Vec<ClientId> = theirs
            .iter()
            .flat_map(|group| group.roster().members())
            .map(|(_, member)| member.client_id.clone())
            .collect();
        let group = short(id);
        match (members.contains(who), mine.contains(id)) {
            (true, true) => {
                let epoch = client.epoch(id).await?;
                let owners = theirs.map_or(0, |group| group.epoch());
                let same = epoch == owners && client.members(id).await? == members;
                if same {
                    scene.tally.deed(Deed::Agreements);
                } else {
                    wrongs.push(format!("{who}: {group} in epoch {epoch}, not {owners}"));
                }
            }
            // Who declines is removed when something is sent there the next time.
            (true, false) if scene.has_declined(&who.user_id(), id) => {}
            // Asked once more by a device that did not know yet that they are connected: it waits.
            (true, false) if is_connected_with_all(&client, who, &members).await? => {}
            (true, false) => wrongs.push(format!("{who}: knows nothing of {group}")),
            (false, true) => wrongs.push(format!("{who}: is not in {group} any more")),
            (false, false) => {}
        }
    }
    Ok(())
}

async fn groups_of(client: &Client) -> Result<BTreeSet<GroupId>, moh_client::Error> {
    let mut groups: BTreeSet<_> = client.groups().await?.into_iter().collect();
    let connections = client.connections().await?;
    let known = connections.into_iter();
    let joined = known.filter(|c| c.state != ConnectionState::Received);
    groups.extend(joined.filter_map(|connection| connection.group));
    Ok(groups)
}

/// Whether the members are a client's user and one that it is connected with.
async fn is_connected_with_all(
    client: &Client,
    who: &ClientId,
    members: &[ClientId],
) -> Result<bool, moh_client::Error> {
    let own = who.user_id();
    let connections = client.connections().await?;
    Ok(connections.iter().any(|connection| {
        connection.state == ConnectionState::Connected
            && members
                .iter()
                .all(|member| [&own, &connection.peer].contains(&&member.user_id()))
    }))
}

/// Whether a connection, whose group this was, was ended by another device of the same user.
fn was_ended_elsewhere(events: &[Event], id: &GroupId) -> bool {
    let peers = events.iter().filter_map(|event| match event {
        Event::Connected { peer, group } if group == id => Some(peer),
        _ => None,
    });
    let is_withdrawn = |who: &UserId| {
        events.iter().any(|event| {
            matches!(event, Event::Disconnected { peer, reason: DisconnectReason::Withdrawn } if peer == who)
        })
    };
    peers.into_iter().any(is_withdrawn)
}
