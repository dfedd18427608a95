//! One kind of provider with a real server behind it (or what stands in for one), as the suites that run
//! over every kind see it: how to reach it, what its keys go through, and how it breaks.

use std::path::Path;

use serde_json::Value;

/// Where a provider's settings send requests.
pub enum Route<'a> {
    Direct,
    /// By way of a [proxy](crate::proxy) on this port of `localhost`, with a certificate of this CA.
    Proxy {
        port: u16,
        ca_file: &'a Path,
    },
}

/// What a provider's server does to a root key or a login, as an administrator there may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The login may no longer use the root key.
    Denied,
    /// The login itself is no longer good: a revoked token, a deleted access key, another PIN.
    LoginRevoked,
    KeyDisabled,
    /// The server will destroy the key after a while, and refuses to use it meanwhile.
    KeyPendingDeletion,
    KeyDeleted,
    /// The server answers, with another key than the one that was wrapped.
    WrongPlaintext,
    /// The server answers with what does not match its own checksum.
    WrongChecksum,
    /// The server's clock and ours disagree by hours.
    ClockSkew,
}

impl Trouble {
    pub const ALL: [Self; 8] = [
        Self::Denied,
        Self::LoginRevoked,
        Self::KeyDisabled,
        Self::KeyPendingDeletion,
        Self::KeyDeleted,
        Self::WrongPlaintext,
        Self::WrongChecksum,
        Self::ClockSkew,
    ];
}

/// A provider and its server, gone when dropped.
pub trait ProviderBed: Send {
    /// As in `colcrypt.add_provider`.
    fn kind(&self) -> &'static str;

    /// Settings of a login that may use the root keys and nothing more.
    fn config(&self, route: &Route<'_>) -> Value;

    /// Whether [`Route::Proxy`] makes sense: false for what is reached without a network.
    fn has_network(&self) -> bool {
        true
    }

    /// What a proxy connects to, where there is a network.
    fn upstream(&self) -> Option<crate::proxy::Upstream>;

    /// Variables the database server is started with.
    fn environment(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The root key's name as SQL is given it.
    fn root_key(&self) -> String;

    /// Another root key that the same login may use.
    fn other_root_key(&self) -> String;

    /// Makes a newer version of a root key at the provider; `false` where its keys have no versions.
    fn rotate(&self, root_key: &str) -> bool;

    /// Makes every version but the newest unusable, to prove that it is needed no more; `false` where that
    /// cannot be done.
    fn retire_old_versions(&self, root_key: &str) -> bool;

    /// Requests to unwrap that the server has counted so far; `None` where nothing counts them.
    fn unwraps(&self) -> Option<usize>;

    /// Makes trouble for the root key or the login; `false` where this kind knows no such trouble.
    fn make(&self, trouble: Trouble) -> bool;

    /// Ends the trouble, by putting everything back; `false` where it is for good.
    fn mend(&self, trouble: Trouble) -> bool;

    /// Ends the token that the login gave before its time, while the login stays good; `false` where no token is
    /// given.
    fn expire_token(&self) -> bool {
        false
    }

    /// Lets the login's credential run out, as time does to it; `false` where there is none, or none that ends.
    fn expire_login(&self) -> bool {
        false
    }

    /// Puts a new credential in the place of one that ran out.
    fn renew_login(&self) {}

    /// Replaces the login's credential while it is in use, and then takes the former one back, as a program that
    /// rotates credentials does.
    fn rotate_login(&self);

    /// Texts that must be in no log and no error.
    fn secrets(&self) -> Vec<String>;
}
