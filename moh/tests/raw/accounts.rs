//! Who becomes a user, what a user says of its clients, and that who is gone stays gone.

use moh_messages::client_api::{
    ClientRequest, ClientRequestBody, ClientResponseBody, DeleteAccount, DeleteClient,
    GetQueueConfigs, ListClients, PATH,
};
use moh_messages::{ClientId, UserKeyPackageStatus};
use moh_server::{Environment, Keys, SecretKeys};

use crate::common::answer::Answer;
use crate::common::device::{Device, new_key};
use crate::common::scene::{changed, invite};
use crate::common::server::Server;

const BY_INVITATION: &str = "registration = \"invitation\"";

/// A registration of a user's first client, with a new key.
async fn register(server: &Server, name: &str, invitation: &str) -> Answer {
    Device::try_to_register(server, name, &new_key(), None, invitation).await
}

/// A code of a provider that was good until the first minute of 1970.
fn expired(server: &Server) -> String {
    let secret = SecretKeys::read(&server.path("keys.toml")).unwrap();
    let keys = Keys::new(server.name.clone(), &secret).unwrap();
    keys.invite(&*Environment::system().random, 1)
}

#[tokio::test]
async fn where_an_invitation_is_needed_a_good_one_makes_one_user() {
    let server = Server::start_with("a.example", BY_INVITATION).await;
    let elsewhere = Server::start_with("a.example", BY_INVITATION).await;
    let codes = server.invitations(2).await;
    let mut bad = codes[0].clone().into_bytes();
    let last = bad.last_mut().unwrap();
    *last = if *last == b'0' { b'1' } else { b'0' };
    let bad = [
        String::new(),
        String::from_utf8(bad).unwrap(),
        codes[0][..46].to_owned(),
        "not a code".to_owned(),
        elsewhere.invitations(1).await.remove(0),
        expired(&server),
    ];
    for code in &bad {
        let answer = register(&server, "alice/phone", code).await;
        answer.refused(403, "unauthorized");
    }
    // What was refused took nothing: neither the name nor the code.
    let key = new_key();
    let register_alice =
        async || Device::try_to_register(&server, "alice/phone", &key, None, &codes[0]).await;
    let answer = register_alice().await;
    register_alice().await.client_response();
    let alice = Device::registered(&server, "alice/phone", key, &answer);
    let used = register(&server, "bob/phone", &codes[0]).await;
    used.refused(403, "unauthorized");
    // A code that is shown for nothing stays good: the name is taken, or none is needed.
    let answer = register(&server, "alice/phone", &codes[1]).await;
    answer.refused(403, "unauthorized");
    let laptop = new_key();
    let by_alice = Some(&alice);
    let answer =
        Device::try_to_register(&server, "alice/laptop", &laptop, by_alice, &codes[1]).await;
    Device::registered(&server, "alice/laptop", laptop, &answer);
    let answer = register(&server, "bob/phone", &codes[1]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_invitation_stays_used_and_nobody_needs_one_where_registration_is_off() {
    let mut server = Server::start_with("a.example", BY_INVITATION).await;
    let codes = server.invitations(2).await;
    let key = new_key();
    let answer = Device::try_to_register(&server, "alice/phone", &key, None, &codes[0]).await;
    let alice = Device::registered(&server, "alice/phone", key, &answer);
    server.kill().await;
    server.restart().await;
    let used = register(&server, "bob/phone", &codes[0]).await;
    used.refused(403, "unauthorized");
    server.configure("registration = \"off\"").await;
    for code in ["", &codes[1]] {
        let answer = register(&server, "bob/phone", code).await;
        answer.refused(403, "unauthorized");
    }
    // Users have further clients all the same.
    let laptop = Device::register_beside(&server, "alice/laptop", &alice).await;
    assert_eq!(laptop.clients().await.len(), 2);
    server.configure(BY_INVITATION).await;
    let answer = register(&server, "bob/phone", &codes[1]).await;
    assert_eq!(answer.status, 200);
}

fn get() -> ClientRequestBody {
    ClientRequestBody::GetQueueConfigs(GetQueueConfigs { count: 1 })
}

async fn delete(by: &Device, client: &ClientId) -> Answer {
    let client = client.clone();
    by.ask(ClientRequestBody::DeleteClient(DeleteClient { client }))
        .await
}

fn names(infos: &[moh_messages::client_api::ClientInfo]) -> Vec<&str> {
    infos.iter().map(|info| info.client.as_str()).collect()
}

#[tokio::test]
async fn a_deleted_client_is_nobody_and_its_name_is_not_given_again() {
    let mut server = Server::start("a.example").await;
    let bob = Device::register(&server, "bob/phone").await;
    let alice = invite(&server, "alice/phone", &bob).await;
    let laptop = Device::register_beside(&server, "alice/laptop", &alice).await;
    let listed = alice.clients().await;
    let all = ["mimi://a.example/d/alice/laptop", alice.client.as_str()];
    assert_eq!(names(&listed), all);
    assert_eq!(listed[1].key_packages, 1);
    assert_eq!(listed[0].signature_key.as_slice(), laptop.signer.public());

    let deleted = delete(&alice, &laptop.client).await;
    assert_eq!(deleted.client_response(), ClientResponseBody::Ok);
    for _ in 0..2 {
        assert_eq!(names(&alice.clients().await), all[1..]);
        // It gets what somebody gets who never was there.
        let refused = laptop.ask(get()).await;
        refused.refused(403, "unauthenticated");
        let never = changed::<ClientRequest>(
            &moh_messages::Message::encode(&laptop.request(get())),
            |request| request.client = "mimi://a.example/d/alice/tablet".parse().unwrap(),
        );
        let never = server.http().post(PATH, &never).await;
        assert_eq!(refused.everything(), never.everything());
        // Neither with its old key nor with another one, whoever speaks for it.
        for key in [&laptop.signer, &new_key()] {
            for other in [None, Some(&alice)] {
                let again = Device::try_to_register(&server, "alice/laptop", key, other, "").await;
                again.refused(403, "unauthorized");
            }
        }
        server.kill().await;
        server.restart().await;
    }
    // Once more is no error.
    let again = delete(&alice, &laptop.client).await;
    assert_eq!(again.client_response(), ClientResponseBody::Ok);
    let (status, clients) = bob.key_package_status_of(&alice.user()).await;
    assert_eq!(
        (status, clients.len()),
        (UserKeyPackageStatus::Success, 1),
        "it is not asked for KeyPackages"
    );
}

#[tokio::test]
async fn a_deleted_user_is_nobody_and_its_name_is_not_given_again() {
    let mut server = Server::start("a.example").await;
    let bob = Device::register(&server, "bob/phone").await;
    let alice = invite(&server, "alice/phone", &bob).await;
    let laptop = Device::register_beside(&server, "alice/laptop", &alice).await;
    // With its last client a user is gone as with `delete_account`.
    let carol = invite(&server, "carol/phone", &bob).await;
    let gone = ClientRequestBody::DeleteAccount(DeleteAccount {});
    assert_eq!(laptop.call(gone).await, ClientResponseBody::Ok);
    let deleted = delete(&carol, &carol.client).await;
    assert_eq!(deleted.client_response(), ClientResponseBody::Ok);
    for _ in 0..2 {
        for device in [&alice, &laptop, &carol] {
            device.ask(get()).await.refused(403, "unauthenticated");
            let status = bob.key_package_status_of(&device.user()).await;
            assert_eq!(status, (UserKeyPackageStatus::NoConsent, Vec::new()));
        }
        for name in ["alice/phone", "alice/laptop", "alice/tablet", "carol/watch"] {
            let answer = register(&server, name, "").await;
            answer.refused(403, "unauthorized");
        }
        server.kill().await;
        server.restart().await;
    }
}

#[tokio::test]
async fn nobody_lists_or_deletes_the_clients_of_others() {
    let server = Server::start("a.example").await;
    let alice = Device::register(&server, "alice/phone").await;
    let bob = Device::register(&server, "bob/phone").await;
    let there = delete(&bob, &alice.client).await;
    there.refused(403, "unauthorized");
    for nobody in ["a.example/d/alice/laptop", "a.example/d/nobody/phone"] {
        let client = format!("mimi://{nobody}").parse().unwrap();
        let answer = delete(&bob, &client).await;
        assert_eq!(answer.everything(), there.everything(), "{nobody}");
    }
    let list = || ClientRequestBody::ListClients(ListClients {});
    assert_eq!(names(&bob.clients().await), [bob.client.as_str()]);
    // In Alice's name, and in that of nobody.
    let in_the_name_of = async |client: ClientId| {
        let request = moh_messages::Message::encode(&bob.request(list()));
        let request = changed::<ClientRequest>(&request, |request| request.client = client);
        server.http().post(PATH, &request).await
    };
    let as_alice = in_the_name_of(alice.client.clone()).await;
    as_alice.refused(403, "unauthenticated");
    let as_nobody = in_the_name_of("mimi://a.example/d/nobody/phone".parse().unwrap()).await;
    assert_eq!(as_alice.everything(), as_nobody.everything());
    assert_eq!(names(&alice.clients().await), [alice.client.as_str()]);
}
