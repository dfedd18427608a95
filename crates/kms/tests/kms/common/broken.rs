//! A provider whose server answers as it is told, and what making a KEK there meets. What holds for every kind is
//! asserted here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use colcrypt_protocol::{Failure, FailureKind, ProviderConfig, Settings};
use tokio::time::Instant;

use super::{
    Dir, SETTINGS, agent,
    raw::{Act, Request, json_reply, listen},
};

pub type Reaction = Box<dyn Fn() -> Act + Send + Sync>;

/// A kind of provider, as its suite tells of it.
pub struct Kind {
    pub root_key: &'static str,
    /// In no message.
    pub secret: &'static str,
    /// Settings for a server at this port, with the secret in a file.
    pub provider: fn(u16, &Dir) -> ProviderConfig,
    /// The answer to what is asked in the background, which is not counted.
    pub aside: fn(&Request) -> Option<Act>,
    /// What a request asks for.
    pub operation: fn(&Request) -> &str,
}

/// A provider before a server of our own.
pub struct Broken {
    pub provider: ProviderConfig,
    requests: Arc<AtomicUsize>,
    _dir: Dir,
}

impl Broken {
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// What creating a KEK meets at a provider: soon, and in fewer than so many bytes.
pub async fn failure_at(
    settings: Settings,
    provider: &ProviderConfig,
    root_key: &str,
    longest: usize,
) -> Failure {
    let agent = agent(settings).await;
    let began = Instant::now();
    let made = agent.create_kek(provider, root_key).await;
    let failure = made.expect_err("a failure");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "took {took:?}");
    assert!(failure.message.len() < longest, "{failure}");
    failure
}

/// Answers that are of no provider that speaks HTTP, and what each is called.
pub fn strangers() -> Vec<(&'static str, FailureKind, Reaction)> {
    vec![
        (
            "a huge body",
            FailureKind::BadReply,
            Box::new(|| json_reply("200 OK", &" ".repeat(1 << 20))),
        ),
        (
            "no answer",
            FailureKind::Unreachable,
            Box::new(|| Act::Close),
        ),
        (
            "no HTTP",
            FailureKind::BadReply,
            Box::new(|| Act::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ),
    ]
}

impl Kind {
    /// A server that answers each request by its operation and body, and counts them.
    pub async fn server(&self, act: impl Fn(&str, &str) -> Act + Send + Sync + 'static) -> Broken {
        let (aside, operation) = (self.aside, self.operation);
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let (port, _) = listen(move |request| {
            aside(request).unwrap_or_else(|| {
                count.fetch_add(1, Ordering::Relaxed);
                act(operation(request), &request.body)
            })
        })
        .await;
        let dir = Dir::new();
        Broken {
            provider: (self.provider)(port, &dir),
            requests,
            _dir: dir,
        }
    }

    /// What creating a KEK meets at such a server, and how often it asked.
    pub async fn failure(
        &self,
        settings: Settings,
        act: impl Fn(&str, &str) -> Act + Send + Sync + 'static,
    ) -> (Failure, usize) {
        let server = self.server(act).await;
        let failure = failure_at(settings, &server.provider, self.root_key, 600).await;
        assert!(!failure.message.contains(self.secret), "{failure}");
        (failure, server.requests())
    }

    /// Servers that have one answer to everything, and what each is called.
    pub async fn are_called(&self, cases: Vec<(&str, FailureKind, Reaction)>) {
        for (name, kind, act) in cases {
            let (failure, _) = self.failure(SETTINGS, move |_, _| act()).await;
            assert_eq!(failure.kind, kind, "{name}: {failure}");
            assert!(failure.message.contains("127.0.0.1"), "{name}: {failure}");
        }
    }

    /// A server that never answers, and one that never comes to an end.
    pub async fn slow_answers_end_in_a_timeout(&self) {
        let settings = Settings {
            kms_timeout_ms: 300,
            kms_retries: 1,
            ..SETTINGS
        };
        for trickle in [true, false] {
            let act = move |_: &str, _: &str| if trickle { Act::Trickle } else { Act::Hang };
            let (failure, tries) = self.failure(settings, act).await;
            assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
            assert_eq!(tries, 2);
        }
    }

    /// Throttled with a `Retry-After` of so many seconds, it asks again then and not before.
    pub async fn rests_are_kept<A>(&self, throttled: impl Fn(&'static str) -> A)
    where
        A: Fn(&str, &str) -> Act + Send + Sync + 'static,
    {
        let settings = Settings {
            kms_retries: 2,
            ..SETTINGS
        };
        let began = Instant::now();
        assert_eq!(self.failure(settings, throttled("1")).await.1, 3);
        assert!(began.elapsed() >= Duration::from_secs(2));
        for seconds in ["3600", "18446744073709551615"] {
            let began = Instant::now();
            let (failure, tries) = self.failure(settings, throttled(seconds)).await;
            assert_eq!((failure.kind, tries), (FailureKind::Throttled, 1));
            assert!(began.elapsed() < Duration::from_secs(2));
        }
    }

    /// A server that quotes what it was sent is not quoted in full.
    pub async fn echoes_are_not_repeated(
        &self,
        echo: impl Fn(&str, &str) -> Act + Send + Sync + 'static,
    ) -> Failure {
        let (failure, _) = self.failure(SETTINGS, echo).await;
        assert!(failure.message.contains("cannot parse"), "{failure}");
        // 32 bytes in base64 end so; what stands before may hold a slash.
        assert!(!failure.message.contains("=\""), "{failure}");
        failure
    }
}
