//! A refused login is repeated with growing pauses. Servers lock an account after some bad logins (Vault and OpenBao an
//! AppRole for 15 minutes after five), and a login in a tight loop makes an outage of a refusal.
//!
//! What is remembered is shared by all that log in with the same credential, whatever connection they use, and they log
//! in one at a time. Another credential is tried at once.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use colcrypt_protocol::FailureKind;

use crate::{KmsError, clock::Moment};

/// More logins than any cluster has; beyond it those forget that are not refused now.
const MAX_ACCOUNTS: usize = 256;

/// The pauses after the first refusal and after those that follow; the last one holds for all others.
#[derive(Clone, Copy)]
pub(crate) struct Pauses(&'static [u64]);

impl Pauses {
    /// Seconds. Not longer than a refusal's confirmation waits for the next one.
    pub(crate) const USUAL: Self = Self(&[1, 2, 4, 8, 15]);
    /// Where five bad logins lock an account for 15 minutes: no more than four in any 15 minutes.
    #[cfg(feature = "vault-transit")]
    pub(crate) const BEFORE_LOCKOUT: Self = Self(&[5, 30, 300, 900]);

    fn after(self, refusals: usize) -> Duration {
        let Self(seconds) = self;
        let at = refusals.clamp(1, seconds.len()) - 1;
        Duration::from_secs(seconds[at])
    }
}

/// Who logs in, and with what.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Account([u8; 32]);

impl Account {
    /// Of an address, a name, a credential: what makes it another login.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }
}

/// How the last login of an account was refused.
struct Refused {
    error: KmsError,
    at: Moment,
    times: usize,
}

type Turn = Arc<tokio::sync::Mutex<Option<Refused>>>;

fn turn(account: Account) -> Turn {
    static TURNS: OnceLock<Mutex<HashMap<Account, Turn>>> = OnceLock::new();
    let mut turns = TURNS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if turns.len() >= MAX_ACCOUNTS {
        turns.retain(|_, turn| turn.try_lock().is_ok_and(|refused| refused.is_some()));
    }
    if turns.len() >= MAX_ACCOUNTS {
        turns.clear();
    }
    Arc::clone(turns.entry(account).or_default())
}

/// Logs in, unless the last login was refused and its pause is not over: then it returns that refusal once more.
///
/// # Errors
/// The login's.
pub(crate) async fn log_in<T>(
    account: Account,
    pauses: Pauses,
    login: impl Future<Output = Result<T, KmsError>>,
) -> Result<T, KmsError> {
    let turn = turn(account);
    let mut last = turn.lock().await;
    if let Some(refused) = &*last {
        let left = refused.at.left_of(pauses.after(refused.times));
        if !left.is_zero() {
            return Err(KmsError {
                message: format!(
                    "{}; the login was refused {} times and is tried again in {} s, or with another credential at once",
                    refused.error.message,
                    refused.times,
                    left.as_secs() + 1
                ),
                answered: Some(refused.at),
                ..refused.error.clone()
            });
        }
    }
    let answer = login.await;
    match &answer {
        Ok(_) => *last = None,
        Err(error) if error.kind.is_refusal() || error.kind == FailureKind::Config => {
            *last = Some(Refused {
                error: error.clone(),
                at: Moment::now(),
                times: last.as_ref().map_or(0, |refused| refused.times) + 1,
            });
        }
        // An outage says nothing about the credential.
        Err(_) => {}
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const PAUSES: Pauses = Pauses(&[3600]);

    fn account(name: &str) -> Account {
        Account::of(&[b"a test's", name.as_bytes()])
    }

    /// Tries to log in, and returns what became of it and whether the server was asked.
    async fn tried(
        account: Account,
        pauses: Pauses,
        answer: Result<(), FailureKind>,
    ) -> (Result<(), FailureKind>, bool) {
        let asked = Cell::new(false);
        let login = async {
            asked.set(true);
            answer.map_err(|kind| KmsError::new(kind, "no"))
        };
        let result = log_in(account, pauses, login).await;
        (result.map_err(|error| error.kind), asked.get())
    }

    #[tokio::test]
    async fn a_refused_login_is_not_repeated_before_its_pause_is_over() {
        for kind in [FailureKind::Denied, FailureKind::Config] {
            let mine = account(&format!("{kind:?}"));
            assert_eq!(tried(mine, PAUSES, Err(kind)).await, (Err(kind), true));
            assert_eq!(tried(mine, PAUSES, Ok(())).await, (Err(kind), false));
            // Another credential is another account.
            assert_eq!(tried(account("new"), PAUSES, Ok(())).await, (Ok(()), true));
            let over = Pauses(&[0]);
            assert_eq!(tried(mine, over, Ok(())).await, (Ok(()), true));
            assert_eq!(tried(mine, PAUSES, Err(kind)).await, (Err(kind), true));
        }
    }

    #[tokio::test]
    async fn what_is_told_again_is_no_new_answer() {
        let mine = account("again");
        let refuse = || async { Err::<(), _>(KmsError::new(FailureKind::Denied, "no")) };
        let first = log_in(mine, PAUSES, refuse()).await.unwrap_err();
        assert_eq!(first.answered, None);
        let second = log_in(mine, PAUSES, refuse()).await.unwrap_err();
        assert!(second.answered.is_some());
        assert!(second.message.starts_with("no; "), "{second}");
    }

    #[tokio::test]
    async fn an_outage_is_no_refusal() {
        let mine = account("outage");
        let away = FailureKind::Unreachable;
        assert_eq!(tried(mine, PAUSES, Err(away)).await, (Err(away), true));
        assert_eq!(tried(mine, PAUSES, Ok(())).await, (Ok(()), true));
    }

    #[tokio::test]
    async fn many_at_once_make_one_login() {
        let mine = account("many");
        let asked = Cell::new(0);
        let login = || {
            log_in(mine, PAUSES, async {
                asked.set(asked.get() + 1);
                tokio::task::yield_now().await;
                Err::<(), _>(KmsError::new(FailureKind::Denied, "no"))
            })
        };
        let (one, two, three) = tokio::join!(login(), login(), login());
        assert!(one.is_err() && two.is_err() && three.is_err());
        assert_eq!(asked.get(), 1);
    }

    /// However long it is refused, and whoever asks all the time.
    #[test]
    fn a_role_is_never_locked_out() {
        let mut logins = vec![0];
        for refusals in 1..50 {
            let pause = Pauses::BEFORE_LOCKOUT.after(refusals).as_secs();
            logins.push(logins[refusals - 1] + pause);
        }
        for five in logins.windows(5) {
            assert!(five[4] - five[0] > 15 * 60, "{five:?}");
        }
    }

    #[test]
    fn pauses_grow() {
        let pauses: Vec<u64> = (1..8)
            .map(|refusals| Pauses::USUAL.after(refusals).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15, 15]);
    }
}
