//! How the agent keeps a token for Vault or OpenBao: read from outside at every use, or of a login.
//!
//! A token that is still valid is renewed, or replaced by a new login, in the background: the first caller that
//! uses it late in its life starts this, and nobody waits. When there is no token, the first caller logs in and
//! the others wait for that. A refused login is [repeated with pauses](crate::login_pause); no other failure is
//! remembered.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use colcrypt_core::Secret;
use colcrypt_protocol::FailureKind;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    KmsError,
    clock::Moment,
    credential,
    login_pause::{self, Account},
    vault_transit::{
        http::VaultHttp,
        login::{AuthConfig, Login, Source},
        reply::{self, About, Question},
        session::{Care, Life, Session},
    },
};

pub(crate) struct Auth {
    http: Arc<VaultHttp>,
    source: Source,
    /// The last token used.
    session: Mutex<Option<Session>>,
    /// The last token that the server did not know before its end. Kept until another serves: with it, the refusal of
    /// a login that gives no reason is somebody's decision.
    taken_back: Mutex<Option<Arc<Secret>>>,
    /// Held while logging in, so that many callers make one login.
    logging_in: tokio::sync::Mutex<()>,
}

impl Auth {
    pub(crate) fn new(config: AuthConfig, http: Arc<VaultHttp>) -> Result<Arc<Self>, KmsError> {
        Ok(Arc::new(Self {
            http,
            source: config.try_into()?,
            session: Mutex::default(),
            taken_back: Mutex::default(),
            logging_in: tokio::sync::Mutex::default(),
        }))
    }

    /// Whether tokens come from outside, so that none can follow the last one by itself.
    pub(crate) fn is_from_outside(&self) -> bool {
        !matches!(self.source, Source::Login(_))
    }

    /// A token to use now.
    pub(crate) async fn token(self: &Arc<Self>) -> Result<Arc<Secret>, KmsError> {
        let outside = match &self.source {
            Source::File(file) => credential::read("token file", file.as_path()).await?,
            Source::Env(name) => name.read()?,
            Source::Login(login) => return self.logged_in(login, None).await,
        };
        let mut slot = self.session();
        // Any text is accepted here: the server judges it.
        let session = match slot.take_if(|known| known.is_of(&outside)) {
            Some(known) => known,
            None => Session::new(Arc::new(outside), Life::Unknown),
        };
        Ok(self.cared_for(slot.insert(session)))
    }

    /// Another token than the one just denied, if there is one: the file may have been replaced, and a
    /// login can be made again. `unknown`: the server does not know the token, whatever it was to be used for.
    pub(crate) async fn after_denial(
        self: &Arc<Self>,
        denied: &Arc<Secret>,
        unknown: bool,
    ) -> Result<Option<Arc<Secret>>, KmsError> {
        let old = self.session().take_if(|session| session.is_of(denied));
        if unknown && old.is_some_and(|old| old.ends_later()) {
            *self.taken_back() = Some(Arc::clone(denied));
        }
        let token = self.token().await?;
        Ok((token.expose() != denied.expose()).then_some(token))
    }

    /// Whether the server did not know this token before its end.
    pub(crate) fn was_taken_back(&self, token: &Secret) -> bool {
        let taken = self.taken_back();
        taken
            .as_ref()
            .is_some_and(|taken| taken.expose() == token.expose())
    }

    fn taken_back(&self) -> MutexGuard<'_, Option<Arc<Secret>>> {
        self.taken_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token of the last login, unless it is over.
    fn current(self: &Arc<Self>) -> Option<Arc<Secret>> {
        let mut slot = self.session();
        let session = slot.as_mut().filter(|session| !session.is_over())?;
        Some(self.cared_for(session))
    }

    /// Returns the session's token, and starts its renewal in the background if it is due.
    fn cared_for(self: &Arc<Self>, session: &mut Session) -> Arc<Secret> {
        let token = Arc::clone(&session.token);
        if let Some((care, time)) = session.take_care() {
            let (auth, token) = (Arc::clone(self), Arc::clone(&token));
            // Limited here, since no caller waits for it.
            tokio::spawn(async move { tokio::time::timeout(time, auth.care(care, &token)).await });
        }
        token
    }

    /// The token of the last login or of a new one, and another than `unwanted`.
    async fn logged_in(
        self: &Arc<Self>,
        login: &Login,
        unwanted: Option<&Secret>,
    ) -> Result<Arc<Secret>, KmsError> {
        let wanted =
            |token: &Arc<Secret>| unwanted.is_none_or(|not| not.expose() != token.expose());
        if let Some(token) = self.current().filter(wanted) {
            return Ok(token);
        }
        let _one_at_a_time = self.logging_in.lock().await;
        if let Some(token) = self.current().filter(wanted) {
            return Ok(token);
        }
        let new = self.log_in(login).await?;
        *self.taken_back() = None;
        Ok(Arc::clone(&self.session().insert(new).token))
    }

    /// A failure is ignored: the next try, or the next login when the token has ended, reports it.
    async fn care(self: &Arc<Self>, care: Care, token: &Arc<Secret>) {
        let told = match (care, &self.source) {
            (Care::LookUp, _) => self.look_up(token).await,
            (Care::Renew, _) => self.renew(token).await,
            (Care::Replace, Source::Login(login)) => {
                let _ = self.logged_in(login, Some(token)).await;
                return;
            }
            (Care::Replace, Source::File(_) | Source::Env(_)) => return,
        };
        if let Some(session) = self.session().as_mut().filter(|known| known.is_of(token)) {
            match told {
                Ok(life) => session.prolong(life),
                // Whether it may not, or is not known: who uses it next finds that out.
                Err(error) if matches!(error.kind, FailureKind::Denied | FailureKind::Config) => {
                    session.refuse_care();
                }
                Err(_) => {}
            }
        }
    }

    async fn log_in(&self, login: &Login) -> Result<Session, KmsError> {
        let body = login.body(&self.http).await?;
        let address = self.http.address().as_bytes();
        let account = Account::of(&[address, login.path.as_bytes(), &body, &login.proof()]);
        login_pause::log_in(account, login.pauses(), self.ask_to_log_in(login, body)).await
    }

    async fn ask_to_log_in(
        &self,
        login: &Login,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Session, KmsError> {
        let asked = Moment::now();
        let answer = self.http.post(&login.path, None, body).await?;
        let about = About::Login(login.kind());
        let question = self.question(&login.path, "update", about);
        let LoginReply { auth } = reply::parse(&question, &answer).map_err(|error| {
            if reply::is_unexplained(&answer) && self.taken_back().is_some() {
                let why = format!(", and gives no new one ({})", error.message);
                reply::taken_back(self.http.address(), &why)
            } else {
                error
            }
        })?;
        let token = Secret::new(auth.client_token.as_bytes().to_vec());
        Ok(Session::new(Arc::new(token), auth.life(asked)))
    }

    async fn renew(&self, token: &Secret) -> Result<Life, KmsError> {
        let path = "auth/token/renew-self";
        let body = Zeroizing::new(b"{}".to_vec());
        let asked = Moment::now();
        let answer = self.http.post(path, Some(token), body).await?;
        let question = self.question(path, "update", About::Other);
        let LoginReply { auth } = reply::parse(&question, &answer)?;
        Ok(auth.life(asked))
    }

    async fn look_up(&self, token: &Secret) -> Result<Life, KmsError> {
        let path = "auth/token/lookup-self";
        let asked = Moment::now();
        let answer = self.http.get(path, Some(token)).await?;
        let question = self.question(path, "read", About::Other);
        let LookUpReply { data } = reply::parse(&question, &answer)?;
        Ok(Life::new(
            asked,
            Duration::from_secs(data.ttl),
            data.renewable,
        ))
    }

    fn question<'a>(
        &'a self,
        path: &'a str,
        capability: &'static str,
        about: About,
    ) -> Question<'a> {
        Question {
            address: self.http.address(),
            path,
            capability,
            about,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct LoginReply<'a> {
    #[serde(borrow)]
    pub(super) auth: LoginAuth<'a>,
}

#[derive(Deserialize)]
pub(super) struct LoginAuth<'a> {
    /// Borrowed from the wiped body, unless the server escaped a character in it.
    #[serde(borrow)]
    client_token: Cow<'a, str>,
    lease_duration: u64,
    renewable: bool,
}

impl LoginAuth<'_> {
    pub(super) fn life(&self, asked: Moment) -> Life {
        let lease = Duration::from_secs(self.lease_duration);
        Life::new(asked, lease, self.renewable)
    }
}

#[derive(Deserialize)]
pub(super) struct LookUpReply {
    pub(super) data: LookedUp,
}

#[derive(Deserialize)]
pub(super) struct LookedUp {
    pub(super) ttl: u64,
    pub(super) renewable: bool,
}
