//! The socket: made for its owner alone, and served over HTTP/1.1.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Admin;

/// Who may use it: the user that the provider runs as, and root.
const MODE: u32 = 0o600;
/// Connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 16;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 16;
/// How long the headers of a request may take.
const HEADERS: Duration = Duration::from_secs(10);
/// Requests that are being answered when the provider stops get so long.
const DRAIN: Duration = Duration::from_secs(2);
/// After the system refused to accept a connection (too many open files), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The system has no room for such a long path.
    #[error(
        "the path of the admin socket is too long ({} bytes; some 100 are possible): {}; \
         [admin] socket names another place, a shorter --data does it, too",
        .0.as_os_str().len(), .0.display()
    )]
    TooLong(PathBuf),
    /// There is something else, which is left alone.
    #[error("{} is there, and not a socket; it is left alone", .0.display())]
    NotASocket(PathBuf),
    /// Another process uses it.
    #[error("somebody else listens on {}", .0.display())]
    InUse(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {}: {}", .0.display(), .1)]
    Listen(PathBuf, io::Error),
}

/// Where a provider listens for its operator. The file goes with it.
#[derive(Debug)]
pub struct AdminListener {
    // Dropped first: once nobody listens, the file may be somebody else's.
    file: Socket,
    listener: UnixListener,
}

/// The file, which is removed when nobody listens any more.
#[derive(Debug)]
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AdminListener {
    /// Makes the socket, with mode 0600. One that was left behind is replaced; nothing else is.
    ///
    /// # Errors
    /// When somebody listens there, or something that is not a socket is there; when the path is
    /// too long for a socket, or the system refuses.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let path = path.to_owned();
        if std::os::unix::net::SocketAddr::from_pathname(&path).is_err() {
            return Err(SocketError::TooLong(path));
        }
        make_room(&path).await?;
        let failed = |error| SocketError::Listen(path.clone(), error);
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(&path).map_err(failed)?;
        let file = Socket(path.clone());
        // Nobody gets in before it listens.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(MODE)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self { file, listener })
    }

    /// Serves until `stop`; then the file is removed, and requests that are being answered get
    /// some time.
    pub async fn serve(self, admin: Admin, stop: CancellationToken) {
        let service = TowerToHyperService::new(super::routes::router(Arc::new(admin)));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&places) => accepted,
            };
            let Some((stream, place)) = accepted else {
                continue;
            };
            let (service, stop) = (service.clone(), stop.clone());
            connections.spawn(async move {
                let _place = place;
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS);
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::pin!(connection);
                let result = tokio::select! {
                    result = connection.as_mut() => result,
                    () = stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection to the admin socket broke off");
                }
            });
        }
        drop(self.file);
        drop(self.listener);
        connections.close();
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
    }

    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = places.clone().acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "no connection to the admin socket was accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }
}

/// Removes a socket that nobody listens on.
async fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Listen(path.to_owned(), error);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        // Somebody listens, and has not accepted all who came.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::InUse(path.to_owned()))
        }
        Err(error) => Err(failed(error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_owner_may_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moh.sock");
        let listener = AdminListener::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists(), "it goes with the listener");
    }

    #[tokio::test]
    async fn what_was_left_behind_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moh.sock");
        // What a process that is killed leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = AdminListener::bind(&path).await.unwrap();

        let second = AdminListener::bind(&path).await.unwrap_err();
        assert!(
            matches!(&second, SocketError::InUse(at) if *at == path),
            "{second}"
        );
        UnixStream::connect(&path).await.unwrap();
        drop(listener);

        std::fs::write(&path, "a letter").unwrap();
        let error = AdminListener::bind(&path).await.unwrap_err();
        assert!(
            matches!(&error, SocketError::NotASocket(at) if *at == path),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"a letter");

        // Nor what a link leads to.
        let (link, far) = (folder.path().join("link"), folder.path().join("far"));
        drop(std::os::unix::net::UnixListener::bind(&far).unwrap());
        std::os::unix::fs::symlink(&far, &link).unwrap();
        let error = AdminListener::bind(&link).await.unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert!(far.exists() && link.is_symlink());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(108));
        let error = AdminListener::bind(&path).await.unwrap_err();
        assert!(matches!(error, SocketError::TooLong(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("[admin] socket") && text.contains("too long"),
            "{text}"
        );
    }
}
