//! The file with a client's signature key, beside its state database: so that the key survives the
//! loss of that. It is durable before anything that is signed with it goes out.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use moh_messages::{CipherSuite, ClientId, Message, Opaque};
use openmls_basic_credential::SignatureKeyPair;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::store::StoreError;

/// What the file begins with: what it is, and in which version.
const HEAD: [u8; 8] = *b"moh-key1";
/// The longest file, in bytes.
const MAX_BYTES: u64 = 4096;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Content {
    head: [u8; 8],
    client: ClientId,
    cipher_suite: u16,
    /// A [`SignatureKeyPair`] in MessagePack, with the names of its fields.
    key: Opaque<2048>,
}

/// A client's key, and whose it is.
pub(crate) struct KeyFile {
    pub(crate) client: ClientId,
    pub(crate) cipher_suite: CipherSuite,
    pub(crate) signer: SignatureKeyPair,
}

/// Where the key is of a client whose state database is at `path`.
pub(crate) fn path_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".key");
    path.with_file_name(name)
}

impl KeyFile {
    /// Reads the file; none where there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let wrong = |error: &dyn std::fmt::Display| StoreError::Value(format!("key file: {error}"));
        let content = Content::decode(&bytes).map_err(|error| wrong(&error))?;
        if content.head != HEAD {
            return Err(wrong(&"another kind of file"));
        }
        let signer = rmp_serde::from_slice(content.key.as_slice()).map_err(|e| wrong(&e))?;
        Ok(Some(Self {
            client: content.client,
            cipher_suite: CipherSuite(content.cipher_suite),
            signer,
        }))
    }

    /// Writes the file, readable for its owner only, so that it is whole or not there.
    pub(crate) fn write(
        path: &Path,
        client: &ClientId,
        cipher_suite: CipherSuite,
        signer: &SignatureKeyPair,
    ) -> Result<(), StoreError> {
        let wrong = |error: &dyn std::fmt::Display| StoreError::Value(format!("key file: {error}"));
        let key = rmp_serde::to_vec_named(signer).map_err(|error| wrong(&error))?;
        let content = Content {
            head: HEAD,
            client: client.clone(),
            cipher_suite: cipher_suite.0,
            key: Opaque::new(key).map_err(|error| wrong(&error))?,
        };
        let new = with_suffix(path, ".new");
        remove(&new)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new)?;
        file.write_all(&content.encode())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        sync_directory_of(path)
    }

    /// Gives another name to a file that is there: it is another client's key, or does not read.
    pub(crate) fn set_aside(path: &Path) -> Result<(), StoreError> {
        match std::fs::rename(path, with_suffix(path, ".old")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Deletes the file.
    pub(crate) fn delete(path: &Path) -> Result<(), StoreError> {
        remove(&with_suffix(path, ".new"))?;
        remove(path)?;
        sync_directory_of(path)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes it durable that a file is there, or is not.
fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    // Other systems have no such thing.
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use openmls_traits::types::SignatureScheme;

    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_beside(&dir.path().join("state.db"));
        assert_eq!(path, dir.path().join("state.db.key"));
        assert!(KeyFile::read(&path).unwrap().is_none());
        let client: ClientId = "mimi://a.example/d/alice/phone".parse().unwrap();
        for scheme in [
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_SECP256R1_SHA256,
        ] {
            let signer = SignatureKeyPair::new(scheme).unwrap();
            KeyFile::write(&path, &client, CipherSuite(1), &signer).unwrap();
            let read = KeyFile::read(&path).unwrap().unwrap();
            assert_eq!(
                (read.client, read.cipher_suite),
                (client.clone(), CipherSuite(1))
            );
            assert_eq!(read.signer.public(), signer.public());
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let bytes = std::fs::read(&path).unwrap();
        for wrong in [&bytes[..bytes.len() - 1], b"", b"moh-key2"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(KeyFile::read(&path).is_err());
        }
        KeyFile::delete(&path).unwrap();
        KeyFile::delete(&path).unwrap();
        assert!(KeyFile::read(&path).unwrap().is_none());
    }
}
