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

const PGCRYPTO_KEY: &str =
    r"'\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f'::bytea";

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

/// Every case. A table has the plaintext in `v`, our ciphertext in `c`, pgcrypto's in `p`, XAES ciphertext in `x`;
/// each in a table of its own, so that all pay for the same scan.
pub fn all(rows: i64) -> Vec<Case> {
    let mut cases = Vec::new();
    for size in ["16b", "16k"] {
        // A value out of line must be fetched first, which costs more than its decryption and is the
        // same for all: large values are in memory already, a few of them over and over.
        let table = |kind: &str, column: &str, fetched: &str| match size {
            "16k" => format!(
                "(SELECT {fetched} AS {column} FROM {kind}_16k LIMIT 64) s, generate_series(1, {})",
                (rows / 2000).max(1)
            ),
            _ => format!("{kind}_{size}"),
        };
        let plain = table("plain", "v", "v || ''");
        let pgcrypto = table("pgcrypto", "p", "p || ''");
        let ours = table("ours", "c", "(c::bytea || '')::colcrypt.ciphertext");
        cases.push(Case::new(
            format!("enc_{size}_pgcrypto"),
            plain.clone(),
            "v",
            format!("encrypt(v, {PGCRYPTO_KEY}, 'aes')"),
        ));
        cases.push(Case::new(
            format!("enc_{size}"),
            plain.clone(),
            "v",
            "colcrypt.encrypt_col(v, 'gcm')",
        ));
        cases.push(Case::new(
            format!("dec_{size}_pgcrypto"),
            pgcrypto,
            "p",
            format!("decrypt(p, {PGCRYPTO_KEY}, 'aes')"),
        ));
        cases.push(Case::new(
            format!("dec_{size}"),
            ours,
            "c",
            "colcrypt.decrypt_col(c, NULL::bytea)",
        ));
    }
    cases.push(Case::new(
        "enc_16b_xaes",
        "plain_16b",
        "v",
        "colcrypt.encrypt_col(v, 'xaes')",
    ));
    cases.push(Case::new(
        "dec_16b_xaes",
        "xaes_16b",
        "x",
        "colcrypt.decrypt_col(x, NULL::bytea)",
    ));
    cases.push(Case::new(
        "enc_text",
        "text_16b",
        "v",
        "colcrypt.encrypt_col(v, 'gcm')",
    ));
    cases.push(Case::new(
        "dec_text",
        "text_16b",
        "c",
        "colcrypt.decrypt_col(c)",
    ));
    for (name, kind, _) in TYPES {
        let table = format!("{name}_values");
        cases.push(Case::new(
            format!("enc_{name}"),
            table.clone(),
            "v",
            "colcrypt.encrypt_col(v, 'gcm')",
        ));
        cases.push(Case::new(
            format!("dec_{name}"),
            table,
            "c",
            format!("colcrypt.decrypt_col(c, NULL::{kind})"),
        ));
    }
    cases
}

/// The names of the types compared with text.
pub fn types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(name, _, _)| *name)
}

/// Keys and tables.
pub fn fill(client: &mut Client, cluster: &Cluster, rows: i64) {
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

    // Random bytes do not compress, so pgcrypto's side is not slowed by TOAST trying.
    let sizes = [
        ("16b", rows, "decode(md5(n::text), 'hex')".to_owned()),
        (
            "16k",
            (rows / 100).max(100),
            "(SELECT string_agg(decode(md5(n::text || ' ' || i), 'hex'), '') FROM generate_series(1, 1024) i)".to_owned(),
        ),
    ];
    for (size, rows, value) in sizes {
        for (kind, column) in [
            ("plain", "v bytea"),
            ("ours", "c colcrypt.ciphertext"),
            ("pgcrypto", "p bytea"),
        ] {
            execute(client, &format!("CREATE TABLE {kind}_{size} ({column})"));
        }
        execute(
            client,
            &format!(
                "ALTER TABLE plain_{size} ALTER v SET STORAGE EXTERNAL;
                 ALTER TABLE pgcrypto_{size} ALTER p SET STORAGE EXTERNAL"
            ),
        );
        execute(
            client,
            &format!("INSERT INTO plain_{size} SELECT {value} FROM generate_series(1, {rows}) n"),
        );
        execute(
            client,
            &format!(
                "INSERT INTO ours_{size} SELECT colcrypt.encrypt_col(v, 'gcm') FROM plain_{size}"
            ),
        );
        execute(
            client,
            &format!(
                "INSERT INTO pgcrypto_{size} SELECT encrypt(v, {PGCRYPTO_KEY}, 'aes') FROM plain_{size}"
            ),
        );
    }
    execute(client, "CREATE TABLE xaes_16b (x colcrypt.ciphertext)");
    execute(
        client,
        "INSERT INTO xaes_16b SELECT colcrypt.encrypt_col(v, 'xaes') FROM plain_16b",
    );
    let text = ("text", "text", "left(md5(n::text), 16)");
    for (name, kind, value) in std::iter::once(&text).chain(TYPES) {
        let (table, rows) = match *name {
            "text" => ("text_16b".to_owned(), rows),
            name => (format!("{name}_values"), rows / 4),
        };
        execute(
            client,
            &format!("CREATE TABLE {table} (v {kind}, c colcrypt.ciphertext)"),
        );
        execute(
            client,
            &format!(
                "INSERT INTO {table} SELECT v, colcrypt.encrypt_col(v, 'gcm')
                 FROM (SELECT {value} AS v FROM generate_series(1, {rows}::bigint) n) s"
            ),
        );
    }
    execute(client, "VACUUM (FREEZE, ANALYZE)");
}

fn execute(client: &mut Client, sql: &str) {
    client
        .batch_execute(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
