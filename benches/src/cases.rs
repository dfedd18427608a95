//! What is measured: the tables, and one expression a case.

use colcrypt_tests::Cluster;
use postgres::Client;

/// Types that are compared with text: the table's name, the type, an expression that makes the n-th value.
const TYPES: &[(&str, &str, &str)] = &[
    ("int", "int", "(n * 7919 % 2000000000)::int"),
    (
        "numeric",
        "numeric(12,2)",
        "((n * 7919 % 1000000000) / 100.0)::numeric(12,2)",
    ),
    (
        "timestamptz",
        "timestamptz",
        "'2020-01-01 00:00+00'::timestamptz + n * interval '37 s'",
    ),
    (
        "jsonb",
        "jsonb",
        "jsonb_build_object('id', n, 'city', 'Ghent')",
    ),
    ("uuid", "uuid", "md5(n::text)::uuid"),
];

/// What values are bound to, as the guide has it: their place, and the row's key.
pub const CONTEXT: &str = "colcrypt.place_context('public.bench.v', id)";

const PEERS_KEY: &str =
    r"'\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f'::bytea";

/// AES-CBC without integrity, its cheapest form.
pub fn pgcrypto(verb: &str, column: &str) -> String {
    format!("{verb}({column}, {PEERS_KEY}, 'aes')")
}

/// Deterministic AEAD, as its column encryption used it.
fn pgsodium(verb: &str, column: &str) -> String {
    let key = format!("{PEERS_KEY} || {PEERS_KEY}");
    format!("pgsodium.crypto_aead_det_{verb}({column}, ''::bytea, {key}, NULL::bytea)")
}

/// One thing to measure.
pub struct Case {
    pub name: String,
    pub table: String,
    column: &'static str,
    call: String,
}

impl Case {
    fn new(
        name: impl Into<String>,
        table: impl Into<String>,
        column: &'static str,
        call: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            table: table.into(),
            column,
            call: call.into(),
        }
    }

    /// The query with the function.
    pub fn full(&self) -> String {
        format!("SELECT count({}) FROM {}", self.call, self.table)
    }

    /// The same scan without it.
    pub fn bare(&self) -> String {
        format!("SELECT count({}) FROM {}", self.column, self.table)
    }
}

/// Sizes of values: label, bytes, and for how many rows of 16 bytes there is one of it.
pub const SIZES: [(&str, usize, i64); 7] = [
    ("16b", 16, 1),
    ("64b", 64, 2),
    ("256b", 256, 4),
    ("1k", 1024, 10),
    ("4k", 4096, 20),
    ("16k", 16384, 100),
    ("64k", 65536, 400),
];

/// From here on a value is out of line. Fetching it costs more than its decryption and is the same for all: large
/// values are in memory already, a few of them over and over: so few that they lie in the processor's cache, as one
/// that has just been fetched does, and that work_mem holds them.
const OUT_OF_LINE: usize = 2000;
const DISTINCT: i64 = 16;

/// What a case reads: a table, or a few values of one, many times.
fn source(kind: &str, column: &str, fetched: &str, size: (&str, usize, i64), rows: i64) -> String {
    let (label, bytes, share) = size;
    if bytes < OUT_OF_LINE {
        return format!("{kind}_{label}");
    }
    let times = (rows / share / DISTINCT).max(1);
    format!(
        "(SELECT id, {fetched} AS {column} FROM {kind}_{label} LIMIT {DISTINCT}) s, generate_series(1, {times})"
    )
}

/// Every case. A table has the plaintext in `v`, our ciphertext in `c`, pgcrypto's in `p`, XAES ciphertext in `x`;
/// each in a table of its own, so that all pay for the same scan.
pub fn all(rows: i64, sodium: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
        let label = size.0;
        let plain = source("plain", "v", "v || ''", size, rows);
        let table = |kind: &str| match kind {
            "pgcrypto" => source("pgcrypto", "p", "p || ''", size, rows),
            "pgsodium" => source("pgsodium", "p", "p || ''", size, rows),
            kind => source(
                kind,
                "c",
                "(c::bytea || '')::colcrypt.ciphertext",
                size,
                rows,
            ),
        };
        let mut peers = vec![(
            "pgcrypto",
            pgcrypto("encrypt", "v"),
            pgcrypto("decrypt", "p"),
        )];
        if sodium {
            peers.push((
                "pgsodium",
                pgsodium("encrypt", "v"),
                pgsodium("decrypt", "p"),
            ));
        }
        for (peer, encrypt, decrypt) in peers {
            cases.push(Case::new(
                format!("enc_{label}_{peer}"),
                plain.clone(),
                "v",
                encrypt,
            ));
            cases.push(Case::new(
                format!("dec_{label}_{peer}"),
                table(peer),
                "p",
                decrypt,
            ));
        }
        for (key, kind, suffix) in [("gcm", "ours", ""), ("xaes", "xaes", "_xaes")] {
            cases.push(Case::new(
                format!("enc_{label}{suffix}"),
                plain.clone(),
                "v",
                format!("colcrypt.encrypt_col(v, '{key}', {CONTEXT})"),
            ));
            cases.push(Case::new(
                format!("dec_{label}{suffix}"),
                table(kind),
                "c",
                format!("colcrypt.decrypt_col(c, NULL::bytea, {CONTEXT})"),
            ));
        }
    }
    cases.push(Case::new(
        "enc_text",
        "text_16b",
        "v",
        format!("colcrypt.encrypt_col(v, 'gcm', {CONTEXT})"),
    ));
    cases.push(Case::new(
        "dec_text",
        "text_16b",
        "c",
        format!("colcrypt.decrypt_col(c, {CONTEXT})"),
    ));
    for (name, kind, _) in TYPES {
        let table = format!("{name}_values");
        cases.push(Case::new(
            format!("enc_{name}"),
            table.clone(),
            "v",
            format!("colcrypt.encrypt_col(v, 'gcm', {CONTEXT})"),
        ));
        cases.push(Case::new(
            format!("dec_{name}"),
            table,
            "c",
            format!("colcrypt.decrypt_col(c, NULL::{kind}, {CONTEXT})"),
        ));
    }
    cases
}

/// The names of the types compared with text.
pub fn types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(name, _, _)| *name)
}

/// The root key, a keyring and a key of each suite.
pub fn make_keys(client: &mut Client, cluster: &Cluster) {
    let root_key = cluster.root_key("root.key");
    let path = root_key.to_str().expect("a path in UTF-8");
    execute(
        client,
        "CREATE EXTENSION colcrypt; CREATE EXTENSION pgcrypto",
    );
    execute(
        client,
        &format!(
            "SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{path}'));
             SELECT colcrypt.create_keyring('bench', 'local')"
        ),
    );
    execute(
        client,
        "SELECT colcrypt.create_key('gcm', 'bench'), colcrypt.create_key('xaes', 'bench', 'xaes-256-gcm')",
    );
}

/// Keys and tables.
pub fn fill(client: &mut Client, cluster: &Cluster, rows: i64, sodium: bool) {
    make_keys(client, cluster);
    for size in SIZES {
        fill_size(client, size, rows, sodium);
    }
    let text = ("text", "text", "left(md5(n::text), 16)");
    for (name, kind, value) in std::iter::once(&text).chain(TYPES) {
        let (table, rows) = match *name {
            "text" => ("text_16b".to_owned(), rows),
            name => (format!("{name}_values"), rows / 4),
        };
        execute(
            client,
            &format!("CREATE TABLE {table} (id int, v {kind}, c colcrypt.ciphertext)"),
        );
        execute(
            client,
            &format!(
                "INSERT INTO {table} SELECT id, v, colcrypt.encrypt_col(v, 'gcm', {CONTEXT})
                 FROM (SELECT n::int AS id, {value} AS v FROM generate_series(1, {rows}::bigint) n) s"
            ),
        );
    }
    execute(client, "VACUUM (FREEZE, ANALYZE)");
}

/// Random bytes do not compress, so the peers' side is not slowed by TOAST trying.
fn fill_size(client: &mut Client, size: (&str, usize, i64), rows: i64, sodium: bool) {
    let (label, bytes, share) = size;
    let rows = if bytes < OUT_OF_LINE {
        rows / share
    } else {
        DISTINCT
    };
    let value = match bytes / 16 {
        1 => "decode(md5(n::text), 'hex')".to_owned(),
        parts => format!(
            "(SELECT string_agg(decode(md5(n::text || ' ' || i), 'hex'), '') FROM generate_series(1, {parts}) i)"
        ),
    };
    let make = |name: &str, column: &str, kind: &str, sql: &str| {
        format!(
            "CREATE TABLE {name}_{label} (id int, {column} {kind}); ALTER TABLE {name}_{label} ALTER {column} SET STORAGE EXTERNAL;
             INSERT INTO {name}_{label} SELECT {sql}"
        )
    };
    let from = |call: &str| format!("id, {call} FROM plain_{label}");
    let mut tables = vec![
        make(
            "plain",
            "v",
            "bytea",
            &format!("n, {value} FROM generate_series(1, {rows}) n"),
        ),
        make("pgcrypto", "p", "bytea", &from(&pgcrypto("encrypt", "v"))),
    ];
    for (name, key) in [("ours", "gcm"), ("xaes", "xaes")] {
        let sql = from(&format!("colcrypt.encrypt_col(v, '{key}', {CONTEXT})"));
        tables.push(make(name, "c", "colcrypt.ciphertext", &sql));
    }
    if sodium {
        tables.push(make(
            "pgsodium",
            "p",
            "bytea",
            &from(&pgsodium("encrypt", "v")),
        ));
    }
    for sql in tables {
        execute(client, &sql);
    }
}

/// pgsodium, where the server has it: it is measured beside the others then.
pub fn has_sodium(client: &mut Client) -> bool {
    let found = client
        .query(
            "SELECT FROM pg_available_extensions WHERE name = 'pgsodium'",
            &[],
        )
        .expect("the extensions");
    if found.is_empty() {
        return false;
    }
    execute(client, "CREATE EXTENSION pgsodium");
    true
}

pub fn execute(client: &mut Client, sql: &str) {
    client
        .batch_execute(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
