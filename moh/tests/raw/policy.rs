//! Which other providers are talked to is changed while the provider runs.

use moh_messages::{
    DsAuth, DsProtocolVersion, DsRequest, DsRequestBody, ExternalCommitInfo, GroupId, Message,
    Opaque, Signature,
};
use rustix::process::Signal;

use crate::common::answer::Answer;
use crate::common::in_time;
use crate::common::server::Server;

/// A request of b.example for a group that is not there.
async fn ask(server: &Server) -> Answer {
    let group_id = GroupId::new(vec![7; 32]).unwrap();
    let request = DsRequest {
        version: DsProtocolVersion::MOH1,
        sender: "b.example".parse().unwrap(),
        recipient: server.name.clone(),
        group_state_key: Opaque::empty(),
        body: DsRequestBody::ExternalCommitInfo(ExternalCommitInfo { group_id }),
        auth: DsAuth::Leaf {
            leaf_index: 0,
            signature: Signature::new(vec![7; 64]).unwrap(),
        },
    };
    let path = "/external_commit_information";
    server.http().post(path, &request.encode()).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    in_time(what, async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn sighup_has_the_policy_read_again() {
    let server = Server::start_with("a.example", "").await;
    ask(&server).await.refused(404, "unknown_group");
    let config = server.path("moh.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let change = |settings: &str| {
        let text = before.replace("[tls]", &format!("{settings}\n[tls]"));
        std::fs::write(&config, text).unwrap();
        server.signal(Signal::HUP);
    };
    change("[federation]\nblock = [\"b.example\"]");
    until("it is blocked", async || ask(&server).await.status == 403).await;
    ask(&server).await.refused(403, "unauthorized");
    // With an error in it nothing is changed, and somebody is told.
    change("[federation]\nblock = [\"*\"]");
    let nothing = "nothing was changed";
    until(nothing, async || server.log().contains(nothing)).await;
    assert!(server.log().contains("moh.toml"), "{}", server.log());
    ask(&server).await.refused(403, "unauthorized");
    // What has to wait for the next start is said, and the rest holds.
    change("[federation]\nallow_private_addresses = true\n[limits]\nmax_members = 7");
    until("it is talked to", async || ask(&server).await.status == 404).await;
    for setting in ["federation.allow_private_addresses", "limits"] {
        until(setting, async || server.log().contains(setting)).await;
    }
}
