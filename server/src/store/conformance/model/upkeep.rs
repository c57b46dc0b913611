//! What is due, whose removal is wanted, and the end of groups, in the simple model.

use super::*;

#[derive(Clone, Default)]
pub(super) struct Upkeep {
    /// When a group is due.
    due: BTreeMap<&'static str, u64>,
    /// Who is in which group.
    members: BTreeSet<(&'static str, &'static str)>,
    /// Whose removal is wanted of which group, and when.
    wanted: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) forgotten: BTreeSet<&'static str>,
}

/// Groups that may be forgotten, so that some are left.
const MAX_FORGOTTEN: usize = 3;

impl Upkeep {
    fn want(&mut self, group: &'static str, name: &'static str, at: u64) {
        let wanted = self.wanted.entry((group, name)).or_insert(at);
        *wanted = at.min(*wanted);
    }
}

impl Plan {
    /// When a group is due next, who enters and who leaves.
    pub(super) fn index(
        &mut self,
        dice: &mut Dice,
        group: &'static str,
    ) -> (u64, Vec<ClientId>, Vec<ClientId>) {
        let due_at = if dice.one_in(2) {
            u64::MAX
        } else {
            dice.roll(100)
        };
        self.then.upkeep.due.insert(group, due_at);
        let some = |dice: &mut Dice| (0..dice.roll(3)).map(|_| dice.name()).collect::<Vec<_>>();
        let (entered, left) = (some(dice), some(dice));
        let members = &mut self.then.upkeep.members;
        members.retain(|(of, name)| *of != group || !left.contains(name));
        members.extend(entered.iter().map(|name| (group, *name)));
        let wanted = &mut self.then.upkeep.wanted;
        wanted.retain(|(of, name), _| *of != group || !left.contains(name));
        let clients = |names: Vec<&str>| names.into_iter().map(client).collect();
        (due_at, clients(entered), clients(left))
    }

    pub(super) fn upkeep(&mut self, dice: &mut Dice) {
        let (group, name, at) = (dice.group(), dice.name(), dice.roll(100));
        let exists =
            self.then.groups.contains_key(group) && !self.then.upkeep.forgotten.contains(group);
        let upkeep = &mut self.then.upkeep;
        let write = match dice.roll(10) {
            0..=3 => {
                if exists {
                    upkeep.want(group, name, at);
                }
                Write::WantRemoval {
                    client_id: client(name),
                    group_id: Some(group_id(group)),
                    at,
                }
            }
            4 | 5 => {
                for (group, member) in upkeep.members.clone() {
                    if member == name {
                        upkeep.want(group, name, at);
                    }
                }
                Write::WantRemoval {
                    client_id: client(name),
                    group_id: None,
                    at,
                }
            }
            6 | 7 => {
                let names = [name, dice.name()];
                for name in names {
                    upkeep.wanted.remove(&(group, name));
                }
                Write::RemovalsDone {
                    group_id: group_id(group),
                    clients: names.map(client).to_vec(),
                }
            }
            8 => {
                if let Some(wanted_at) = upkeep.wanted.get_mut(&(group, name)) {
                    *wanted_at = at.max(*wanted_at);
                }
                if let Some(due) = upkeep.due.get_mut(group) {
                    *due = at.max(*due);
                }
                Write::PostponeRemovals {
                    group_id: group_id(group),
                    clients: vec![client(name)],
                    until: at,
                }
            }
            _ if dice.one_in(3) && upkeep.forgotten.len() < MAX_FORGOTTEN => self.forget(group),
            _ => return,
        };
        self.change.writes.push(write);
    }

    fn forget(&mut self, group: &'static str) -> Write {
        let upkeep = &mut self.then.upkeep;
        if self.then.groups.contains_key(group) && upkeep.forgotten.insert(group) {
            upkeep.due.remove(group);
            upkeep.members.retain(|(of, _)| *of != group);
            upkeep.wanted.retain(|(of, _), _| *of != group);
            self.then.answers.retain(|(of, _), _| *of != group);
        }
        Write::ForgetGroup {
            group_id: group_id(group),
        }
    }
}

pub(super) async fn compare_upkeep(store: &dyn Store, model: &Model) {
    for group in GROUPS {
        let found = store.wanted_removals(&group_id(group)).await.unwrap();
        let wanted = model.upkeep.wanted.keys();
        let of_group = wanted.filter(|(of, _)| *of == group);
        let expected: Vec<_> = of_group.map(|(_, name)| client(name)).collect();
        assert_eq!(found, expected);
    }
    // When a group is due for one thing or the other.
    let mut due_at: BTreeMap<&str, u64> = BTreeMap::new();
    let removals = model.upkeep.wanted.iter().map(|((of, _), at)| (*of, *at));
    let times = model.upkeep.due.iter().map(|(of, at)| (*of, *at));
    for (group, at) in removals.chain(times.filter(|(_, at)| *at != u64::MAX)) {
        let earliest = due_at.entry(group).or_insert(at);
        *earliest = at.min(*earliest);
    }
    for now in [0, 5, 20, 50, 100] {
        let found = due(store, now, usize::MAX).await;
        let times: Vec<_> = found.iter().map(|group| due_at[&**group]).collect();
        assert!(times.is_sorted(), "{found:?} {times:?}");
        let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found.len(), times.len());
        let expected = due_at.iter().filter(|(_, at)| **at <= now);
        assert_eq!(found, expected.map(|(group, _)| *group).collect());
        let some = due(store, now, 2).await;
        assert_eq!(some.len(), times.len().min(2));
    }
}
