//! The group that most rules are tried in, and what is done in it.

use std::sync::Arc;

use moh_messages::{
    CipherSuite, DsError, DsErrorCode, DsRequest, DsRequestBody, DsResponseBody, GroupId,
    GroupType, List, Rbac, UserId,
};
use moh_server::Limits;

use crate::device::Device;
use crate::made::Made;
use crate::member::{Heard, Member, Plan};
use crate::parts;
use crate::site::{Mail, Site};

/// Who is in the group: their places in `Scene::members`, and their leaves.
pub(crate) const ALICE: usize = 0;
pub(crate) const AMY: usize = 1;
pub(crate) const BOB: usize = 2;
pub(crate) const BOBS_LAPTOP: usize = 3;
pub(crate) const CAROL: usize = 4;

pub(crate) const ALL: [&str; 5] = [
    "alice/phone@a.example",
    "amy/phone@a.example",
    "bob/phone@b.example",
    "bob/laptop@b.example",
    "carol/phone@c.example",
];

/// A group at a.example, and its members, who have heard everything.
pub(crate) struct Scene {
    pub(crate) site: Site,
    pub(crate) members: Vec<Member>,
}

pub(crate) fn user_of(name: &str) -> UserId {
    let (client, provider) = name.split_once('@').unwrap();
    let (user, _) = client.split_once('/').unwrap();
    UserId::new(&provider.parse().unwrap(), user).unwrap()
}

/// These clients' users as admins.
pub(crate) fn admins(names: &[&str]) -> Rbac {
    let admins = names.iter().map(|name| user_of(name));
    Rbac {
        admins: List::new(admins.collect()).unwrap(),
    }
}

impl Scene {
    /// All five.
    pub(crate) async fn set() -> Self {
        Self::of(Site::start().await, &ALL, GroupType::Regular, None).await
    }

    /// All five; the other providers take what is delivered to them. (What they do not take is
    /// set aside after a week.)
    pub(crate) async fn with_open_peers() -> Self {
        let site = Site::start().await;
        site.open_peers();
        Self::of(site, &ALL, GroupType::Regular, None).await
    }

    /// All five, of whom these are admins.
    pub(crate) async fn with_admins(names: &[&str]) -> Self {
        let rbac = Some(admins(names));
        Self::of(Site::start().await, &ALL, GroupType::Regular, rbac).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        let site = Site::with_limits(limits).await;
        Self::of(site, &ALL, GroupType::Regular, None).await
    }

    /// The first of these has created the group and added the others.
    pub(crate) async fn of_these(names: &[&str]) -> Self {
        Self::of(Site::start().await, names, GroupType::Regular, None).await
    }

    /// Alice has invited Bob, with both clients, into a connection group.
    pub(crate) async fn connection() -> Self {
        let names = [ALL[ALICE], ALL[BOB], ALL[BOBS_LAPTOP]];
        Self::of(Site::start().await, &names, GroupType::Connection, None).await
    }

    /// A group of another ciphersuite.
    pub(crate) async fn of_suite(suite: CipherSuite, names: &[&str]) -> Self {
        let site = Site::start().await;
        let devices = names.iter().map(|name| site.device_with(name, suite));
        let devices = devices.collect();
        Self::of_devices(site, devices, GroupType::Regular, None).await
    }

    pub(crate) async fn of(
        site: Site,
        names: &[&str],
        group_type: GroupType,
        rbac: Option<Rbac>,
    ) -> Self {
        let devices = names.iter().map(|name| site.device(name)).collect();
        Self::of_devices(site, devices, group_type, rbac).await
    }

    async fn of_devices(
        site: Site,
        devices: Vec<Arc<Device>>,
        group_type: GroupType,
        rbac: Option<Rbac>,
    ) -> Self {
        let mut creator = site.special_group(&devices[0], group_type, rbac).await;
        let others: Vec<_> = devices[1..].iter().collect();
        let added = match others.as_slice() {
            [] => Vec::new(),
            others => site.add(&mut creator, others).await.0,
        };
        let members = std::iter::once(creator).chain(added).collect();
        Self { site, members }
    }

    pub(crate) fn device(&self, member: usize) -> &Arc<Device> {
        &self.members[member].device
    }

    pub(crate) fn leaf(&self, member: usize) -> u32 {
        self.members[member].index()
    }

    pub(crate) fn group_id(&self) -> GroupId {
        self.members[0].group_id()
    }

    /// The devices of these members.
    pub(crate) fn devices(&self, members: &[usize]) -> Vec<&Arc<Device>> {
        members.iter().map(|&member| self.device(member)).collect()
    }

    /// A commit of a member's, which is taken back at once.
    pub(crate) fn made(&mut self, by: usize, plan: Plan) -> Made {
        self.members[by].made(plan)
    }

    /// A commit without a path that adds one client, by what is made of its KeyPackage.
    pub(crate) fn adds_edited(
        &mut self,
        by: usize,
        device: &Arc<Device>,
        edit: impl FnOnce(&mut parts::KeyPackage),
    ) -> Made {
        let mut made = self.made(
            by,
            Plan {
                without_path: true,
                ..Plan::add(vec![device.key_package()])
            },
        );
        let mut key_package = device.key_package_parts();
        edit(&mut key_package);
        made.add_instead(&self.members[by], &key_package);
        made
    }

    /// Asks as a member.
    pub(crate) async fn ask(
        &self,
        by: usize,
        body: DsRequestBody,
    ) -> Result<DsResponseBody, DsErrorCode> {
        self.site.ask(&self.members[by].ask(body)).await
    }

    /// A member's request is refused with this code, and nothing has changed.
    pub(crate) async fn refuses(
        &self,
        by: usize,
        what: &str,
        code: DsErrorCode,
        body: DsRequestBody,
    ) -> DsError {
        let request = self.members[by].ask(body);
        self.refuses_request(what, code, &request).await
    }

    /// A request is refused with this code, and nothing has changed.
    pub(crate) async fn refuses_request(
        &self,
        what: &str,
        code: DsErrorCode,
        request: &DsRequest,
    ) -> DsError {
        self.site.settle().await;
        let before = self.site.state();
        let answer = self.site.answer(request).await;
        let Err(error) = answer else {
            panic!("{what}: {answer:?}");
        };
        assert_eq!(error.code, code, "{what}: {error}");
        let changed = before.changed_in(&self.site.state());
        assert_eq!(changed, Vec::<String>::new(), "{what}");
        error
    }

    /// What follows is accepted, and leads to this epoch.
    pub(crate) async fn accepts(&self, what: &str, epoch: u64, request: &DsRequest) {
        let now = self.site.clock.now_ms();
        let answer = self.site.answer(request).await;
        let expected = DsResponseBody::Ok {
            epoch,
            accepted_at: now,
        };
        assert_eq!(answer, Ok(expected), "{what}");
    }

    /// A member commits this; it is accepted, and everybody hears of it.
    pub(crate) async fn commits(
        &mut self,
        by: usize,
        plan: Plan,
        body: fn(&Made) -> DsRequestBody,
    ) -> Made {
        let made = self.members[by].commit(plan);
        let request = self.members[by].ask(body(&made));
        let epoch = self.members[by].epoch() + 1;
        self.accepts("a commit", epoch, &request).await;
        self.members[by].accept();
        self.hear().await;
        made
    }

    /// A member renews its keys.
    pub(crate) async fn updates(&mut self, by: usize) -> Made {
        self.commits(by, Plan::default(), Made::as_update).await
    }

    /// So many epochs pass.
    pub(crate) async fn epochs(&mut self, count: usize) {
        for _ in 0..count {
            self.updates(ALICE).await;
        }
    }

    /// A member asks to be removed.
    pub(crate) async fn leaves(&mut self, member: usize) -> Vec<u8> {
        let proposal = self.members[member].leave();
        let body = crate::member::self_remove(proposal.clone());
        let request = self.members[member].ask(body);
        let epoch = self.members[member].epoch();
        self.accepts("a self-removal", epoch, &request).await;
        self.hear().await;
        proposal
    }

    /// A member's provider says that the client is gone; everybody else hears of the Remove.
    pub(crate) async fn is_deleted(&mut self, member: usize) {
        let device = self.device(member).clone();
        let request = self
            .site
            .on_behalf_of(&device, DsRequestBody::ClientDeleted);
        self.accepts("a deletion", 0, &request).await;
        let witness = self.witness(&[member]);
        self.until_pending(witness, &[self.leaf(member)]).await;
    }

    /// Some member that is none of these.
    fn witness(&self, but: &[usize]) -> usize {
        let active = |&place: &usize| self.members[place].group.is_active();
        let all = 0..self.members.len();
        let mut others = all.filter(|place| !but.contains(place)).filter(active);
        others.next().unwrap()
    }

    /// Everybody takes what comes, until a member has heard of pending Removes of these leaves,
    /// among others.
    pub(crate) async fn until_pending(&mut self, witness: usize, leaves: &[u32]) {
        let deadline = tokio::time::Instant::now() + crate::site::PATIENCE;
        loop {
            self.hear().await;
            let pending = self.members[witness].pending();
            if leaves.iter().all(|leaf| pending.contains(leaf)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{pending:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Everybody who is still in the group takes what was delivered to them.
    pub(crate) async fn hear(&mut self) -> Vec<Vec<Heard>> {
        let mail = self.site.mail().await;
        let mut all = Vec::new();
        for member in &mut self.members {
            all.push(hear(member, &mail));
        }
        all
    }

    /// The provider's tree is that of everybody who is in the group; these are, and so many are
    /// in all.
    pub(crate) async fn agree(&self, members: &[usize], count: usize) {
        let stored = self.site.stored(&self.members[members[0]]).await;
        let tree = stored.ratchet_tree().unwrap();
        for (place, member) in self.members.iter().enumerate() {
            let is_in = members.contains(&place);
            assert_eq!(member.group.is_active(), is_in, "{place}");
            if is_in {
                assert_eq!(member.epoch(), stored.epoch(), "{place}");
                assert!(tree.as_slice() == member.tree(), "{place}");
            }
        }
        assert_eq!(stored.roster().len(), count);
    }

    /// The group still takes what is right.
    pub(crate) async fn goes_on(self) {
        let active = self.members.iter().filter(|m| m.group.is_active()).count();
        self.goes_on_with(active).await;
    }

    /// The group still takes what is right, and has so many members, not all of whom are here.
    pub(crate) async fn goes_on_with(mut self, members: usize) {
        let active = |place: &usize| self.members[*place].group.is_active();
        let active: Vec<_> = (0..self.members.len()).filter(active).collect();
        for &by in active.iter().rev().take(2) {
            self.updates(by).await;
        }
        self.agree(&active, members).await;
        self.site.end().await;
    }
}

/// A member takes what was delivered to it since the last time.
pub(crate) fn hear(member: &mut Member, mail: &Mail) -> Vec<Heard> {
    let mut heard = Vec::new();
    let device = member.device.clone();
    for message in &mail.to(&device)[member.heard..] {
        member.heard += 1;
        if member.group.is_active() && member.is_in_the_group_of(message) {
            heard.push(member.take(message));
        }
    }
    heard
}
