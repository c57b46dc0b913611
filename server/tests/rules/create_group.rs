//! create_group.

use moh_messages::{
    CipherSuite, DsAuth, DsErrorCode, DsProtocolVersion, DsRequest, DsRequestBody, DsResponseBody,
    ExternalSender, GroupId, GroupType, KeyPackageRef, List, Message, MohGroupContext, Opaque,
    ProviderAuth, Rbac, Signature, extension_type,
};

use crate::device::{Device, Founding, create_group};
use crate::home::home_of;
use crate::leaves;
use crate::parts::{self, set};
use crate::site::Site;

const EXTERNAL_SENDERS: u16 = 5;
const REQUIRED_CAPABILITIES: u16 = 3;
const EXTERNAL_PUB: u16 = 4;
const RATCHET_TREE: u16 = 2;

/// A creation on its way, with everything in it still to be signed.
struct Draft<'a> {
    device: &'a Device,
    founding: Founding,
    leaf: parts::Leaf,
    info: parts::GroupInfo,
    leaf_index: u32,
    /// Breaks the GroupInfo's signature.
    spoil_info: bool,
    /// Changes the request, before it is signed.
    change: fn(&mut DsRequest),
}

impl Draft<'_> {
    fn seal(mut self) -> DsRequest {
        self.leaf.sign(&self.device.signer, None);
        self.info.set_only_leaf(&self.leaf);
        self.info.sign(&self.device.signer);
        if self.spoil_info {
            let mut signature = self.info.signature.clone().into_vec();
            signature[10] ^= 1;
            self.info.signature = parts::bytes(signature);
        }
        let body = create_group(&self.founding, &self.leaf, &self.info);
        let auth = DsAuth::Leaf {
            leaf_index: self.leaf_index,
            signature: Signature::empty(),
        };
        let mut request = self.device.request(body, auth);
        (self.change)(&mut request);
        if matches!(
            request.auth,
            DsAuth::Leaf { .. } | DsAuth::KeyPackage { .. }
        ) {
            request = self.device.sign(request);
        }
        request
    }

    fn context(&mut self, number: u16, content: Option<Vec<u8>>) {
        set(&mut self.info.context.extensions, number, content);
    }

    fn senders(&mut self, senders: &[ExternalSender]) {
        let senders = List::<_, 4>::new(senders.to_vec()).unwrap().encode();
        self.context(EXTERNAL_SENDERS, Some(senders));
    }

    fn required(&mut self, types: &[u16]) {
        let mut content = List::<u16, 16>::new(types.to_vec()).unwrap().encode();
        content.extend([0, 2, 0, 1]);
        self.context(REQUIRED_CAPABILITIES, Some(content));
    }

    fn moh(&mut self, version: u16, group_type: GroupType) {
        let version = DsProtocolVersion(version);
        let moh = MohGroupContext {
            version,
            group_type,
        };
        self.context(extension_type::MOH, Some(moh.encode()));
    }
}

type Case = (&'static str, DsErrorCode, fn(&mut Draft<'_>));
type Spoil = Box<dyn Fn(&mut Draft<'_>)>;

/// Tries every case, and then that the group which they were all about can still be created.
async fn refuse(cases: &[Case]) {
    let boxed = |&(what, code, spoil): &Case| (what, code, Box::new(spoil) as Spoil);
    refuse_all(cases.iter().map(boxed)).await;
}

async fn refuse_all(cases: impl Iterator<Item = (&'static str, DsErrorCode, Spoil)>) {
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let (group_id, ds_sender) = site.group_id(&alice).await;
    let draft = || {
        let founding = Founding {
            group_id: group_id.clone(),
            group_type: GroupType::Regular,
            ds_sender: ds_sender.clone(),
            rbac: None,
        };
        let (member, info) = site.device("alice/phone@a.example").found(&founding);
        let leaf = member.own_leaf();
        (member.device, founding, leaf, info)
    };
    for (what, code, spoil) in cases {
        let (device, founding, leaf, info) = draft();
        let mut draft = Draft {
            device: &device,
            founding,
            leaf,
            info,
            leaf_index: 0,
            spoil_info: false,
            change: |_| {},
        };
        spoil(&mut draft);
        let before = site.state();
        assert_eq!(site.ask(&draft.seal()).await, Err(code), "{what}");
        assert!(before.changed_in(&site.state()).is_empty(), "{what}");
    }
    let (device, founding, leaf, info) = draft();
    let body = create_group(&founding, &leaf, &info);
    let created = site.ask(&device.as_leaf(0, body)).await;
    assert!(matches!(created, Ok(DsResponseBody::Ok { epoch: 0, .. })));
    site.end().await;
}

#[tokio::test]
async fn group_info() {
    let code = DsErrorCode::INVALID_GROUP_INFO;
    refuse(&[
        ("a bad signature", code, |d| d.spoil_info = true),
        ("of another group", code, |d| {
            d.info.context.group_id = parts::bytes([7; 32]);
        }),
        ("of epoch 1", code, |d| d.info.context.epoch = 1),
        ("with a history", code, |d| {
            d.info.context.confirmed_transcript_hash = parts::bytes([1; 32]);
        }),
        ("with ratchet_tree", code, |d| {
            d.leaf.sign(&d.device.signer, None);
            let tree = [&[1, 1][..], &d.leaf.encode()].concat();
            let tree = parts::bytes(tree).encode();
            set(&mut d.info.extensions, RATCHET_TREE, Some(tree));
        }),
        ("without external_pub", code, |d| {
            set(&mut d.info.extensions, EXTERNAL_PUB, None);
        }),
        ("signed by leaf 1", code, |d| d.info.signer = 1),
    ])
    .await;
}

#[tokio::test]
async fn group_context() {
    let code = DsErrorCode::POLICY_VIOLATION;
    refuse(&[
        ("external_senders missing", code, |d| {
            d.context(EXTERNAL_SENDERS, None);
        }),
        ("external_senders empty", code, |d| d.senders(&[])),
        ("external_senders with another key", code, |d| {
            let other = home_of("a.example").keys.ds_sender(d.device.suite);
            d.senders(&[other.unwrap()]);
        }),
        ("external_senders with another name", code, |d| {
            let mut other = d.founding.ds_sender.clone();
            other.credential = home_of("b.example")
                .keys
                .ds_sender(d.device.suite)
                .unwrap()
                .credential;
            d.senders(&[other]);
        }),
        ("two external_senders", code, |d| {
            let other = home_of("b.example").keys.ds_sender(d.device.suite);
            d.senders(&[d.founding.ds_sender.clone(), other.unwrap()]);
        }),
        ("the same external_sender twice", code, |d| {
            d.senders(&[d.founding.ds_sender.clone(), d.founding.ds_sender.clone()]);
        }),
        ("no moh", code, |d| d.context(extension_type::MOH, None)),
        ("moh of the other type", code, |d| {
            d.moh(1, GroupType::Connection);
        }),
        ("the other type than moh", code, |d| {
            d.founding.group_type = GroupType::Connection;
        }),
        ("moh of version 2", code, |d| d.moh(2, GroupType::Regular)),
        ("moh with a rest", code, |d| {
            d.context(extension_type::MOH, Some(vec![0, 1, 0, 0]));
        }),
        ("no required_capabilities", code, |d| {
            d.context(REQUIRED_CAPABILITIES, None);
        }),
        ("required_capabilities without moh", code, |d| {
            d.required(&extension_type::ALL[1..]);
        }),
        ("required_capabilities without rbac", code, |d| {
            d.required(&extension_type::ALL[..4]);
        }),
        ("rbac without the creator", code, |d| {
            let admins = vec!["mimi://a.example/u/amy".parse().unwrap()];
            let admins = List::new(admins).unwrap();
            d.context(extension_type::RBAC, Some(Rbac { admins }.encode()));
        }),
        ("rbac that is none", code, |d| {
            d.context(extension_type::RBAC, Some(vec![9]));
        }),
    ])
    .await;
}

fn of_leaf(edit: leaves::Edit) -> Spoil {
    Box::new(move |draft| edit(&mut draft.leaf, draft.device))
}

#[tokio::test]
async fn the_leaf() {
    let cases = leaves::broken_at_creation().map(|(what, code, edit)| (what, code, of_leaf(edit)));
    refuse_all(cases).await;
}

#[tokio::test]
async fn a_leaf_that_is_not_valid() {
    let cases = leaves::INVALID
        .into_iter()
        .map(|(what, edit)| (what, DsErrorCode::INVALID_GROUP_INFO, of_leaf(edit)));
    refuse_all(cases).await;
}

#[tokio::test]
async fn the_request() {
    fn blank() -> ProviderAuth {
        ProviderAuth::blank()
    }
    refuse(&[
        (
            "another provider as sender",
            DsErrorCode::UNAUTHENTICATED,
            |d| {
                d.change = |r| r.sender = "b.example".parse().unwrap();
            },
        ),
        ("leaf 1 of one", DsErrorCode::UNKNOWN_GROUP, |d| {
            d.leaf_index = 1
        }),
        ("nobody signs", DsErrorCode::UNAUTHENTICATED, |d| {
            d.change = |r| r.auth = DsAuth::Anonymous;
        }),
        ("a KeyPackage signs", DsErrorCode::UNAUTHENTICATED, |d| {
            d.change = |r| {
                r.auth = DsAuth::KeyPackage {
                    key_package_ref: KeyPackageRef::new([1; 32]).unwrap(),
                    signature: Signature::empty(),
                };
            };
        }),
        ("a provider signs", DsErrorCode::UNAUTHENTICATED, |d| {
            d.change = |r| {
                r.auth = DsAuth::Provider {
                    on_behalf_of: "mimi://a.example/d/alice/phone".parse().unwrap(),
                    provider_auth: blank(),
                };
            };
        }),
        ("a group_state_key", DsErrorCode::POLICY_VIOLATION, |d| {
            d.change = |r| r.group_state_key = Opaque::new([1]).unwrap();
        }),
        (
            "a name that was not issued",
            DsErrorCode::POLICY_VIOLATION,
            |d| {
                let mut name = d.founding.group_id.clone().into_vec();
                name[0] ^= 1;
                d.founding.group_id = GroupId::new(name.clone()).unwrap();
                d.info.context.group_id = parts::bytes(name);
            },
        ),
        ("a leaf that is none", DsErrorCode::INVALID_MESSAGE, |d| {
            d.change = |r| {
                if let DsRequestBody::CreateGroup(body) = &mut r.body {
                    body.leaf_node = Opaque::new([1, 2, 3]).unwrap();
                }
            };
        }),
        (
            "a GroupInfo that is none",
            DsErrorCode::INVALID_GROUP_INFO,
            |d| {
                d.change = |r| {
                    if let DsRequestBody::CreateGroup(body) = &mut r.body {
                        body.group_info = Opaque::new([1, 2, 3]).unwrap();
                    }
                };
            },
        ),
    ])
    .await;
}

#[tokio::test]
async fn too_many_extensions_of_the_context() {
    fn extensions(d: &mut Draft<'_>, count: u16) {
        let more = count - u16::try_from(d.info.context.extensions.len()).unwrap();
        let numbers: Vec<u16> = (0xF500..0xF500 + more).collect();
        let types = [&d.leaf.extension_types[..], &numbers].concat();
        d.leaf.extension_types = List::new(types).unwrap();
        for number in numbers {
            d.context(number, Some(Vec::new()));
        }
    }
    refuse(&[("65", DsErrorCode::LIMIT_EXCEEDED, |d| extensions(d, 65))]).await;
}

#[tokio::test]
async fn a_signature_by_another_key_gets_what_a_stranger_gets() {
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let founding = site.founding(&alice).await;
    let (member, info) = alice.found(&founding);
    let body = create_group(&founding, &member.own_leaf(), &info);
    let impostor = site.device("alice/phone@a.example");
    let refused = site.ask(&impostor.as_leaf(0, body)).await;
    assert_eq!(refused, Err(DsErrorCode::UNKNOWN_GROUP));
    site.end().await;
}

#[tokio::test]
async fn a_name_is_used_once() {
    let site = Site::start().await;
    let alice = site.device("alice/phone@a.example");
    let founding = site.founding(&alice).await;
    let (member, info) = alice.found(&founding);
    let request = alice.as_leaf(0, create_group(&founding, &member.own_leaf(), &info));
    let first = site.ask(&request).await.unwrap();
    let before = site.state();
    // The same bytes again are no second creation.
    assert_eq!(site.ask(&request).await, Ok(first));
    // Another group, and the same one by another, are.
    for name in ["alice/phone@a.example", "amy/phone@a.example"] {
        let (other, info) = site.device(name).found(&founding);
        let body = create_group(&founding, &other.own_leaf(), &info);
        let refused = site.ask(&other.device.as_leaf(0, body)).await;
        assert_eq!(refused, Err(DsErrorCode::GROUP_ID_IN_USE), "{name}");
    }
    // Who only knows the bytes, and not the key, learns nothing from them.
    let amy = site.device("amy/phone@a.example");
    let stolen = amy.sign(request.clone());
    assert_ne!(site.ask(&stolen).await, site.ask(&request).await);
    assert!(before.changed_in(&site.state()).is_empty());
    site.end().await;
}

#[tokio::test]
async fn every_ciphersuite_of_the_profile() {
    let site = Site::start().await;
    for suite in [1, 2, 3] {
        let alice = site.device_with("alice/phone@a.example", CipherSuite(suite));
        let bob = site.device_with("bob/phone@b.example", CipherSuite(suite));
        let mut member = site.group_of(&alice).await;
        let (mut added, _) = site.add(&mut member, &[&bob]).await;
        site.update(&mut added[0], &mut [&mut member]).await;
        assert_eq!(site.stored(&member).await.epoch(), 2, "{suite}");
    }
    site.end().await;
}
