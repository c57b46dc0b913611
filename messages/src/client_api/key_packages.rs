//! What a client has to have ready so that others can add it to groups.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::Boolean;
use crate::codec::List;
use crate::key_packages::KeyPackageBytes;

/// ```text
/// struct { uint8 count; } GetQueueConfigs;
/// ```
/// Answered by `queue_configs`.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GetQueueConfigs {
    /// How many.
    pub count: u8,
}

/// ```text
/// struct { Boolean replace;  MLSBytes key_packages<V>; } UploadKeyPackages;
/// ```
/// Answered by `ok`: all of them are taken, or none.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct UploadKeyPackages {
    /// Whether those that are there already are not to be handed out any more.
    pub replace: Boolean,
    /// MLSMessages with KeyPackages of this client; at most 256.
    pub key_packages: List<KeyPackageBytes, 256>,
}
