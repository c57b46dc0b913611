//! Uploads of KeyPackages that are not right: all are refused, and nothing changes.

use std::sync::Arc;

use moh_messages::client_api::{Boolean, ClientRequestBody, UploadKeyPackages};
use moh_messages::{
    Attestation, DsErrorCode, KeyId, KeyPackageBytes, List, MAX_ATTESTATION_LIFE_MS, QueueConfig,
};
use openmls::prelude::KeyPackage;

use crate::clock::{DAY_MS, MINUTE_MS};
use crate::device::{Device, Says, now_ms};
use crate::home::home_of;
use crate::phone::{OK, messages};
use crate::site::Site;

const UNAUTHENTICATED: DsErrorCode = DsErrorCode::UNAUTHENTICATED;
const INVALID: DsErrorCode = DsErrorCode::INVALID_KEY_PACKAGE;
const POLICY_VIOLATION: DsErrorCode = DsErrorCode::POLICY_VIOLATION;

/// Alice and her phone.
struct Uploads {
    site: Site,
    phone: Arc<Device>,
}

/// A leaf with the longest life that a KeyPackage may have.
fn lasting(device: &Device) -> Says {
    let seconds = now_ms() / 1000;
    Says {
        lifetime: (seconds - 3600, seconds + 99 * 24 * 60 * 60),
        ..device.says()
    }
}

impl Uploads {
    async fn set() -> Self {
        let site = Site::start().await;
        let phone = site.registered("alice/phone@a.example").await;
        let one = [phone.key_package()];
        assert_eq!(phone.upload(&site.node, &one, Boolean::False).await, OK);
        Self { site, phone }
    }

    /// It is refused beside good ones, in whatever place, and also where it would replace what
    /// is there.
    async fn refuses(&self, code: DsErrorCode, bytes: &KeyPackageBytes) {
        let before = self.site.state();
        let good = || {
            let says = lasting(&self.phone);
            messages(&[self.phone.key_package_that_says(&says)]).remove(0)
        };
        for replace in [Boolean::False, Boolean::True] {
            for key_packages in [
                vec![bytes.clone()],
                vec![good(), bytes.clone()],
                vec![bytes.clone(), good()],
            ] {
                let upload = UploadKeyPackages {
                    replace,
                    key_packages: List::new(key_packages).unwrap(),
                };
                let upload = ClientRequestBody::UploadKeyPackages(upload);
                let told = self.phone.tell(&self.site.node, upload).await;
                assert_eq!(told, Err(code));
            }
        }
        assert!(self.site.state() == before);
    }

    async fn refuses_one(&self, code: DsErrorCode, key_package: KeyPackage) {
        self.refuses(code, &messages(&[key_package])[0]).await;
    }

    /// A KeyPackage whose attestation is changed, and signed again by its provider.
    async fn refuses_attested(&self, code: DsErrorCode, change: impl FnOnce(&mut Attestation)) {
        let mut says = self.phone.says();
        change(&mut says.attestation);
        says.attestation = self.phone.home.sign(says.attestation);
        let package = self.phone.key_package_that_says(&says);
        self.refuses_one(code, package).await;
    }
}

#[tokio::test]
async fn of_another_client() {
    let uploads = Uploads::set().await;
    let Uploads { site, phone } = &uploads;
    let laptop = site.registered_by("alice/laptop@a.example", phone).await;
    let bob = site.registered("bob/phone@a.example").await;
    let foreign = site.device("alice/phone@b.example");
    for other in [&laptop, &bob] {
        uploads.refuses_one(INVALID, other.key_package()).await;
    }
    uploads
        .refuses_one(UNAUTHENTICATED, foreign.key_package())
        .await;
    // The name alone is another one.
    let same_key = phone.with_same_key(laptop.id.as_str());
    uploads.refuses_one(INVALID, same_key.key_package()).await;
    uploads.site.end().await;
}

#[tokio::test]
async fn with_an_attestation_of_another_time() {
    let uploads = Uploads::set().await;
    let now = uploads.site.clock.now_ms();
    let times = |not_before, not_after| {
        move |attestation: &mut Attestation| {
            attestation.not_before = not_before;
            attestation.not_after = not_after;
        }
    };
    for (not_before, not_after) in [
        (now - 2 * DAY_MS, now - 1),
        (now + MINUTE_MS, now + DAY_MS),
        (now - 1, now + MAX_ATTESTATION_LIFE_MS),
    ] {
        let change = times(not_before, not_after);
        uploads.refuses_attested(UNAUTHENTICATED, change).await;
    }
    // One that was good at its time.
    let says = lasting(&uploads.phone);
    let end = says.attestation.not_after;
    let package = uploads.phone.key_package_that_says(&says);
    uploads.site.clock.pass(end + 1 - now);
    uploads.refuses_one(UNAUTHENTICATED, package).await;
    uploads.site.end().await;
}

#[tokio::test]
async fn with_an_attestation_by_another_provider_or_key() {
    let uploads = Uploads::set().await;
    let Uploads { site, phone } = &uploads;
    let attested_by = |home: &crate::home::Home| {
        let (key, now) = (phone.public_key(), site.clock.now_ms());
        Says {
            attestation: home.keys.attest(&phone.id, phone.scheme(), &key, now),
            ..phone.says()
        }
    };
    // Another provider, and one that has our name, but not our key.
    for home in [&site.homes["b.example"], &home_of("a.example")] {
        let package = phone.key_package_that_says(&attested_by(home));
        uploads.refuses_one(UNAUTHENTICATED, package).await;
    }
    // Signed with our key, which it says is another one; and the other way round.
    let unknown = KeyId::new([7; 32]).unwrap();
    let change = |attestation: &mut Attestation| attestation.key_id = unknown;
    uploads.refuses_attested(UNAUTHENTICATED, change).await;
    let mut says = attested_by(&site.homes["b.example"]);
    says.attestation.key_id = phone.says().attestation.key_id;
    let package = phone.key_package_that_says(&says);
    uploads.refuses_one(UNAUTHENTICATED, package).await;
    uploads.site.end().await;
}

#[tokio::test]
async fn with_an_attestation_for_another_client_or_key() {
    let uploads = Uploads::set().await;
    let Uploads { site, phone } = &uploads;
    let laptop = site.device("alice/laptop@a.example");
    for attestation in [
        phone.attestation_for(&laptop.id),
        laptop.attestation_for(&phone.id),
    ] {
        let says = Says {
            attestation,
            ..phone.says()
        };
        let package = phone.key_package_that_says(&says);
        uploads.refuses_one(UNAUTHENTICATED, package).await;
    }
    uploads.site.end().await;
}

#[tokio::test]
async fn with_a_queue_that_is_not_this_clients() {
    let uploads = Uploads::set().await;
    let Uploads { site, phone } = &uploads;
    let laptop = site.registered_by("alice/laptop@a.example", phone).await;
    let foreign = site.device("alice/phone@b.example");
    let mut sealed_elsewhere = foreign.says().queue;
    sealed_elsewhere.provider = phone.id.provider();
    let others: [(QueueConfig, DsErrorCode); 3] = [
        (laptop.says().queue, INVALID),
        (sealed_elsewhere, INVALID),
        (foreign.says().queue, POLICY_VIOLATION),
    ];
    for (queue, code) in others {
        let says = Says {
            queue,
            ..phone.says()
        };
        uploads
            .refuses_one(code, phone.key_package_that_says(&says))
            .await;
    }
    uploads.site.end().await;
}

#[tokio::test]
async fn with_a_lifetime_that_is_over_or_too_long() {
    const DAY: u64 = 24 * 60 * 60;
    let uploads = Uploads::set().await;
    let now = now_ms() / 1000;
    for lifetime in [(now - DAY, now - 60), (now - 3600, now + 100 * DAY)] {
        let says = Says {
            lifetime,
            ..uploads.phone.says()
        };
        let package = uploads.phone.key_package_that_says(&says);
        uploads.refuses_one(INVALID, package).await;
    }
    uploads.site.end().await;
}

#[tokio::test]
async fn that_are_no_key_packages() {
    let uploads = Uploads::set().await;
    let good = messages(&[uploads.phone.key_package()])
        .remove(0)
        .into_vec();
    let mut longer = good.clone();
    longer.push(0);
    let mut forged = good.clone();
    // The signature is the last thing in it.
    *forged.last_mut().unwrap() ^= 1;
    for bytes in [
        Vec::new(),
        vec![0; 100],
        good[..good.len() - 1].into(),
        longer,
        forged,
    ] {
        let bytes = KeyPackageBytes::new(bytes).unwrap();
        uploads.refuses(INVALID, &bytes).await;
    }
    uploads.site.end().await;
}
