//! Whether the GroupInfo that a committer signed is that of the epoch which its commit leads to.

use std::collections::BTreeSet;

use moh_messages::{
    HandshakeBytes, MlsBytes, Opaque, PartialGroupInfo, Signature, label, sign_content,
};
use openmls::prelude::{GroupContext, PublicGroup};
use tls_codec::{DeserializeBytes, Serialize, TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::roster::Member;
use crate::crypto;
use crate::error::Refusal;

const PROTOCOL_VERSION_MLS10: u16 = 1;
const WIRE_FORMAT_GROUP_INFO: u16 = 4;
const RATCHET_TREE: u16 = 0x0002;
const EXTERNAL_PUB: u16 = 0x0004;

/// A GroupInfo of epoch 0, as its parts (RFC 9420 section 12.4.3).
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(super) struct GroupInfoMessage {
    protocol_version: u16,
    wire_format: u16,
    /// The epoch that it describes.
    pub(super) group_context: GroupContext,
    /// The rest that the provider does not compute itself.
    extensions: moh_messages::List<moh_messages::Extension, 16>,
    /// Only the members can tell whether it is right.
    pub(super) confirmation_tag: Opaque<255>,
    /// The leaf whose key signed.
    pub(super) signer: u32,
    signature: Signature,
}

impl GroupInfoMessage {
    /// Reads an MLSMessage with a GroupInfo.
    pub(super) fn read(bytes: &HandshakeBytes) -> Result<Self, Refusal> {
        Self::tls_deserialize_exact_bytes(bytes.as_slice())
            .ok()
            .filter(|info| {
                info.protocol_version == PROTOCOL_VERSION_MLS10
                    && info.wire_format == WIRE_FORMAT_GROUP_INFO
            })
            .ok_or(Refusal::InvalidGroupInfo(
                "not an MLSMessage with a GroupInfo",
            ))
    }

    /// What a later commit would send of it.
    pub(super) fn partial(&self) -> PartialGroupInfo {
        PartialGroupInfo {
            group_info_extensions: self.extensions.clone(),
            signature: self.signature.clone(),
        }
    }
}

/// The GroupInfo of a group's current epoch, of which the committer sent a part; none when it is
/// larger than any message.
pub(super) fn whole(
    group: &PublicGroup,
    partial: PartialGroupInfo,
    signer: u32,
) -> Option<HandshakeBytes> {
    let tag = group.confirmation_tag().tls_serialize_detached().ok()?;
    let message = GroupInfoMessage {
        protocol_version: PROTOCOL_VERSION_MLS10,
        wire_format: WIRE_FORMAT_GROUP_INFO,
        group_context: group.group_context().clone(),
        extensions: partial.group_info_extensions,
        confirmation_tag: Opaque::tls_deserialize_exact_bytes(&tag).ok()?,
        signer,
        signature: partial.signature,
    };
    HandshakeBytes::new(message.tls_serialize_detached().ok()?).ok()
}

/// Checks the extensions, and the signature by the member at leaf `signer` over the whole.
pub(super) fn verify(
    group_context: &GroupContext,
    confirmation_tag: &[u8],
    partial: &PartialGroupInfo,
    signer: u32,
    member: &Member,
) -> Result<(), Refusal> {
    let has = |extension| {
        partial
            .group_info_extensions
            .iter()
            .any(|e| e.extension_type == extension)
    };
    if !has(EXTERNAL_PUB) {
        return Err(Refusal::InvalidGroupInfo("external_pub is missing"));
    }
    if has(RATCHET_TREE) {
        return Err(Refusal::InvalidGroupInfo(
            "ratchet_tree does not belong here",
        ));
    }
    let types = partial
        .group_info_extensions
        .iter()
        .map(|e| e.extension_type);
    if types.collect::<BTreeSet<_>>().len() < partial.group_info_extensions.len() {
        return Err(Refusal::InvalidGroupInfo("an extension stands twice"));
    }
    let tag = MlsBytes::new(confirmation_tag)
        .map_err(|_| Refusal::InvalidGroupInfo("no confirmation tag"))?;
    let mut content = Vec::new();
    let serialized = group_context
        .tls_serialize(&mut content)
        .and_then(|_| partial.group_info_extensions.tls_serialize(&mut content))
        .and_then(|_| tag.tls_serialize(&mut content))
        .and_then(|_| signer.tls_serialize(&mut content));
    serialized.map_err(|_| Refusal::InvalidGroupInfo("too large"))?;
    let content = sign_content(label::GROUP_INFO, &content);
    let key = member.signature_key.as_slice();
    if crypto::verify(member.scheme, key, &content, partial.signature.as_slice()) {
        Ok(())
    } else {
        Err(Refusal::InvalidGroupInfo(
            "not signed by the committer for the new epoch",
        ))
    }
}
