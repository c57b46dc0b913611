//! The bodies of requests.

use moh_messages::{
    AddMembers, CreateGroup, DsRequestBody, ExternalCommitInfo, GroupUpdate, HandshakeBytes, List,
    Message as _, MlsBytes, MlsGroupUpdate, Opaque, PartialGroupInfo, RequestGroupId,
    SelfRemoveClient, SendMessage, Signature, WelcomeInfo,
};
use moh_messages::{CipherSuite, GroupId, GroupType};

use crate::mls::{GroupInfo, Made};
use crate::room::Op;

fn group_update(made: &Made) -> MlsGroupUpdate {
    let info = GroupInfo::decode(&made.group_info).unwrap();
    MlsGroupUpdate {
        commit: HandshakeBytes::new(made.commit.clone()).unwrap(),
        partial_group_info: PartialGroupInfo {
            group_info_extensions: info.extensions,
            signature: Signature::new(info.signature.as_slice()).unwrap(),
        },
    }
}

/// A member's commit.
pub(crate) fn commit(op: Op, made: &Made) -> DsRequestBody {
    let update = GroupUpdate {
        group_update: group_update(made),
    };
    let adds = || {
        let one = |welcome: &Vec<u8>| MlsBytes::new(welcome.clone()).unwrap();
        AddMembers {
            group_update: group_update(made),
            welcomes: List::new(made.welcomes.iter().map(one).collect()).unwrap(),
        }
    };
    match op {
        Op::AddUsers => DsRequestBody::AddUsers(adds()),
        Op::AddClients => DsRequestBody::AddClients(adds()),
        Op::RemoveUsers => DsRequestBody::RemoveUsers(update),
        Op::RemoveClients => DsRequestBody::RemoveClients(update),
        Op::UpdateClient => DsRequestBody::UpdateClient(update),
        Op::SetRoles => DsRequestBody::SetRoles(update),
        Op::DeleteGroup => DsRequestBody::DeleteGroup(update),
        Op::ReInitializeGroup => DsRequestBody::ReInitializeGroup(update),
    }
}

pub(crate) fn external_join(made: &Made) -> DsRequestBody {
    DsRequestBody::ExternalJoin(GroupUpdate {
        group_update: group_update(made),
    })
}

pub(crate) fn request_group_id(cipher_suite: CipherSuite) -> DsRequestBody {
    DsRequestBody::RequestGroupId(RequestGroupId { cipher_suite })
}

pub(crate) fn create_group(
    group_id: &GroupId,
    group_type: GroupType,
    leaf_node: Vec<u8>,
    group_info: Vec<u8>,
) -> DsRequestBody {
    DsRequestBody::CreateGroup(CreateGroup {
        group_id: group_id.clone(),
        group_type,
        leaf_node: Opaque::new(leaf_node).unwrap(),
        group_info: HandshakeBytes::new(group_info).unwrap(),
    })
}

pub(crate) fn self_remove_client(proposal: Vec<u8>) -> DsRequestBody {
    DsRequestBody::SelfRemoveClient(SelfRemoveClient {
        proposal: HandshakeBytes::new(proposal).unwrap(),
    })
}

pub(crate) fn send_message(message: Vec<u8>) -> DsRequestBody {
    DsRequestBody::SendMessage(SendMessage {
        message: Opaque::new(message).unwrap(),
    })
}

pub(crate) fn welcome_info(group_id: &GroupId, epoch: u64) -> DsRequestBody {
    DsRequestBody::WelcomeInfo(WelcomeInfo {
        group_id: group_id.clone(),
        epoch,
    })
}

pub(crate) fn external_commit_info(group_id: &GroupId) -> DsRequestBody {
    DsRequestBody::ExternalCommitInfo(ExternalCommitInfo {
        group_id: group_id.clone(),
    })
}
