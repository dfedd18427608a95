//! A cluster on one kind of provider, and what the tests ask of it.

use std::ops::Deref;

use colcrypt_tests::Cluster;
use colcrypt_tests::bed::{AT_ONCE, Bed, decrypt, encrypt};
use colcrypt_tests::problem::{Problem, failed};
use colcrypt_tests::provider_bed::{ProviderBed, Route};
use colcrypt_tests::proxy::Proxy;
use postgres::{Client, Error};
use serde_json::Value;

/// The provider's name in SQL.
pub const PROVIDER: &str = "root";

/// The cluster with the provider in it. When it ends, its log is searched for the provider's secrets.
pub struct World<'a> {
    bed: Bed,
    pub provider: &'a dyn ProviderBed,
    pub proxy: Option<Proxy>,
}

impl<'a> World<'a> {
    /// By way of a proxy where there is a network.
    pub fn new(provider: &'a dyn ProviderBed, conf: &[&str]) -> Self {
        let proxy = provider.upstream().map(Proxy::start);
        let mut builder = Cluster::builder()
            .conf("log_min_messages = debug1")
            .conf(AT_ONCE);
        for (name, value) in provider.environment() {
            builder = builder.env(name, value);
        }
        let bed = Bed::on(
            conf.iter()
                .fold(builder, |builder, line| builder.conf(*line)),
        );
        let world = Self {
            bed,
            provider,
            proxy,
        };
        world.hide_secrets();
        let config = world.config().to_string();
        world.run(
            "SELECT colcrypt.add_provider($1, $2, $3::text::jsonb)::text",
            &[PROVIDER, provider.kind(), &config],
        );
        world
    }

    /// The provider's settings.
    pub fn config(&self) -> Value {
        let route = self.proxy.as_ref().map_or(Route::Direct, Proxy::route);
        self.provider.config(&route)
    }

    /// Secrets that the provider has by now.
    pub fn hide_secrets(&self) {
        for secret in self.provider.secrets() {
            self.bed.hide(&secret);
        }
    }

    /// One text out of the server.
    #[track_caller]
    pub fn run(&self, sql: &str, parameters: &[&str]) -> String {
        self.ask(sql, parameters)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The same, in a session of its own.
    pub fn ask(&self, sql: &str, parameters: &[&str]) -> Result<String, Error> {
        let parameters: Vec<&(dyn postgres::types::ToSql + Sync)> =
            parameters.iter().map(|text| text as _).collect();
        let row = self.cluster.client().query_one(sql, &parameters)?;
        Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
    }

    /// The problem of a statement that must fail, searched for secrets.
    #[track_caller]
    pub fn fails(&self, sql: &str, parameters: &[&str]) -> Problem {
        let problem = failed(self.ask(sql, parameters));
        self.is_clean(&problem);
        problem
    }

    /// A keyring on this root key and a key, both of this name; a value under it.
    pub fn add_keyring(&self, name: &str, root_key: &str) -> String {
        self.run(
            "SELECT colcrypt.create_keyring($1, $2, $3)::text",
            &[name, PROVIDER, root_key],
        );
        self.create_key(name, name);
        encrypt(&mut self.cluster.client(), name).unwrap()
    }

    pub fn check_provider(&self) -> Result<String, Error> {
        self.ask(
            "SELECT colcrypt.check_provider($1, $2)::text",
            &[PROVIDER, &self.provider.root_key()],
        )
    }

    /// Decrypts in a session of its own.
    #[track_caller]
    pub fn reads(&self, value: &str) {
        self.try_reading(value)
            .unwrap_or_else(|error| panic!("{error:?}"));
    }

    pub fn try_reading(&self, value: &str) -> Result<(), Error> {
        decrypt(&mut self.cluster.client(), value)
    }

    /// A client whose session has the value's key at hand.
    pub fn warm(&self, value: &str) -> Client {
        let mut client = self.cluster.client();
        decrypt(&mut client, value).unwrap();
        client
    }
}

impl Deref for World<'_> {
    type Target = Bed;
    fn deref(&self) -> &Bed {
        &self.bed
    }
}
