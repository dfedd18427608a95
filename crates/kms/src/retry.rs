//! Tries again what may pass by itself, and nothing else: bounded in tries, in pauses and in all.

use std::{future::Future, time::Duration};

use colcrypt_protocol::{FailureKind, Settings};
use rand::RngExt;
use tokio::time::Instant;

use crate::KmsError;

/// Pauses stop growing here: 2¹⁶ times the first would be hours.
const MAX_DOUBLINGS: u32 = 16;

/// The longest all tries of one call can take, pauses included.
pub(crate) fn budget(settings: &Settings) -> Duration {
    let tries = settings
        .kms_timeout_ms
        .saturating_mul(u64::from(settings.kms_retries) + 1);
    (0..settings.kms_retries)
        .map(|retry| longest_pause(settings, retry))
        .fold(Duration::from_millis(tries), Duration::saturating_add)
}

fn longest_pause(settings: &Settings, retry: u32) -> Duration {
    Duration::from_millis(
        settings
            .kms_backoff_ms
            .saturating_mul(2 << retry.min(MAX_DOUBLINGS)),
    )
}

/// A pause before try `retry + 2`: between half and all of the doubled span, so that many agents do
/// not come back in step.
pub(crate) fn pause(settings: &Settings, retry: u32) -> Duration {
    longest_pause(settings, retry).mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// One call, cut off at the configured time.
///
/// # Errors
/// The call's own, or [`FailureKind::Timeout`].
pub(crate) async fn once<T>(
    settings: &Settings,
    endpoint: &str,
    call: impl Future<Output = Result<T, KmsError>>,
) -> Result<T, KmsError> {
    let limit = Duration::from_millis(settings.kms_timeout_ms);
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(KmsError::new(
            FailureKind::Timeout,
            format!(
                "no answer from {endpoint} within {} ms",
                settings.kms_timeout_ms
            ),
        ))
    })
}

/// Calls until it succeeds, fails for good, or the tries or the time are used up.
///
/// # Errors
/// The last try's. A server that asks for a longer rest than there is time fails at once, unasked.
pub(crate) async fn with_retries<T, F, Fut>(
    settings: &Settings,
    endpoint: &str,
    mut call: F,
) -> Result<T, KmsError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, KmsError>>,
{
    let end = Instant::now() + budget(settings);
    let mut retry = 0;
    loop {
        let error = match once(settings, endpoint, call()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !error.kind.is_transient() || retry >= settings.kms_retries {
            return Err(error);
        }
        let rest = pause(settings, retry).max(error.retry_after.unwrap_or_default());
        if Instant::now() + rest >= end {
            return Err(error);
        }
        tokio::time::sleep(rest).await;
        retry += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const SETTINGS: Settings = Settings {
        soft_ttl_ms: 1,
        hard_ttl_ms: 1,
        kms_timeout_ms: 100,
        kms_retries: 2,
        kms_backoff_ms: 10,
    };

    async fn tries(error: KmsError) -> (u32, Duration) {
        let count = Cell::new(0);
        let began = Instant::now();
        let result: Result<(), _> = with_retries(&SETTINGS, "test", || {
            count.set(count.get() + 1);
            std::future::ready(Err(error.clone()))
        })
        .await;
        assert_eq!(result, Err(error));
        (count.get(), began.elapsed())
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again() {
        assert_eq!(
            tries(KmsError::new(FailureKind::Unavailable, "x")).await.0,
            3
        );
        for kind in [
            FailureKind::Denied,
            FailureKind::Config,
            FailureKind::Corrupt,
            FailureKind::BadReply,
        ] {
            assert_eq!(tries(KmsError::new(kind, "x")).await.0, 1);
        }
    }

    #[tokio::test]
    async fn a_rest_asked_for_is_kept_up_to_the_budget() {
        let throttled = |rest| KmsError {
            retry_after: Some(Duration::from_millis(rest)),
            ..KmsError::new(FailureKind::Throttled, "x")
        };
        let (count, took) = tries(throttled(80)).await;
        assert_eq!(count, 3);
        assert!(took >= Duration::from_millis(160), "{took:?}");
        let (count, took) = tries(throttled(60_000)).await;
        assert_eq!(count, 1);
        assert!(took < Duration::from_millis(100));
    }

    #[tokio::test]
    async fn a_hang_ends_in_a_timeout_within_the_budget() {
        let began = Instant::now();
        let result: Result<(), _> = with_retries(&SETTINGS, "test", std::future::pending).await;
        assert_eq!(result.unwrap_err().kind, FailureKind::Timeout);
        assert!(began.elapsed() <= budget(&SETTINGS) + Duration::from_millis(100));
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for retry in [0, 1, 5, 40] {
            for _ in 0..100 {
                let pause = pause(&SETTINGS, retry);
                assert!(pause <= longest_pause(&SETTINGS, retry));
                assert!(pause >= longest_pause(&SETTINGS, retry) / 2);
            }
        }
    }
}
