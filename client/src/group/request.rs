//! Requests to owners of groups, signed.

use moh_messages::{
    DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, Message, Opaque, ProviderAuth,
    ProviderName, Signature, SignedLast, label,
};

use crate::api::Api;
use crate::error::Error;

/// A request, not signed yet.
pub(crate) fn ds_request(
    api: &Api,
    owner: &ProviderName,
    body: DsRequestBody,
    auth: DsAuth,
) -> DsRequest {
    DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: api.provider.clone(),
        recipient: owner.clone(),
        group_state_key: Opaque::empty(),
        body,
        auth,
    }
}

/// Signs a request with this client's key.
pub(crate) fn signed_request(api: &Api, mut request: DsRequest) -> Result<Vec<u8>, Error> {
    let signature = api.sign(label::DS_REQUEST, &request.to_be_signed())?;
    if let Some(place) = request.signature_mut() {
        *place = signature;
    }
    Ok(request.encode())
}

/// A request that the member at a leaf signs.
pub(crate) fn signed_by_leaf(
    api: &Api,
    owner: &ProviderName,
    body: DsRequestBody,
    leaf_index: u32,
) -> Result<Vec<u8>, Error> {
    let auth = DsAuth::Leaf {
        leaf_index,
        signature: Signature::empty(),
    };
    signed_request(api, ds_request(api, owner, body, auth))
}

/// A request that this client's provider signs, anew each time that it goes out.
pub(crate) fn for_provider(api: &Api, owner: &ProviderName, body: DsRequestBody) -> Vec<u8> {
    let auth = DsAuth::Provider {
        on_behalf_of: api.client.clone(),
        provider_auth: ProviderAuth::blank(),
    };
    ds_request(api, owner, body, auth).encode()
}
