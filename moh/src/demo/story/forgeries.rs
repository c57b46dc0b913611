//! What nobody gets away with.

use anyhow::Result;
use moh_client::{DsErrorCode, GroupId};
use moh_messages::{
    ApplicationBytes, DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, Endpoint,
    ExternalCommitInfo, Opaque, SendMessage, Signature,
};

use super::Story;
use crate::demo::cast::{Cast, Device};

impl Story<'_> {
    pub(super) async fn what_is_refused(&mut self, cast: &Cast, group: &GroupId) -> Result<()> {
        let (alice, mallory) = (&cast.alice, &cast.mallory);
        self.transcript.chapter("What nobody gets away with");
        let info = |auth| {
            let group_id = group.clone();
            let body = DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id });
            request(mallory, alice, body, auth)
        };
        let alices_leaf = |signature| DsAuth::Leaf {
            leaf_index: 0,
            signature,
        };
        let (right, wrong) = (
            Endpoint::ExternalCommitInformation,
            Endpoint::GroupOperation,
        );
        let own = alices_leaf(Signature::empty());

        let code = DsErrorCode::UNKNOWN_GROUP;
        let title = "Mallory says that Alice's leaf is his, and signs with his own key";
        self.attempt(mallory, title, code, right, info(own)).await?;

        let code = DsErrorCode::UNAUTHENTICATED;
        let title = "Mallory does not sign at all";
        self.attempt(mallory, title, code, right, info(DsAuth::Anonymous))
            .await?;

        let code = DsErrorCode::WRONG_ENDPOINT;
        let title = "Mallory knocks at another door";
        let elsewhere = info(DsAuth::Anonymous);
        self.attempt(mallory, title, code, wrong, elsewhere).await?;

        let code = DsErrorCode::UNSUPPORTED_VERSION;
        let mut later = info(DsAuth::Anonymous);
        later.version = DsProtocolVersion(9);
        let title = "Mallory speaks version 9";
        self.attempt(mallory, title, code, right, later).await?;

        let code = DsErrorCode::INVALID_MESSAGE;
        let message = ApplicationBytes::new(*b"not a message of MLS")?;
        let body = DsRequestBody::SendMessage(SendMessage { message });
        let text = request(alice, alice, body, alices_leaf(Signature::empty()));
        let title = "Alice sends what is not encrypted";
        self.attempt(alice, title, code, wrong, text).await?;

        let code = DsErrorCode::POLICY_VIOLATION;
        let title = "Alone in another group, Alice cannot leave it to nobody; she can delete it";
        self.step_with(title, &[code]);
        let alone = alice.client.create_group().await?;
        let left = alice.client.leave(&alone).await;
        self.refused(alice, "self_remove_client", code, left)?;
        alice.client.delete_group(&alone).await?;
        Ok(())
    }

    async fn attempt(
        &mut self,
        by: &Device,
        title: &str,
        code: DsErrorCode,
        endpoint: Endpoint,
        request: DsRequest,
    ) -> Result<()> {
        self.step_with(title, &[code]);
        let name = request.body.name();
        let answer = by.client.ask(endpoint, request).await;
        self.refused(by, name, code, answer)
    }
}

/// A request to the owner of Alice's group.
fn request(by: &Device, owned_by: &Device, body: DsRequestBody, auth: DsAuth) -> DsRequest {
    DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: by.client.user_id().provider(),
        recipient: owned_by.client.user_id().provider(),
        group_state_key: Opaque::empty(),
        body,
        auth,
    }
}
