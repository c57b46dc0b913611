//! What can go wrong, and whose fault it is.

use moh_messages::{
    CipherSuite, ClientId, DsError, DsErrorCode, GroupId, InvalidName, OutOfBounds, ProviderName,
    UserId,
};

pub use crate::store::StoreError;

/// Something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client's own provider gave no answer.
    #[error("{provider} gave no answer: {source}")]
    Unreachable {
        /// The client's own provider.
        provider: ProviderName,
        /// What happened.
        source: TransportError,
    },
    /// A provider understood the request and refused it; nothing has changed.
    #[error("{by} refused: {error}")]
    Refused {
        /// The group's owner, or the client's own provider.
        by: ProviderName,
        /// Its words.
        error: DsError,
    },
    /// A provider's answer makes no sense.
    #[error("the answer of {by} makes no sense: {detail}")]
    BadAnswer {
        /// The provider.
        by: ProviderName,
        /// What is wrong with the answer.
        detail: String,
    },
    /// Nobody knows yet whether the request was accepted. It is stored, and the same bytes go
    /// out again before the next operation on the group and whenever events are received; what
    /// comes of it arrives as [`Event::Settled`](crate::Event::Settled). Do not repeat the
    /// call: that would be a second request.
    #[error("stored, and to be sent again: {cause}")]
    Unsettled {
        /// The group.
        group: GroupId,
        /// Why there was no answer this time.
        cause: Box<Error>,
    },
    /// An earlier request of this client in the group has no answer yet: see
    /// [`Unsettled`](Self::Unsettled). This one was not made, and is not stored; it may be tried
    /// again.
    #[error("an earlier request is to be answered first: {cause}")]
    Busy {
        /// The group.
        group: GroupId,
        /// Why there was no answer this time.
        cause: Box<Error>,
    },
    /// Other members changed the group each time before the owner saw this client's request.
    /// Nothing has changed; it may be tried again.
    #[error("others changed the group first, {tries} times in a row")]
    Outrun {
        /// The group.
        group: GroupId,
        /// How often it was tried.
        tries: u32,
    },
    /// The owner has the group in a later epoch than what arrived led this client to. What is
    /// missing may still be on its way; where it does not come in a minute, this client joins the
    /// group again, as by [`Client::rejoin`]. Nothing has changed.
    ///
    /// [`Client::rejoin`]: crate::Client::rejoin
    #[error("the group is in epoch {current}; what arrived leads to {known} only")]
    LeftBehind {
        /// The group.
        group: GroupId,
        /// Its epoch, as far as this client knows.
        known: u64,
        /// Its epoch, as the owner says.
        current: u64,
    },
    /// This client is not in that group.
    #[error("this client is not in the group {0:?}")]
    UnknownGroup(GroupId),
    /// Somebody has added this client to the group meanwhile, and it is about to join it by the
    /// Welcome that came in. Nothing has changed; where that join is refused, it may be tried
    /// again.
    #[error("a Welcome into the group {0:?} came in first")]
    Joining(GroupId),
    /// The user, or device, is in the group already.
    #[error("{0} is in the group already")]
    AlreadyMember(String),
    /// The user, or device, is not in the group.
    #[error("{0} is not in the group")]
    NotMember(String),
    /// This client cannot remove itself so, nor its user: see
    /// [`Client::leave`](crate::Client::leave).
    #[error("to remove oneself is to leave")]
    Oneself,
    /// This client is about to be removed from the group: it, or the group's owner, proposed
    /// so. It cannot change the group, or write there, any more.
    #[error("this client is about to be removed from the group {0:?}")]
    Leaving(GroupId),
    /// A member of the group has this client's name and another key. It has to be removed first.
    #[error("a member of the group {0:?} has this client's name and another key")]
    OtherKey(GroupId),
    /// The protocol does not have this ciphersuite, or this client's key is not for it.
    #[error("ciphersuite {} cannot be used", .0.0)]
    CipherSuite(CipherSuite),
    /// The user did not consent to being added to groups by this one, or does not exist: their
    /// provider does not tell these apart.
    #[error("{0} does not exist, or did not consent to being added to groups")]
    NoConsent(UserId),
    /// The user does not exist, or lets this one not even ask: their provider does not tell these
    /// apart.
    #[error("{0} does not exist, or does not want to be asked")]
    NoSuchUser(UserId),
    /// It is this client's own user.
    #[error("{0} is this client's own user")]
    OwnUser(UserId),
    /// The user has not asked to be connected, or has taken that back.
    #[error("there is no request of {0}, or it is there no more")]
    NoRequest(UserId),
    /// The user is connected already.
    #[error("{0} is connected already")]
    AlreadyConnected(UserId),
    /// The keys of this provider do not say yet whether its clients are who they say to be. It is
    /// asked for them again in a minute.
    #[error("the keys of {0} are not known yet")]
    Unverified(ProviderName),
    /// None of the user's clients can be added now.
    #[error("no client of {0} can be added: they have no KeyPackage that fits")]
    NoKeyPackage(UserId),
    /// Another client's KeyPackage is not what its provider says it is.
    #[error("the KeyPackage of {client} cannot be used: {detail}")]
    BadKeyPackage {
        /// The client that it was said to be of.
        client: ClientId,
        /// What is wrong with it.
        detail: String,
    },
    /// The state database belongs to another client.
    #[error("the state database is that of {0}")]
    OtherClient(ClientId),
    /// There is no registered client in the state database.
    #[error("there is no registered client in the state database")]
    NotRegistered,
    /// An authorization is for another client, or for another key.
    #[error("the authorization is not for this client and its key")]
    WrongAuthorization,
    /// A name is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Something is longer than the protocol allows.
    #[error("too long: {0}")]
    TooLong(#[from] OutOfBounds),
    /// Root certificates cannot be read, or TLS cannot be set up with them.
    #[error("TLS: {0}")]
    Tls(String),
    /// This client's account, or this device, was deleted; so is its state.
    #[error("this client was deleted")]
    AccountDeleted,
    /// The state database cannot be used.
    #[error(transparent)]
    Store(StoreError),
    /// MLS refuses to do this.
    #[error("MLS: {0}")]
    Mls(String),
}

/// No answer came, or none that is an answer of a provider.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Connection(String),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// An answer from below the protocol, as of a proxy.
    #[error("HTTP status {status}: {text}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The start of the body, where it is text.
        text: String,
    },
    /// The provider's name leads nowhere: what it says about its address is not valid.
    #[error("discovery: {0}")]
    Discovery(String),
}

/// Whose fault an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The application asked for what cannot be.
    Caller,
    /// This device: its disk, or its state.
    Device,
    /// The network, or a provider that is down: it will pass.
    Network,
    /// A provider does not do what the protocol says.
    Provider(ProviderName),
    /// Another user's client does not do what the protocol says.
    Peer(ClientId),
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unreachable { .. }
            | Self::Outrun { .. }
            | Self::Busy { .. }
            | Self::LeftBehind { .. }
            | Self::Unverified(_)
            | Self::Joining(_) => Fault::Network,
            Self::Refused { error, .. } if is_temporary(error.code) => Fault::Network,
            Self::Refused { .. }
            | Self::UnknownGroup(_)
            | Self::AlreadyMember(_)
            | Self::NotMember(_)
            | Self::Oneself
            | Self::Leaving(_)
            | Self::OtherKey(_)
            | Self::CipherSuite(_)
            | Self::NoConsent(_)
            | Self::NoSuchUser(_)
            | Self::OwnUser(_)
            | Self::NoRequest(_)
            | Self::AlreadyConnected(_)
            | Self::NoKeyPackage(_)
            | Self::OtherClient(_)
            | Self::NotRegistered
            | Self::AccountDeleted
            | Self::WrongAuthorization
            | Self::Name(_)
            | Self::TooLong(_)
            | Self::Tls(_) => Fault::Caller,
            Self::BadAnswer { by, .. } => Fault::Provider(by.clone()),
            Self::Unsettled { cause, .. } => cause.fault(),
            Self::BadKeyPackage { client, .. } => Fault::Peer(client.clone()),
            Self::Store(_) | Self::Mls(_) => Fault::Device,
        }
    }

    /// Whether the same call may work later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NoKeyPackage(_) => true,
            Self::Unsettled { .. } => false,
            other => other.fault() == Fault::Network,
        }
    }

    /// What a provider said, where it is a provider that refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&DsError> {
        match self {
            Self::Refused { error, .. } => Some(error),
            Self::Unsettled { cause, .. } | Self::Busy { cause, .. } => cause.refusal(),
            _ => None,
        }
    }

    /// An error of openmls, in words: there are too many types of them to keep apart.
    pub(crate) fn mls(error: impl std::fmt::Display) -> Self {
        Self::Mls(error.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Deleted => Self::AccountDeleted,
            error => Self::Store(error),
        }
    }
}

/// Whether a refusal with this code says nothing about the next time.
pub(crate) fn is_temporary(code: DsErrorCode) -> bool {
    matches!(
        code,
        DsErrorCode::RATE_LIMITED
            | DsErrorCode::UNAVAILABLE
            | DsErrorCode::REPLAYED
            | DsErrorCode::PRIVACY_PASS_REQUIRED
    )
}
