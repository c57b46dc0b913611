//! Providers in memory, as strict as real ones where it matters to a client: signatures,
//! epochs, GroupInfos, repeated messages, lost requests and answers.

// It panics where a client does what it must not.
mod accounts;
mod attest;
mod change;
mod connections;
mod group;
mod key_packages;
mod transport;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use moh_client::{
    ClientId, Clock, ConnectOptions, DsError, DsErrorCode, GroupId, ProviderName, UserId,
};
use moh_messages::client_api::{
    BlockTarget, ClientRequest, ClientRequestBody, ClientResponseBody, Cursor, Forward, QueueItem,
    QueueItemPayload, ReadQueue,
};
use moh_messages::{
    ClientQueueInformation, ConnectionKeyPackageRequest, ConnectionRequest, DsRequest, DsResponse,
    DsResponseBody, Endpoint, GroupKeyPackageRequest, KeyPackageBytes, List, Message, MlsBytes,
    Opaque, PublicKey, QueueConfig, Request, Signature, SignedLast, VerificationKeyRequest, label,
    sign_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use tokio::sync::Notify;

use key_packages::KeyPackageKind;

pub(crate) use attest::Forgery;
pub(crate) use group::Group;
pub(crate) use transport::FakeTransport;

/// What is to happen to the next request of a kind.
#[derive(Clone, Debug)]
pub(crate) enum Mishap {
    /// It never arrives.
    LoseRequest,
    /// It is carried out, and the answer does not arrive.
    LoseAnswer,
    /// The owner refuses it.
    Refuse(DsError),
    /// The owner answers this.
    Answer(DsResponseBody),
}

#[derive(Default)]
pub(crate) struct State {
    clock: WorldClock,
    clients: BTreeMap<ClientId, Account>,
    consents: BTreeSet<(UserId, UserId)>,
    /// Who was asked by whom, and for which group.
    asked: BTreeMap<(UserId, UserId), Vec<u8>>,
    blocks: BTreeSet<(UserId, BlockTarget)>,
    /// Clients that take nothing of a group.
    closed: BTreeSet<(ClientId, Vec<u8>)>,
    /// KeyPackages that were uploaded before.
    uploaded: BTreeSet<Vec<u8>>,
    /// When a client has fewer KeyPackages than that, it is told so.
    low_key_packages: usize,
    nonces: BTreeSet<Vec<u8>>,
    pub(crate) groups: BTreeMap<Vec<u8>, Group>,
    group_ids: u64,
    next_group_id: Option<Vec<u8>>,
    sender_keys: BTreeMap<(ProviderName, u16), SignatureKeyPair>,
    mishaps: VecDeque<(&'static str, Mishap)>,
    /// The bodies of requests to owners that arrived, by name.
    pub(crate) seen: Vec<(&'static str, Vec<u8>)>,
    configs: u64,
    /// What each provider attests with; the last one signs.
    attestation_keys: BTreeMap<ProviderName, Vec<SignatureKeyPair>>,
    /// How attestations are wrong from now on, where they are.
    forgery: Option<Forgery>,
    /// Names of clients and users that are not given again.
    tombstones: BTreeSet<String>,
    /// Where they are needed.
    invitations: Option<BTreeSet<String>>,
}

struct Account {
    key: PublicKey,
    registered_at: u64,
    queue: Vec<QueueItem>,
    acknowledged: usize,
    loses: bool,
    key_packages: VecDeque<(KeyPackageKind, KeyPackageBytes)>,
    /// It was told that there are few, of those for groups and of those for connection groups.
    told_low: [bool; 2],
}

/// What a request is held at.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) reached: Notify,
    pub(crate) open: Notify,
}

/// All providers there are.
pub(crate) struct World {
    pub(crate) state: Mutex<State>,
    /// The next request to this endpoint is held there.
    gate: Mutex<Option<(Endpoint, Arc<Gate>)>>,
    arrived: Notify,
    clock: WorldClock,
}

/// The time of all providers, and of all clients. It stands still unless it is moved.
#[derive(Clone, Default)]
pub(crate) struct WorldClock(Arc<AtomicU64>);

impl Clock for WorldClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        // KeyPackages are checked against the system's time by MLS itself.
        let clock = WorldClock(Arc::new(moh_client::SystemClock.now_ms().into()));
        Arc::new(Self {
            state: Mutex::new(State {
                clock: clock.clone(),
                ..State::default()
            }),
            gate: Mutex::default(),
            arrived: Notify::new(),
            clock,
        })
    }

    pub(crate) fn options(self: &Arc<Self>, provider: &str) -> ConnectOptions {
        ConnectOptions::new(provider.parse().unwrap())
            .transport(FakeTransport(Arc::clone(self)))
            .clock(self.clock.clone())
    }

    /// Time passes.
    pub(crate) fn advance(&self, time: std::time::Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Something happens to the next request of this name; in the order of calls.
    pub(crate) fn plan(&self, name: &'static str, mishap: Mishap) {
        self.state.lock().unwrap().mishaps.push_back((name, mishap));
    }

    /// Holds the next request to an endpoint of an owner.
    pub(crate) fn hold(&self, endpoint: Endpoint) -> Arc<Gate> {
        let gate = Arc::default();
        *self.gate.lock().unwrap() = Some((endpoint, Arc::clone(&gate)));
        gate
    }

    fn gate_of(&self, body: &[u8]) -> Option<Arc<Gate>> {
        let ClientRequestBody::Forward(forward) = ClientRequest::decode(body).ok()?.body else {
            return None;
        };
        let mut gate = self.gate.lock().unwrap();
        let held = gate.take_if(|(endpoint, _)| *endpoint == forward.endpoint);
        held.map(|(_, gate)| gate)
    }

    /// The bodies that arrived under this name, in order.
    pub(crate) fn seen(&self, name: &str) -> Vec<Vec<u8>> {
        let state = self.state.lock().unwrap();
        state
            .seen
            .iter()
            .filter(|(n, _)| *n == name)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// A Welcome into a group that a client got.
    pub(crate) fn welcome(&self, group: &GroupId, client: &ClientId) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        assert!(state.groups[group.as_slice()].members().contains(client));
        let mut items = state.clients[client].queue.iter().rev();
        let welcome = items.find_map(|item| match &item.payload {
            // An MLSMessage with wire format mls_welcome.
            QueueItemPayload::MlsMessage(bytes) if bytes.as_slice()[2..4] == [0, 3] => {
                Some(bytes.as_slice().to_vec())
            }
            _ => None,
        });
        welcome.unwrap()
    }

    /// The last request to be connected that a client got.
    pub(crate) fn last_request(&self, client: &ClientId) -> ConnectionRequest {
        let state = self.state.lock().unwrap();
        let mut items = state.clients[client].queue.iter().rev();
        let request = items.find_map(|item| match &item.payload {
            QueueItemPayload::ConnectionRequest(request) => Some(request.clone()),
            _ => None,
        });
        request.unwrap()
    }

    /// Puts a request to be connected into a client's queue.
    pub(crate) fn deliver_request(
        &self,
        client: &ClientId,
        sender: &str,
        request: ConnectionRequest,
    ) {
        let mut state = self.state.lock().unwrap();
        let payload = QueueItemPayload::ConnectionRequest(request);
        state.enqueue(client, &sender.parse().unwrap(), payload);
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Puts something into a client's queue.
    pub(crate) fn deliver(&self, client: &ClientId, sender: &str, message: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        state.deliver(
            client,
            &sender.parse().unwrap(),
            &MlsBytes::new(message).unwrap(),
        );
        drop(state);
        self.arrived.notify_waiters();
    }

    /// The owner of a group proposes to remove a client.
    pub(crate) fn propose_removal(&self, group: &GroupId, client: &ClientId) {
        let mut state = self.state.lock().unwrap();
        state.propose_removal(group.as_slice(), client);
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Signed by the owner of a group: a proposal to add a client.
    pub(crate) fn signed_add(&self, group: &GroupId, client: &ClientId) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        state.signed_add(group.as_slice(), client)
    }

    /// Signed by the owner of a group: a proposal to give it other extensions.
    pub(crate) fn signed_context(&self, group: &GroupId) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        state.signed_context(group.as_slice())
    }

    /// A provider has another key for its proposals from now on.
    pub(crate) fn renew_sender_key(&self, provider: &str) {
        let mut state = self.state.lock().unwrap();
        let provider: ProviderName = provider.parse().unwrap();
        state.sender_keys.retain(|(of, _), _| *of != provider);
    }

    /// The owner of a connection group takes further users from now on, which it must not.
    pub(crate) fn allow_more_invitations(&self, group: &GroupId) {
        let mut state = self.state.lock().unwrap();
        state.groups.get_mut(group.as_slice()).unwrap().connection = None;
    }

    /// The next group gets this name.
    pub(crate) fn next_group_id(&self, id: &[u8]) {
        self.state.lock().unwrap().next_group_id = Some(id.to_vec());
    }

    /// The owner of a group has forgotten it.
    pub(crate) fn end_quietly(&self, id: &[u8]) {
        self.state.lock().unwrap().groups.remove(id).unwrap();
    }

    /// Messages of an epoch before the current one are taken from now on.
    pub(crate) fn take_older_messages(&self, group: &GroupId) {
        let mut state = self.state.lock().unwrap();
        state.groups.get_mut(group.as_slice()).unwrap().is_strict = false;
    }

    /// Whether what is delivered to a client is lost.
    pub(crate) fn lose_deliveries(&self, client: &ClientId, lose: bool) {
        let mut state = self.state.lock().unwrap();
        state.clients.get_mut(client).unwrap().loses = lose;
    }

    /// Clients are told when they have fewer KeyPackages than that.
    pub(crate) fn tell_low_key_packages(&self, low: usize) {
        self.state.lock().unwrap().low_key_packages = low;
    }

    /// Nobody becomes a user without one of these from now on.
    pub(crate) fn invite(&self, codes: &[&str]) {
        let codes = codes.iter().map(|code| (*code).to_owned()).collect();
        self.state.lock().unwrap().invitations = Some(codes);
    }

    /// A client is not registered any more.
    pub(crate) fn forget_client(&self, client: &ClientId) {
        self.state.lock().unwrap().clients.remove(client);
    }

    /// What the owner of a group answers to those who want to join.
    pub(crate) fn external_commit_info(&self, group: &GroupId) -> DsResponseBody {
        self.state.lock().unwrap().groups[group.as_slice()].external_commit_info()
    }

    /// The same, and the tree once more where it must not be. Its signature is not right.
    pub(crate) fn external_commit_info_with_tree(&self, group: &GroupId) -> DsResponseBody {
        self.state.lock().unwrap().groups[group.as_slice()].external_commit_info_with_tree()
    }

    /// Forgets what a client acknowledged, as if the acknowledgements had been lost.
    pub(crate) fn lose_acknowledgements(&self, client: &ClientId) {
        self.state
            .lock()
            .unwrap()
            .clients
            .get_mut(client)
            .unwrap()
            .acknowledged = 0;
    }

    fn call(&self, body: &[u8]) -> Result<ClientResponseBody, Failure> {
        let mut state = self.state.lock().unwrap();
        let request = ClientRequest::decode(body).map_err(|_| refuse(DsErrorCode::MALFORMED))?;
        if request.timestamp.abs_diff(self.clock.now_ms()) > 5 * 60 * 1000
            || !state.nonces.insert(request.nonce.as_slice().to_vec())
        {
            let replayed = DsError::new(DsErrorCode::REPLAYED, "").with_data(&self.clock.now_ms());
            return Err(Failure::Refused(replayed));
        }
        let key = match &request.body {
            ClientRequestBody::Register(register) => register.signature_key.clone(),
            _ => {
                let account = state.clients.get(&request.client);
                account
                    .ok_or(refuse(DsErrorCode::UNAUTHENTICATED))?
                    .key
                    .clone()
            }
        };
        verify(
            label::CLIENT_REQUEST,
            &request.to_be_signed(),
            &key,
            &request.signature,
        )?;
        let client = request.client;
        if matches!(request.body, ClientRequestBody::Forward(_)) {
            let result = self.answer(&mut state, &client, request.body);
            drop(state);
            self.arrived.notify_waiters();
            return result;
        }
        let name = request.body.name();
        let mishap = state.mishap(name);
        match mishap {
            Some(Mishap::LoseRequest) => return Err(Failure::Lost),
            Some(Mishap::Refuse(error)) => return Err(Failure::Refused(error)),
            _ => {}
        }
        state.seen.push((name, body.to_vec()));
        let result = self.answer(&mut state, &client, request.body);
        drop(state);
        self.arrived.notify_waiters();
        match mishap {
            Some(Mishap::LoseAnswer) => Err(Failure::Lost),
            _ => result,
        }
    }

    fn answer(
        &self,
        state: &mut State,
        client: &ClientId,
        request: ClientRequestBody,
    ) -> Result<ClientResponseBody, Failure> {
        match request {
            ClientRequestBody::Register(register) => {
                state.register(client.clone(), register, self.clock.now_ms())
            }
            ClientRequestBody::ListClients(_) => Ok(state.list_clients(client)),
            ClientRequestBody::DeleteClient(delete) => {
                state.delete_client(client, &delete.client)?;
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::DeleteAccount(_) => {
                state.delete_account(client);
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::GetQueueConfigs(get) => {
                let configs = (0..get.count).map(|_| state.queue_config(client)).collect();
                Ok(ClientResponseBody::QueueConfigs {
                    queue_configs: List::new(configs).unwrap(),
                })
            }
            ClientRequestBody::UploadKeyPackages(upload) => {
                state.upload(client, upload);
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::ReadQueue(read) => Ok(state.read_queue(client, &read)),
            ClientRequestBody::Acknowledge(acknowledge) => {
                let position = position(&acknowledge.cursor);
                let account = state.clients.get_mut(client).unwrap();
                account.acknowledged = account.acknowledged.max(position);
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::SetConsent(consent) => {
                state.set_consent(client, &consent);
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::DeclineConnection(decline) => {
                state.decline(client, &decline.peer);
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::SetBlock(block) => {
                state.set_block(client, block);
                Ok(ClientResponseBody::Ok)
            }
            ClientRequestBody::ListConnections(list) => Ok(state.list_connections(client, &list)),
            ClientRequestBody::ListBlocks(list) => Ok(state.list_blocks(client, &list)),
            ClientRequestBody::Forward(forward) => state.forward(client, forward),
        }
    }
}

/// How a request fails.
pub(crate) enum Failure {
    Refused(DsError),
    Lost,
}

pub(crate) fn refuse(code: DsErrorCode) -> Failure {
    Failure::Refused(DsError::new(code, "the fake says no"))
}

pub(crate) fn verify(
    label: &str,
    tbs: &[u8],
    key: &PublicKey,
    signature: &Signature,
) -> Result<(), Failure> {
    // Points on P-256 have 65 bytes.
    let scheme = match key.as_slice().len() {
        32 => openmls_traits::types::SignatureScheme::ED25519,
        _ => openmls_traits::types::SignatureScheme::ECDSA_SECP256R1_SHA256,
    };
    RustCrypto::default()
        .verify_signature(
            scheme,
            &sign_content(label, tbs),
            key.as_slice(),
            signature.as_slice(),
        )
        .map_err(|_| refuse(DsErrorCode::UNAUTHENTICATED))
}

fn position(cursor: &Cursor) -> usize {
    match cursor.as_slice() {
        [] => 0,
        bytes => usize::try_from(u64::from_be_bytes(bytes.try_into().unwrap())).unwrap(),
    }
}

impl State {
    pub(crate) fn clear_mishaps(&mut self) {
        self.mishaps.clear();
    }

    /// The last message to a client, which it does not get.
    pub(crate) fn take_last_item(&mut self, client: &ClientId) -> Vec<u8> {
        let bytes = self.last_item(client);
        self.clients.get_mut(client).unwrap().queue.pop();
        bytes
    }

    /// What was planned for a request of this name.
    fn mishap(&mut self, name: &str) -> Option<Mishap> {
        let at = self
            .mishaps
            .iter()
            .position(|(planned, _)| *planned == name);
        self.mishaps.remove(at?).map(|(_, mishap)| mishap)
    }

    pub(crate) fn last_item(&self, client: &ClientId) -> Vec<u8> {
        match &self.clients[client].queue.last().unwrap().payload {
            QueueItemPayload::MlsMessage(bytes) => bytes.as_slice().to_vec(),
            _ => panic!("not a message"),
        }
    }

    fn queue_config(&mut self, client: &ClientId) -> QueueConfig {
        self.configs += 1;
        let sealed = format!("{client} {}", self.configs);
        QueueConfig {
            provider: client.provider(),
            client_queue_information: ClientQueueInformation::new(sealed).unwrap(),
        }
    }

    fn read_queue(&self, client: &ClientId, read: &ReadQueue) -> ClientResponseBody {
        let account = &self.clients[client];
        let start = match read.cursor.is_empty() {
            true => account.acknowledged,
            false => position(&read.cursor),
        };
        let items = account
            .queue
            .iter()
            .skip(start)
            .take(256)
            .cloned()
            .collect();
        ClientResponseBody::Queue {
            items: List::new(items).unwrap(),
        }
    }

    pub(crate) fn deliver(&mut self, client: &ClientId, sender: &ProviderName, message: &MlsBytes) {
        let payload = QueueItemPayload::MlsMessage(message.clone());
        self.enqueue(client, sender, payload);
    }

    /// Hands over something of a group, where it is taken.
    pub(crate) fn deliver_in(
        &mut self,
        group: &[u8],
        client: &ClientId,
        sender: &ProviderName,
        message: &MlsBytes,
    ) {
        if !self.closed.contains(&(client.clone(), group.to_vec())) {
            self.deliver(client, sender, message);
        }
    }

    fn enqueue(&mut self, client: &ClientId, sender: &ProviderName, payload: QueueItemPayload) {
        // It was deleted, or loses what comes.
        let account = self
            .clients
            .get_mut(client)
            .filter(|account| !account.loses);
        let Some(account) = account else {
            return;
        };
        let cursor = u64::try_from(account.queue.len() + 1)
            .unwrap()
            .to_be_bytes();
        account.queue.push(QueueItem {
            cursor: Cursor::new(cursor).unwrap(),
            received_at: self.clock.now_ms(),
            sender: sender.clone(),
            payload,
        });
    }

    fn forward(
        &mut self,
        client: &ClientId,
        forward: Forward,
    ) -> Result<ClientResponseBody, Failure> {
        let bytes = forward.request.into_vec();
        let destination = &forward.destination;
        match forward.endpoint {
            Endpoint::GroupKeyPackages => {
                let request = GroupKeyPackageRequest::decode_for(destination, &bytes)
                    .map_err(Failure::Refused)?;
                assert!(request.provider_auth.is_blank());
                return self.with_mishap("group_key_packages", |state| {
                    forwarded(200, state.key_packages(&request).encode())
                });
            }
            Endpoint::ConnectionKeyPackages => {
                let request = ConnectionKeyPackageRequest::decode_for(destination, &bytes)
                    .map_err(Failure::Refused)?;
                assert!(request.provider_auth.is_blank());
                assert_eq!(request.requester, client.user_id());
                return self.with_mishap("connection_key_packages", |state| {
                    forwarded(200, state.connection_key_packages(&request).encode())
                });
            }
            Endpoint::VerificationKey => {
                VerificationKeyRequest::decode_for(destination, &bytes)
                    .map_err(Failure::Refused)?;
                return self.with_mishap("verification_key", |state| {
                    forwarded(200, state.verification_keys(destination).encode())
                });
            }
            _ => {}
        }
        let request = DsRequest::decode_for(destination, &bytes).map_err(Failure::Refused)?;
        let name = request.body.name();
        assert_eq!(request.body.endpoint(), forward.endpoint);
        let mishap = self.mishap(name);
        if matches!(mishap, Some(Mishap::LoseRequest)) {
            return Err(Failure::Lost);
        }
        self.seen.push((name, bytes.clone()));
        let result = match &mishap {
            Some(Mishap::Refuse(error)) => Err(Failure::Refused(error.clone())),
            Some(Mishap::Answer(answer)) => Ok(answer.clone()),
            _ => self.operate(client, request, &bytes),
        };
        if matches!(mishap, Some(Mishap::LoseAnswer)) {
            return Err(Failure::Lost);
        }
        Ok(match result {
            Ok(body) => forwarded(200, DsResponse::new(body).encode()),
            Err(Failure::Refused(error)) => {
                let status = error.code.http_status().unwrap_or(400);
                forwarded(status, DsResponse::from(error).encode())
            }
            Err(Failure::Lost) => return Err(Failure::Lost),
        })
    }
}

impl State {
    /// A request that is none to an owner.
    fn with_mishap(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> ClientResponseBody,
    ) -> Result<ClientResponseBody, Failure> {
        let mishap = self.mishap(name);
        if matches!(mishap, Some(Mishap::LoseRequest)) {
            return Err(Failure::Lost);
        }
        self.seen.push((name, Vec::new()));
        if let Some(Mishap::Refuse(error)) = mishap {
            let status = error.code.http_status().unwrap_or(400);
            return Ok(forwarded(status, DsResponse::from(error).encode()));
        }
        let answer = work(self);
        match mishap {
            Some(Mishap::LoseAnswer) => Err(Failure::Lost),
            _ => Ok(answer),
        }
    }
}

fn forwarded(http_status: u16, body: Vec<u8>) -> ClientResponseBody {
    ClientResponseBody::Forwarded {
        http_status,
        response: Opaque::new(body).unwrap(),
    }
}
