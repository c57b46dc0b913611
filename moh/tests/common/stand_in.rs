//! Somebody who has a provider's address and certificate, and gives every request the same answer.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::server::Server;

/// In the place of a provider, until it is dropped.
pub(crate) struct StandIn {
    _task: AbortOnDropHandle<()>,
}

impl StandIn {
    /// Takes the place of a provider whose process has ended. Requests other than POST are
    /// answered 404, and those with `answer`: a status line, and headers, a line each.
    pub(crate) async fn of(server: &Server, answer: &'static str) -> Self {
        let file = |name| server.path(name);
        let chain = CertificateDer::pem_file_iter(file("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(server.address).await.unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Whoever asks may go away.
                    let _ = converse(&acceptor, stream, answer).await;
                });
            }
        });
        Self {
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn converse(acceptor: &TlsAcceptor, stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let answer = match head.starts_with("post ") {
            true => answer,
            false => "HTTP/1.1 404 Not Found",
        };
        let answer = format!("{answer}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}
