//! How a provider reports that only a new process helps, since a vendor's library hangs in a thread that
//! nothing can end. The agent then ends, and the broker starts another.

use std::sync::OnceLock;

use tokio::sync::watch;

fn channel() -> &'static watch::Sender<Option<String>> {
    static CHANNEL: OnceLock<watch::Sender<Option<String>>> = OnceLock::new();
    CHANNEL.get_or_init(|| watch::Sender::new(None))
}

/// Ends every agent of this process, saying why.
#[cfg(feature = "pkcs11")]
pub(crate) fn tell(reason: String) {
    channel().send_replace(Some(reason));
}

/// Waits for [`tell`].
pub(crate) async fn told() -> String {
    let mut receiver = channel().subscribe();
    loop {
        let reason = receiver.borrow_and_update().clone();
        match reason {
            Some(reason) => return reason,
            // The sender is static: it is never gone.
            None => drop(receiver.changed().await),
        }
    }
}
