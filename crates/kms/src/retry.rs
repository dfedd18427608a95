//! Repeats calls whose failure may pass by itself, and no others. Tries, pauses and the whole are bounded.

use std::{future::Future, time::Duration};

use colcrypt_protocol::{FailureKind, Settings};
use rand::RngExt;
use tokio::time::Instant;

use crate::KmsError;

/// Pauses stop growing after so many doublings: 2¹⁶ times the first would be hours.
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

/// The pause before try `retry + 2`: a random part of the doubled span, at least half of it, so that many
/// agents do not return at the same moment.
pub(crate) fn pause(settings: &Settings, retry: u32) -> Duration {
    longest_pause(settings, retry).mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Runs one call, and ends it after `limit`.
///
/// # Errors
/// The call's own, or [`FailureKind::Timeout`].
pub(crate) async fn within<T>(
    limit: Duration,
    endpoint: &str,
    call: impl Future<Output = Result<T, KmsError>>,
) -> Result<T, KmsError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(KmsError::new(
            FailureKind::Timeout,
            format!("no answer from {endpoint} within {} ms", limit.as_millis()),
        ))
    })
}

/// Calls until it succeeds, fails for good, or the tries or the time are used up.
///
/// # Errors
/// The last try's. When a server asks for a longer rest than there is time, the call fails at once.
pub(crate) async fn with_retries<T, F, Fut>(
    settings: &Settings,
    endpoint: &str,
    mut call: F,
) -> Result<T, KmsError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, KmsError>>,
{
    across(settings, 1, |_, limit| within(limit, endpoint, call()))
        .await
        .map(|served| served.value)
        .map_err(|mut errors| errors.swap_remove(0))
}

/// The result of the first of several roots that succeeded.
pub(crate) struct Served<T> {
    pub(crate) root: usize,
    pub(crate) value: T,
    /// The last error of each root that was asked before.
    pub(crate) failed: Vec<(usize, KmsError)>,
}

/// Asks the first of several roots and, when it fails, the next one at once. Further tries take turns among
/// the roots whose failure may pass. The whole takes no longer than the tries of a single root: each call is
/// limited to the configured time, and to its share of the time left for the roots that were not asked yet.
/// `call` must keep to the limit in its argument.
///
/// # Errors
/// The last of each root.
pub(crate) async fn across<T, F, Fut>(
    settings: &Settings,
    roots: usize,
    mut call: F,
) -> Result<Served<T>, Vec<KmsError>>
where
    F: FnMut(usize, Duration) -> Fut,
    Fut: Future<Output = Result<T, KmsError>>,
{
    let longest = Duration::from_millis(settings.kms_timeout_ms);
    let mut left = budget(settings);
    let end = Instant::now() + left;
    let mut errors = Vec::with_capacity(roots);
    for root in 0..roots {
        let share = left / (roots - root) as u32;
        match call(root, longest.min(share)).await {
            Ok(value) => {
                return Ok(Served {
                    root,
                    value,
                    failed: errors.into_iter().enumerate().collect(),
                });
            }
            Err(error) => errors.push(error),
        }
        left = end.saturating_duration_since(Instant::now());
    }
    let mut turn = 0;
    for retry in 0..settings.kms_retries {
        let pause = pause(settings, retry);
        let left = end.saturating_duration_since(Instant::now());
        // A server may ask for more time than there is: no sum is made of it.
        let rest = |error: &KmsError| pause.max(error.retry_after.unwrap_or_default());
        let next = (turn..turn + roots)
            .map(|at| at % roots)
            .find(|&root| errors[root].kind.is_transient() && rest(&errors[root]) < left);
        let Some(root) = next else { break };
        tokio::time::sleep(rest(&errors[root])).await;
        turn = root + 1;
        let left = end.saturating_duration_since(Instant::now());
        match call(root, longest.min(left)).await {
            Ok(value) => {
                let failed = errors.into_iter().enumerate();
                return Ok(Served {
                    root,
                    value,
                    failed: failed.filter(|(other, _)| *other != root).collect(),
                });
            }
            Err(error) => errors[root] = error,
        }
    }
    Err(errors)
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
        refusal_confirmations: 1,
        refusal_interval_ms: 10,
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
        for absurd in [60_000, u64::MAX] {
            let (count, took) = tries(throttled(absurd)).await;
            assert_eq!(count, 1);
            assert!(took < Duration::from_millis(100));
        }
        let (count, _) = tries(KmsError {
            retry_after: Some(Duration::MAX),
            ..throttled(0)
        })
        .await;
        assert_eq!(count, 1);
    }

    #[tokio::test]
    async fn a_hang_ends_in_a_timeout_within_the_budget() {
        let began = Instant::now();
        let result: Result<(), _> = with_retries(&SETTINGS, "test", std::future::pending).await;
        assert_eq!(result.unwrap_err().kind, FailureKind::Timeout);
        assert!(began.elapsed() <= budget(&SETTINGS) + Duration::from_millis(100));
    }

    /// Which roots were asked, in order, when every one fails with these kinds.
    async fn asked(kinds: &[FailureKind]) -> Vec<usize> {
        let mut order = Vec::new();
        let result = across(&SETTINGS, kinds.len(), |root, _| {
            order.push(root);
            std::future::ready(Err::<(), _>(KmsError::new(kinds[root], "x")))
        })
        .await;
        let errors = result.err().expect("all of them fail");
        assert!(
            errors
                .iter()
                .map(|error| error.kind)
                .eq(kinds.iter().copied())
        );
        order
    }

    #[tokio::test]
    async fn roots_take_turns_and_only_those_that_may_come_back_are_asked_again() {
        use FailureKind::{Denied, Timeout, Unreachable, WrongRootKey};
        assert_eq!(asked(&[Timeout, Unreachable]).await, [0, 1, 0, 1]);
        assert_eq!(asked(&[Denied, Unreachable]).await, [0, 1, 1, 1]);
        assert_eq!(asked(&[Unreachable, WrongRootKey]).await, [0, 1, 0, 0]);
        assert_eq!(asked(&[Denied, WrongRootKey]).await, [0, 1]);
    }

    #[tokio::test]
    async fn roots_that_hang_take_no_longer_than_one_would() {
        for settings in [
            SETTINGS,
            Settings {
                kms_retries: 0,
                ..SETTINGS
            },
        ] {
            let began = Instant::now();
            let mut asked = [0; 3];
            let result = across(&settings, 3, |root, limit| {
                asked[root] += 1;
                within(limit, "test", std::future::pending::<Result<(), _>>())
            })
            .await;
            assert!(result.is_err());
            assert!(asked.iter().all(|times| *times >= 1), "{asked:?}");
            assert!(began.elapsed() <= budget(&settings) + Duration::from_millis(100));
        }
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
