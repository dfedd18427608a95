//! What a thief of the disk sees: the tables as they are dumped, without any key. Equal values are told where the
//! chosen kind says so, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Db, Sql, db, wait_for_jobs};

/// Every cell of a table as a dump has it, by column.
fn stolen(db: &mut Db, table: &str) -> BTreeMap<String, Vec<Option<String>>> {
    let names = db.client.rows(&format!(
        "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ));
    let rows = db
        .client
        .rows(&format!("SELECT * FROM {table} ORDER BY id"));
    names
        .into_iter()
        .enumerate()
        .map(|(at, name)| {
            let cells = rows.iter().map(|row| row[at].clone()).collect();
            (name[0].clone().expect("a name"), cells)
        })
        .collect()
}

/// Pairs of rows whose cells are the same.
fn equal_pairs(cells: &[Option<String>]) -> BTreeSet<(usize, usize)> {
    let mut pairs = BTreeSet::new();
    for one in 0..cells.len() {
        for other in one + 1..cells.len() {
            if cells[one].is_some() && cells[one] == cells[other] {
                pairs.insert((one, other));
            }
        }
    }
    pairs
}

/// The terms of each row's array.
fn arrays(cells: &[Option<String>]) -> Vec<BTreeSet<String>> {
    cells
        .iter()
        .map(|cell| {
            let list = cell.as_deref().unwrap_or("{}").trim_matches(['{', '}']);
            list.split(',')
                .filter(|term| !term.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

/// Two tables of the same people: values of which some are equal, found by each kind of index or by none.
fn city() -> Db {
    let mut db = db();
    db.client.run(
        "SELECT create_key('s', 'ring', 'hmac-sha-256');
         CREATE TABLE plain AS SELECT n AS id, 'town ' || n % 7 AS town, 'name ' || n % 11 AS name, '2000-01-01'::date + n % 13 * 100 AS born
             FROM generate_series(1, 60) n",
    );
    for table in ["one", "two"] {
        db.client.run(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, none ciphertext, town ciphertext, short ciphertext, name ciphertext, born ciphertext);
             SELECT register_column('{table}', c, 'k') FROM unnest('{{none,town,short,name}}'::name[]) c;
             SELECT register_column('{table}', 'born', 'k', plaintext_type => 'date');
             SELECT create_access_view('{table}');
             INSERT INTO {table}_access SELECT id, town, town, town, name, born FROM plain;
             SELECT create_search_index('{table}', 'town', key => 's'),
                    create_search_index('{table}', 'short', key => 's', bits => 8),
                    create_search_index('{table}', 'name', kind => 'text', key => 's'),
                    create_search_index('{table}', 'born', kind => 'range', key => 's')"
        ));
    }
    wait_for_jobs(&mut db.client);
    db
}

#[test]
fn equal_values_are_told_only_where_the_kind_says_so() {
    let mut db = city();
    let plain = stolen(&mut db, "plain");
    let one = stolen(&mut db, "one");
    let two = stolen(&mut db, "two");
    // Ciphertexts tell nothing of each other, whatever index is beside them.
    for column in ["none", "town", "short", "name", "born"] {
        assert!(equal_pairs(&one[column]).is_empty(), "{column}");
        let both: BTreeSet<_> = one[column].iter().chain(&two[column]).collect();
        assert_eq!(both.len(), 120, "{column}");
    }
    // Nothing was added for a column without an index.
    assert!(
        !one.keys().any(|name| name.starts_with("none_")),
        "{:?}",
        one.keys()
    );
    // Equality, of full length: exactly which are equal.
    assert_eq!(equal_pairs(&one["town_term"]), equal_pairs(&plain["town"]));
    // Truncated: those, and others among them, now and then.
    let told = equal_pairs(&one["short_term"]);
    assert!(told.is_superset(&equal_pairs(&plain["town"])));
    assert!(
        one["short_term"]
            .iter()
            .flatten()
            .all(|term| term.len() == 4)
    );
    // Range: which are near, and so which are equal to the day.
    let intervals = arrays(&one["born_range"]);
    for (pair, same) in [((0, 13), true), ((0, 1), false)] {
        assert_eq!(intervals[pair.0] == intervals[pair.1], same, "{pair:?}");
    }
    assert!(
        !intervals[0].is_disjoint(&intervals[1]),
        "of one generation"
    );
    // Text: which have letters in common.
    let grams = arrays(&one["name_grams"]);
    assert_eq!(grams[0], grams[11]);
    assert!(grams[0] != grams[1] && !grams[0].is_disjoint(&grams[1]));
}

#[test]
fn terms_of_two_columns_have_nothing_in_common_outside_a_domain() {
    let mut db = city();
    let one = stolen(&mut db, "one");
    let two = stolen(&mut db, "two");
    let all = |table: &BTreeMap<String, Vec<Option<String>>>, column: &str| -> BTreeSet<String> {
        match column {
            "town_term" => table[column].iter().flatten().cloned().collect(),
            _ => arrays(&table[column]).into_iter().flatten().collect(),
        }
    };
    for column in ["town_term", "name_grams", "born_range"] {
        assert!(
            all(&one, column).is_disjoint(&all(&two, column)),
            "{column} of two tables under one key"
        );
    }
    assert!(all(&one, "name_grams").is_disjoint(&all(&one, "born_range")));
}

#[test]
fn a_thief_of_terms_finds_no_plaintext_in_table_index_or_statistics() {
    let mut db = city();
    db.client.run("ANALYZE one");
    for sql in [
        "SELECT count(*) FROM one WHERE one::text ~ 'town [0-9]|name [0-9]|2000-'",
        "SELECT count(*) FROM pg_statistic s WHERE starelid = 'one'::regclass
         AND concat_ws(' ', stavalues1::text, stavalues2::text, stavalues3::text, stavalues4::text, stavalues5::text) ~ 'town|name |2000-'",
    ] {
        assert_eq!(db.client.number(sql), 0, "{sql}");
    }
}
