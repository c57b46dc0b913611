//! Why a request is refused, and what the asking side is told.

use moh_messages::{DsError, DsErrorCode, HandshakeBytes, List};

use crate::store::{CommitError, StoreError};

/// A request is refused; nothing has changed. Whose fault it is follows from the variant: up to
/// `EpochNotKept` the asking side's, then ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body could not be read as a request to this provider.
    #[error("{0}")]
    Unreadable(DsError),
    /// This type of request goes to another endpoint.
    #[error("this request goes to {0}")]
    WrongEndpoint(&'static str),
    /// A provider's or client's signature, an attestation, or the kind of authentication.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Known, and not allowed to.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// No such group, or whoever asks is not in it.
    #[error("no group that this client is in")]
    UnknownGroup,
    /// The group has ended; whoever asks was in it.
    #[error("the group has been deleted")]
    GroupDeleted,
    /// The group's name is in use.
    #[error("a group of this name exists, or did")]
    GroupIdInUse,
    /// The message is not of the current epoch.
    #[error("the group is at epoch {current}")]
    WrongEpoch {
        /// The group's epoch.
        current: u64,
    },
    /// Proposals wait to be committed.
    #[error("pending proposals must be committed first")]
    PendingProposals(Vec<Vec<u8>>),
    /// Against RFC 9420.
    #[error("{0}")]
    InvalidMessage(String),
    /// The GroupInfo is not that of the new epoch.
    #[error("{0}")]
    InvalidGroupInfo(&'static str),
    /// A KeyPackage is not valid.
    #[error("{0}")]
    InvalidKeyPackage(String),
    /// Against a rule of the profile.
    #[error("{0}")]
    PolicyViolation(String),
    /// Larger or more than we take.
    #[error("{0}")]
    LimitExceeded(&'static str),
    /// Outside of the time window, or a nonce for the second time.
    #[error("{reason}")]
    Replayed {
        /// Which of the two.
        reason: &'static str,
        /// Our time, in milliseconds since the Unix epoch.
        now: u64,
    },
    /// The tree of that epoch is gone.
    #[error("the tree of that epoch is not kept")]
    EpochNotKept,
    /// Too often.
    #[error("{reason}")]
    RateLimited {
        /// What.
        reason: &'static str,
        /// When to try again.
        retry_after_seconds: u32,
    },
    /// We cannot now, or not yet.
    #[error("{reason}")]
    Unavailable {
        /// Why, for people.
        reason: String,
        /// When to try again.
        retry_after_seconds: u32,
    },
}

/// Against a rule of the profile.
pub(crate) fn violation(what: &str) -> Refusal {
    Refusal::PolicyViolation(what.to_owned())
}

/// Against RFC 9420.
pub(crate) fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::InvalidMessage(what.to_string())
}

impl Refusal {
    /// Something that is not built yet.
    #[must_use]
    pub fn not_built(what: &str) -> Self {
        Self::Unavailable {
            reason: format!("{what} is not available at this provider"),
            retry_after_seconds: 3600,
        }
    }

    fn code(&self) -> DsErrorCode {
        match self {
            Self::Unreadable(error) => error.code,
            Self::WrongEndpoint(_) => DsErrorCode::WRONG_ENDPOINT,
            Self::Unauthenticated(_) => DsErrorCode::UNAUTHENTICATED,
            Self::Unauthorized(_) => DsErrorCode::UNAUTHORIZED,
            Self::UnknownGroup => DsErrorCode::UNKNOWN_GROUP,
            Self::GroupDeleted => DsErrorCode::GROUP_DELETED,
            Self::GroupIdInUse => DsErrorCode::GROUP_ID_IN_USE,
            Self::WrongEpoch { .. } => DsErrorCode::WRONG_EPOCH,
            Self::PendingProposals(_) => DsErrorCode::PENDING_PROPOSALS,
            Self::InvalidMessage(_) => DsErrorCode::INVALID_MESSAGE,
            Self::InvalidGroupInfo(_) => DsErrorCode::INVALID_GROUP_INFO,
            Self::InvalidKeyPackage(_) => DsErrorCode::INVALID_KEY_PACKAGE,
            Self::PolicyViolation(_) => DsErrorCode::POLICY_VIOLATION,
            Self::LimitExceeded(_) => DsErrorCode::LIMIT_EXCEEDED,
            Self::Replayed { .. } => DsErrorCode::REPLAYED,
            Self::EpochNotKept => DsErrorCode::EPOCH_NOT_KEPT,
            Self::RateLimited { .. } => DsErrorCode::RATE_LIMITED,
            Self::Unavailable { .. } => DsErrorCode::UNAVAILABLE,
        }
    }
}

impl From<Refusal> for DsError {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(refusal.code(), &refusal.to_string());
        match refusal {
            Refusal::Unreadable(error) => error,
            Refusal::WrongEpoch { current } => error.with_data(&current),
            Refusal::Replayed { now, .. } => error.with_data(&now),
            Refusal::Unavailable {
                retry_after_seconds,
                ..
            }
            | Refusal::RateLimited {
                retry_after_seconds,
                ..
            } => error.with_data(&retry_after_seconds),
            Refusal::PendingProposals(proposals) => {
                let proposals: Vec<HandshakeBytes> = proposals
                    .into_iter()
                    .filter_map(|p| p.try_into().ok())
                    .collect();
                error.with_data(&List::<_, 256>::new(proposals).unwrap_or_default())
            }
            _ => error,
        }
    }
}

impl From<DsError> for Refusal {
    fn from(error: DsError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::Unavailable {
            reason: "the store failed".to_owned(),
            retry_after_seconds: 1,
        }
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Failed(error) => error.into(),
            CommitError::Conflict => Self::Unavailable {
                reason: "too many requests change this at once".to_owned(),
                retry_after_seconds: 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use moh_messages::Message;

    use super::*;

    #[test]
    fn data_is_what_the_code_promises() {
        let error = DsError::from(Refusal::WrongEpoch { current: 7 });
        assert_eq!(
            (error.code, error.data.as_slice()),
            (DsErrorCode::WRONG_EPOCH, &7u64.to_be_bytes()[..])
        );
        let error = DsError::from(Refusal::not_built("this"));
        assert_eq!(u32::decode(error.data.as_slice()), Ok(3600));
        let error = DsError::from(Refusal::Replayed {
            reason: "late",
            now: 9,
        });
        assert_eq!(u64::decode(error.data.as_slice()), Ok(9));
        let error = DsError::from(Refusal::PendingProposals(vec![vec![1, 2]]));
        assert_eq!(error.data.as_slice(), [3, 2, 1, 2]);
    }
}
