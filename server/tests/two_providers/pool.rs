//! Connections to another provider: how many, and where to.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use moh_messages::Endpoint;
use moh_server::federation::{
    Dns, HttpsOptions, HttpsTransport, Override, PeerRequest, PeerResponse, Transport as _,
    Unreachable,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::world::{PATIENCE, World};

/// Counts the connections to an address, and passes on what they say.
struct Relay {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn to(destination: SocketAddr) -> Self {
        let listener = TcpListener::bind((destination.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(destination).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn for_keys(host: &str) -> PeerRequest {
    PeerRequest {
        get: true,
        host: host.to_owned(),
        path: Endpoint::VerificationKey.path(),
        body: None,
        max_answer_bytes: 1 << 20,
    }
}

/// Makes so many requests at once: the statuses of the answers.
async fn at_once(transport: &HttpsTransport, host: &str, count: usize) -> Vec<u16> {
    let send = |_| transport.send(for_keys(host));
    let answers: Vec<Result<PeerResponse, Unreachable>> = join_all((0..count).map(send)).await;
    let status = |answer: Result<PeerResponse, _>| answer.unwrap().status;
    answers.into_iter().map(status).collect()
}

fn with_override(world: &World, host: &str, address: SocketAddr) -> HttpsTransport {
    let overrides = vec![Override {
        host: host.to_owned(),
        address,
    }];
    HttpsTransport::new(&HttpsOptions {
        overrides,
        ..world.https()
    })
    .unwrap()
}

#[tokio::test]
async fn a_hundred_requests_at_once_share_a_connection() {
    let world = World::of(&["a.example"]).await;
    let relay = Relay::to(world.provider("a.example").address).await;
    let transport = with_override(&world, "a.example", relay.address);
    for _ in 0..2 {
        let statuses = at_once(&transport, "a.example", 100).await;
        assert_eq!(statuses, [200; 100]);
        assert_eq!(relay.connections(), 1);
    }
    world.end().await;
}

/// A host that has only HTTP/1.1, and answers each request by what `answer` makes.
async fn old<F>(world: &World, answer: impl Fn() -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = &'static [u8]> + Send + 'static,
{
    let certificate = world.certificate(&["old.example"]);
    let key = PrivateKeyDer::from_pem_slice(certificate.pem().as_bytes()).unwrap();
    let chain = CertificateDer::from_pem_slice(certificate.chain().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await? > 0 {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        stream.write_all(answer().await).await?;
                    }
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

/// It needs a connection for each request: there are only so many at once.
#[tokio::test]
async fn requests_at_once_are_bounded() {
    let world = World::of(&["a.example"]).await;
    let crowd = Arc::new(Crowd::default());
    let inside = Arc::clone(&crowd);
    let answer = move || {
        let crowd = Arc::clone(&inside);
        async move {
            crowd.wait().await;
            &b"HTTP/1.1 204 No Content\r\n\r\n"[..]
        }
    };
    let overrides = vec![Override {
        host: "old.example".to_owned(),
        address: old(&world, answer).await,
    }];
    let transport = HttpsTransport::new(&HttpsOptions {
        overrides,
        connect_timeout: PATIENCE,
        ..world.https()
    });
    // The first goes ahead, and then the others come, all of them.
    let statuses = at_once(&transport.unwrap(), "old.example", 300).await;
    assert_eq!(statuses, [204; 300]);
    assert_eq!(crowd.most.load(Ordering::SeqCst), MAX_AT_ONCE);
    world.end().await;
}

/// What is answered, however strange, is an answer; but it is not followed, and not read without
/// end.
#[tokio::test]
async fn redirects_are_not_followed_and_long_answers_not_read() {
    let world = World::of(&["a.example"]).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let answer = move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async {
            &b"HTTP/1.1 302 Found\r\nlocation: /\r\nretry-after: 7\r\ncache-control: max-age=9\r\n\
               content-type: Text/Plain; charset=x\r\ncontent-length: 10\r\n\r\n0123456789"[..]
        }
    };
    let transport = with_override(&world, "old.example", old(&world, answer).await);
    let request = |max_answer_bytes| PeerRequest {
        max_answer_bytes,
        ..for_keys("old.example")
    };
    let answer = transport.send(request(10)).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (302, &b"0123456789"[..]));
    assert_eq!(answer.content_type.as_deref(), Some("text/plain"));
    let numbers = (answer.max_age_seconds, answer.retry_after_seconds);
    assert_eq!(numbers, (Some(9), Some(7)));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let error = transport.send(request(9)).await.unwrap_err();
    assert!(error.0.contains("says too much"), "{error}");
    world.end().await;
}

/// Who does not finish the handshake, or an answer, is given up.
#[tokio::test]
async fn who_is_slow_is_given_up() {
    let world = World::of(&["a.example"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = |address| HttpsOptions {
        overrides: vec![Override {
            host: "old.example".to_owned(),
            address,
        }],
        ..world.https()
    };
    let ask = async |options: HttpsOptions| {
        let transport = HttpsTransport::new(&options).unwrap();
        transport.send(for_keys("old.example")).await.unwrap_err()
    };
    // It never says anything: that is no connection.
    let error = ask(HttpsOptions {
        connect_timeout: Duration::from_millis(50),
        timeout: PATIENCE,
        ..options(silent.local_addr().unwrap())
    })
    .await;
    assert!(!error.0.contains("took too long"), "{error}");
    // It says something, and not all of it.
    let half = || async { &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0"[..] };
    let error = ask(HttpsOptions {
        connect_timeout: PATIENCE,
        timeout: Duration::from_millis(500),
        ..options(old(&world, half).await)
    })
    .await;
    assert!(error.0.contains("took too long"), "{error}");
    world.end().await;
}

const MAX_AT_ONCE: usize = 128;

/// Requests that are there and have not been answered.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
    has_begun: AtomicBool,
    is_waited_for: AtomicBool,
    is_there: Notify,
}

impl Crowd {
    /// Waits, after the first, until there are as many as there may be, and a bit for more.
    async fn wait(&self) {
        let is_there = self.is_there.notified();
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        if self.is_waited_for.load(Ordering::SeqCst) {
            if now < MAX_AT_ONCE {
                is_there.await;
            }
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            self.is_waited_for.store(false, Ordering::SeqCst);
            self.is_there.notify_waiters();
        } else if !self.has_begun.swap(true, Ordering::SeqCst) {
            self.is_waited_for.store(true, Ordering::SeqCst);
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers the DNS, and writes down what it was asked.
#[derive(Clone)]
struct Answers {
    addresses: Vec<IpAddr>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Dns for Answers {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unreachable> {
        self.asked.lock().unwrap().push(host.to_owned());
        Ok(self.addresses.clone())
    }
}

/// A host is looked up once for a connection, which goes to what was found; where that may not be
/// connected to, there is none.
#[tokio::test]
async fn connections_go_to_what_was_looked_up_and_checked() {
    let world = World::of(&["a.example"]).await;
    let relay = Relay::to(world.provider("a.example").address).await;
    let host = format!("a.example:{}", relay.address.port());
    let asked = Arc::new(Mutex::new(Vec::new()));
    for allow_private_addresses in [false, true] {
        let dns = Answers {
            addresses: vec![relay.address.ip()],
            asked: Arc::clone(&asked),
        };
        let options = HttpsOptions {
            overrides: Vec::new(),
            allow_private_addresses,
            ..world.https()
        };
        let transport = HttpsTransport::with_dns(&options, Arc::new(dns)).unwrap();
        if allow_private_addresses {
            assert_eq!(at_once(&transport, &host, 10).await, [200; 10]);
            assert_eq!(asked.lock().unwrap().len(), 2, "once for the connection");
            assert_eq!(relay.connections(), 1);
        } else {
            let refused = transport.send(for_keys(&host)).await.unwrap_err();
            assert!(refused.0.contains("no public address"), "{refused}");
            assert_eq!(relay.connections(), 0);
        }
    }
    assert!(asked.lock().unwrap().iter().all(|host| host == "a.example"));
    world.end().await;
}
