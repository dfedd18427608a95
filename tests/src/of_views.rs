//! Access views as tests make them and look at them.

use postgres::Client;

use crate::db::{Db, Sql, db, role};

/// Table `person`, two encrypted columns bound to the row, and its view.
pub fn people() -> Db {
    let mut db = db();
    db.client.run(
        "CREATE TABLE person (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL DEFAULT 'nobody',
             iban ciphertext, born ciphertext, size int GENERATED ALWAYS AS (length(name)) STORED);
         COMMENT ON COLUMN person.iban IS 'where the money goes';
         SELECT register_column('person', 'iban', 'k', 'colcrypt.row_context(id)'),
                register_column('person', 'born', 'k', 'colcrypt.row_context(id, name)', plaintext_type => 'date')",
    );
    assert_eq!(
        db.client.one("SELECT create_access_view('person')"),
        "person_access"
    );
    db
}

pub fn fill(client: &mut Client) {
    client.run(
        "INSERT INTO person_access (name, iban, born) VALUES ('Ann', 'IBAN1', '2000-01-02'), ('Bob', 'IBAN2', NULL)",
    );
}

pub const ALL: &str = "SELECT string_agg(concat_ws(' ', id, name, coalesce(iban, '-'), coalesce(born::text, '-'), size), ', ' ORDER BY id) FROM person_access";

/// The row's two ciphertexts, to see whether they were written anew.
pub fn stored(client: &mut Client, id: u32) -> Vec<Option<String>> {
    client
        .rows(&format!("SELECT iban, born FROM person WHERE id = {id}"))
        .remove(0)
}

/// A role that may do everything with table and view, and has these rights on the key.
pub fn user_with(db: &mut Db, privileges: &str) -> (String, Client) {
    let name = role(&mut db.client);
    db.client.run(&format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {name};
         SELECT grant_key('k', '{name}', '{privileges}')"
    ));
    let client = db.connect_as(&name);
    (name, client)
}
