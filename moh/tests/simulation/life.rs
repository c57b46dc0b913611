//! The life of a process. What is left of a dead one runs on in this process of ours, and must not
//! do anything that others see: whatever it asks its disk or the network for never returns.

use tokio_util::sync::CancellationToken;

/// The life of one incarnation of a process. Clones are the same life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life(CancellationToken);

impl Life {
    /// The process is dead from now on.
    pub(crate) fn end(&self) {
        self.0.cancel();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the process is dead.
    pub(crate) async fn over(&self) {
        self.0.cancelled().await;
    }

    /// Goes on, where the process is alive; otherwise never.
    pub(crate) async fn go_on(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }
}
