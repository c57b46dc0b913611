//! `set_roles`: a commit that names other admins, or the owner by its current key.

use moh_messages::{Extension, List, Message, Rbac, extension_type};

use super::violation;
use crate::error::Refusal;
use crate::group::{CommitRules, Committer, Proposed, Roles};

/// RFC 9420 section 17.3.
const EXTERNAL_SENDERS: u16 = 0x0005;

pub(super) const RULES: CommitRules = CommitRules {
    by: Committer::Member,
    roles: Roles::AdminsIfAny,
    ends_group: false,
    check,
};

fn check(commit: &Proposed<'_>) -> Result<(), Refusal> {
    let Some(after) = commit.only_context_extensions() else {
        return violation("set_roles holds one GroupContextExtensions, and nothing else by value");
    };
    let before = commit.group().context_extensions()?;
    let types = |all: &[Extension]| all.iter().map(|e| e.extension_type).collect::<Vec<_>>();
    let (mut had, mut has) = (types(&before), types(after));
    had.sort_unstable();
    has.sort_unstable();
    if had != has {
        return violation("set_roles neither adds nor removes an extension");
    }
    let changed: Vec<&Extension> = after.iter().filter(|e| !before.contains(e)).collect();
    match changed.as_slice() {
        [] => Ok(()),
        [rbac] if rbac.extension_type == extension_type::RBAC => {
            match Rbac::decode(rbac.extension_data.as_slice()) {
                Ok(_) => Ok(()),
                Err(_) => violation("rbac does not decode"),
            }
        }
        [senders] if senders.extension_type == EXTERNAL_SENDERS => {
            let current = commit.group().current_ds_sender(commit.checks().owner);
            let only = current.and_then(|sender| List::<_, 1>::new(vec![sender]).ok());
            match only {
                Some(only) if only.encode() == senders.extension_data.as_slice() => Ok(()),
                _ => violation("external_senders has exactly one entry, the current ds_sender"),
            }
        }
        _ => violation("set_roles changes rbac alone, or external_senders alone"),
    }
}
