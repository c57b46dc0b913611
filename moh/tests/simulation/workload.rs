//! What people do: they write, and now and then change who is in a group.

use std::sync::Arc;
use std::time::Duration;

use moh_client::{Client, ConnectionState, Error};
use moh_messages::{GroupId, UserId};

use crate::person::Person;
use crate::scene::{Said, Scene};
use crate::tally::Deed;

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deeds {
    Write,
    Update,
    Add,
    Remove,
    Leave,
    Create,
    Rejoin,
    Connect,
    DeleteClient,
}

/// How often what is done, out of their sum.
const WEIGHTS: [(Deeds, u64); 9] = [
    (Deeds::Write, 60),
    (Deeds::Update, 8),
    (Deeds::Add, 10),
    (Deeds::Remove, 5),
    (Deeds::Leave, 3),
    (Deeds::Create, 3),
    (Deeds::Rejoin, 2),
    (Deeds::Connect, 4),
    (Deeds::DeleteClient, 1),
];

/// So many groups there are from the start, at most.
const GROUPS: u64 = 3;
/// So much is done in a run.
const DEEDS: u64 = 40;
/// How long until the next, at most, in milliseconds.
const PAUSE_MS: u64 = 30_000;
/// So many messages somebody writes in a row, at most.
const BURST: u64 = 4;
/// Groups do not become larger than this of themselves.
const MEMBERS: usize = 8;

/// Makes the groups that there are from the start.
pub(crate) async fn begin(scene: &Arc<Scene>) {
    let dice = &scene.dice;
    for _ in 0..dice.between(2, GROUPS) {
        let mut people = scene.people.clone();
        dice.shuffle(&mut people);
        people.truncate(usize::try_from(dice.between(3, 7)).unwrap());
        let (creator, others) = people.split_first().unwrap();
        let client = creator.client().unwrap();
        let group = client.create_group().await.unwrap();
        scene.tally.deed(Deed::Groups);
        for other in others {
            add(scene, &client, &group, other).await;
        }
    }
}

/// Has people do things, for a while.
pub(crate) async fn go_on(scene: &Arc<Scene>) {
    for _ in 0..DEEDS {
        let pause = scene.dice.below(PAUSE_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let person = scene.dice.pick(&scene.people).unwrap();
        let is_there = person.client().is_some() && !person.kept().is_ending;
        if is_there && person.busy() < 2 {
            let deed = choose(scene);
            let work = act(Arc::clone(scene), Arc::clone(person), deed);
            person.spawn(work);
        }
    }
}

fn choose(scene: &Scene) -> Deeds {
    let all = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut rolled = scene.dice.below(all);
    for (deed, weight) in WEIGHTS {
        if rolled < weight {
            return deed;
        }
        rolled -= weight;
    }
    Deeds::Write
}

async fn act(scene: Arc<Scene>, person: Arc<Person>, deed: Deeds) {
    let Some(client) = person.client() else {
        return;
    };
    let group = any_group(&person, &client, deed == Deeds::Write).await;
    scene.trace.note(&format!("{}: {deed:?}", person.id));
    let done = match (deed, group) {
        (Deeds::Write, Some(group)) => {
            for _ in 0..scene.dice.between(1, BURST) {
                if !write(&scene, &person, &client, &group).await {
                    break;
                }
            }
            Ok(())
        }
        (Deeds::Update, Some(group)) => client.update(&group).await.map(drop),
        (Deeds::Add, Some(group)) => {
            let mut others = scene.people.clone();
            scene.dice.shuffle(&mut others);
            let members = client.members(&group).await.unwrap_or_default();
            let other = others.iter().find(|other| !members.contains(&other.id));
            if let Some(other) = other
                && members.len() < MEMBERS
            {
                add(&scene, &client, &group, other).await;
            }
            Ok(())
        }
        (Deeds::Remove, Some(group)) => remove(&scene, &client, &group).await,
        (Deeds::Leave, Some(group)) => {
            let left = client.leave(&group).await.map(drop);
            left.inspect(|()| scene.tally.deed(Deed::Left))
        }
        (Deeds::Create, _) => {
            let created = client.create_group().await.map(drop);
            created.inspect(|()| scene.tally.deed(Deed::Groups))
        }
        (Deeds::Rejoin, Some(group)) => client.rejoin(&group).await.map(drop),
        (Deeds::Connect, _) => {
            let other = scene.dice.pick(&scene.people).unwrap().id.user_id();
            client.connect(&other).await.map(drop)
        }
        (Deeds::DeleteClient, _) => {
            person.kept().is_ending = true;
            end_account(&scene, &person, &client).await;
            Ok(())
        }
        (_, None) => Ok(()),
    };
    if let Err(error) = done {
        scene
            .trace
            .note(&format!("{}: {deed:?}: {}", person.id, kind(&error)));
    }
}

/// A group of the client's; also that of a connection, where that is asked for.
async fn any_group(person: &Person, client: &Client, also_connections: bool) -> Option<GroupId> {
    let mut groups = client.groups().await.unwrap_or_default();
    if also_connections {
        let connections = client.connections().await.unwrap_or_default();
        groups.extend(connections.into_iter().filter_map(|c| c.group));
    }
    person.dice.pick(&groups).cloned()
}

/// Writes something in a group; whether it was accepted. What has no final answer is left to the
/// client; nothing else is written in the group until then.
pub(crate) async fn write(
    scene: &Scene,
    person: &Person,
    client: &Client,
    group: &GroupId,
) -> bool {
    let text = {
        let mut kept = person.kept();
        if kept.writing.contains_key(group) {
            return false;
        }
        let text = scene.text(&person.id);
        kept.writing.insert(group.clone(), text);
        text
    };
    send(scene, person, client, group, text).await
}

/// Sends what was written.
async fn send(scene: &Scene, person: &Person, client: &Client, group: &GroupId, text: u32) -> bool {
    scene.ledger.writes(&person.id, group, text);
    let sent = client.send(group, text.to_string()).await;
    let said = match &sent {
        Ok(_) => Said::Accepted,
        Err(Error::Unsettled { .. }) => return false,
        // What was written before is still on its way.
        Err(Error::Busy { .. }) => return false,
        Err(_) => Said::Refused,
    };
    if let Err(error) = &sent {
        scene
            .trace
            .note(&format!("{}: {text}: {}", person.id, kind(error)));
    }
    let mut kept = person.kept();
    if !kept.resent.contains(group) {
        kept.writing.remove(group);
        scene.said(text, said);
    } else if said == Said::Accepted {
        scene.said(text, said);
    }
    said == Said::Accepted
}

/// After a new start: what has no answer is sent again, as applications do that keep what they
/// are to send. It may have gone out before, and is there twice then.
pub(crate) fn resume(scene: &Arc<Scene>, person: &Arc<Person>) {
    if person.kept().is_ending {
        let (scene, this) = (Arc::clone(scene), Arc::clone(person));
        person.spawn(async move {
            if let Some(client) = this.client() {
                end_account(&scene, &this, &client).await;
            }
        });
        return;
    }
    let unfinished = person.kept().writing.clone();
    for (group, text) in unfinished {
        let (scene, this) = (Arc::clone(scene), Arc::clone(person));
        person.kept().resent.insert(group.clone());
        person.spawn(async move {
            if let Some(client) = this.client() {
                send(&scene, &this, &client, &group, text).await;
            }
        });
    }
}

/// Somebody is asked to be connected, thinks about it, and mostly agrees.
pub(crate) fn is_asked(scene: &Arc<Scene>, person: &Arc<Person>, peer: &UserId, group: &GroupId) {
    let (this, peer) = (Arc::clone(person), peer.clone());
    let pause = Duration::from_millis(scene.dice.between(0, 60_000));
    let agrees = scene.agrees(&person.id.user_id(), group);
    person.spawn(async move {
        tokio::time::sleep(pause).await;
        if let Some(client) = this.client() {
            // Where that fails, there is another look at it in the end.
            let _ = if agrees {
                client.accept(&peer).await.map(drop)
            } else {
                client.decline(&peer).await
            };
        }
    });
}

/// Ends a device, and the account with the last one: the same is asked for until that is done.
async fn end_account(scene: &Scene, person: &Person, client: &Client) {
    loop {
        let has_another = scene.other_device(&person.id).is_some();
        let deleted = if has_another {
            client.delete_device(&person.id).await
        } else {
            client.delete_account().await
        };
        match deleted {
            Ok(()) => scene.tally.deed(Deed::Deleted),
            Err(Error::AccountDeleted) => {}
            Err(_) => {
                let pause = person.dice.between(1_000, 20_000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                continue;
            }
        }
        person.kept().is_gone = true;
        return;
    }
}

async fn add(scene: &Scene, client: &Client, group: &GroupId, other: &Person) {
    let Some(theirs) = other.client() else {
        return;
    };
    let consented = theirs.set_consent(client.user_id(), true).await;
    if consented.is_err() {
        return;
    }
    let user = other.id.user_id();
    let members = client.members(group).await.unwrap_or_default();
    let added = if members.iter().any(|member| member.user_id() == user) {
        client.add_device(group, &other.id).await
    } else {
        client.add_user(group, &user).await
    };
    if added.is_ok() {
        scene.tally.deed(Deed::Added);
    }
}

async fn remove(scene: &Scene, client: &Client, group: &GroupId) -> Result<(), Error> {
    let members = client.members(group).await?;
    let users: Vec<UserId> = members.iter().map(|member| member.user_id()).collect();
    let others: Vec<_> = users.iter().filter(|u| *u != client.user_id()).collect();
    let Some(user) = scene.dice.pick(&others) else {
        return Ok(());
    };
    client.remove_user(group, user).await?;
    scene.tally.deed(Deed::Removed);
    Ok(())
}

/// An error, in words that are the same in each run of a seed.
fn kind(error: &Error) -> String {
    let words = format!("{error:?}");
    words.chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// In the end, whatever was asked is agreed to, unless it was declined.
pub(crate) async fn agree(scene: &Arc<Scene>) {
    for person in &scene.people {
        let Some(client) = person.client() else {
            continue;
        };
        for connection in client.connections().await.unwrap_or_default() {
            if connection.state == ConnectionState::Received {
                let accepted = client.accept(&connection.peer).await;
                if let Err(error) = accepted {
                    let who = &person.id;
                    scene
                        .trace
                        .note(&format!("{who}: accept: {}", kind(&error)));
                }
            }
        }
    }
}

/// In the end somebody writes something in each group, which all others can read: they have the
/// same secrets.
pub(crate) async fn end(scene: &Arc<Scene>) {
    let deleted = scene.ledger.deleted();
    for (group, book) in scene.ledger.groups() {
        let mut people: Vec<_> = scene.people.iter().collect();
        people.retain(|p| book.members.contains(&p.id) && !deleted.contains(&p.id));
        let Some(person) = scene.dice.pick(&people) else {
            continue;
        };
        if let Some(client) = person.client() {
            // Nothing is on its way any more.
            person.kept().writing.remove(&group);
            person.kept().resent.remove(&group);
            write(scene, person, &client, &group).await;
        }
    }
}
