//! A database of another encoding than UTF-8, where names may be no UTF-8.

use crate::common::{Sql, cluster, make_key, unique};

#[test]
fn names_that_are_no_utf8_stop_nobody_who_has_nothing_encrypted() {
    let name = unique("latin1");
    cluster().client().run(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let mut client = cluster().client_db(&name);
    let c = &mut client;
    make_key(cluster(), c);
    c.run("SET search_path = public, colcrypt");
    c.run(
        "CREATE TABLE plain (id int PRIMARY KEY, \"ä\" int CHECK (\"ä\" > 0));
         ALTER TABLE plain RENAME COLUMN id TO \"ü\"; ALTER TABLE plain RENAME COLUMN \"ü\" TO \"ö\";
         ALTER TABLE plain RENAME TO \"größe\"; CREATE SCHEMA \"für\"; ALTER TABLE \"größe\" SET SCHEMA \"für\";
         ALTER SCHEMA \"für\" RENAME TO \"fürs\"; CREATE TYPE \"maß\" AS ENUM ('klein'); ALTER TYPE \"maß\" RENAME TO \"maße\";
         CREATE VIEW \"sicht\" AS SELECT \"ö\" FROM \"fürs\".\"größe\"; CREATE INDEX \"für größe\" ON \"fürs\".\"größe\" (\"ö\");
         CREATE TABLE bound (id int PRIMARY KEY, \"ö\" int, v ciphertext);
         SELECT register_column('bound', 'v', 'k'); CREATE TABLE other (id int PRIMARY KEY, v ciphertext);
         SELECT register_column('other', 'v', 'k'); SELECT create_access_view('other');
         INSERT INTO other_access (id, v) VALUES (1, 'Grüße');
         ALTER TABLE bound RENAME COLUMN \"ö\" TO \"ä\"; ALTER TABLE other RENAME COLUMN v TO w",
    );
    assert_eq!(c.one("SELECT v FROM other_access"), "Grüße");
    // What we are asked about such names is refused in words.
    for asked in [
        "SELECT create_key('schlüssel', 'ring')",
        "SELECT * FROM explain_search($$SELECT FROM other_access WHERE v = 'Grüße'$$)",
    ] {
        let said = c.fails("22023", asked);
        assert!(said.message.ends_with("is no UTF-8"), "{said:?}");
    }
}
