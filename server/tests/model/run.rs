//! A sequence as it runs: the providers, the clients, and the model of the groups.

use std::collections::BTreeMap;

use moh_messages::client_api::{QueueItem, QueueItemPayload};
use moh_messages::{
    CipherSuite, ClientId, DsErrorCode, DsRequest, DsRequestBody, DsResponseBody, GroupType,
    ProviderName, UserId,
};

use crate::Check;
use crate::device::{Device, as_joiner, as_leaf};
use crate::dice::Dice;
use crate::mls::{Head, Heard, LibraryKind, PUBLIC_MESSAGE, WELCOME, wire_format};
use crate::others::Held;
use crate::requests;
use crate::room::{Expected, Invitation, Joined, Room, Welcomed, What};
use crate::tally::Tally;
use crate::world::{PROVIDERS, Setting, World, code_of};
use tls_codec::DeserializeBytes as _;

/// Users of each provider, and clients that a user has at most at a time.
const USERS: [&str; 2] = ["alice", "bob"];
const MAX_DEVICES: usize = 3;
/// Copies of a client that are kept to see that they decrypt nothing.
const MAX_RETIRED: usize = 2;

pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) dice: Dice,
    pub(crate) suite: CipherSuite,
    pub(crate) devices: BTreeMap<ClientId, Device>,
    pub(crate) rooms: Vec<Room>,
    pub(crate) held: Vec<Held>,
    pub(crate) tally: Tally,
    /// What was done, for whoever looks for what went wrong.
    pub(crate) journal: Vec<String>,
}

pub(crate) fn all_users() -> Vec<UserId> {
    let at = |provider: &str| {
        let provider: ProviderName = provider.parse().unwrap();
        USERS.map(|user| UserId::new(&provider, user).unwrap())
    };
    PROVIDERS.into_iter().flat_map(at).collect()
}

impl Run {
    pub(crate) async fn new(suite: CipherSuite, setting: Setting, dice: Dice) -> Self {
        Self {
            world: World::new(setting).await,
            dice,
            suite,
            devices: BTreeMap::new(),
            rooms: Vec::new(),
            held: Vec::new(),
            tally: Tally::default(),
            journal: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, what: String) {
        self.journal.push(what);
    }

    /// Whether a client neither sleeps, nor cannot reach its provider.
    pub(crate) fn is_awake(&self, client: &ClientId) -> bool {
        !self.devices[client].asleep && self.world.is_running(&client.provider())
    }

    pub(crate) fn awake(&self) -> Vec<ClientId> {
        let clients = self.devices.keys();
        clients.filter(|c| self.is_awake(c)).cloned().collect()
    }

    /// Clients of a user that are not gone.
    pub(crate) fn devices_of(&self, user: &UserId) -> Vec<ClientId> {
        let all = self.devices.values();
        let here = all.filter(|d| d.id.user_id() == *user && !d.deleted);
        here.map(|d| d.id.clone()).collect()
    }

    /// A new client of a user, on either library.
    pub(crate) fn new_device(&mut self, user: &UserId) -> ClientId {
        let kind = if self.dice.once_in(2) {
            LibraryKind::OpenMls
        } else {
            LibraryKind::MlsRs
        };
        self.new_device_on(user, kind)
    }

    pub(crate) fn new_device_on(&mut self, user: &UserId, kind: LibraryKind) -> ClientId {
        let number = self.devices.keys().filter(|c| c.user_id() == *user).count();
        let id = ClientId::new(user, &format!("d{number}")).unwrap();
        self.tally.client(kind);
        let device = Device::new(id.clone(), kind, self.suite);
        self.devices.insert(id.clone(), device);
        id
    }

    /// A client of a user that is not in a group.
    pub(crate) fn device_outside(&mut self, room: usize, user: &UserId) -> Option<ClientId> {
        if !self.world.is_running(&user.provider()) {
            return None;
        }
        let devices = self.devices_of(user);
        let outside = |c: &&ClientId| !self.rooms[room].is_in(c) && self.is_awake(c);
        let mut free: Vec<_> = devices.iter().filter(outside).cloned().collect();
        if devices.len() < MAX_DEVICES && (free.is_empty() || self.dice.once_in(4)) {
            free = vec![self.new_device(user)];
        }
        self.dice.pick(&free).cloned()
    }

    /// A member of a group who is awake and has its current state.
    pub(crate) fn member(&mut self, room: usize) -> Option<ClientId> {
        let current = self.rooms[room].current().into_iter();
        let awake: Vec<_> = current.filter(|c| self.is_awake(c)).collect();
        self.dice.pick(&awake).cloned()
    }

    /// A group that has not ended.
    pub(crate) fn room(&mut self) -> Option<usize> {
        let alive = (0..self.rooms.len()).filter(|r| !self.rooms[*r].ended);
        let alive: Vec<_> = alive.collect();
        self.dice.pick(&alive).copied()
    }

    /// A group whose owner is there, whether it has ended or not.
    pub(crate) fn any_room(&mut self) -> Option<usize> {
        let is_there = |room: &usize| self.world.is_running(&self.rooms[*room].owner);
        let all: Vec<_> = (0..self.rooms.len()).filter(is_there).collect();
        self.dice.pick(&all).copied()
    }

    /// A request of a member, signed with the key that its copy knows.
    pub(crate) fn signed(&self, room: usize, client: &ClientId, body: DsRequestBody) -> DsRequest {
        let room = &self.rooms[room];
        let joined = room.seats[client].joined.as_ref().unwrap();
        let leaf = joined.copy.leaf_index();
        as_leaf(client, &room.owner, &joined.key, leaf, body)
    }

    /// Asks; what the answer is, in place of the whole of it.
    pub(crate) async fn ask(&self, request: &DsRequest) -> Result<(u64, u64), DsErrorCode> {
        let answer = self.world.ask(request).await;
        match answer {
            Ok(DsResponseBody::Ok { epoch, accepted_at }) => Ok((epoch, accepted_at)),
            Ok(other) => panic!("{other:?}"),
            Err(_) => Err(code_of(&answer).unwrap()),
        }
    }

    /// Everybody who is awake reads their queue.
    pub(crate) async fn sync(&mut self) -> Check {
        self.world.settle().await?;
        for client in self.awake() {
            self.read_queue(&client).await?;
            for room in &self.rooms {
                let left = room.seats.get(&client).map_or(0, |s| s.inbox.len());
                if left > 0 {
                    return Err(format!("{client} does not get {left} messages"));
                }
            }
        }
        Ok(())
    }

    async fn read_queue(&mut self, client: &ClientId) -> Check {
        loop {
            let cursor = self.devices[client].cursor.clone();
            let items = self.world.queue(client, &cursor).await;
            let Some(last) = items.last() else {
                return Ok(());
            };
            let cursor = last.cursor.clone();
            for item in items {
                self.read_item(client, item).await?;
            }
            if self.dice.once_in(3) {
                self.world.acknowledge(client, &cursor).await;
            }
            self.devices.get_mut(client).unwrap().cursor = cursor;
        }
    }

    async fn read_item(&mut self, client: &ClientId, item: QueueItem) -> Check {
        let (bytes, asked) = match &item.payload {
            QueueItemPayload::MlsMessage(bytes) => (bytes, None),
            QueueItemPayload::ConnectionRequest(request) => (&request.welcome, Some(request)),
            _ => return Err(format!("{client} gets what nobody sent")),
        };
        let bytes = bytes.as_slice();
        let room = self.room_of(client, &item.sender, bytes);
        let room = room.ok_or_else(|| format!("{client} gets a message that is not for it"))?;
        if let Some(request) = asked {
            let group = &self.rooms[room];
            let user = client.user_id();
            let is_invited = group.invited.as_ref() == Some(&user) && request.responder == user;
            if group.kind != GroupType::Connection || !is_invited {
                return Err(format!("{client} is asked by nobody"));
            }
        }
        let seat = self.rooms[room].seats.get_mut(client).unwrap();
        let expected = seat.inbox.pop_front();
        match expected.ok_or_else(|| format!("{client} gets a message too many"))? {
            Expected::Welcome(invitation) => self.join(room, client, &invitation, bytes).await,
            Expected::Message {
                bytes: expected,
                epoch,
                what,
            } => {
                if bytes != expected {
                    return Err(format!("{client} gets another message of epoch {epoch}"));
                }
                self.hear(room, client, bytes, epoch, &what)
            }
            Expected::Removal { epoch } => {
                let is_one = Head::tls_deserialize_bytes(bytes).is_ok_and(|(head, _)| {
                    head.wire_format == PUBLIC_MESSAGE && head.epoch == epoch
                });
                if !is_one {
                    return Err(format!("{client} gets something else than a Remove"));
                }
                let group = &mut self.rooms[room];
                if epoch == group.epoch {
                    group.proposals.insert(bytes.to_vec());
                }
                self.hear(room, client, bytes, epoch, &What::Proposal)
            }
        }
        .map_err(|error| format!("{client}: {error}"))
    }

    /// The group that a message is of. A Welcome does not say: it is what is expected next.
    fn room_of(&self, client: &ClientId, sender: &ProviderName, bytes: &[u8]) -> Option<usize> {
        let welcomes = wire_format(bytes) == WELCOME;
        let head = Head::tls_deserialize_bytes(bytes)
            .ok()
            .map(|(head, _)| head);
        let is_of = |room: &&Room| {
            let next = room.seats.get(client).and_then(|s| s.inbox.front());
            let fits = match next {
                Some(Expected::Welcome(invitation)) if welcomes => {
                    let reference = invitation.reference.as_slice();
                    bytes.windows(reference.len()).any(|w| w == reference)
                }
                _ => !welcomes && head.as_ref().is_some_and(|h| h.group_id == room.id),
            };
            fits && room.owner == *sender && room.seats.contains_key(client)
        };
        let room = self.rooms.iter().find(is_of)?;
        self.rooms.iter().position(|r| r.id == room.id)
    }

    /// Fetches the tree of a Welcome, and joins.
    async fn join(
        &mut self,
        room: usize,
        client: &ClientId,
        invitation: &Invitation,
        welcome: &[u8],
    ) -> Check {
        let group = &self.rooms[room];
        let body = requests::welcome_info(&group.id, invitation.epoch);
        let (key, reference) = (&invitation.key, &invitation.reference);
        let request = as_joiner(client, &group.owner, key, reference, body);
        let answer = self.world.ask(&request).await;
        if group.ended {
            let code = code_of(&answer);
            return if code == Some(group.of_strangers(client)) {
                Ok(())
            } else {
                Err(format!("a tree of a group that has ended: {code:?}"))
            };
        }
        let Ok(DsResponseBody::WelcomeInfo { ratchet_tree, .. }) = answer else {
            return Err(format!("no tree for a Welcome: {answer:?}"));
        };
        let identity = self.devices[client].identity(&self.world, key, false);
        let device = self.devices.get_mut(client).unwrap();
        let copy = device
            .library
            .join(&identity, welcome, ratchet_tree.as_slice())?;
        self.tally.joined_by_welcome(device.kind);
        let joined = Joined {
            copy,
            key: key.clone(),
            since: invitation.epoch,
        };
        self.sit_down(room, client, joined);
        let seat = self.rooms[room].seats.get_mut(client).unwrap();
        seat.welcomed = Some(Welcomed {
            invitation: invitation.clone(),
            tree: ratchet_tree.into_vec(),
            fetched_at: self.world.now_ms(),
            acted: false,
        });
        Ok(())
    }

    /// A client has a new copy of a group.
    pub(crate) fn sit_down(&mut self, room: usize, client: &ClientId, joined: Joined) {
        let seat = self.rooms[room].seats.entry(client.clone()).or_default();
        if let Some(before) = seat.joined.replace(joined) {
            retire(&mut seat.retired, before);
        }
    }

    fn hear(
        &mut self,
        room: usize,
        client: &ClientId,
        bytes: &[u8],
        epoch: u64,
        what: &What,
    ) -> Check {
        let seat = self.rooms[room].seats.get_mut(client).unwrap();
        let Some(joined) = seat.joined.as_mut().filter(|j| j.since <= epoch) else {
            return Ok(());
        };
        let heard = joined.copy.hear(bytes);
        let as_expected = match (what, &heard) {
            (What::Commit { removes }, Ok(Heard::Commit { removed })) => {
                *removed == removes.contains(client)
            }
            (What::Proposal, Ok(Heard::Proposal)) => true,
            (What::Text(text), Ok(Heard::Text(heard))) => text == heard,
            _ => false,
        };
        if !as_expected {
            return Err(format!("a message of epoch {epoch}: {heard:?}"));
        }
        if heard == Ok(Heard::Commit { removed: true }) {
            let before = seat.joined.take().unwrap();
            retire(&mut seat.retired, before);
        }
        Ok(())
    }

    /// Who of those who are no members any more, or were one before, can read a message.
    pub(crate) fn eavesdrops(&mut self, room: usize, bytes: &[u8]) -> Option<ClientId> {
        for (client, seat) in &mut self.rooms[room].seats {
            for retired in &mut seat.retired {
                if matches!(retired.copy.hear(bytes), Ok(Heard::Text(_))) {
                    return Some(client.clone());
                }
            }
        }
        None
    }
}

fn retire(retired: &mut Vec<Joined>, before: Joined) {
    if retired.len() >= MAX_RETIRED {
        retired.remove(0);
    }
    retired.push(before);
}
