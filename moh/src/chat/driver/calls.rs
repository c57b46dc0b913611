//! What the library is asked, and its errors in words.

use moh_client::{BlockTarget, Client, ConnectionState, Device, DeviceRequest, Error};
use moh_messages::client_api::ClientAuthorization;
use moh_messages::{ClientId, DsErrorCode, GroupId, PublicKey, SignatureScheme, UserId};

use crate::chat::account;
use crate::chat::link::reason;
use crate::chat::model::{Answer, Call, Known, Person, Row, SendResult, Trusted};
use crate::chat::names::{Target, short, short_client};
use crate::chat::time;

/// Asks the library.
pub(super) async fn carry_out(client: &Client, what: Call) -> Result<Answer, String> {
    Box::pin(ask(client, what)).await.map_err(|e| words(&e))
}

async fn ask(client: &Client, what: Call) -> Result<Answer, Error> {
    match what {
        Call::Connect(user) => group_or_later(client.connect(&user).await),
        Call::Accept(user) => client.accept(&user).await.map(Answer::Group),
        Call::Decline(user) => client.decline(&user).await.map(|()| Answer::Done),
        Call::Disconnect(user) => client.disconnect(&user).await.map(|()| Answer::Done),
        Call::Block(target) => block(client, &target, true).await,
        Call::Unblock(target) => block(client, &target, false).await,
        Call::Create { .. } => group_or_later(client.create_group().await),
        Call::Invite { group, users, .. } => Ok(invite(client, &group, users).await),
        Call::Remove { group, user, .. } => {
            client.remove_user(&group, &user).await?;
            Ok(Answer::Done)
        }
        Call::Leave { group, .. } => leave(client, &group).await,
        Call::Members { group, .. } => Ok(Answer::Members {
            members: client.members(&group).await?,
            owner: client.owner(&group).await?,
        }),
        Call::LookAgain => known(client).await.map(Answer::Known),
        Call::Blocked => blocked(client).await,
        Call::Refill => {
            client.refill_key_packages(account::KEY_PACKAGES).await?;
            Ok(Answer::Done)
        }
        Call::Devices => devices(client).await,
        Call::Authorize(code) => authorize(client, &code),
        Call::DeleteDevice(device) => delete_device(client, &device).await,
        Call::TakeAlong(trusted) => take_along(client, &trusted).await,
        Call::Trust(device) => trust(client, device).await,
    }
}

/// Sends a message.
pub(super) async fn send(client: &Client, group: &GroupId, content: Vec<u8>) -> SendResult {
    match client.send(group, content).await {
        Ok(_) => SendResult::Sent,
        Err(Error::Unsettled { .. }) => SendResult::Stored,
        Err(error) if error.is_temporary() => SendResult::NotNow(words(&error)),
        Err(error) => SendResult::Failed(words(&error)),
    }
}

async fn block(client: &Client, target: &Target, blocked: bool) -> Result<Answer, Error> {
    match (target, blocked) {
        (Target::User(user), true) => client.block_user(user).await?,
        (Target::User(user), false) => client.unblock_user(user).await?,
        (Target::Provider(provider), true) => client.block_provider(provider).await?,
        (Target::Provider(provider), false) => client.unblock_provider(provider).await?,
    }
    Ok(Answer::Done)
}

/// Adds one after the other, so that one who cannot be added does not keep the others out.
async fn invite(client: &Client, group: &GroupId, users: Vec<UserId>) -> Answer {
    let (mut added, mut failed) = (Vec::new(), Vec::new());
    for user in users {
        match client.add_user(group, &user).await {
            Ok(_) => added.push(user),
            Err(error) => failed.push((user, words(&error))),
        }
    }
    Answer::Invited { added, failed }
}

/// Leaves with all devices of this user. Where nobody else is there, the group ends.
async fn leave(client: &Client, group: &GroupId) -> Result<Answer, Error> {
    let members = client.members(group).await?;
    let is_own = |member: &&ClientId| member.user_id() == *client.user_id();
    if members.iter().all(|member| is_own(&member)) {
        client.delete_group(group).await?;
        return Ok(Answer::Ended);
    }
    for device in members.iter().filter(is_own) {
        if device != client.client_id() {
            client.remove_device(group, device).await?;
        }
    }
    client.leave(group).await?;
    Ok(Answer::Done)
}

/// What is stored, and goes on by itself, is as good as done.
fn group_or_later(result: Result<GroupId, Error>) -> Result<Answer, Error> {
    match result {
        Ok(group) => Ok(Answer::Group(group)),
        Err(error) => match &error {
            Error::Unsettled { group, .. } => Ok(Answer::Later {
                group: group.clone(),
                reason: words(&error),
            }),
            _ => Err(error),
        },
    }
}

/// What the library knows, without asking anybody.
pub(super) async fn known(client: &Client) -> Result<Known, Error> {
    let mut groups = client.groups().await?;
    let mut people = Vec::new();
    for connection in client.connections().await? {
        let person = match connection.state {
            ConnectionState::Sent => Person::Asked,
            ConnectionState::Received => Person::Asks,
            ConnectionState::Connected => Person::Connected,
        };
        if person != Person::Asks {
            groups.extend(connection.group.clone());
        }
        people.push((connection.peer, person, connection.group));
    }
    Ok(Known { people, groups })
}

async fn blocked(client: &Client) -> Result<Answer, Error> {
    let blocked = client
        .blocks()
        .await?
        .into_iter()
        .map(|target| match target {
            BlockTarget::User(user) => Target::User(user),
            BlockTarget::Provider(provider) => Target::Provider(provider),
        });
    Ok(Answer::Blocked(blocked.collect()))
}

/// Puts the devices that the user knows, where they have the keys that these had, into all
/// groups that this one is in.
async fn take_along(client: &Client, trusted: &[Trusted]) -> Result<Answer, Error> {
    let (mut added, mut missing) = (Vec::new(), false);
    if trusted.is_empty() {
        return Ok(Answer::TakenAlong { added, missing });
    }
    let mut devices = client.devices().await?;
    devices.retain(|device| {
        let is_it = |(client, key): &Trusted| {
            *client == device.client && *key == device.signature_key.as_slice()
        };
        trusted.iter().any(is_it)
    });
    let mut groups = client.groups().await?;
    for connection in client.connections().await? {
        if connection.state == ConnectionState::Connected {
            groups.extend(connection.group);
        }
    }
    for group in groups {
        if client.is_leaving(&group).await? {
            continue;
        }
        let members = client.members(&group).await?;
        let lacks = |device: &&ClientId| !members.contains(device);
        for device in devices.iter().map(|device| &device.client).filter(lacks) {
            match client.add_device(&group, device).await {
                Ok(_) => added.push(group.clone()),
                Err(Error::AlreadyMember(_)) => {}
                Err(error) => {
                    tracing::info!(%error, "{device} is not added yet");
                    missing |= error.is_temporary();
                }
            }
        }
    }
    Ok(Answer::TakenAlong { added, missing })
}

/// The key that a device has now.
async fn trust(client: &Client, device: ClientId) -> Result<Answer, Error> {
    let found = find_device(client, &device).await?;
    let key = found.signature_key.as_slice().to_vec();
    Ok(Answer::Trusted((found.client, key)))
}

/// To delete a device that is not there would be no error for the library.
async fn delete_device(client: &Client, device: &ClientId) -> Result<Answer, Error> {
    find_device(client, device).await?;
    client.delete_device(device).await?;
    Ok(Answer::Done)
}

async fn find_device(client: &Client, device: &ClientId) -> Result<Device, Error> {
    let devices = client.devices().await?;
    let found = devices.into_iter().find(|known| known.client == *device);
    found.ok_or_else(|| Error::NotMember(device.to_string()))
}

async fn devices(client: &Client) -> Result<Answer, Error> {
    let rows = client.devices().await?.into_iter().map(|device| {
        let which = if device.client == *client.client_id() {
            "this one"
        } else {
            ""
        };
        let since = time::utc(device.registered_at_ms);
        let name = device.client.device().to_owned();
        Row::new("device", [name, since, which.to_owned()])
    });
    Ok(Answer::Devices(rows.collect()))
}

/// Lets a new device in, by what it shows: see [`account`].
fn authorize(client: &Client, code: &str) -> Result<Answer, Error> {
    let wrong = || Error::WrongAuthorization;
    let (device, key) = account::read_code(code).ok_or_else(wrong)?;
    let request = DeviceRequest {
        client: ClientId::new(client.user_id(), &device)?,
        scheme: SignatureScheme::ED25519,
        signature_key: PublicKey::new(key.clone())?,
    };
    let authorization: ClientAuthorization = client.authorize(&request)?;
    Ok(Answer::Authorization {
        code: account::show_authorization(&authorization),
        device: (request.client, key),
    })
}

/// An error as somebody should read it who does not know the protocol.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::Unreachable { provider, source } => {
            format!("{provider} cannot be reached: {}", reason(source))
        }
        Error::Unsettled { cause, .. } => {
            format!("not answered yet, it goes on by itself: {}", words(cause))
        }
        Error::NoConsent(user) => {
            let user = short(user);
            format!("not connected (/connect {user}), or there is no such user")
        }
        Error::NoSuchUser(user) => {
            let user = short(user);
            format!("there is no {user}, or they do not want to be asked")
        }
        Error::OwnUser(_) => "that is you".to_owned(),
        Error::NoRequest(user) => format!("{} does not ask, or not any more", short(user)),
        Error::AlreadyConnected(user) => format!("{} is connected already", short(user)),
        Error::NoKeyPackage(user) => format!("{} cannot be added now", short(user)),
        Error::BadKeyPackage { client, detail } => {
            format!("{} cannot be added: {detail}", short_client(client))
        }
        Error::AlreadyMember(who) => format!("{} is there already", readable(who)),
        Error::NotMember(who) => format!("{} is not there", readable(who)),
        Error::Leaving(_) => "you are leaving this group, or are being removed".to_owned(),
        Error::UnknownGroup(_) => "you are not in this group any more".to_owned(),
        Error::WrongAuthorization => "this is not what a new device of yours shows".to_owned(),
        Error::AccountDeleted => "this device, or the account, was deleted".to_owned(),
        Error::Refused { by, error } if error.code == DsErrorCode::UNAUTHENTICATED => {
            format!("{by} does not know this device (any more): {error}")
        }
        Error::Refused { by, error } if error.code == DsErrorCode::RATE_LIMITED => {
            format!("{by} says that this is too much at once; try again later")
        }
        other => other.to_string(),
    }
}

/// A user or a client that the library has put into text.
fn readable(who: &str) -> String {
    let user = who.parse().map(|user: UserId| short(&user));
    let client = || who.parse().map(|client: ClientId| short_client(&client));
    user.or_else(|_| client())
        .unwrap_or_else(|_| who.to_owned())
}
