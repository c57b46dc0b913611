//! What is asked of the provider that owns a group (wire profile, section 4).

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{List, Opaque};
use crate::keys::{CipherSuite, DsProtocolVersion, ProviderAuth, Signature, SignedLast};
use crate::names::{ClientId, ProviderName};

/// The longest MLS handshake message, in bytes (section 11).
pub const MAX_HANDSHAKE_BYTES: usize = 2 << 20;
/// The longest MLS application message, in bytes (section 11).
pub const MAX_APPLICATION_BYTES: usize = 256 << 10;
/// The longest Welcome, in bytes (section 11).
pub const MAX_WELCOME_BYTES: usize = 4 << 20;
/// The longest tree that has a type, in bytes: enough for 100,000 members. What a provider hands
/// out is its own setting (section 11).
pub const MAX_TREE_BYTES: usize = 128 << 20;

/// `opaque MLSBytes<V>` with a handshake message: one serialized MLSMessage.
pub type HandshakeBytes = Opaque<MAX_HANDSHAKE_BYTES>;
/// `opaque MLSBytes<V>` with an application message.
pub type ApplicationBytes = Opaque<MAX_APPLICATION_BYTES>;
/// `opaque MLSBytes<V>` with a Welcome, or with any message on its way to a queue.
pub type MlsBytes = Opaque<MAX_WELCOME_BYTES>;
/// `opaque TreeBytes<V>`: the content of a `ratchet_tree` extension.
pub type TreeBytes = Opaque<MAX_TREE_BYTES>;
/// The name of a group, as its owner gave it out.
pub type GroupId = Opaque<{ crate::names::MAX_IDENTIFIER_BYTES }>;
/// A KeyPackageRef (RFC 9420 section 5.2).
pub type KeyPackageRef = Opaque<64>;

/// ```text
/// struct { CipherSuite cipher_suite; } RequestGroupID;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RequestGroupId {
    /// The ciphersuite of the group to be, which decides on the kind of the owner's key in it.
    pub cipher_suite: CipherSuite,
}

/// RFC 9420 section 7.2:
/// ```text
/// struct { ExtensionType extension_type; opaque extension_data<V>; } Extension;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Extension {
    /// The type's number.
    pub extension_type: u16,
    /// Its content.
    pub extension_data: Opaque<{ 64 << 10 }>,
}

/// ```text
/// struct {
///   Extension group_info_extensions<V>;   // external_pub required, ratchet_tree forbidden
///   opaque signature<V>;                  // of the committer's new leaf, over the GroupInfo of the new epoch
/// } PartialGroupInfo;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PartialGroupInfo {
    /// The GroupInfo's own extensions.
    pub group_info_extensions: List<Extension, 16>,
    /// Over GroupContext, these extensions, confirmation tag and signer.
    pub signature: Signature,
}

/// ```text
/// struct { MLSBytes commit; PartialGroupInfo partial_group_info; } MLSGroupUpdate;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct MlsGroupUpdate {
    /// A PublicMessage with a Commit.
    pub commit: HandshakeBytes,
    /// What the owner does not know of the GroupInfo after it.
    pub partial_group_info: PartialGroupInfo,
}

/// ```text
/// enum { regular(0), connection(1), (255) } GroupType;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum GroupType {
    /// Any users.
    Regular = 0,
    /// Two users, who are getting to know each other.
    Connection = 1,
}

/// ```text
/// struct {
///   opaque group_id<V>;
///   GroupType group_type;
///   opaque leaf_node<V>;              // a LeafNode: the creator's, at leaf 0; the tree is this one leaf
///   MLSBytes group_info;
/// } CreateGroup;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CreateGroup {
    /// As `request_group_id` gave it out.
    pub group_id: GroupId,
    /// What kind of group it is to be.
    pub group_type: GroupType,
    /// The creator's LeafNode, at most 4 KiB.
    pub leaf_node: Opaque<{ 4 << 10 }>,
    /// An MLSMessage with the GroupInfo of epoch 0.
    pub group_info: HandshakeBytes,
}

/// ```text
/// struct { MLSGroupUpdate group_update; } DeleteGroup, RemoveUsers, RemoveClients,
///                                         UpdateClient, ExternalJoin, ReInitializeGroup, SetRoles;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GroupUpdate {
    /// The commit.
    pub group_update: MlsGroupUpdate,
}

/// ```text
/// struct { MLSGroupUpdate group_update; MLSBytes welcomes<V>; } AddUsers, AddClients;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct AddMembers {
    /// The commit with the Adds.
    pub group_update: MlsGroupUpdate,
    /// MLSMessages with Welcomes for those who are added.
    pub welcomes: List<MlsBytes, 64>,
}

/// ```text
/// struct { MLSBytes proposal; } SelfRemoveClient;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SelfRemoveClient {
    /// A PublicMessage with a Remove of the sender.
    pub proposal: HandshakeBytes,
}

/// ```text
/// struct { MLSBytes message; } SendMessage;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SendMessage {
    /// A PrivateMessage with application data.
    pub message: ApplicationBytes,
}

/// ```text
/// struct { opaque group_id<V>; uint64 epoch; } WelcomeInfo;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomeInfo {
    /// The group that the Welcome is for.
    pub group_id: GroupId,
    /// The epoch that the Welcome leads to.
    pub epoch: u64,
}

/// ```text
/// struct { opaque group_id<V>; } ExternalCommitInfo;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ExternalCommitInfo {
    /// The group to be joined.
    pub group_id: GroupId,
}

/// ```text
/// enum {
///   request_group_id(0), create_group(1), delete_group(2), add_users(3),
///   remove_users(4), add_clients(5), remove_clients(6), self_remove_client(7),
///   update_client(8), external_join(9), send_message(10),
///   re_initialize_group(14), welcome_info(16), external_commit_info(17),
///   set_roles(18), client_deleted(19), (255)
/// } DSRequestType;                    // 11-13 and 15 are reserved
///
/// select (DSRequest.type) { one struct per type } body;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DsRequestBody {
    /// A name for a group that is to be created.
    #[tls_codec(discriminant = 0)]
    RequestGroupId(RequestGroupId),
    /// A new group with one member.
    #[tls_codec(discriminant = 1)]
    CreateGroup(CreateGroup),
    /// The end of a group.
    #[tls_codec(discriminant = 2)]
    DeleteGroup(GroupUpdate),
    /// Adds of users who have no client in the group.
    #[tls_codec(discriminant = 3)]
    AddUsers(AddMembers),
    /// Removes of users with all of their clients.
    #[tls_codec(discriminant = 4)]
    RemoveUsers(GroupUpdate),
    /// Adds of further clients of members.
    #[tls_codec(discriminant = 5)]
    AddClients(AddMembers),
    /// Removes of other clients of the sender's own user.
    #[tls_codec(discriminant = 6)]
    RemoveClients(GroupUpdate),
    /// The proposal to remove the sender.
    #[tls_codec(discriminant = 7)]
    SelfRemoveClient(SelfRemoveClient),
    /// Fresh keys for the sender.
    #[tls_codec(discriminant = 8)]
    UpdateClient(GroupUpdate),
    /// A join without a Welcome.
    #[tls_codec(discriminant = 9)]
    ExternalJoin(GroupUpdate),
    /// An application message.
    #[tls_codec(discriminant = 10)]
    SendMessage(SendMessage),
    /// The end of a group that another one succeeds.
    #[tls_codec(discriminant = 14)]
    ReInitializeGroup(GroupUpdate),
    /// The tree that belongs to a Welcome.
    #[tls_codec(discriminant = 16)]
    WelcomeInfo(WelcomeInfo),
    /// What an external commit needs.
    #[tls_codec(discriminant = 17)]
    ExternalCommitInfo(ExternalCommitInfo),
    /// Other admins.
    #[tls_codec(discriminant = 18)]
    SetRoles(GroupUpdate),
    /// The word of a provider that one of its clients is gone.
    #[tls_codec(discriminant = 19)]
    ClientDeleted,
}

impl DsRequestBody {
    /// The operation's name, as the profile writes it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestGroupId(_) => "request_group_id",
            Self::CreateGroup(_) => "create_group",
            Self::DeleteGroup(_) => "delete_group",
            Self::AddUsers(_) => "add_users",
            Self::RemoveUsers(_) => "remove_users",
            Self::AddClients(_) => "add_clients",
            Self::RemoveClients(_) => "remove_clients",
            Self::SelfRemoveClient(_) => "self_remove_client",
            Self::UpdateClient(_) => "update_client",
            Self::ExternalJoin(_) => "external_join",
            Self::SendMessage(_) => "send_message",
            Self::ReInitializeGroup(_) => "re_initialize_group",
            Self::WelcomeInfo(_) => "welcome_info",
            Self::ExternalCommitInfo(_) => "external_commit_info",
            Self::SetRoles(_) => "set_roles",
            Self::ClientDeleted => "client_deleted",
        }
    }

    /// The only endpoint that takes this type.
    #[must_use]
    pub fn endpoint(&self) -> crate::Endpoint {
        match self {
            Self::WelcomeInfo(_) => crate::Endpoint::WelcomeInformation,
            Self::ExternalCommitInfo(_) => crate::Endpoint::ExternalCommitInformation,
            _ => crate::Endpoint::GroupOperation,
        }
    }
}

/// ```text
/// enum { anonymous(0), leaf(1), key_package(2), provider(5), (255) } DSAuthType;
///                                     // user_key(3), connection_token(4) are reserved
/// struct {
///   DSAuthType type;
///   select (DSAuth.type) {
///     case anonymous:    struct {};
///     case leaf:         uint32 leaf_index;          opaque signature<V>;
///     case key_package:  opaque key_package_ref<V>;  opaque signature<V>;
///     case provider:     ClientID on_behalf_of;      ProviderAuth provider_auth;
///   }
/// } DSAuth;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DsAuth {
    /// Nobody says who asks.
    #[tls_codec(discriminant = 0)]
    Anonymous,
    /// The member at a leaf of the current tree.
    #[tls_codec(discriminant = 1)]
    Leaf {
        /// The position of the leaf, from 0.
        leaf_index: u32,
        /// By the leaf's signature key.
        signature: Signature,
    },
    /// A client that has been added and has not joined yet.
    #[tls_codec(discriminant = 2)]
    KeyPackage {
        /// The KeyPackage that it was added with.
        key_package_ref: KeyPackageRef,
        /// By the signature key of that KeyPackage's leaf node.
        signature: Signature,
    },
    /// The provider `sender`, for a client of its own.
    #[tls_codec(discriminant = 5)]
    Provider {
        /// The client that it speaks for.
        on_behalf_of: ClientId,
        /// The provider's signature.
        provider_auth: ProviderAuth,
    },
}

/// ```text
/// struct {
///   DSProtocolVersion version;
///   ProviderName sender;              // home provider of the requesting client
///   ProviderName recipient;           // provider that owns the group
///   opaque group_state_key<V>;        // empty in version 1 (section 10)
///   DSRequestType type;
///   select (DSRequest.type) { one struct per type, below } body;
///   DSAuth auth;
/// } DSRequest;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DsRequest {
    /// `moh1`.
    pub version: DsProtocolVersion,
    /// Home provider of the requesting client.
    pub sender: ProviderName,
    /// Provider that owns the group.
    pub recipient: ProviderName,
    /// Empty in version 1.
    pub group_state_key: Opaque<64>,
    /// What is asked.
    pub body: DsRequestBody,
    /// By whom.
    pub auth: DsAuth,
}

impl SignedLast for DsRequest {
    fn signature(&self) -> Option<&Signature> {
        match &self.auth {
            DsAuth::Anonymous => None,
            DsAuth::Leaf { signature, .. } | DsAuth::KeyPackage { signature, .. } => {
                Some(signature)
            }
            DsAuth::Provider { provider_auth, .. } => Some(&provider_auth.signature),
        }
    }

    fn signature_mut(&mut self) -> Option<&mut Signature> {
        match &mut self.auth {
            DsAuth::Anonymous => None,
            DsAuth::Leaf { signature, .. } | DsAuth::KeyPackage { signature, .. } => {
                Some(signature)
            }
            DsAuth::Provider { provider_auth, .. } => Some(&mut provider_auth.signature),
        }
    }
}
