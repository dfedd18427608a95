//! Keys as tests use and limit them.

use postgres::Client;

use crate::db::{Db, Sql, db};

/// Every version's state: "1 deactivated, 2 active".
pub fn states(client: &mut Client) -> String {
    client.one(
        "SELECT string_agg(version || ' ' || state, ', ' ORDER BY version) FROM colcrypt.key_status WHERE key = 'k'",
    )
}

pub fn encrypt(rows: u32) -> String {
    format!(
        "SELECT count(colcrypt.encrypt_col('v' || g, 'k')::bytea) FROM generate_series(1, {rows}) g"
    )
}

/// The most that version 1 of `k` may encrypt: 85 %.
pub fn bound(db: &mut Db, bound: u32) {
    db.client
        .run(&format!("SELECT set_usage_bound('k', {bound})"));
}

/// Table `t` with one value that everybody may select.
pub fn table_to_read() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE TABLE t AS SELECT encrypt_col('hush', 'k') AS v;
         GRANT SELECT ON t TO PUBLIC",
    );
    db
}

pub fn may_encrypt(client: &mut Client) -> bool {
    allowed(client, "SELECT colcrypt.encrypt_col('x', 'k')", "encrypt")
}

pub fn may_decrypt(client: &mut Client) -> bool {
    allowed(client, "SELECT colcrypt.decrypt_col(v) FROM t", "decrypt")
}

/// Whether a statement runs; if not, it must be for want of this privilege.
pub fn allowed(client: &mut Client, sql: &str, privilege: &str) -> bool {
    match client.simple_query(sql) {
        Ok(_) => true,
        Err(error) => {
            let db = error.as_db_error().expect("a server error");
            assert_eq!(db.code().code(), "42501", "{db:?}");
            assert_eq!(
                db.message(),
                format!("permission denied to {privilege} with key \"k\"")
            );
            assert!(db.hint().unwrap_or_default().contains("grant_key"));
            assert!(!format!("{db:?}").contains("hush"), "{db:?}");
            false
        }
    }
}
