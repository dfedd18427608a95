//! What values take on disk: by type, and long texts with and without compression.

use std::fs;
use std::path::Path;

use postgres::Client;

use crate::cases::execute;
use crate::{median, net_ns};

/// A type's values on disk.
pub struct Stored {
    pub name: &'static str,
    pub plain: i64,
    pub encrypted: i64,
}

/// Bytes of a value as it lies in a row, its length word counted.
pub fn by_type(client: &mut Client) -> Vec<Stored> {
    [
        ("int", "42"),
        ("bigint", "42::bigint"),
        ("timestamptz", "timestamptz '2026-01-01 12:00+00'"),
        ("numeric, 12.34", "12.34::numeric"),
        ("uuid", "gen_random_uuid()"),
        ("text, 11 characters", "'Ghent, 9000'::text"),
        ("text, 34 characters", "'DE89 3704 0044 0532 0130 00 / main'::text"),
        ("jsonb, two members", "jsonb_build_object('id', 7, 'city', 'Ghent')"),
    ]
    .map(|(name, value)| {
        execute(
            client,
            &format!(
                "DROP TABLE IF EXISTS stored;
                 CREATE TABLE stored AS SELECT {value} AS v, colcrypt.encrypt_col({value}, 'gcm') AS c"
            ),
        );
        let row = client
            .query_one("SELECT pg_column_size(v)::bigint, pg_column_size(c)::bigint FROM stored", &[])
            .expect("sizes");
        Stored {
            name,
            plain: row.get(0),
            encrypted: row.get(1),
        }
    })
    .into()
}

/// Real text: this project's own documents, in pieces.
pub struct Text {
    pub pieces: i64,
    /// Bytes of all pieces; as TOAST stores them; encrypted; compressed and encrypted.
    pub raw: i64,
    pub toasted: i64,
    pub encrypted: i64,
    pub compressed: i64,
    /// Nanoseconds a piece: encrypt and decrypt, without compression and with.
    pub cost: [f64; 4],
}

const PIECE: usize = 3000;

pub fn text(client: &mut Client, repository: &Path, rounds: usize) -> Text {
    eprintln!("long texts…");
    execute(
        client,
        "SELECT colcrypt.create_key('packed', 'bench'), colcrypt.set_compression('packed', 'lz4');
         CREATE TABLE document (v text)",
    );
    let pages = fs::read_dir(repository.join("docs")).expect("the documents");
    for page in pages.filter_map(|entry| Some(entry.ok()?.path())) {
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let characters: Vec<char> = fs::read_to_string(&page).expect("a page").chars().collect();
        for piece in characters.chunks(PIECE) {
            let piece: String = piece.iter().collect();
            client
                .execute("INSERT INTO document VALUES ($1)", &[&piece])
                .expect("a piece");
        }
    }
    execute(
        client,
        "CREATE TABLE encrypted_document AS SELECT colcrypt.encrypt_col(v, 'gcm') AS c FROM document;
         CREATE TABLE packed_document AS SELECT colcrypt.encrypt_col(v, 'packed') AS c FROM document",
    );
    let sizes = client
        .query_one(
            "SELECT count(*), sum(octet_length(v)), sum(pg_column_size(v))::bigint,
                    (SELECT sum(pg_column_size(c)) FROM encrypted_document)::bigint,
                    (SELECT sum(pg_column_size(c)) FROM packed_document)::bigint FROM document",
            &[],
        )
        .expect("sizes");
    let pieces: i64 = sizes.get(0);
    let mut time = |call: &str, table: &str, column: &str, fetched: &str| {
        let from = format!(
            "FROM (SELECT {fetched} AS {column} FROM {table} OFFSET 0) s, generate_series(1, 40)"
        );
        let full = format!("SELECT count({call}) {from}");
        let bare = format!("SELECT count({column}) {from}");
        let samples = (0..=rounds).map(|_| net_ns(client, &full, &bare, pieces * 40));
        median(samples.skip(1).collect())
    };
    let fetched = "(c::bytea || '')::colcrypt.ciphertext";
    let cost = [
        time("colcrypt.encrypt_col(v, 'gcm')", "document", "v", "v || ''"),
        time(
            "colcrypt.decrypt_col(c)",
            "encrypted_document",
            "c",
            fetched,
        ),
        time(
            "colcrypt.encrypt_col(v, 'packed')",
            "document",
            "v",
            "v || ''",
        ),
        time("colcrypt.decrypt_col(c)", "packed_document", "c", fetched),
    ];
    Text {
        pieces,
        raw: sizes.get(1),
        toasted: sizes.get(2),
        encrypted: sizes.get(3),
        compressed: sizes.get(4),
        cost,
    }
}
