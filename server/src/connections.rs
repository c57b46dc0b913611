//! Whom the provider's own users let fetch their KeyPackages.
//!
//! Connecting over the wire comes later; until then a user records their consent through the
//! client API.

use moh_messages::UserId;

use crate::change::{Change, Write};
use crate::error::Refusal;
use crate::node::Node;

impl Node {
    /// Records whether `peer` may fetch KeyPackages of `user`.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn set_consent(
        &self,
        user: &UserId,
        peer: &UserId,
        allowed: bool,
    ) -> Result<(), Refusal> {
        let write = Write::Consent {
            user: user.clone(),
            peer: peer.clone(),
            allowed,
            at: self.now_ms(),
        };
        Ok(self
            .commit(Change {
                expect: Vec::new(),
                writes: vec![write],
            })
            .await?)
    }

    /// Whether `user` wants to hear nothing of `peer`.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    #[allow(clippy::unused_async)]
    pub async fn is_blocked(&self, _user: &UserId, _peer: &UserId) -> Result<bool, Refusal> {
        Ok(false)
    }

    /// Whether `peer` may fetch KeyPackages of `user`; everybody may fetch their own.
    ///
    /// # Errors
    /// `unavailable` when the store fails.
    pub async fn consents(&self, user: &UserId, peer: &UserId) -> Result<bool, Refusal> {
        Ok(user == peer || self.store().consent(user, peer).await?)
    }
}
