//! The agent: reads requests from the broker's socket, answers each in its own task, and tells what
//! happens to the KEKs it keeps.
//!
//! A request that hangs delays no other and is answered by its deadline. The agent ends with its
//! socket, and its keys with it.

use std::{io, sync::Arc, time::Duration};

use colcrypt_core::{
    Canary, DataKey, KekId, KeyCheckValue, KeyEncryptionKey, KeySource, Suite, VersionId, wrap,
};
use colcrypt_protocol::{
    Failure, FailureKind, FromAgent, KekRef, Numbered, ProviderConfig, Reply, Request, Settings,
    WrappedDek,
    frame::{self, Decoder, FrameError},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    task::JoinSet,
};
use zeroize::Zeroizing;

use crate::{
    KmsError, Provider, WrappedKek, error, keks::Keks, provider, registry, registry::Registry,
    retry, roots, stuck,
};

/// Added to the calls' own limits: time to schedule tasks on a busy machine.
const GRACE: Duration = Duration::from_millis(500);
/// Calls to a provider that one request makes at most, each with its retries.
const CALLS_PER_REQUEST: u32 = 3;

/// Why the agent ended before its socket did.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("the broker's socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("the broker sent what is not a request: {0}")]
    Frame(#[from] FrameError),
    /// The process cannot recover. The broker starts a new one.
    #[error("{0}")]
    Stuck(String),
}

type Frame = Zeroizing<Vec<u8>>;
/// A reply and the frame's secret tail.
type Answer = Result<(Reply, Option<DataKey>), Failure>;

/// Serves one broker until it closes the socket.
///
/// # Errors
/// [`ServeError`] when the socket fails or carries something else than requests.
pub async fn serve<S>(stream: S) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (frames, outgoing) = mpsc::unbounded_channel();
    let (events, mut happened) = mpsc::unbounded_channel();
    let (configure, settings) = watch::channel(Settings::default());
    let registry = Arc::new(Registry::default());
    let agent = Arc::new(Agent {
        keks: Keks::new(Arc::clone(&registry), settings.clone(), events),
        registry,
        settings,
    });

    let mut helpers = JoinSet::new();
    let event_frames = frames.clone();
    helpers.spawn(async move {
        while let Some(event) = happened.recv().await {
            send(&event_frames, &FromAgent::Event(event), &[]);
        }
    });
    let result = tokio::select! {
        result = read(reader, &agent, &configure, &frames) => result,
        result = write(writer, outgoing) => result,
        reason = stuck::told() => Err(ServeError::Stuck(reason)),
    };
    agent.keks.close();
    result
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    agent: &Arc<Agent>,
    configure: &watch::Sender<Settings>,
    frames: &mpsc::UnboundedSender<Frame>,
) -> Result<(), ServeError> {
    let mut tasks = JoinSet::new();
    let mut decoder = Decoder::default();
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        decoder.push(&buffer[..length]);
        while let Some((Numbered { id, request }, _)) = decoder.next_frame::<Numbered>()? {
            while tasks.try_join_next().is_some() {}
            if let Request::Configure { settings } = request {
                // Here and not in a task, so that the settings hold for every later request.
                configure.send_replace(settings);
                answer(frames, id, Ok((configured(), None)));
                continue;
            }
            let agent = Arc::clone(agent);
            let frames = frames.clone();
            tasks.spawn(async move {
                // In a task of its own, so that a panic is answered; dropped, the set ends it.
                let mut call = JoinSet::new();
                call.spawn(async move { agent.by_deadline(request).await });
                let result = match call.join_next().await {
                    Some(Ok(result)) => result,
                    _ => Err(error::panicked("the request")),
                };
                answer(&frames, id, result);
            });
        }
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::UnboundedReceiver<Frame>,
) -> Result<(), ServeError> {
    while let Some(frame) = outgoing.recv().await {
        writer.write_all(&frame).await?;
        writer.flush().await?;
    }
    Ok(())
}

fn answer(frames: &mpsc::UnboundedSender<Frame>, id: u64, answer: Answer) {
    let (result, secret) = match answer {
        Ok((reply, secret)) => (Ok(reply), secret),
        Err(failure) => (Err(failure), None),
    };
    let tail = secret.as_ref().map_or(&[][..], |key| &key.expose()[..]);
    send(frames, &FromAgent::Reply { id, result }, tail);
}

fn send(frames: &mpsc::UnboundedSender<Frame>, message: &FromAgent, secret: &[u8]) {
    // Every message of ours is far below the limit; the receiver is gone only when the agent is ending.
    if let Ok(frame) = frame::encode(message, secret) {
        let _ = frames.send(frame);
    }
}

fn configured() -> Reply {
    Reply::Configured {
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

struct Agent {
    keks: Arc<Keks>,
    registry: Arc<Registry>,
    settings: watch::Receiver<Settings>,
}

impl Agent {
    fn settings(&self) -> Settings {
        *self.settings.borrow()
    }

    async fn by_deadline(&self, request: Request) -> Answer {
        let limit = retry::budget(&self.settings())
            .saturating_mul(CALLS_PER_REQUEST)
            .saturating_add(GRACE);
        tokio::time::timeout(limit, self.handle(request))
            .await
            .unwrap_or_else(|_| {
                Err(Failure {
                    kind: FailureKind::Timeout,
                    message: format!("the request was not done within {} ms", limit.as_millis()),
                })
            })
    }

    async fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Configure { .. } => Ok((configured(), None)),
            Request::ValidateProvider { provider } => match registry::connect(&provider) {
                Ok(_) => Ok((Reply::ProviderValid, None)),
                Err(error) => Err(error.of_provider(&provider.name)),
            },
            Request::CheckProvider { provider, root_key } => {
                // Not through the registry: a check shows what a fresh connection meets.
                let report =
                    registry::check(&provider, root_key.as_deref(), &self.settings()).await?;
                Ok((Reply::ProviderChecked { report }, None))
            }
            Request::CreateKek {
                provider,
                root_key,
                id,
                source,
            } => {
                let reply = self
                    .create_kek(&provider, &root_key, id, source)
                    .await
                    .map_err(|error| self.registry.failure(&provider, error))?;
                Ok((reply, None))
            }
            Request::RewrapKek {
                kek,
                provider,
                root_key,
            } => {
                // From the cache if possible: a root that is away does not delay the move.
                let held = self.keks.get(&kek).await?;
                let reply = self
                    .rewrap_kek(&held.key, kek.id, &provider, &root_key)
                    .await
                    .map_err(|error| self.registry.failure(&provider, error))?;
                Ok((reply, None))
            }
            Request::CheckKek { kek } => {
                let asked = roots::all(&self.registry, &self.settings(), &kek, || {}).await;
                let answers = self.keks.tell_answers(&kek, asked.answers);
                Ok((Reply::KekChecked { answers }, None))
            }
            Request::CreateDeks {
                kek,
                ids,
                suite,
                source,
            } => Ok((self.create_deks(&kek, ids, suite, source).await?, None)),
            Request::RewrapDeks { from, to, deks } => {
                Ok((self.rewrap_deks(&from, &to, deks).await?, None))
            }
            Request::VerifyDeks { kek, deks } => Ok((self.verify_deks(&kek, &deks).await?, None)),
            Request::LoadDek {
                kek,
                id,
                suite,
                wrapped,
                kcv,
            } => {
                let held = self.keks.get(&kek).await?;
                let aad = wrap::dek_aad(kek.id, id, suite);
                let key = wrap::unwrap_data_key(&held.key, kek.dek_wrap, &aad, &wrapped, kcv)
                    .map_err(|error| of_dek(id, error))?;
                let lease_ms = held.lease(&self.settings()).as_millis() as u64;
                Ok((Reply::DekLoaded { lease_ms }, Some(key)))
            }
        }
    }

    async fn create_kek(
        &self,
        provider: &ProviderConfig,
        root_key: &str,
        id: KekId,
        source: KeySource,
    ) -> Result<Reply, KmsError> {
        let settings = self.settings();
        let connected = self.registry.connect(provider)?;
        let aad = wrap::kek_aad(id);
        let endpoint = connected.endpoint();
        if !connected.opens() {
            return Err(KmsError::config(format!(
                "{endpoint} opens nothing by itself: make the keyring under another root key, and add this one"
            )));
        }
        let (kek, made) = match source {
            KeySource::System => {
                let kek = KeyEncryptionKey::generate()
                    .map_err(|error| error::crypto("the new KEK", error))?;
                let made = retry::with_retries(&settings, endpoint, || {
                    connected.wrap_kek(root_key, &aad, &kek)
                })
                .await?;
                (kek, made)
            }
            KeySource::Provider => {
                retry::with_retries(&settings, endpoint, || {
                    connected.generate_kek(root_key, &aad)
                })
                .await?
            }
        };
        self.compared(&*connected, root_key, &aad, &kek, made).await
    }

    async fn rewrap_kek(
        &self,
        kek: &KeyEncryptionKey,
        id: KekId,
        provider: &ProviderConfig,
        root_key: &str,
    ) -> Result<Reply, KmsError> {
        let connected = self.registry.connect(provider)?;
        let aad = wrap::kek_aad(id);
        let made = retry::with_retries(&self.settings(), connected.endpoint(), || {
            connected.wrap_kek(root_key, &aad, kek)
        })
        .await?;
        self.compared(&*connected, root_key, &aad, kek, made).await
    }

    /// Unwraps what was just wrapped, since it may soon be the only copy, and shows that it is bound to its identity.
    async fn compared(
        &self,
        connected: &dyn Provider,
        root_key: &str,
        aad: &[u8],
        kek: &KeyEncryptionKey,
        made: WrappedKek,
    ) -> Result<Reply, KmsError> {
        if !connected.opens() {
            return Ok(Reply::KekCreated {
                kcv: KeyCheckValue::of_kek(kek),
                wrapped: made.wrapped,
                root_key_version: made.root_key_version,
            });
        }
        let endpoint = connected.endpoint();
        let again = retry::with_retries(&self.settings(), endpoint, || {
            connected.unwrap_kek(root_key, aad, &made)
        })
        .await
        .map_err(|error| match error.kind {
            // Nothing in the catalog is damaged: the key was wrapped a moment ago.
            FailureKind::Corrupt => KmsError::new(FailureKind::BadReply, error.message),
            _ => error,
        })?;
        if again != *kek {
            return Err(KmsError::new(
                FailureKind::BadReply,
                format!("{endpoint} did not give back the key it had just wrapped"),
            ));
        }
        retry::with_retries(&self.settings(), endpoint, || {
            provider::prove_bound(connected, root_key, &made)
        })
        .await?;
        Ok(Reply::KekCreated {
            kcv: KeyCheckValue::of_kek(kek),
            wrapped: made.wrapped,
            root_key_version: made.root_key_version,
        })
    }

    /// From the cache if possible; a provider's generator is asked for each.
    async fn create_deks(
        &self,
        kek: &KekRef,
        ids: Vec<VersionId>,
        suite: Suite,
        source: KeySource,
    ) -> Result<Reply, Failure> {
        let held = self.keks.get(kek).await?;
        let mut deks = Vec::with_capacity(ids.len());
        for id in ids {
            deks.push(self.create_dek(&held.key, kek, id, suite, source).await?);
        }
        Ok(Reply::DeksCreated { deks })
    }

    async fn create_dek(
        &self,
        held: &KeyEncryptionKey,
        kek: &KekRef,
        id: VersionId,
        suite: Suite,
        source: KeySource,
    ) -> Result<WrappedDek, Failure> {
        let failed = |error| of_dek(id, error);
        let key = match source {
            KeySource::System => DataKey::generate().map_err(failed)?,
            KeySource::Provider => {
                roots::generate_dek(&self.registry, &self.settings(), kek).await?
            }
        };
        let kcv = KeyCheckValue::of_data_key(&key);
        let aad = wrap::dek_aad(kek.id, id, suite);
        let wrapped = wrap::wrap_data_key(held, kek.dek_wrap, &aad, &key).map_err(failed)?;
        wrap::unwrap_data_key(held, kek.dek_wrap, &aad, &wrapped, kcv).map_err(failed)?;
        Ok(WrappedDek {
            id,
            suite,
            wrapped,
            kcv,
            canary: Some(Canary::seal(id, suite, &key).map_err(failed)?),
        })
    }

    /// From the cache if possible, as a KEK is: of many batches only the first asks a root key.
    async fn rewrap_deks(
        &self,
        from: &KekRef,
        to: &KekRef,
        deks: Vec<WrappedDek>,
    ) -> Result<Reply, Failure> {
        let (old, new) = (self.keks.get(from).await?, self.keks.get(to).await?);
        let rewrap = |dek: WrappedDek| {
            let aad = wrap::dek_aad(from.id, dek.id, dek.suite);
            let key = wrap::unwrap_data_key(&old.key, from.dek_wrap, &aad, &dek.wrapped, dek.kcv)?;
            let aad = wrap::dek_aad(to.id, dek.id, dek.suite);
            let wrapped = wrap::wrap_data_key(&new.key, to.dek_wrap, &aad, &key)?;
            wrap::unwrap_data_key(&new.key, to.dek_wrap, &aad, &wrapped, dek.kcv)?;
            let canary = match dek.canary {
                None => Canary::seal(dek.id, dek.suite, &key)?,
                Some(canary) => canary,
            };
            Ok(WrappedDek {
                wrapped,
                canary: Some(canary),
                ..dek
            })
        };
        let deks = deks
            .into_iter()
            .map(|dek| {
                let id = dek.id;
                rewrap(dek).map_err(|error| of_dek(id, error))
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Reply::DeksRewrapped { deks })
    }

    /// From the cache if possible, as above.
    async fn verify_deks(&self, kek: &KekRef, deks: &[WrappedDek]) -> Result<Reply, Failure> {
        let held = self.keks.get(kek).await?;
        let failure = |dek: &WrappedDek| {
            let aad = wrap::dek_aad(kek.id, dek.id, dek.suite);
            match wrap::unwrap_data_key(&held.key, kek.dek_wrap, &aad, &dek.wrapped, dek.kcv) {
                Ok(key) => of_canary(dek, &key),
                Err(error) => Some(of_dek(dek.id, error).message),
            }
        };
        let failures = (0..)
            .zip(deks)
            .filter_map(|(at, dek)| Some((at, failure(dek)?)))
            .collect();
        Ok(Reply::DeksVerified { failures })
    }
}

/// What is wrong with its canary value.
fn of_canary(dek: &WrappedDek, key: &DataKey) -> Option<String> {
    let canary = dek.canary.as_ref()?;
    let why = canary.verify(dek.id, dek.suite, key).err()?;
    Some(format!(
        "the canary value of key {} version {} does not decrypt: {why}",
        dek.id.key, dek.id.version
    ))
}

fn of_dek(id: VersionId, error: colcrypt_core::CryptoError) -> Failure {
    let error = error::crypto(
        &format!("the wrapped DEK of key {} version {}", id.key, id.version),
        error,
    );
    Failure {
        kind: error.kind,
        message: error.message,
    }
}
