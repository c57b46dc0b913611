//! What is owed: what owners of groups accepted, in which order, and who were the members then.
//!
//! It is written from two sides. Clients' requests say who submits which message; what owners make
//! durable says what of that was accepted. Nothing here depends on any answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use moh_messages::{ClientId, DsRequest, DsRequestBody, GroupId, MlsBytes, ProviderName};
use moh_server::change::{Change, Write};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
use sha2::{Digest, Sha256};
use tls_codec::DeserializeBytes;

/// SHA-256 of a message.
pub(crate) type Hash = [u8; 32];

/// A name for what an application has written, unique in a run.
pub(crate) type Text = u32;

/// Some clients.
pub(crate) type Members = Arc<BTreeSet<ClientId>>;

/// What a client has submitted.
#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) by: ClientId,
    /// The epoch that it was made in.
    pub(crate) epoch: u64,
    pub(crate) what: What,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Text(Text),
    /// A commit from outside of the group.
    Join,
    /// Any other commit, or a proposal.
    Handshake,
}

/// What an owner has accepted.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) hash: Hash,
    /// The group's epoch after it.
    pub(crate) epoch: u64,
    /// The members before it.
    pub(crate) members: Members,
}

/// A group, as its owner has it.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) owner: ProviderName,
    /// In the order in which it became durable.
    pub(crate) accepted: Vec<Accepted>,
    pub(crate) members: Members,
    /// The members in each epoch, after what began it.
    pub(crate) epochs: BTreeMap<u64, Members>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<GroupId, Book>,
    submitted: BTreeMap<Hash, Submitted>,
    /// What a client is about to write in a group.
    writing: BTreeMap<(ClientId, GroupId), Text>,
    deleted: BTreeSet<ClientId>,
}

/// The books of all owners.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<State>);

pub(crate) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on this is what a client's messages in a group say.
    pub(crate) fn writes(&self, client: &ClientId, group: &GroupId, text: Text) {
        let at = (client.clone(), group.clone());
        self.state().writing.insert(at, text);
    }

    /// A client submits something to the owner of a group.
    pub(crate) fn submits(&self, client: &ClientId, request: &DsRequest) {
        let (bytes, joins) = match &request.body {
            DsRequestBody::SendMessage(body) => (body.message.as_slice(), false),
            DsRequestBody::SelfRemoveClient(body) => (body.proposal.as_slice(), false),
            DsRequestBody::AddUsers(body) | DsRequestBody::AddClients(body) => {
                (body.group_update.commit.as_slice(), false)
            }
            DsRequestBody::ExternalJoin(body) => (body.group_update.commit.as_slice(), true),
            DsRequestBody::DeleteGroup(body)
            | DsRequestBody::RemoveUsers(body)
            | DsRequestBody::RemoveClients(body)
            | DsRequestBody::UpdateClient(body)
            | DsRequestBody::ReInitializeGroup(body)
            | DsRequestBody::SetRoles(body) => (body.group_update.commit.as_slice(), false),
            DsRequestBody::RequestGroupId(_)
            | DsRequestBody::CreateGroup(_)
            | DsRequestBody::WelcomeInfo(_)
            | DsRequestBody::ExternalCommitInfo(_)
            | DsRequestBody::ClientDeleted => return,
        };
        let Some((group, epoch)) = group_and_epoch(bytes) else {
            return;
        };
        let mut state = self.state();
        let text = state.writing.get(&(client.clone(), group)).copied();
        let what = match &request.body {
            DsRequestBody::SendMessage(_) => text.map_or(What::Handshake, What::Text),
            _ if joins => What::Join,
            _ => What::Handshake,
        };
        let by = client.clone();
        state
            .submitted
            .entry(hash(bytes))
            .or_insert(Submitted { by, epoch, what });
    }

    /// Something has become durable at a provider.
    pub(crate) fn commits(&self, owner: &ProviderName, change: &Change) {
        let mut state = self.state();
        let mut before: Option<Members> = None;
        for write in &change.writes {
            match write {
                Write::CreateGroup {
                    group_id, members, ..
                } => {
                    let members: Members = Arc::new(members.iter().cloned().collect());
                    let book = Book {
                        owner: owner.clone(),
                        accepted: Vec::new(),
                        epochs: BTreeMap::from([(0, members.clone())]),
                        members,
                    };
                    state.groups.insert(group_id.clone(), book);
                    // Nobody is sent what makes a group.
                    return;
                }
                Write::AppendGroup {
                    group_id,
                    epoch,
                    entered,
                    left,
                    ..
                } => {
                    let book = state.groups.get_mut(group_id).expect("it was created");
                    before = Some(book.members.clone());
                    let mut members = (*book.members).clone();
                    members.retain(|client| !left.contains(client));
                    members.extend(entered.iter().cloned());
                    book.members = Arc::new(members);
                    book.epochs.insert(*epoch, book.members.clone());
                }
                Write::Answer {
                    group_id,
                    message_hash,
                    answer,
                } => {
                    let book = state.groups.get_mut(group_id).expect("it was created");
                    let members = before.take().unwrap_or_else(|| book.members.clone());
                    book.accepted.push(Accepted {
                        hash: *message_hash,
                        epoch: answer.epoch,
                        members,
                    });
                }
                Write::DeleteClient { client_id, .. } => {
                    state.deleted.insert(client_id.clone());
                }
                _ => {}
            }
        }
    }

    /// All groups.
    pub(crate) fn groups(&self) -> BTreeMap<GroupId, Book> {
        self.state().groups.clone()
    }

    /// Who submitted something, and what it is.
    pub(crate) fn submitted(&self, hash: &Hash) -> Option<Submitted> {
        self.state().submitted.get(hash).cloned()
    }

    /// Clients that are gone.
    pub(crate) fn deleted(&self) -> BTreeSet<ClientId> {
        self.state().deleted.clone()
    }
}

/// The message in an item of a queue.
pub(crate) fn hash_of(message: &MlsBytes) -> Hash {
    hash(message.as_slice())
}

fn group_and_epoch(bytes: &[u8]) -> Option<(GroupId, u64)> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).ok()?;
    let (group, epoch) = match message.extract() {
        MlsMessageBodyIn::PublicMessage(message) => {
            let message = openmls::prelude::ProtocolMessage::from(message);
            (message.group_id().clone(), message.epoch())
        }
        MlsMessageBodyIn::PrivateMessage(message) => {
            let message = openmls::prelude::ProtocolMessage::from(message);
            (message.group_id().clone(), message.epoch())
        }
        _ => return None,
    };
    Some((GroupId::new(group.as_slice()).ok()?, epoch.as_u64()))
}
