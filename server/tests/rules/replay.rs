//! What is stored leads to the group that it was stored from: after any commits, at every
//! version, and at every version before it.

use std::sync::Arc;

use moh_messages::GroupType;
use moh_messages::{
    CipherSuite, ClientId, DsAuth, DsRequest, DsRequestBody, ExternalSender, GroupId, KeyId,
    ProviderName, Signature, SignedLast,
};
use moh_server::change::Version;
use moh_server::group::{
    Checks, CommitInput, CommitRules, Committer, Creation, Group, KeyLookup, Roles, Submitter,
    create, read_handshake,
};
use moh_server::store::StoredGroup;
use moh_server::{Environment, Limits};

use crate::device::{Device, Founding, create_group, now_ms};
use crate::home::{Home, home_of};
use crate::member::{Member, Plan};

const PROVIDERS: [&str; 3] = ["a.example", "b.example", "c.example"];
const COMMITS: usize = 40;

/// SplitMix64: the sequence follows from the seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

/// The group, and all that was ever stored of it.
struct Owner {
    homes: Vec<Arc<Home>>,
    group: Group,
    snapshots: Vec<(Version, Vec<u8>)>,
    log: Vec<Vec<u8>>,
    /// By epoch, as the members have it.
    trees: Vec<Vec<u8>>,
    rosters: Vec<String>,
}

/// The provider that owns the group, as far as decisions need it.
struct Us<'a>(&'a [Arc<Home>]);

impl moh_server::group::Owner for Us<'_> {
    fn is(&self, name: &ProviderName) -> bool {
        PROVIDERS[0] == name.as_str()
    }

    fn key(&self, provider: &ProviderName, key_id: &KeyId) -> KeyLookup {
        let place = PROVIDERS.iter().position(|name| *name == provider.as_str());
        let keys = self.0[place.unwrap()].keys.verification_keys(now_ms());
        let found = keys.iter().find(|key| key.key_id == *key_id).cloned();
        found.map_or(KeyLookup::NoSuchKey, KeyLookup::Found)
    }

    fn ds_sender(&self, suite: CipherSuite) -> Option<ExternalSender> {
        self.0[0].keys.ds_sender(suite)
    }

    fn issued(&self, group_id: &GroupId) -> bool {
        self.0[0].keys.issued(group_id)
    }

    fn sign(&self, sender: &ExternalSender, content: &[u8]) -> Option<Signature> {
        self.0[0].keys.sign_as(sender, content)
    }
}

/// What all commits have in common, and nothing else.
const ANY: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::Everybody,
    ends_group: false,
    check: |_| Ok(()),
};

fn checks(homes: &[Arc<Home>], decide: impl FnOnce(&Checks<'_>)) {
    decide(&Checks {
        now: now_ms(),
        limits: &Limits::default(),
        owner: &Us(homes),
    });
}

impl Owner {
    fn of(creator: &Arc<Device>, homes: Vec<Arc<Home>>) -> (Self, Member) {
        let own = &homes[0].keys;
        let founding = Founding {
            group_id: own.issue_group_id(&*Environment::system().random),
            group_type: GroupType::Regular,
            ds_sender: own.ds_sender(creator.suite).unwrap(),
            rbac: None,
        };
        let (member, info) = creator.found(&founding);
        let body = create_group(&founding, &member.own_leaf(), &info);
        let request = member.ask(body);
        let (DsRequestBody::CreateGroup(body), DsAuth::Leaf { signature, .. }) =
            (&request.body, &request.auth)
        else {
            unreachable!();
        };
        let creation = Creation {
            request: &request,
            signed: &request.to_be_signed(),
            leaf_index: 0,
            signature,
            body,
        };
        let mut created = None;
        checks(&homes, |checks| {
            created = Some(create(&creation, checks).unwrap());
        });
        let (group, snapshot) = created.unwrap();
        let owner = Self {
            trees: vec![member.tree()],
            rosters: vec![format!("{:?}", group.roster())],
            snapshots: vec![(0, snapshot)],
            log: Vec::new(),
            group,
            homes,
        };
        (owner, member)
    }

    /// Takes a commit, which is valid.
    fn take(&mut self, request: &DsRequest) {
        let (update, welcomes) = match &request.body {
            DsRequestBody::AddUsers(add) => (&add.group_update, &add.welcomes[..]),
            DsRequestBody::UpdateClient(update) => (&update.group_update, &[][..]),
            other => panic!("{other:?}"),
        };
        let DsAuth::Leaf {
            leaf_index,
            signature,
        } = &request.auth
        else {
            unreachable!();
        };
        let signed = request.to_be_signed();
        let sender = self
            .group
            .authenticate_leaf(request, &signed, *leaf_index, signature)
            .unwrap();
        let input = CommitInput {
            rules: &ANY,
            by: Submitter::Member(&sender),
            partial_group_info: &update.partial_group_info,
            welcomes,
        };
        let handshake = read_handshake(update.commit.as_slice()).unwrap();
        let mut decision = None;
        checks(&self.homes, |checks| {
            decision = Some(self.group.commit(handshake, &input, checks).unwrap());
        });
        let applied = self.group.apply(decision.unwrap(), now_ms()).unwrap();
        assert_eq!(applied.version, self.group.version());
        assert_eq!(applied.epoch, self.group.epoch());
        self.log.push(applied.entry);
        if let Some(snapshot) = applied.snapshot {
            self.snapshots.push((applied.version, snapshot));
        }
        self.rosters.push(format!("{:?}", self.group.roster()));
    }

    fn stored(&self, snapshot: &(Version, Vec<u8>), version: Version) -> StoredGroup {
        let place = |version| usize::try_from(version).unwrap();
        StoredGroup {
            version,
            snapshot_version: snapshot.0,
            snapshot: snapshot.1.clone(),
            log: self.log[place(snapshot.0)..place(version)].to_vec(),
        }
    }

    /// From each of these snapshots, the group at a version is what it was.
    fn check(&self, snapshot: &(Version, Vec<u8>), version: Version) -> Group {
        let group = Group::restore(&self.stored(snapshot, version)).unwrap();
        let place = usize::try_from(version).unwrap();
        let what = format!("version {version} from the snapshot at {}", snapshot.0);
        assert_eq!(
            (group.version(), group.epoch()),
            (version, version),
            "{what}"
        );
        let tree = group.ratchet_tree().unwrap();
        assert!(tree.as_slice() == self.trees[place], "{what}");
        assert_eq!(
            format!("{:?}", group.roster()),
            self.rosters[place],
            "{what}"
        );
        group
    }
}

fn next_users(dice: &mut Dice, homes: &[Arc<Home>], named: &mut usize) -> Vec<Arc<Device>> {
    let mut devices = Vec::new();
    for _ in 0..=dice.below(2) {
        let provider = dice.below(PROVIDERS.len());
        *named += 1;
        for device in 0..=dice.below(2) {
            let name = PROVIDERS[provider];
            let id: ClientId = format!("mimi://{name}/d/user{named}/device{device}")
                .parse()
                .unwrap();
            devices.push(Arc::new(Device::of(id.as_str(), &homes[provider])));
        }
    }
    devices
}

#[test]
fn what_is_stored_leads_to_the_same_group() {
    let seed = match std::env::var("MOH_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => u64::from_be_bytes(Environment::system().random.bytes()),
    };
    println!("MOH_SEED={seed}");
    let mut dice = Dice(seed);
    let homes: Vec<_> = PROVIDERS.iter().map(|name| home_of(name)).collect();
    let creator = Arc::new(Device::of("mimi://a.example/d/alice/phone", &homes[0]));
    let (mut owner, member) = Owner::of(&creator, homes.clone());
    let mut members = vec![member];
    let mut named = 0;
    for _ in 0..COMMITS {
        let by = dice.below(members.len());
        let devices = match dice.below(4) {
            0 => next_users(&mut dice, &homes, &mut named),
            _ => Vec::new(),
        };
        let made = members[by].commit(Plan {
            add: devices.iter().map(|device| device.key_package()).collect(),
            ..Plan::default()
        });
        let body = if devices.is_empty() {
            made.as_update()
        } else {
            made.as_add()
        };
        owner.take(&members[by].ask(body));
        for (place, member) in members.iter_mut().enumerate() {
            if place == by {
                member.accept();
            } else {
                member.hear(&made.commit);
            }
        }
        let tree = members[0].tree();
        for device in devices {
            let welcome = made.welcome.as_ref().unwrap().as_slice();
            members.push(device.join(welcome, &tree));
        }
        assert!(members.iter().all(|member| member.tree() == tree));
        assert!(owner.group.ratchet_tree().unwrap().as_slice() == tree);
        owner.trees.push(tree);
        let newest = owner.snapshots.last().unwrap();
        let restored = owner.check(newest, owner.group.version());
        if dice.below(3) == 0 {
            // As when it was not in memory any more.
            owner.group = restored;
        }
    }
    assert!(owner.snapshots.len() > 1, "a snapshot became due");
    for (at, snapshot) in owner.snapshots.iter().enumerate() {
        let next = owner.snapshots.get(at + 1).map(|next| next.0);
        let last = next.unwrap_or(owner.group.version());
        for version in snapshot.0..=last {
            owner.check(snapshot, version);
        }
    }
    owner.check(&owner.snapshots[0], owner.group.version());
    // A version that the entries do not lead to is not one.
    let mut short = owner.stored(&owner.snapshots[0], owner.group.version());
    short.log.pop();
    assert!(Group::restore(&short).is_err());
}
