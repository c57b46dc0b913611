//! A certificate authority of one's own, for development: nobody else trusts it.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// A certificate authority that signs here and now.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of a folder: `ca.pem` and `ca-key.pem`, made when they are not there.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        if !key.exists() {
            make(&key, &KeyPair::generate()?.serialize_pem(), 0o600)?;
        }
        let pem = std::fs::read_to_string(&key)
            .with_context(|| format!("{} cannot be read", key.display()))?;
        let key = KeyPair::from_pem(&pem)
            .with_context(|| format!("{} holds no private key", key.display()))?;
        let issuer = CertifiedIssuer::self_signed(ca_params(), key)?;
        if !certificate.exists() {
            make(&certificate, &issuer.pem(), 0o644)?;
        }
        Ok(Self { issuer })
    }

    /// A certificate for `name` on this machine: `cert.pem` and `key.pem` in a folder, anew each
    /// time.
    pub(crate) fn certify(&self, folder: &Path, name: &str) -> Result<()> {
        let names = [name, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(folder.join("cert.pem"), certificate.pem())?;
        write_secret(&folder.join("key.pem"), &key.serialize_pem())
    }
}

/// A file with this text, whole or not at all, unless there is one: another process may be doing
/// the same.
fn make(path: &Path, text: &str, mode: u32) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("{} cannot be written to", folder.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    #[cfg(unix)]
    std::fs::set_permissions(
        file.path(),
        std::os::unix::fs::PermissionsExt::from_mode(mode),
    )?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if path.exists() => {
            tracing::debug!(%error, "another process was faster");
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be written", path.display())),
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params
        .distinguished_name
        .push(DnType::CommonName, "moh development, not to be trusted");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A file that its owner alone can read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
