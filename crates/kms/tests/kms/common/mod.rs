//! The broker's side of the socket, for tests of the agent.
#![allow(dead_code)]

pub mod broken;
pub mod raw;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use colcrypt_core::{
    KekId, KeyId, KeySource, KeyVersion, KeyringId, Secret, Suite, VersionId, WrapMethod,
};
use colcrypt_kms::agent::ServeError;
use colcrypt_protocol::{
    CheckReport, Event, Failure, FailureKind, FromAgent, KekCopy, KekRef, Numbered, ProviderConfig,
    Reply, Request, RootAnswer, Settings, WrappedDek,
    frame::{self, Decoder},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Short enough to see a whole life of a KEK, long enough for a loaded machine.
pub const SETTINGS: Settings = Settings {
    soft_ttl_ms: 60_000,
    hard_ttl_ms: 120_000,
    kms_timeout_ms: 3_000,
    kms_retries: 0,
    kms_backoff_ms: 20,
    refusal_confirmations: 1,
    refusal_interval_ms: 20,
};

type Answer = Result<(Reply, Secret), Failure>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

pub struct Agent {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
    pub events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    /// What root keys that were asked answered: those events apart from the others.
    pub answers: tokio::sync::Mutex<mpsc::UnboundedReceiver<Vec<RootAnswer>>>,
    pub server: JoinHandle<Result<(), ServeError>>,
}

/// An agent with settings.
pub async fn agent(settings: Settings) -> Arc<Agent> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = tokio::spawn(colcrypt_kms::serve(theirs));
    let (mut reader, writer) = ours.into_split();
    let waiting = Waiting::default();
    let (tell, events) = mpsc::unbounded_channel();
    let (tell_answers, answers) = mpsc::unbounded_channel();
    let router = Arc::clone(&waiting);
    tokio::spawn(async move {
        let mut decoder = Decoder::default();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            decoder.push(&buffer[..length]);
            while let Some((message, secret)) = decoder.next_frame::<FromAgent>().unwrap() {
                match message {
                    FromAgent::Event(Event::RootsAsked { answers, .. }) => {
                        let _ = tell_answers.send(answers);
                    }
                    FromAgent::Event(event) => {
                        let _ = tell.send(event);
                    }
                    FromAgent::Reply { id, result } => {
                        let waiter = router
                            .lock()
                            .unwrap()
                            .remove(&id)
                            .expect("a reply to a request");
                        let _ = waiter.send(result.map(|reply| (reply, secret)));
                    }
                }
            }
        }
    });
    let agent = Arc::new(Agent {
        writer: tokio::sync::Mutex::new(writer),
        waiting,
        next: AtomicU64::new(1),
        events: tokio::sync::Mutex::new(events),
        answers: tokio::sync::Mutex::new(answers),
        server,
    });
    agent.configure(settings).await;
    agent
}

impl Agent {
    pub async fn call(&self, request: Request) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, tell);
        self.send_raw(&frame::encode(&Numbered { id, request }, &[]).unwrap())
            .await;
        timeout(PATIENCE, answer)
            .await
            .expect("every request is answered")
            .expect("the agent lives")
    }

    pub async fn send_raw(&self, bytes: &[u8]) {
        self.writer.lock().await.write_all(bytes).await.unwrap();
    }

    pub async fn close(&self) {
        self.writer.lock().await.shutdown().await.unwrap();
    }

    pub async fn configure(&self, settings: Settings) {
        let (reply, _) = ok(self.call(Request::Configure { settings }).await);
        assert!(matches!(reply, Reply::Configured { .. }), "{reply:?}");
    }

    pub async fn create_kek(
        &self,
        provider: &ProviderConfig,
        root_key: &str,
    ) -> Result<KekRef, Failure> {
        self.create_kek_from(KeySource::System, provider, root_key)
            .await
    }

    pub async fn create_kek_from(
        &self,
        source: KeySource,
        provider: &ProviderConfig,
        root_key: &str,
    ) -> Result<KekRef, Failure> {
        let id = kek_id();
        let request = Request::CreateKek {
            provider: provider.clone(),
            root_key: root_key.to_owned(),
            id,
            source,
        };
        let (reply, secret) = self.call(request).await?;
        assert!(secret.expose().is_empty());
        let Reply::KekCreated {
            wrapped,
            kcv,
            root_key_version,
        } = reply
        else {
            panic!("{reply:?}")
        };
        Ok(KekRef {
            id,
            keyring: "app".to_owned(),
            preferred: KekCopy {
                provider: provider.clone(),
                root_key: root_key.to_owned(),
                root_key_version,
                wrapped,
            },
            others: Vec::new(),
            kcv,
            dek_wrap: WrapMethod::Aes256Gcm,
        })
    }

    /// Wraps the KEK under one more root key, to be asked after those it has.
    pub async fn add_root(
        &self,
        kek: &KekRef,
        provider: &ProviderConfig,
        root_key: &str,
    ) -> Result<KekRef, Failure> {
        let request = Request::RewrapKek {
            kek: kek.clone(),
            provider: provider.clone(),
            root_key: root_key.to_owned(),
        };
        let (reply, _) = self.call(request).await?;
        let Reply::KekCreated {
            wrapped,
            kcv,
            root_key_version,
        } = reply
        else {
            panic!("{reply:?}")
        };
        assert_eq!(kcv, kek.kcv);
        let mut kek = kek.clone();
        kek.others.push(KekCopy {
            provider: provider.clone(),
            root_key: root_key.to_owned(),
            root_key_version,
            wrapped,
        });
        Ok(kek)
    }

    /// A DEK under the KEK: everything needed to load it.
    pub async fn create_dek(&self, kek: &KekRef) -> Result<Request, Failure> {
        self.create_dek_from(KeySource::System, kek).await
    }

    pub async fn create_dek_from(
        &self,
        source: KeySource,
        kek: &KekRef,
    ) -> Result<Request, Failure> {
        let id = VersionId {
            key: KeyId::random().unwrap(),
            version: KeyVersion::FIRST,
        };
        let suite = Suite::Aes256Gcm;
        let request = Request::CreateDeks {
            kek: kek.clone(),
            ids: vec![id],
            suite,
            source,
        };
        let (reply, secret) = self.call(request).await?;
        assert!(secret.expose().is_empty());
        let Reply::DeksCreated { mut deks } = reply else {
            panic!("{reply:?}")
        };
        let WrappedDek { wrapped, kcv, .. } = deks.pop().expect("a DEK");
        Ok(Request::LoadDek {
            kek: kek.clone(),
            id,
            suite,
            wrapped,
            kcv,
        })
    }

    /// The lease and the key.
    pub async fn load(&self, dek: &Request) -> Result<(u64, Secret), Failure> {
        let (reply, secret) = self.call(dek.clone()).await?;
        let Reply::DekLoaded { lease_ms } = reply else {
            panic!("{reply:?}")
        };
        Ok((lease_ms, secret))
    }

    /// The next answers of root keys that fit.
    pub async fn asked(&self, fits: impl Fn(&[RootAnswer]) -> bool) -> Vec<RootAnswer> {
        next(&self.answers, |answers: &Vec<RootAnswer>| fits(answers)).await
    }

    /// The next event that fits.
    pub async fn event(&self, fits: impl Fn(&Event) -> bool) -> Event {
        next(&self.events, fits).await
    }
}

/// The next that fits of what the agent says.
async fn next<T>(
    from: &tokio::sync::Mutex<mpsc::UnboundedReceiver<T>>,
    fits: impl Fn(&T) -> bool,
) -> T {
    let mut said = from.lock().await;
    timeout(PATIENCE, async {
        loop {
            let one = said.recv().await.expect("the agent lives");
            if fits(&one) {
                return one;
            }
        }
    })
    .await
    .expect("it in time")
}

/// What check_provider answers.
pub async fn check(
    agent: &Agent,
    provider: &ProviderConfig,
    root_key: Option<&str>,
) -> Result<CheckReport, Failure> {
    let request = Request::CheckProvider {
        provider: provider.clone(),
        root_key: root_key.map(str::to_owned),
    };
    match agent.call(request).await?.0 {
        Reply::ProviderChecked { report } => Ok(report),
        other => panic!("{other:?}"),
    }
}

/// Failure and KEK of a revocation.
pub async fn revoked(agent: &Agent) -> (KekId, Failure) {
    match agent
        .event(|event| matches!(event, Event::KekRevoked { .. }))
        .await
    {
        Event::KekRevoked { kek, failure } => (kek, failure),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn ok<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{:?}: {failure}", failure.kind))
}

/// Asserts a failure's kind and parts of its message.
#[track_caller]
pub fn fails<T>(result: Result<T, Failure>, kind: FailureKind, parts: &[&str]) -> Failure {
    let failure = result.err().expect("a failure");
    assert_eq!(failure.kind, kind, "{failure}");
    for part in parts {
        assert!(
            failure.message.contains(part),
            "{part:?} is not in {failure}"
        );
    }
    failure
}

pub fn kek_id() -> KekId {
    let mut keyring = [0; 16];
    colcrypt_core::secret::fill_random(&mut keyring).unwrap();
    KekId {
        keyring: KeyringId(keyring),
        version: KeyVersion::FIRST,
    }
}

pub fn provider(kind: &str, config: Value) -> ProviderConfig {
    ProviderConfig {
        name: "root".to_owned(),
        kind: kind.to_owned(),
        config,
    }
}

/// A directory that is gone with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("colcrypt-kms-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
