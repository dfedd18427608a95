//! What a person reads of each kind of failure, in SQL and from the shell alike.

use crate::failure::FailureKind;

/// The same for every failure of a kind; what happened in particular is [`Failure::message`](crate::Failure).
pub struct Words {
    pub sqlstate: &'static str,
    pub error: &'static str,
    pub hint: &'static str,
}

impl FailureKind {
    /// What to call it, and what to do.
    pub fn words(self) -> Words {
        let (sqlstate, error, hint) = match self {
            Self::Config => (
                "KC010",
                "the provider is not configured correctly",
                "Correct the provider's settings; colcrypt.check_provider tries them.",
            ),
            Self::Unreachable => (
                "KC011",
                "the key provider cannot be reached",
                "Check the network, the address and the TLS settings; cached keys serve on until colcrypt.hard_ttl, and recovery needs no restart.",
            ),
            Self::Timeout => (
                "KC012",
                "the key provider did not answer in time",
                "The bound on one call is colcrypt.kms_timeout; cached keys serve on until colcrypt.hard_ttl.",
            ),
            Self::Unavailable => (
                "KC013",
                "the key provider is not able to serve",
                "Unseal or repair the provider; cached keys serve on until colcrypt.hard_ttl, and recovery needs no restart.",
            ),
            Self::Throttled => (
                "KC014",
                "the key provider is throttling requests",
                "Raise the provider's rate limit or colcrypt.soft_ttl.",
            ),
            Self::Denied => (
                "KC015",
                "the key provider refused access",
                "Check the credentials' rights on the root key; docs/providers lists the least they need.",
            ),
            Self::KeyNotFound => (
                "KC016",
                "the root key does not exist",
                "colcrypt never makes a root key by itself: restore it, or name an existing one.",
            ),
            Self::KeyDisabled => (
                "KC017",
                "the root key is disabled or deleted",
                "Enable the root key at the provider, or cancel its deletion.",
            ),
            Self::BadReply => (
                "KC018",
                "the key provider's answer makes no sense",
                "Check that the address is the provider's and no proxy answers in its place.",
            ),
            Self::WrongRootKey => (
                "KC019",
                "the root key is not the one the keyring was made with",
                "Bring the original root key back; nothing was changed.",
            ),
            Self::Corrupt => (
                "XX001",
                "a wrapped key in the catalog does not authenticate",
                "Restore the tables of schema colcrypt from a backup.",
            ),
            Self::BadRequest => (
                "XX000",
                "the KMS agent did not understand the request",
                "The extension and the colcrypt binary are of different versions: install both from the same build and restart.",
            ),
            Self::Agent => (
                "KC023",
                "the KMS agent is not running",
                "See the server log; the executable is colcrypt.agent_path, by default colcrypt beside the library, or else beside the server's own. The broker starts it again by itself.",
            ),
        };
        Words {
            sqlstate,
            error,
            hint,
        }
    }
}
