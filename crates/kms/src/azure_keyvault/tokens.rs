//! The token in use. It is kept until shortly before its end, or until the vault refuses it.

use std::{fmt, future::Future, time::Duration};

use azure_core::{credentials::AccessToken, time::OffsetDateTime};
use tokio::sync::Mutex;

use crate::KmsError;

/// A new token is fetched so long before the old one ends, or at half its life if that is shorter.
const EARLY: Duration = Duration::from_secs(5 * 60);

struct Kept {
    token: AccessToken,
    renew: OffsetDateTime,
}

/// The token in use.
#[derive(Default)]
pub(crate) struct Tokens {
    /// Locked while a token is fetched, so that many callers make one call.
    kept: Mutex<Option<Kept>>,
}

impl Tokens {
    /// Returns the token in use, or a new one when that is about to end.
    ///
    /// # Errors
    /// What `fetch` failed with, unless the token in use is still valid.
    pub(crate) async fn get(
        &self,
        fetch: impl Future<Output = Result<AccessToken, KmsError>>,
    ) -> Result<AccessToken, KmsError> {
        let mut kept = self.kept.lock().await;
        let now = OffsetDateTime::now_utc();
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.renew) {
            return Ok(kept.token.clone());
        }
        match fetch.await {
            Ok(token) => {
                let life = Duration::try_from(token.expires_on - now).unwrap_or_default();
                *kept = Some(Kept {
                    token: token.clone(),
                    renew: token.expires_on - EARLY.min(life / 2),
                });
                Ok(token)
            }
            // The old token is still valid, so a login service that is away for a moment does no harm.
            Err(error) => match kept.as_ref() {
                Some(kept) if OffsetDateTime::now_utc() < kept.token.expires_on => {
                    Ok(kept.token.clone())
                }
                _ => Err(error),
            },
        }
    }

    /// Forgets a token that was refused.
    pub(crate) async fn forget(&self, refused: &str) {
        self.kept
            .lock()
            .await
            .take_if(|kept| kept.token.token.secret() == refused);
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}
