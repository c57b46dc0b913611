//! The secrets of a provider, and the file that they are in.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::request::{self, MAX_PUBLISHED_KEYS};
use crate::clock::{DAY_MS, HOUR_MS, Random};

/// How long a new key is published before its first signature, so that nobody has a list of
/// ours that lacks it: the longest life of such a list, and an hour for the provider to be
/// started again with the new key.
const KEY_LEAD_MS: u64 = DAY_MS + HOUR_MS;

/// A file with keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is not what [`SecretKeys::write`] writes.
    #[error("not a key file: {0}")]
    Invalid(String),
    /// Others than its owner may read it.
    #[error("others than the owner can read it: chmod 600")]
    Permissions,
    /// A provider publishes so many keys, and not more.
    #[error("there would be more than {MAX_PUBLISHED_KEYS} keys to publish")]
    TooManyKeys,
}

/// A key that signs requests and attestations, and when.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestKey {
    /// Seed of the Ed25519 key.
    pub(super) seed: String,
    /// When other providers are told of it first, in milliseconds since the Unix epoch.
    pub(super) published_from: u64,
    /// When it signs first; the one that began last signs.
    pub(super) signs_from: u64,
}

/// All secrets of a provider, in hexadecimal, as they stand in its key file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct SecretKeys {
    /// Seed of the Ed25519 key that signs requests and attestations, before any other: how a key
    /// file had it when there was only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_key: Option<String>,
    /// Seed of the Ed25519 key that groups of ciphersuites 1 and 3 know.
    pub(super) group_key_ed25519: String,
    /// PKCS#8 of the P-256 key that groups of ciphersuite 2 know.
    pub(super) group_key_p256: String,
    /// Earlier ones, which groups still know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) previous_group_keys_ed25519: Vec<String>,
    /// Earlier ones, which groups still know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) previous_group_keys_p256: Vec<String>,
    /// AES-256 key that seals clients' queue information.
    pub(super) queue_key: String,
    /// HMAC-SHA-256 key that marks the names of groups.
    pub(super) group_id_key: String,
    /// The keys that sign requests and attestations, each from a time on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    request_keys: Vec<RequestKey>,
}

impl SecretKeys {
    /// New keys.
    ///
    /// # Panics
    /// When no P-256 key can be made, which does not happen.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Self {
        let secret = || hex::encode(random.bytes::<32>());
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .and_then(|key| key.to_pkcs8v1())
            .expect("P-256 keys can be made");
        Self {
            request_key: None,
            request_keys: vec![RequestKey {
                seed: secret(),
                published_from: 0,
                signs_from: 0,
            }],
            group_key_ed25519: secret(),
            group_key_p256: hex::encode(p256.as_ref()),
            previous_group_keys_ed25519: Vec::new(),
            previous_group_keys_p256: Vec::new(),
            queue_key: secret(),
            group_id_key: secret(),
        }
    }

    /// The same, but for the keys that new groups know: those are new, and the ones until now
    /// are kept for the groups that know them.
    #[must_use]
    pub fn with_new_group_keys(&self, random: &dyn Random) -> Self {
        let new = Self::generate(random);
        let mut keys = self.clone();
        let ed25519 = std::mem::replace(&mut keys.group_key_ed25519, new.group_key_ed25519.clone());
        let p256 = std::mem::replace(&mut keys.group_key_p256, new.group_key_p256.clone());
        keys.previous_group_keys_ed25519.push(ed25519);
        keys.previous_group_keys_p256.push(p256);
        keys
    }

    /// The same with one more key for requests and attestations, and when it begins to sign, in
    /// milliseconds since the Unix epoch: when everybody can know it. Keys that nobody needs any
    /// more at `now` are left out.
    ///
    /// # Errors
    /// When there would be more keys than a provider may publish.
    pub fn with_new_request_key(
        &self,
        random: &dyn Random,
        now: u64,
    ) -> Result<(Self, u64), KeyFileError> {
        let mut keys = self.clone();
        let mut all = self.all_request_keys();
        let signs_from = now + KEY_LEAD_MS;
        all.push(RequestKey {
            seed: hex::encode(random.bytes::<32>()),
            published_from: now,
            signs_from,
        });
        all.sort_by_key(|key| key.signs_from);
        let ends: Vec<_> = request::ends(all.iter().map(|key| key.signs_from)).collect();
        let mut ends = ends.into_iter();
        all.retain(|_| ends.next().flatten().is_none_or(|end| now <= end));
        if all.len() > MAX_PUBLISHED_KEYS {
            return Err(KeyFileError::TooManyKeys);
        }
        keys.request_key = None;
        keys.request_keys = all;
        Ok((keys, signs_from))
    }

    pub(super) fn all_request_keys(&self) -> Vec<RequestKey> {
        let first = self.request_key.iter().map(|seed| RequestKey {
            seed: seed.clone(),
            published_from: 0,
            signs_from: 0,
        });
        first.chain(self.request_keys.iter().cloned()).collect()
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read, is not one, or others than its owner could read it.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if std::fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
                return Err(KeyFileError::Permissions);
            }
        }
        let mut text = std::fs::read_to_string(path)?;
        let keys = toml::from_str(&text).map_err(|e| KeyFileError::Invalid(e.message().to_owned()));
        text.zeroize();
        keys
    }

    /// Writes a new key file, for its owner alone.
    ///
    /// # Errors
    /// When there is a file of that name, or it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyFileError> {
        // Whole or not at all: written beside it, then given its name, unless that is taken.
        let beside = self.write_beside(path)?;
        let named = std::fs::hard_link(&beside, path);
        std::fs::remove_file(&beside)?;
        named?;
        Ok(sync_folder_of(path)?)
    }

    /// Writes a key file in the place of the one that is there.
    ///
    /// # Errors
    /// When it cannot be written; the one that is there stays.
    pub fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
        let beside = self.write_beside(path)?;
        std::fs::rename(&beside, path)?;
        Ok(sync_folder_of(path)?)
    }

    fn write_beside(&self, path: &Path) -> Result<PathBuf, KeyFileError> {
        use std::io::Write;
        let beside = path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        // One that is left from a write that was broken off may be for others to read.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut text = toml::to_string(self).map_err(|e| KeyFileError::Invalid(e.to_string()))?;
        let mut file = options.open(&beside)?;
        file.write_all(
            b"# The secret keys of a MoH provider. Whoever has them is the provider.\n",
        )?;
        file.write_all(text.as_bytes())?;
        text.zeroize();
        file.sync_all()?;
        Ok(beside)
    }
}

impl std::fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKeys")
    }
}

/// What was done in the folder of a file is durable.
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Keys;
    use super::*;
    use crate::clock::Environment;

    fn keys(secret: &SecretKeys) -> Keys {
        Keys::new("a.example".parse().unwrap(), secret).unwrap()
    }

    #[test]
    fn a_key_file_is_for_its_owner_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let secret = SecretKeys::generate(&*Environment::system().random);
        secret.write(&path).unwrap();
        assert!(SecretKeys::read(&path).unwrap() == secret);
        assert!(
            secret.write(&path).is_err(),
            "an existing file is not overwritten"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(
                SecretKeys::read(&path),
                Err(KeyFileError::Permissions)
            ));
        }
    }

    #[test]
    fn a_key_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let random = Environment::system().random;
        let secret = SecretKeys::generate(&*random);
        secret.write(&path).unwrap();
        let (new, _) = secret.with_new_request_key(&*random, 7).unwrap();
        new.replace(&path).unwrap();
        assert!(SecretKeys::read(&path).unwrap() == new);
        // Also where another write was broken off, whoever may read what is left of it.
        let left = path.with_extension("new");
        std::fs::write(&left, "half").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        new.replace(&path).unwrap();
        assert!(SecretKeys::read(&path).unwrap() == new);
        let files = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(files.count(), 1, "nothing is left beside it");
    }

    /// A key file from before keys could be changed has one key, with a name of its own.
    #[test]
    fn a_file_with_one_request_key_is_read_and_keeps_it() {
        let random = Environment::system().random;
        let mut old = SecretKeys::generate(&*random);
        let seed = old.request_keys[0].seed.clone();
        old.request_keys.clear();
        old.request_key = Some(seed.clone());
        let text = toml::to_string(&old).unwrap();
        assert!(
            text.contains(&format!("request_key = \"{seed}\"")),
            "{text}"
        );
        let read: SecretKeys = toml::from_str(&text).unwrap();
        let before = keys(&read).verification_keys(DAY_MS);
        let (new, signs_from) = read.with_new_request_key(&*random, DAY_MS).unwrap();
        let text = toml::to_string(&new).unwrap();
        let new = keys(&toml::from_str(&text).unwrap());
        let overlap = new.verification_keys(signs_from);
        assert_eq!(overlap.len(), 2);
        assert_eq!(overlap[0].key_id, before[0].key_id);
    }

    #[test]
    fn a_key_file_without_a_request_key_is_none() {
        let mut secret = SecretKeys::generate(&*Environment::system().random);
        secret.request_keys.clear();
        let error = Keys::new("a.example".parse().unwrap(), &secret).unwrap_err();
        assert!(error.to_string().contains("no request key"), "{error}");
    }

    #[test]
    fn more_keys_than_can_be_published_are_not_made() {
        let random = Environment::system().random;
        let mut secret = SecretKeys::generate(&*random);
        for day in 1..MAX_PUBLISHED_KEYS as u64 {
            (secret, _) = secret.with_new_request_key(&*random, day * DAY_MS).unwrap();
        }
        let last = MAX_PUBLISHED_KEYS as u64 * DAY_MS;
        let refused = secret.with_new_request_key(&*random, last);
        assert!(matches!(refused, Err(KeyFileError::TooManyKeys)));
        assert_eq!(
            keys(&secret).verification_keys(last).len(),
            MAX_PUBLISHED_KEYS
        );
        // Once the first is not published any more, there is room, and it is left out.
        let first = secret.request_keys[0].clone();
        let end = secret.request_keys[1].signs_from + 150 * DAY_MS;
        assert!(secret.with_new_request_key(&*random, end).is_err());
        let (after, _) = secret.with_new_request_key(&*random, end + 1).unwrap();
        assert_eq!(after.request_keys.len(), MAX_PUBLISHED_KEYS);
        assert!(!after.request_keys.contains(&first));
    }
}
