//! Proposals by value in commits that may not hold them.

use moh_messages::{DsErrorCode, DsRequestBody};

use crate::made::Made;
use crate::parts;
use crate::scene::Scene;

/// One of each kind, by what it is called; none of these touches the tree where another one
/// does.
pub(crate) fn kinds(scene: &Scene, by: usize) -> Vec<(&'static str, Vec<u8>)> {
    let stranger = scene.site.device("zoe/phone@c.example");
    let member = &scene.members[by];
    let other = scene
        .members
        .iter()
        .find(|m| m.device.id.user_id() != member.device.id.user_id());
    let mut context = member.context_extensions();
    parts::set(&mut context, 0xF4FE, Some(vec![1]));
    let new_group = member.group_id();
    vec![
        ("Add", parts::add(&stranger.key_package_parts())),
        ("Update", parts::update(&member.own_leaf())),
        ("Remove", parts::remove(other.unwrap().index())),
        ("PreSharedKey", parts::pre_shared_key()),
        ("ReInit", parts::re_init(new_group.as_slice(), 1, 1)),
        ("ExternalInit", parts::external_init()),
        (
            "GroupContextExtensions",
            parts::group_context_extensions(&context),
        ),
    ]
}

/// A member's commit is refused with each kind of proposal besides, but for the kind that it is
/// for.
pub(crate) async fn refused_besides(
    scene: &Scene,
    by: usize,
    made: &Made,
    its_own: &str,
    body: impl Fn(&Made) -> DsRequestBody,
) {
    let member = &scene.members[by];
    for (kind, proposal) in kinds(scene, by) {
        if kind == its_own {
            continue;
        }
        let mut made = made.clone();
        made.edit(&member.device, member, |commit| {
            commit.also(&parts::by_value(&proposal));
        });
        let what = format!("with {kind} besides");
        let code = DsErrorCode::POLICY_VIOLATION;
        scene.refuses(by, &what, code, body(&made)).await;
    }
}

/// A member's commit is refused with each kind of proposal in the place of the kind that it is
/// for.
pub(crate) async fn refused_instead(
    scene: &Scene,
    by: usize,
    made: &Made,
    its_own: &str,
    body: impl Fn(&Made) -> DsRequestBody,
) {
    let member = &scene.members[by];
    for (kind, proposal) in kinds(scene, by) {
        if kind == its_own {
            continue;
        }
        let mut made = made.clone();
        made.edit(&member.device, member, |commit| {
            commit.proposals = parts::bytes(parts::by_value(&proposal));
        });
        let what = format!("{kind} instead");
        let code = DsErrorCode::POLICY_VIOLATION;
        scene.refuses(by, &what, code, body(&made)).await;
    }
}
