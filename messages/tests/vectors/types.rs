//! Every type that travels, by the name that `docs/protocol.md` gives it.

use moh_messages::client_api::{
    Acknowledge, BlockTarget, ClientAuthorization, ClientChanged, ClientInfo, ClientRequest,
    ClientResponse, Connection, ConnectionChanged, DeclineConnection, DeleteClient, Forward,
    GetQueueConfigs, KeyPackagesLow, ListBlocks, ListConnections, QueueItem, ReadQueue, Register,
    SetBlock, SetConsent, UploadKeyPackages,
};
use moh_messages::{
    AddMembers, Attestation, Audience, BasicCredential, CipherSuite, ClientId, ClientKeyPackage,
    ConnectionKeyPackageRequest, ConnectionRequest, CreateGroup, DecodeError, Delivery,
    DeliveryResult, DsAuth, DsError, DsProtocolVersion, DsRequest, DsResponse, Extension,
    ExternalCommitInfo, ExternalSender, GroupKeyPackageRequest, GroupUpdate, KeyPackageResponse,
    Message, MlsBytes, MlsGroupUpdate, MohGroupContext, MohLeafNode, PartialGroupInfo,
    ProviderAuth, ProviderKeys, ProviderName, ProviderTbs, QueueConfig, QueueingServiceRequest,
    QueueingServiceResponse, Rbac, RequestGroupId, SelfRemoveClient, SendMessage, SignatureScheme,
    TreeBytes, UserId, UserKeyPackages, VerificationKey, VerificationKeyRequest,
    VerificationKeyResponse, WelcomeInfo,
};

type Decode = fn(&[u8]) -> Result<(), DecodeError>;

fn decodes<T: Message>(bytes: &[u8]) -> Result<(), DecodeError> {
    T::decode(bytes).map(drop)
}

macro_rules! types {
    ($($name:literal: $type:ty,)*) => {
        /// Name and decoder of each type.
        pub(crate) const TYPES: &[(&str, Decode)] = &[$(($name, decodes::<$type>)),*];
    };
}

types! {
    "MLSBytes": MlsBytes,
    "TreeBytes": TreeBytes,
    "DSProtocolVersion": DsProtocolVersion,
    "ProviderName": ProviderName,
    "UserID": UserId,
    "ClientID": ClientId,
    "SignatureScheme": SignatureScheme,
    "CipherSuite": CipherSuite,
    "VerificationKey": VerificationKey,
    "VerificationKeyRequest": VerificationKeyRequest,
    "VerificationKeyResponse": VerificationKeyResponse,
    "ProviderAuth": ProviderAuth,
    "ProviderTBS": ProviderTbs,
    "DSAuth": DsAuth,
    "DSRequest": DsRequest,
    "RequestGroupID": RequestGroupId,
    "Extension": Extension,
    "PartialGroupInfo": PartialGroupInfo,
    "MLSGroupUpdate": MlsGroupUpdate,
    "CreateGroup": CreateGroup,
    "DeleteGroup": GroupUpdate,
    "RemoveUsers": GroupUpdate,
    "RemoveClients": GroupUpdate,
    "UpdateClient": GroupUpdate,
    "ExternalJoin": GroupUpdate,
    "ReInitializeGroup": GroupUpdate,
    "SetRoles": GroupUpdate,
    "AddUsers": AddMembers,
    "AddClients": AddMembers,
    "SelfRemoveClient": SelfRemoveClient,
    "SendMessage": SendMessage,
    "WelcomeInfo": WelcomeInfo,
    "ExternalCommitInfo": ExternalCommitInfo,
    "Credential": BasicCredential,
    "ExternalSender": ExternalSender,
    "ProviderKeys": ProviderKeys,
    "DSResponse": DsResponse,
    "DSError": DsError,
    "QueueConfig": QueueConfig,
    "Audience": Audience,
    "Delivery": Delivery,
    "ConnectionRequest": ConnectionRequest,
    "QueueingServiceRequest": QueueingServiceRequest,
    "DeliveryResult": DeliveryResult,
    "QueueingServiceResponse": QueueingServiceResponse,
    "Attestation": Attestation,
    "MohGroupContext": MohGroupContext,
    "MohLeafNode": MohLeafNode,
    "Rbac": Rbac,
    "ConnectionKeyPackageRequest": ConnectionKeyPackageRequest,
    "GroupKeyPackageRequest": GroupKeyPackageRequest,
    "ClientKeyPackage": ClientKeyPackage,
    "UserKeyPackages": UserKeyPackages,
    "ConnectionKeyPackageResponse": KeyPackageResponse,
    "GroupKeyPackageResponse": KeyPackageResponse,
    "ClientAuthorization": ClientAuthorization,
    "Register": Register,
    "GetQueueConfigs": GetQueueConfigs,
    "UploadKeyPackages": UploadKeyPackages,
    "ReadQueue": ReadQueue,
    "Acknowledge": Acknowledge,
    "Forward": Forward,
    "SetConsent": SetConsent,
    "DeleteClient": DeleteClient,
    "ListConnections": ListConnections,
    "DeclineConnection": DeclineConnection,
    "BlockTarget": BlockTarget,
    "SetBlock": SetBlock,
    "ListBlocks": ListBlocks,
    "ClientRequest": ClientRequest,
    "QueueItem": QueueItem,
    "KeyPackagesLow": KeyPackagesLow,
    "ConnectionChanged": ConnectionChanged,
    "ClientChanged": ClientChanged,
    "ClientInfo": ClientInfo,
    "Connection": Connection,
    "ClientResponse": ClientResponse,
}

/// Structs of `docs/protocol.md` that are not a message: nothing to decode.
pub(crate) const NOT_DECODED: [&str; 4] = [
    "ClientDeleted", // no bytes, nor have the next two
    "ListClients",
    "DeleteAccount",
    "SignContent", // never sent; see signatures.json
];

/// Types that are numbers or bytes under a name of their own.
pub(crate) const NOT_STRUCTS: [&str; 6] = [
    "MLSBytes",
    "TreeBytes",
    "ProviderName",
    "UserID",
    "ClientID",
    "CipherSuite",
];

/// The decoder of the type with this name.
pub(crate) fn decoder(type_name: &str) -> Decode {
    TYPES
        .iter()
        .find(|(name, _)| *name == type_name)
        .unwrap_or_else(|| panic!("there is no type {type_name}"))
        .1
}
