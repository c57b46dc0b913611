//! Whose chat it is: the state of a device is opened, or the device is registered.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use moh_client::{Client, ConnectOptions, DeviceRequest, Error, NewDevice};
use moh_messages::client_api::ClientAuthorization;
use moh_messages::{ClientId, DsErrorCode, Signature, UserId};

use super::names::{short, short_client};

/// How many groups a device can be added to before it has to be online again.
pub(crate) const KEY_PACKAGES: usize = 50;

/// How long a signature of Ed25519 is, in hexadecimal.
const SIGNATURE_DIGITS: usize = 128;

/// Where the state of a device is.
pub(crate) struct Place {
    pub(crate) library: PathBuf,
    pub(crate) history: PathBuf,
}

/// Where a provider is, and what is trusted besides the system's certificates.
pub(crate) struct Way {
    pub(crate) connect: Option<String>,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) invitation: Option<String>,
}

/// How a user is asked before there is a chat.
pub(crate) trait Asks {
    /// Says something, and waits for a line. None if there is nobody.
    async fn ask(&mut self, text: &str) -> Option<String>;
}

impl Place {
    /// The folder of a device below the one for all state; it is made where it is not there.
    pub(crate) fn of(state: Option<&Path>, client: &ClientId) -> Result<Self> {
        let state = match state {
            Some(state) => state.to_owned(),
            None => default_state()?,
        };
        let folder = state.join(short(&client.user_id())).join(client.device());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        Ok(Self {
            library: folder.join("keys.db"),
            history: folder.join("history.db"),
        })
    }
}

/// `$XDG_DATA_HOME/moh`, or `~/.local/share/moh`.
fn default_state() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(data) = set("XDG_DATA_HOME") {
        return Ok(PathBuf::from(data).join("moh"));
    }
    let home = set("HOME").context("there is no HOME: say --state DIR")?;
    Ok(PathBuf::from(home).join(".local/share/moh"))
}

impl Way {
    /// What the library needs to know.
    pub(crate) async fn options(&self, user: &UserId) -> Result<ConnectOptions> {
        let provider = user.provider();
        let mut options = ConnectOptions::new(provider.clone());
        if let Some(connect) = &self.connect {
            options = options.resolve(provider.as_str(), address(connect).await?);
        }
        for root in &self.roots {
            let pem = std::fs::read(root)
                .with_context(|| format!("{} cannot be read", root.display()))?;
            let begin = b"-----BEGIN CERTIFICATE-----";
            if !pem.windows(begin.len()).any(|part| part == begin) {
                bail!("{} has no certificate (PEM) in it", root.display());
            }
            options = options.root_certificate_pem(pem);
        }
        if let Some(invitation) = &self.invitation {
            options = options.invitation(invitation.trim());
        }
        Ok(options)
    }
}

async fn address(text: &str) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(text)
        .await
        .with_context(|| format!("{text}: not HOST:PORT, or not to be found"))?;
    found
        .next()
        .with_context(|| format!("{text} is not to be found"))
}

/// Opens the state of a device, or registers it; true where it is new.
pub(crate) async fn open(
    options: &ConnectOptions,
    place: &Place,
    client: &ClientId,
    asks: &mut impl Asks,
) -> Result<(Client, bool)> {
    match Client::open(options.clone(), &place.library).await {
        Ok(opened) if opened.client_id() != client => {
            bail!("the state is that of {}", short_client(opened.client_id()))
        }
        Ok(opened) => Ok((opened, false)),
        // It may be that the library has the key alone, and was refused when it registered that.
        Err(error) if matches!(error, Error::NotRegistered) || is_unauthorized(&error) => {
            let registered = Box::pin(register(options, place, client, asks)).await?;
            // Nobody can ask it to connect before; where it fails, it is done again later.
            if let Err(error) = registered.refill_key_packages(KEY_PACKAGES).await {
                tracing::warn!(%error, "no KeyPackages yet");
            }
            Ok((registered, true))
        }
        Err(error) => Err(error.into()),
    }
}

async fn register(
    options: &ConnectOptions,
    place: &Place,
    client: &ClientId,
    asks: &mut impl Asks,
) -> Result<Client> {
    let user = client.user_id();
    let first =
        |options: ConnectOptions| Client::register(options, &place.library, &user, client.device());
    let refused = match Box::pin(first(options.clone())).await {
        Ok(registered) => return Ok(registered),
        Err(error) if is_unauthorized(&error) => error,
        Err(error) => return Err(error.into()),
    };
    // The name is taken, by this user perhaps; or there has to be an invitation.
    let new = NewDevice::prepare(options.clone(), &place.library, client.clone()).await?;
    let code = show_code(client, new.request().signature_key.as_slice());
    let question = format!(
        "{} does not take {} just so: the name is taken, or an invitation is needed.\n\
         If you are new there, enter your invitation code.\n\
         If you are there with another device, type there:\n  /link {code}\n\
         and enter here what it answers.",
        user.provider(),
        short_client(client),
    );
    let Some(mut answer) = asks.ask(&question).await else {
        return Err(refused.into());
    };
    while is_cut_off(&answer) {
        match asks.ask("").await {
            Some(more) if !more.trim().is_empty() => answer.push_str(&more),
            _ => break,
        }
    }
    match read_authorization(&answer, new.request()) {
        Some(authorization) => Ok(new.register(authorization).await?),
        None => {
            drop(new);
            let options = options.clone().invitation(answer.trim());
            Ok(Box::pin(first(options)).await?)
        }
    }
}

fn is_unauthorized(error: &Error) -> bool {
    let code = error.refusal().map(|refusal| refusal.code);
    code == Some(DsErrorCode::UNAUTHORIZED)
}

/// What a new device shows: its name and its key.
fn show_code(client: &ClientId, key: &[u8]) -> String {
    format!("{}:{}", client.device(), hex::encode(key))
}

/// The name and the key of a new device.
pub(crate) fn read_code(code: &str) -> Option<(String, Vec<u8>)> {
    let (device, key) = code.trim().split_once(':')?;
    Some((device.to_owned(), hex::decode(key).ok()?))
}

/// What a new device is to be given: what it does not know itself.
pub(crate) fn show_authorization(authorization: &ClientAuthorization) -> String {
    let device = authorization.authorizer.device();
    let signature = hex::encode(authorization.signature.as_slice());
    format!("{device}:{}:{signature}", authorization.not_after)
}

/// The parts of an authorization: the device that gives it, until when it is valid, and the
/// signature. It may be copied from a screen, over several rows with something between them.
fn parts(text: &str) -> Option<(String, u64, String)> {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || ":._~-".contains(*c);
    let text: String = text.chars().filter(is_part).collect();
    let mut parts = text.splitn(3, ':');
    let device = parts.next()?.to_owned();
    let not_after = parts.next()?.parse().ok()?;
    Some((device, not_after, parts.next()?.to_owned()))
}

/// Whether it is the beginning of an authorization: the first row of several.
fn is_cut_off(text: &str) -> bool {
    parts(text).is_some_and(|(_, _, signature)| {
        signature.len() < SIGNATURE_DIGITS && signature.bytes().all(|c| c.is_ascii_hexdigit())
    })
}

/// The authorization of the device that asks.
fn read_authorization(text: &str, request: DeviceRequest) -> Option<ClientAuthorization> {
    let (device, not_after, signature) = parts(text)?;
    let signature = Signature::new(hex::decode(signature).ok()?).ok()?;
    Some(ClientAuthorization {
        authorizer: ClientId::new(&request.client.user_id(), &device).ok()?,
        client: request.client,
        scheme: request.scheme,
        signature_key: request.signature_key,
        not_after,
        signature,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use moh_messages::{PublicKey, SignatureScheme};

    #[test]
    fn what_lets_a_device_in_can_be_copied_from_a_screen() {
        let phone: ClientId = "mimi://a.example/d/alice/phone".parse().unwrap();
        let client: ClientId = "mimi://a.example/d/alice/my-laptop".parse().unwrap();
        let code = show_code(&client, &[1; 32]);
        let (device, key) = read_code(&format!(" {code}\n")).unwrap();
        assert_eq!((device.as_str(), key), ("my-laptop", vec![1; 32]));
        let request = DeviceRequest {
            client: client.clone(),
            scheme: SignatureScheme::ED25519,
            signature_key: PublicKey::new(vec![1; 32]).unwrap(),
        };
        let authorization = ClientAuthorization {
            authorizer: phone,
            client,
            scheme: request.scheme,
            signature_key: request.signature_key.clone(),
            not_after: 1_795_467_909_000,
            signature: Signature::new(vec![2; 64]).unwrap(),
        };
        let text = show_authorization(&authorization);
        let (one, two) = text.split_at(40);
        // What a terminal gives by the line is put together again.
        assert!(is_cut_off(&format!("│ {one}  │\n")));
        let copied = format!("│ {one}  │\n│ {two} │\n");
        assert!(!is_cut_off(&copied));
        assert_eq!(
            read_authorization(&copied, request.clone()),
            Some(authorization)
        );
        // An invitation code is none.
        for code in ["", "7F3K-9QXW", "a:b:c", "a:1:zz"] {
            assert_eq!(read_authorization(code, request.clone()), None, "{code}");
            assert!(!is_cut_off(code), "{code}");
        }
    }
}
