//! A connection of HTTP/1.1 over TLS, on which is written what the test wants.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::in_time;
use super::server::Server;

/// TLS with one of these versions.
pub(crate) async fn handshake(
    server: &Server,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(server.path("ca.pem")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(server.name.to_string()).unwrap();
    let stream = TcpStream::connect(server.address).await?;
    let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
    in_time("the handshake", connect).await
}

/// A connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
}

impl Connection {
    pub(crate) async fn to(server: &Server) -> Self {
        let stream = handshake(server, &[&rustls::version::TLS13]).await;
        Self {
            stream: stream.unwrap(),
        }
    }

    /// Where it comes from.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.get_ref().0.local_addr().unwrap()
    }

    /// Writes the head of a POST with a body of the right type, and with these further lines.
    pub(crate) async fn write_head(&mut self, path: &str, lines: &str) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a.example\r\n\
             Content-Type: application/octet-stream\r\n{lines}\r\n\r\n"
        );
        self.write(head.as_bytes()).await.unwrap();
    }

    /// Writes; it may fail where the server has had enough.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Writes a request.
    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) {
        let length = format!("Content-Length: {}", body.len());
        self.write_head(path, &length).await;
        self.write(body).await.unwrap();
    }

    /// The head of what the server says, its last empty line included.
    pub(crate) async fn head(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            let byte = in_time("an answer", self.stream.read_u8()).await;
            text.push(byte.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    /// The first line of what the server says.
    pub(crate) async fn status_line(&mut self) -> String {
        let head = self.head().await;
        head.lines().next().unwrap().to_owned()
    }

    /// The body of a 200.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let head = self.head().await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        let read = self.stream.read_exact(&mut body);
        in_time("the body", read).await.unwrap();
        body
    }

    /// Both halves, for who reads while writing.
    pub(crate) fn split(
        self,
    ) -> (
        tokio::io::ReadHalf<TlsStream<TcpStream>>,
        tokio::io::WriteHalf<TlsStream<TcpStream>>,
    ) {
        tokio::io::split(self.stream)
    }
}
