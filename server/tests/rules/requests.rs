//! What all requests have in common: who signs them, for whom they are, and what is the same for
//! every operation.

use moh_messages::{DsErrorCode, DsRequestBody, DsResponseBody, Endpoint, Message, Opaque};

use crate::home::home_of;
use crate::operations::{By, MEMBERS_COMMITS, OTHER_MESSAGES, Stage, all, commits, unsigned};
use crate::parts;
use crate::scene::{ALICE, AMY};

const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;
const UNKNOWN: DsErrorCode = DsErrorCode::UNKNOWN_GROUP;
const VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;
const INVALID: DsErrorCode = DsErrorCode::INVALID_MESSAGE;

async fn accepted(name: &'static str) {
    let mut stage = Stage::set().await;
    let operation = stage.operation(name).await;
    let answer = stage.scene.site.answer(&operation.request()).await;
    assert!(answer.is_ok(), "{name}: {answer:?}");
    stage.scene.site.end().await;
}

/// What the tests here break one rule of at a time.
#[tokio::test]
async fn every_operation_is_accepted_as_it_is() {
    for name in all() {
        accepted(name).await;
    }
}

#[tokio::test]
async fn other_types_of_authentication() {
    let mut stage = Stage::set().await;
    for name in all() {
        let operation = stage.operation(name).await;
        for (who, request) in operation.other_auths() {
            let allowed = match name.split_once(' ').map_or(name, |(name, _)| name) {
                "external_join" | "external_commit_info" => ["a leaf", "a provider"].contains(&who),
                _ => false,
            };
            if !allowed {
                let what = format!("{name}, signed by {who}");
                let scene = &stage.scene;
                scene
                    .refuses_request(&what, UNAUTHENTICATED, &request)
                    .await;
            }
        }
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn senders_that_are_not_the_clients_provider() {
    let mut stage = Stage::set().await;
    for name in all() {
        let operation = stage.operation(name).await;
        let mut request = operation.request();
        request.sender = match request.sender.as_str() {
            "b.example" => "c.example".parse().unwrap(),
            _ => "b.example".parse().unwrap(),
        };
        // Signed by whoever it says, where providers sign.
        let request = match operation.by {
            By::Provider(_) => {
                stage.scene.site.homes[request.sender.as_str()].sign_request(&mut request);
                request
            }
            by => by.sign(request),
        };
        stage
            .scene
            .refuses_request(name, UNAUTHENTICATED, &request)
            .await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn signatures_of_leaves_and_key_packages() {
    let mut stage = Stage::set().await;
    let zoe = stage.scene.site.device("zoe/phone@c.example");
    for name in all() {
        let operation = stage.operation(name).await;
        let scene = &stage.scene;
        let (request, leaf) = match &operation.by {
            By::Provider(_) => continue,
            By::Leaf(_, leaf) => (operation.request(), Some(*leaf)),
            By::KeyPackage(..) => (operation.request(), None),
        };
        let refused = async |what: &str, request| {
            let what = format!("{name}, {what}");
            scene.refuses_request(&what, UNKNOWN, &request).await;
        };
        refused("unsigned", unsigned(request.clone())).await;
        let mut by_another = zoe.sign(request.clone());
        by_another.sender = request.sender.clone();
        refused("by another key", zoe.sign(by_another)).await;
        // Who creates a group is its only leaf.
        if let Some(leaf) = leaf.filter(|_| name != "create_group") {
            let body = || operation.body.clone();
            let device = operation.by.device();
            refused("at another's leaf", device.as_leaf((leaf + 1) % 5, body())).await;
            refused("at no leaf", device.as_leaf(77, body())).await;
        }
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn signatures_of_providers() {
    let mut stage = Stage::set().await;
    for name in all() {
        let operation = stage.operation(name).await;
        let By::Provider(device) = &operation.by else {
            continue;
        };
        let scene = &stage.scene;
        scene.site.clock.pass(crate::clock::MINUTE_MS);
        let refused = async |what: &str, request| {
            let what = format!("{name}, {what}");
            let code = UNAUTHENTICATED;
            scene.refuses_request(&what, code, &request).await;
        };
        refused("unsigned", unsigned(operation.request())).await;
        let mut changed = operation.request();
        if let moh_messages::DsAuth::Provider { on_behalf_of, .. } = &mut changed.auth {
            *on_behalf_of = format!("{}x", device.id).parse().unwrap();
        }
        refused("changed after it was signed", changed).await;
        let mut request = operation.request();
        home_of(device.id.provider().as_str()).sign_request(&mut request);
        refused("by a key that the provider does not have", request).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn a_providers_request_is_taken_once_and_in_time() {
    let mut stage = Stage::set().await;
    for name in ["request_group_id", "external_commit_info by the provider"] {
        let operation = stage.operation(name).await;
        let (scene, request) = (&stage.scene, operation.request());
        assert!(scene.site.answer(&request).await.is_ok(), "{name}");
        let code = DsErrorCode::REPLAYED;
        let error = scene.refuses_request("again", code, &request).await;
        let now = scene.site.clock.now_ms();
        assert_eq!(u64::decode(error.data.as_slice()), Ok(now));
        let late = operation.request();
        scene.site.clock.pass(5 * crate::clock::MINUTE_MS + 1);
        scene.refuses_request("late", code, &late).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn leaf_index_is_the_sender_of_the_message() {
    let mut stage = Stage::set().await;
    let names = MEMBERS_COMMITS.into_iter();
    for name in names.chain(["self_remove_client", "external_join again by the leaf"]) {
        let operation = stage.operation(name).await;
        // Alice may do all of it.
        let by = match &operation.by {
            By::Leaf(_, 0) => AMY,
            _ => ALICE,
        };
        let request = stage.scene.members[by].ask(operation.body);
        stage.scene.refuses_request(name, INVALID, &request).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn messages_in_anothers_name() {
    let mut stage = Stage::set().await;
    for name in MEMBERS_COMMITS {
        let operation = stage.operation(name).await;
        let By::Leaf(_, leaf) = operation.by else {
            unreachable!();
        };
        let other = (leaf + 1) % 5;
        let request = operation.edited(&stage.scene, |commit| {
            commit.sender = parts::Sender::Member(other);
        });
        stage.scene.refuses_request(name, INVALID, &request).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn the_right_endpoint() {
    let mut stage = Stage::set().await;
    for name in all() {
        let request = stage.operation(name).await.request();
        for endpoint in [
            Endpoint::GroupOperation,
            Endpoint::WelcomeInformation,
            Endpoint::ExternalCommitInformation,
        ] {
            if endpoint == request.body.endpoint() {
                continue;
            }
            let site = &stage.scene.site;
            let before = site.state();
            let answer = site.node.answer(endpoint, request.encode().into()).await;
            let result = (answer.status, answer.result.as_str());
            assert_eq!(result, (400, "wrong_endpoint"), "{name}");
            assert!(before.changed_in(&site.state()).is_empty(), "{name}");
        }
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn group_state_key_is_empty() {
    let mut stage = Stage::set().await;
    for name in all() {
        let operation = stage.operation(name).await;
        let mut request = operation.request();
        request.group_state_key = Opaque::new([1]).unwrap();
        let request = operation.by.sign(request);
        stage.scene.refuses_request(name, VIOLATION, &request).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn for_another_provider_or_of_another_version() {
    let mut stage = Stage::set().await;
    for name in all() {
        let operation = stage.operation(name).await;
        let mut request = operation.request();
        request.recipient = "c.example".parse().unwrap();
        let request = operation.by.sign(request);
        let code = DsErrorCode::WRONG_RECIPIENT;
        stage.scene.refuses_request(name, code, &request).await;
        let mut bytes = operation.request().encode();
        bytes[1] = 2;
        let endpoint = operation.body.endpoint();
        let answer = stage.scene.site.node.answer(endpoint, bytes.into()).await;
        assert_eq!(answer.result.as_str(), "unsupported_version", "{name}");
        let bytes = [operation.request().encode(), vec![0]].concat();
        let answer = stage.scene.site.node.answer(endpoint, bytes.into()).await;
        assert_eq!(answer.result.as_str(), "malformed", "{name}");
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn epochs_that_are_not_the_current_one() {
    let mut stage = Stage::set().await;
    let code = DsErrorCode::WRONG_EPOCH;
    let mut past = Vec::new();
    for name in commits().chain(["self_remove_client"]) {
        let operation = stage.operation(name).await;
        if operation.commit.is_some() {
            let future = operation.edited(&stage.scene, |commit| commit.epoch += 1);
            let what = format!("{name} of an epoch to come");
            let error = stage.scene.refuses_request(&what, code, &future).await;
            assert_eq!(u64::decode(error.data.as_slice()), Ok(2), "{name}");
        }
        past.push(operation);
    }
    stage.scene.updates(AMY).await;
    for operation in past {
        let what = format!("{} of the epoch before", operation.name);
        let request = operation.request();
        let error = stage.scene.refuses_request(&what, code, &request).await;
        assert_eq!(u64::decode(error.data.as_slice()), Ok(3), "{what}");
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn handshakes_are_public_messages() {
    let mut stage = Stage::set().await;
    let DsRequestBody::SendMessage(private) = stage.scene.members[ALICE].message("private") else {
        unreachable!();
    };
    let private = private.message.into_vec();
    for name in commits() {
        let operation = stage.operation(name).await;
        let commit = operation.commit.as_ref().unwrap();
        for (what, code, bytes) in [
            ("a PrivateMessage", VIOLATION, private.clone()),
            ("no message", INVALID, vec![1; 40]),
            ("no bytes", INVALID, Vec::new()),
        ] {
            let mut made = commit.made.clone();
            made.commit = bytes;
            let request = operation.by.ask((commit.body)(&made));
            let what = format!("{name}, {what}");
            stage.scene.refuses_request(&what, code, &request).await;
        }
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn commits_that_are_not_signed_by_the_committer() {
    let mut stage = Stage::set().await;
    for name in commits() {
        let operation = stage.operation(name).await;
        let commit = operation.commit.as_ref().unwrap();
        let mut made = commit.made.clone();
        let mut parts = made.parts();
        parts.spoil_signature();
        made.commit = parts.encode();
        let request = operation.by.ask((commit.body)(&made));
        stage.scene.refuses_request(name, INVALID, &request).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn group_infos_that_the_committer_did_not_sign() {
    let mut stage = Stage::set().await;
    for name in commits() {
        let operation = stage.operation(name).await;
        let commit = operation.commit.as_ref().unwrap();
        let mut made = commit.made.clone();
        made.info.context.epoch += 1;
        made.info.sign(&commit.device.signer);
        let request = operation.by.ask((commit.body)(&made));
        let code = DsErrorCode::INVALID_GROUP_INFO;
        stage.scene.refuses_request(name, code, &request).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn what_every_path_has_to_have() {
    let mut stage = Stage::set().await;
    for name in commits() {
        let operation = stage.operation(name).await;
        let device = operation.commit.as_ref().unwrap().device.clone();
        let other = format!("{}x", device.id).parse().unwrap();
        let attestation = device.attestation_for(&other);
        let kept = operation.edited(&stage.scene, |commit| {
            let leaf = &mut commit.path.as_mut().unwrap().leaf;
            leaf.identity = parts::bytes(other.as_str().as_bytes());
            leaf.set(moh_messages::extension_type::ATTESTATION, &attestation);
        });
        let code = match name {
            // The client is the one that the provider speaks for.
            "external_join by the provider" | "external_join again by the provider" => {
                UNAUTHENTICATED
            }
            _ => VIOLATION,
        };
        let what = format!("{name}, with another ClientID");
        stage.scene.refuses_request(&what, code, &kept).await;
        let attested = operation.edited(&stage.scene, |commit| {
            let leaf = &mut commit.path.as_mut().unwrap().leaf;
            leaf.without(moh_messages::extension_type::ATTESTATION);
        });
        let what = format!("{name}, without an attestation");
        let code = UNAUTHENTICATED;
        stage.scene.refuses_request(&what, code, &attested).await;
    }
    stage.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn groups_that_do_not_exist() {
    let mut stage = Stage::set().await;
    let elsewhere = Stage::set().await;
    for name in all() {
        let operation = stage.operation(name).await;
        let is_provider = matches!(operation.by, By::Provider(_));
        if !is_provider && name != "create_group" {
            let request = operation.request();
            let what = format!("{name} of a group of another provider");
            let scene = &elsewhere.scene;
            scene.refuses_request(&what, UNKNOWN, &request).await;
        }
    }
    stage.scene.site.end().await;
    elsewhere.scene.goes_on_with(6).await;
}

#[tokio::test]
async fn the_same_bytes_get_the_first_answer() {
    for name in commits().chain(OTHER_MESSAGES).chain(["create_group"]) {
        let mut stage = Stage::set().await;
        let operation = stage.operation(name).await;
        let scene = &stage.scene;
        let first = scene.site.ask(&operation.request()).await.unwrap();
        assert!(matches!(first, DsResponseBody::Ok { .. }), "{name}");
        scene.site.clock.pass(1000);
        let before = scene.site.state();
        // Signed anew: what is the same is the message.
        let again = scene.site.ask(&operation.request()).await;
        assert_eq!(again, Ok(first), "{name}");
        let changed = before.changed_in(&scene.site.state());
        assert_eq!(changed, Vec::<String>::new(), "{name}");
        // For nobody else.
        let amy = scene.members[AMY].ask(operation.body.clone());
        let what = format!("{name}, by another member");
        scene.refuses_request(&what, UNKNOWN, &amy).await;
        let zoe = scene.site.device("zoe/phone@c.example");
        let stranger = zoe.as_leaf(4, operation.body);
        scene.refuses_request(name, UNKNOWN, &stranger).await;
        stage.scene.site.end().await;
    }
}
