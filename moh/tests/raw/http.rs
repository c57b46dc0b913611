//! What is below the protocol: TLS, methods, content types, lengths.

use moh_messages::client_api::PATH;
use moh_messages::{
    DsResponse, DsResponseBody, Endpoint, Message, VerificationKeyRequest, VerificationKeyResponse,
};
use openmls::group::MlsGroupJoinConfig;
use reqwest::{Method, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::answer::{Answer, Http};
use crate::common::device::message_of;
use crate::common::in_time;
use crate::common::member::{Member, decoded, welcome_info_request};
use crate::common::scene::{Scene, invite};
use crate::common::server::Server;
use crate::common::tls::{Connection, handshake};

const OCTETS: &str = "application/octet-stream";
const MI: usize = 1 << 20;

/// The endpoints with a body, as the profile names them, with the longest body.
const LIMITS: [(&str, usize); 8] = [
    ("/group_operation", 8 * MI),
    ("/welcome_information", 64 << 10),
    ("/external_commit_information", 64 << 10),
    ("/verification_key", 64 << 10),
    ("/connection_request", 8 * MI),
    ("/deliver_message", 8 * MI),
    ("/connection_key_packages", 64 << 10),
    ("/group_key_packages", 64 << 10),
];

fn over(http1: bool, server: &Server) -> Http {
    server.http_with(|builder| {
        if http1 {
            builder.http1_only()
        } else {
            builder.http2_prior_knowledge()
        }
    })
}

async fn post_as(http: &Http, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = http.request(Method::POST, path).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::to(request).await
}

#[tokio::test]
async fn another_content_type_or_an_encoding_is_415() {
    let mut scene = Scene::set().await;
    let (request, message) = scene.alice.message("of the wrong type");
    let http = scene.server.http();
    let wrong: [&[(&str, &str)]; 6] = [
        &[],
        &[("content-type", "application/json")],
        &[("content-type", "application/mimi")],
        &[("content-type", "application/octet-stream2")],
        &[("content-type", OCTETS), ("content-encoding", "gzip")],
        &[("content-type", OCTETS), ("content-encoding", "identity")],
    ];
    for headers in wrong {
        for (path, _) in LIMITS {
            post_as(&http, path, headers, &request).await.problem(415);
        }
        post_as(&http, PATH, headers, &request).await.problem(415);
    }
    scene.assert_unchanged().await;

    // These very bytes are fine otherwise, and parameters of the type do not matter.
    let headers = [("content-type", "Application/Octet-Stream; x=y")];
    let answer = post_as(&http, "/group_operation", &headers, &request).await;
    answer.ok();
    assert_eq!(message_of(&scene.bob.device.next_one().await), message);
}

/// The first line, of an answer to a head alone: the body is never sent.
async fn answer_to_head(server: &Server, path: &str, lines: &str) -> String {
    let mut connection = Connection::to(server).await;
    connection.write_head(path, lines).await;
    connection.status_line().await
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_it_is_sent() {
    let server = Server::start("a.example").await;
    let too_large = "HTTP/1.1 413 Payload Too Large";
    for (path, limit) in LIMITS.into_iter().chain([(PATH, 9 * MI)]) {
        let length = format!("Content-Length: {}", limit + 1);
        assert_eq!(answer_to_head(&server, path, &length).await, too_large);
        // Who asks first whether to send the body is not told to.
        let expect = format!("{length}\r\nExpect: 100-continue");
        assert_eq!(answer_to_head(&server, path, &expect).await, too_large);
        let fits = format!("Content-Length: {limit}\r\nExpect: 100-continue");
        let go_on = answer_to_head(&server, path, &fits).await;
        assert_eq!(go_on, "HTTP/1.1 100 Continue", "{path}");
    }
}

#[tokio::test]
async fn a_body_that_grows_over_the_limit_is_413() {
    let server = Server::start("a.example").await;
    for (path, limit) in LIMITS.into_iter().chain([(PATH, 9 * MI)]) {
        // Over HTTP/1.1, in a chunk that does not end.
        let mut connection = Connection::to(&server).await;
        let chunked = "Transfer-Encoding: chunked";
        connection.write_head(path, chunked).await;
        let chunk = format!("{:x}\r\n", limit + 2).into_bytes();
        let chunk = [chunk, vec![0; limit + 1]].concat();
        // It may answer, and close, before all of it is written.
        let (mut read, mut write) = connection.split();
        let writing = tokio::spawn(async move {
            let _ = write.write_all(&chunk).await;
            let _ = write.flush().await;
            write
        });
        let mut line = vec![0; "HTTP/1.1 413".len()];
        let reading = read.read_exact(&mut line);
        in_time("an answer", reading).await.unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), "HTTP/1.1 413", "{path}");
        writing.abort();
    }
    // Over HTTP/2, without a length.
    let http = over(false, &server);
    for (path, limit) in LIMITS {
        let chunk = vec![0; limit / 16 + 1];
        let chunks = (0..16).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        let request = http
            .request(Method::POST, path)
            .header("content-type", OCTETS)
            .body(body);
        Answer::to(request).await.problem(413);
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_none() {
    let server = Server::start("a.example").await;
    let http = server.http();
    for path in ["/", "/group_operation/", "/Group_operation", "/client/x"] {
        for method in ["GET", "POST"] {
            http.ask(method, path, b"x").await.problem(404);
        }
    }
    let posts = LIMITS.into_iter().map(|(path, _)| path).chain([PATH]);
    for path in posts {
        let is_get = matches!(
            path,
            "/welcome_information" | "/external_commit_information" | "/verification_key"
        );
        let methods = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"];
        let wrong = methods
            .iter()
            .filter(|m| !is_get || !["GET", "QUERY"].contains(m));
        for method in wrong {
            let answer = http.ask(method, path, b"x").await;
            answer.problem(405);
            let allow = if is_get { "GET, QUERY, POST" } else { "POST" };
            assert_eq!(answer.header("allow"), allow, "{method} {path}");
        }
    }
    let well_known = "/.well-known/mimi/ds-domain";
    let answer = http.ask("POST", well_known, b"x").await;
    answer.problem(405);
    assert!(answer.header("allow").contains("GET"));
}

#[tokio::test]
async fn the_well_known_is_text() {
    let server = Server::start("a.example").await;
    for http1 in [true, false] {
        let http = over(http1, &server);
        let request = http.request(Method::GET, "/.well-known/mimi/ds-domain");
        let answer = Answer::to(request).await;
        let expected = format!("a.example:{}", server.address.port());
        assert_eq!((answer.status, answer.body), (200, expected.into_bytes()));
        let content_type = answer.headers["content-type"].to_str().unwrap();
        assert!(content_type.starts_with("text/plain"), "{content_type}");
        let cache_control = answer.headers["cache-control"].to_str().unwrap();
        assert!(cache_control.starts_with("max-age="), "{cache_control}");
    }
}

/// The methods that take a body where the draft has a GET, over both versions of HTTP.
const WAYS: [(bool, &str); 6] = [
    (true, "GET"),
    (true, "POST"),
    (true, "QUERY"),
    (false, "GET"),
    (false, "POST"),
    (false, "QUERY"),
];

#[tokio::test]
async fn keys_are_told_with_and_without_a_body() {
    let server = Server::start("a.example").await;
    let request = VerificationKeyRequest {
        version: moh_messages::DsProtocolVersion::MOH1,
        recipient: server.name.clone(),
    };
    let request = request.encode();
    for (http1, method) in WAYS {
        let http = over(http1, &server);
        for body in [&request[..], &[]] {
            let answer = http.ask(method, "/verification_key", body).await;
            let expected = if http1 {
                Version::HTTP_11
            } else {
                Version::HTTP_2
            };
            assert_eq!(answer.version, expected);
            let response: VerificationKeyResponse = answer.message(200);
            assert_eq!(response.provider, server.name);
            assert_eq!(response.keys.len(), 1);
            assert_eq!(answer.header("accept-query"), OCTETS);
            assert!(answer.header("cache-control").starts_with("max-age="));
        }
        // Without a body there is no type either.
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = Answer::to(http.request(method, "/verification_key")).await;
        answer.message::<VerificationKeyResponse>(200);
    }
}

#[tokio::test]
async fn a_get_with_a_body_is_answered_over_every_version_of_http() {
    let mut scene = Scene::set().await;
    let mut carol = invite(&scene.server, "carol/phone", &scene.alice.device).await;
    let fetched = scene.alice.device.key_packages_of(&carol.user()).await;
    let key_package = decoded(&scene.alice.device, &fetched[0]);
    let add = scene.alice.add(vec![key_package]);
    let body = moh_messages::DsRequestBody::AddUsers(add);
    let request = scene.alice.signed(body);
    scene.operate(&request).await.ok();
    scene.alice.merge();

    let welcome = carol.next_one().await;
    let welcome = message_of(&welcome);
    let config = MlsGroupJoinConfig::default();
    let (request, _) = welcome_info_request(&carol, welcome, &scene.server.name, &config);
    let mut trees = Vec::new();
    for (http1, method) in WAYS {
        let http = over(http1, &scene.server);
        let answer = http.ask(method, "/welcome_information", &request).await;
        assert_eq!(answer.header("accept-query"), OCTETS);
        assert_eq!(answer.header("cache-control"), "no-store");
        let DsResponseBody::WelcomeInfo { ratchet_tree, .. } = answer.done() else {
            panic!("{answer:?}");
        };
        trees.push(ratchet_tree);
    }
    trees.dedup();
    assert_eq!(trees.len(), 1);
}

#[tokio::test]
async fn a_get_without_a_body_is_400_where_it_needs_one() {
    let server = Server::start("a.example").await;
    for (http1, method) in WAYS {
        let http = over(http1, &server);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for path in ["/welcome_information", "/external_commit_information"] {
            let bare = Answer::to(http.request(method.clone(), path)).await;
            bare.problem(400);
            assert_eq!(bare.header("cache-control"), "no-store");
            let empty = http.ask(method.as_str(), path, &[]).await;
            empty.problem(400);
        }
    }
}

#[tokio::test]
async fn tls_1_2_fails_in_the_handshake() {
    let server = Server::start("a.example").await;
    let error = handshake(&server, &[&rustls::version::TLS12]).await;
    let error = error.expect_err("no connection").to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    // Nor is it for want of anything else: with TLS 1.3 allowed too, that is what comes of it.
    let both = [&rustls::version::TLS12, &rustls::version::TLS13];
    let stream = handshake(&server, &both).await.unwrap();
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));

    let old = server.http_with(|builder| {
        builder
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .tls_version_max(reqwest::tls::Version::TLS_1_2)
    });
    let request = old.request(Method::GET, "/.well-known/mimi/ds-domain");
    let error = request.send().await.expect_err("no connection");
    assert!(error.is_connect(), "{error:?}");
}

#[tokio::test]
async fn a_head_that_never_ends_holds_up_nobody() {
    let mut scene = Scene::set().await;
    let mut slow = Connection::to(&scene.server).await;
    let head = b"POST /group_operation HTTP/1.1\r\nHost: a.exa";
    slow.write(head).await.unwrap();
    let mut cut = Connection::to(&scene.server).await;
    let length = "Content-Length: 100";
    cut.write_head("/group_operation", length).await;
    cut.write(b"only this").await.unwrap();
    drop(cut);
    scene.assert_unchanged().await;
}

/// An error is a DSResponse on every endpoint.
#[tokio::test]
async fn errors_of_the_protocol_are_of_its_type() {
    let server = Server::start("a.example").await;
    let http = server.http();
    for (path, _) in LIMITS {
        let answer = http.post(path, &[0, 1]).await;
        assert_eq!(answer.status, 400);
        assert!(matches!(
            answer.message::<DsResponse>(400).body,
            DsResponseBody::Error(_)
        ));
    }
    assert_eq!(
        LIMITS.map(|(path, _)| path),
        Endpoint::ALL.map(Endpoint::path)
    );
}

/// Members are the same whatever HTTP they speak.
#[tokio::test]
async fn operations_work_over_both_versions() {
    let mut scene = Scene::set().await;
    for http1 in [true, false] {
        let http = over(http1, &scene.server);
        let (request, message) = Member::message(&mut scene.alice, "either way");
        http.post("/group_operation", &request).await.ok();
        assert_eq!(message_of(&scene.bob.device.next_one().await), message);
    }
}
