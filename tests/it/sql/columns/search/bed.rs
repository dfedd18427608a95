//! Tables with search indexes, and ways to look at what these are used for.

use postgres::Client;

use crate::common::{Db, LONG, Sql, db};
use colcrypt_tests::wait_for;

/// A search index, as a test asks for one.
#[derive(Clone, Copy)]
pub struct Index {
    pub table: &'static str,
    pub column: &'static str,
    /// The column decrypted.
    pub value: &'static str,
    pub class: &'static str,
    pub normalise: &'static str,
    /// Of a search domain, by its name.
    pub domain: Option<&'static str>,
    pub bits: u16,
}

impl Index {
    pub const fn of(
        table: &'static str,
        column: &'static str,
        value: &'static str,
        class: &'static str,
    ) -> Self {
        Self {
            table,
            column,
            value,
            class,
            normalise: "{}",
            domain: None,
            bits: 256,
        }
    }

    pub const fn in_domain(self, domain: &'static str) -> Self {
        Self {
            domain: Some(domain),
            ..self
        }
    }
}

/// The search key `s`; a trigger function that sets companions to what its arguments say.
const KEYS: &str = "
    SELECT create_key('s', 'ring', suite => 'hmac-sha-256');
    CREATE FUNCTION colcrypt.keep_terms() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, colcrypt AS $$
    DECLARE made jsonb;
    BEGIN
        FOR at IN 0 .. TG_NARGS / 2 - 1 LOOP
            EXECUTE format('SELECT to_jsonb(%s) FROM (SELECT ($1).*) AS t', TG_ARGV[2 * at + 1]) USING NEW INTO made;
            NEW := jsonb_populate_record(NEW, jsonb_build_object(TG_ARGV[2 * at], made));
        END LOOP;
        RETURN NEW;
    END $$;
    ALTER EXTENSION colcrypt ADD FUNCTION colcrypt.keep_terms();
    CREATE TABLE kept (relation regclass, nr serial, companion text, term text)";

pub fn keys(client: &mut Client) {
    client.run(KEYS);
}

/// Makes an index, fills it, and waits until every snapshot sees that.
pub fn add(client: &mut Client, index: &Index) {
    let Index {
        table,
        column,
        value,
        class,
        normalise,
        domain,
        bits,
    } = *index;
    let domain = match domain {
        None => "NULL".to_owned(),
        Some(name) => {
            client.run(&format!(
                "INSERT INTO colcrypt.search_domain (name, key_id, class, normaliser_version, unicode_version, bits) \
                 SELECT '{name}', key_id, '{class}', 1, '17.0.0', {bits} FROM colcrypt.key WHERE name = 's' ON CONFLICT DO NOTHING"
            ));
            format!("(SELECT domain_id FROM colcrypt.search_domain WHERE name = '{name}')")
        }
    };
    let companion = format!("{column}_term");
    let term = format!(
        "search_term(''{table}'', ''{column}'', {}, 1)",
        value.replace('\'', "''")
    );
    client.run(&format!(
        "INSERT INTO colcrypt.search_index (relation, attribute, kind, class, normalise, normaliser_version, unicode_version, key_id, domain_id, bits) \
         SELECT '{table}', '{column}', 'equality', '{class}', '{normalise}', 1, '17.0.0', key_id, {domain}, {bits} FROM colcrypt.key WHERE name = 's';
         INSERT INTO colcrypt.search_companion (search_index_id, key_version, attribute) \
         SELECT search_index_id, 1, '{companion}' FROM colcrypt.search_index WHERE relation = '{table}'::regclass AND attribute = '{column}';
         ALTER TABLE {table} ADD COLUMN {companion} bytea;
         INSERT INTO kept (relation, companion, term) VALUES ('{table}', '{companion}', '{term}');
         DO $$ DECLARE arguments text; BEGIN
             SELECT string_agg(format('%L, %L', companion, term), ', ') INTO arguments FROM kept WHERE relation = '{table}'::regclass;
             EXECUTE format('CREATE OR REPLACE TRIGGER \"~colcrypt:terms\" BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION colcrypt.keep_terms(%s)', arguments);
         END $$;
         ALTER TABLE {table} ENABLE ALWAYS TRIGGER \"~colcrypt:terms\";
         UPDATE {table} SET {companion} = NULL;
         CREATE INDEX ON {table} ({companion});
         ANALYZE {table}"
    ));
    client.run(&format!(
        "UPDATE colcrypt.search_companion SET state = 'ready', ready_xid = pg_current_xact_id(), ready_at = now() WHERE attribute = '{companion}'"
    ));
    wait_until_seen(client);
}

/// Until the snapshots of all see what was made: others of the cluster may hold on to older ones.
pub fn wait_until_seen(client: &mut Client) {
    wait_for("every snapshot to see the terms", LONG, || {
        client.yes("SELECT pg_snapshot_xmin(pg_current_snapshot()) > max(ready_xid) FROM colcrypt.search_companion")
    });
}

/// Two tables whose encrypted columns are found by terms, and their views.
pub fn shop() -> Db {
    let mut db = db();
    keys(&mut db.client);
    db.client.run(
        "CREATE TABLE customer (id int PRIMARY KEY, city text, boss int, email ciphertext, born ciphertext, score ciphertext, tag ciphertext, note ciphertext);
         SELECT register_column('customer', 'email', 'k', 'colcrypt.row_context(id)', plaintext_type => 'varchar(40)'),
                register_column('customer', 'born', 'k', 'colcrypt.row_context(id)', plaintext_type => 'date'),
                register_column('customer', 'score', 'k', 'none', plaintext_type => 'numeric(10,2)'),
                register_column('customer', 'tag', 'k', 'none', plaintext_type => 'char(6)'),
                register_column('customer', 'note', 'k', 'none');
         SELECT create_access_view('customer');
         INSERT INTO customer_access (id, city, boss, email, born, score, tag, note)
         SELECT n, (ARRAY['Rome', 'Oslo', 'Bern', NULL])[n % 4 + 1], n / 3, CASE WHEN n % 11 > 0 THEN 'user' || n % 50 || '@example.org' END,
                date '1990-01-01' + n % 90, CASE WHEN n % 7 > 0 THEN (n % 60) * 1.5 END, 't' || n % 40, 'note ' || n % 25
         FROM generate_series(1, 100) n;
         CREATE TABLE letter (id int PRIMARY KEY, sender ciphertext, plain text, sent date);
         SELECT register_column('letter', 'sender', 'k', 'none');
         SELECT create_access_view('letter');
         INSERT INTO letter_access (id, sender, plain, sent)
         SELECT n, CASE WHEN n % 5 > 0 THEN 'user' || n % 200 || '@example.org' END, CASE WHEN n % 6 > 0 THEN 'user' || n % 170 || '@example.org' END, date '1990-01-01' + n % 100
         FROM generate_series(1, 60) n",
    );
    for index in INDEXES {
        add(&mut db.client, index);
    }
    db
}

const INDEXES: &[Index] = &[
    Index::of(
        "customer",
        "email",
        "decrypt_col(email, NULL::text, row_context(id))",
        "text",
    )
    .in_domain("people"),
    Index::of(
        "customer",
        "born",
        "decrypt_col(born, NULL::date, row_context(id))",
        "date",
    ),
    Index::of(
        "customer",
        "score",
        "decrypt_col(score, NULL::numeric)",
        "numeric",
    ),
    Index::of(
        "customer",
        "tag",
        "decrypt_col(tag, NULL::bpchar)",
        "bpchar",
    ),
    Index::of(
        "letter",
        "sender",
        "decrypt_col(sender, NULL::text)",
        "text",
    )
    .in_domain("people"),
];

/// A statement's plan, without costs.
pub fn plan(client: &mut Client, sql: &str) -> String {
    let rows = client.rows(&format!("EXPLAIN (COSTS OFF) {sql}"));
    let lines: Vec<String> = rows
        .into_iter()
        .filter_map(|mut row| row.remove(0))
        .collect();
    lines.join("\n")
}
