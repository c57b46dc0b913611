//! Groups come into being.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moh_messages::{
    ClientId, DsProtocolVersion, DsResponseBody, ExternalSender, GroupId, GroupType, List, Message,
    MohGroupContext, ProviderName, Rbac, UserId, extension_type,
};

use crate::Check;
use crate::acts::external_senders;
use crate::device::{as_leaf, as_provider, extension};
use crate::mls::{Founding, only_leaf};
use crate::requests;
use crate::room::{Joined, Room, Seat};
use crate::run::{Run, all_users};

const REQUIRED_CAPABILITIES: u16 = 3;

/// What kind of group is to be.
pub(crate) struct Wish {
    pub(crate) kind: GroupType,
    pub(crate) admins: Option<BTreeSet<UserId>>,
}

/// RFC 9420 section 11.1: extensions, proposals, credentials.
#[derive(tls_codec::TlsSize, tls_codec::TlsSerialize, tls_codec::TlsDeserializeBytes)]
struct RequiredCapabilities {
    extensions: List<u16, 64>,
    proposals: List<u16, 64>,
    credentials: List<u16, 64>,
}

fn context_extensions(ds_sender: &ExternalSender, wish: &Wish) -> Vec<moh_messages::Extension> {
    let required = RequiredCapabilities {
        extensions: List::new(extension_type::ALL.to_vec()).unwrap(),
        proposals: List::empty(),
        credentials: List::empty(),
    };
    let moh = MohGroupContext {
        version: DsProtocolVersion::MOH1,
        group_type: wish.kind,
    };
    let mut all = vec![
        external_senders(ds_sender),
        extension(REQUIRED_CAPABILITIES, required.encode()),
        extension(extension_type::MOH, moh.encode()),
    ];
    if let Some(admins) = &wish.admins {
        let admins = List::new(admins.iter().cloned().collect()).unwrap();
        all.push(extension(extension_type::RBAC, Rbac { admins }.encode()));
    }
    all
}

impl Run {
    /// A group of any kind, by anybody.
    pub(crate) async fn create(&mut self) -> Check<Option<String>> {
        let mut users = all_users();
        users.retain(|user| self.world.is_running(&user.provider()));
        let creator = self.dice.pick(&users).unwrap().clone();
        let client = self.some_device(&creator);
        let kind = if self.dice.once_in(3) {
            GroupType::Connection
        } else {
            GroupType::Regular
        };
        let admins = self.dice.once_in(2).then(|| {
            let others = self.dice.some(users, 2).into_iter();
            others.chain([creator]).collect()
        });
        let wish = Wish { kind, admins };
        let what = format!(
            "create_group by {client}, {kind:?}, admins {:?}",
            wish.admins
        );
        let owner = client.provider();
        let (id, ds_sender) = self.group_id(&client).await?;
        self.found(&client, owner, id, ds_sender, wish).await?;
        Ok(Some(what))
    }

    /// A client of a user that is awake, old or new.
    fn some_device(&mut self, user: &UserId) -> ClientId {
        let devices = self.devices_of(user).into_iter();
        let awake: Vec<_> = devices.filter(|c| self.is_awake(c)).collect();
        let found = self.dice.pick(&awake).cloned();
        found.unwrap_or_else(|| self.new_device(user))
    }

    /// A name for a group at a client's own provider.
    pub(crate) async fn group_id(&self, client: &ClientId) -> Check<(GroupId, ExternalSender)> {
        let body = requests::request_group_id(self.suite);
        let request = as_provider(&self.world, client, &client.provider(), body);
        match self.world.ask(&request).await {
            Ok(DsResponseBody::GroupId {
                group_id,
                ds_sender,
            }) => Ok((group_id, ds_sender)),
            other => Err(format!("no name for a group: {other:?}")),
        }
    }

    /// A group of one client.
    pub(crate) async fn found(
        &mut self,
        client: &ClientId,
        owner: ProviderName,
        id: GroupId,
        ds_sender: ExternalSender,
        wish: Wish,
    ) -> Check {
        let device = &self.devices[client];
        let key = device.library.new_key();
        let identity = device.identity(&self.world, &key, false);
        let founding = Founding {
            group_id: id.clone(),
            context_extensions: context_extensions(&ds_sender, &wish),
        };
        let device = self.devices.get_mut(client).unwrap();
        let (copy, info) = device.library.found(&identity, &founding)?;
        let body = requests::create_group(&id, wish.kind, only_leaf(&copy.tree()), info);
        let request = as_leaf(client, &owner, &key, 0, body);
        let answer = self.ask(&request).await;
        let Ok((0, accepted_at)) = answer else {
            return Err(format!("create_group is answered {answer:?}"));
        };
        self.tally.count("CreateGroup");
        let seat = Seat {
            leaf: Some(key.public.clone()),
            joined: Some(Joined {
                copy,
                key,
                since: 0,
            }),
            ..Seat::default()
        };
        self.rooms.push(Room {
            id,
            owner,
            kind: wish.kind,
            ds_sender,
            epoch: 0,
            admins: wish.admins,
            invited: None,
            seats: BTreeMap::from([(client.clone(), seat)]),
            pending: Vec::new(),
            proposals: BTreeSet::new(),
            ended: false,
            accepted: VecDeque::new(),
            successor: None,
        });
        self.remember(self.rooms.len() - 1, client, request, 0, accepted_at);
        Ok(())
    }
}
