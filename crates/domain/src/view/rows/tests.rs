use proptest::prelude::*;

use super::*;
use crate::sql_text::{Token, tokens};
use crate::view::tests::{encrypted, plain};

fn view(columns: Vec<ViewColumn>) -> ViewRows {
    let names: Vec<String> = columns.iter().map(ViewColumn::quoted).collect();
    let parts = [["id", "pg_catalog", "="].map(String::from)];
    let key = row_key(&parts, &columns, &names);
    ViewRows::new("t", "s.t".into(), columns, names, key)
}

fn of(context: Option<&str>) -> ViewRows {
    view(vec![plain(1, "id"), encrypted(2, "iban", context)])
}

/// The highest parameter that a statement has.
fn parameters(sql: &str) -> usize {
    let numbers = tokens(sql).into_iter().filter_map(|token| match token {
        Token::Number(text) => text.strip_prefix('$')?.parse().ok(),
        _ => None,
    });
    numbers.max().unwrap_or(0)
}

fn steps(columns: &[ViewColumn]) -> Vec<Step> {
    vec![
        Step::Current,
        Step::There,
        Step::Unchanged,
        Step::Compute(Operation::Insert),
        Step::Compute(Operation::Update),
        Step::Compute(Operation::Delete),
        Step::Insert(Returned::All),
        Step::Insert(Returned::Plain),
        Step::Insert(Returned::Nothing),
        Step::Update(vec![true; columns.len()], Returned::All),
        Step::Update(vec![true; columns.len()], Returned::Plain),
        Step::Delete,
        Step::Shown(vec![
            true;
            columns
                .iter()
                .filter(|column| column.encrypted.is_some())
                .count()
        ]),
    ]
}

#[test]
fn a_row_is_found_by_its_key_and_nothing_else() {
    let it = of(None);
    assert_eq!(
        it.sql(&Step::There).unwrap(),
        "SELECT FROM s.t WHERE id OPERATOR(pg_catalog.=) ($1).id"
    );
    assert_eq!(
        it.sql(&Step::Current).unwrap(),
        "SELECT iban::colcrypt.ciphertext FROM s.t WHERE id OPERATOR(pg_catalog.=) ($1).id"
    );
}

#[test]
fn without_a_key_only_rows_that_are_new_are_written() {
    let columns = vec![plain(1, "id"), encrypted(2, "iban", None)];
    let names: Vec<String> = columns.iter().map(ViewColumn::quoted).collect();
    assert_eq!(row_key(&[], &columns, &names), None);
    let unseen = [["other", "pg_catalog", "="].map(String::from)];
    assert_eq!(row_key(&unseen, &columns, &names), None);
    let it = ViewRows::new("t", "s.t".into(), columns, names, None);
    for step in steps(&it.columns) {
        let writes_new = matches!(step, Step::Compute(_) | Step::Insert(_) | Step::Shown(_));
        assert_eq!(it.sql(&step).is_ok(), writes_new, "{step:?}");
    }
}

#[test]
fn what_is_written_has_not_changed_since_it_was_read() {
    let it = of(Some("row_context(id)"));
    let unchanged = "(ROW(id, iban::colcrypt.ciphertext::pg_catalog.bytea)::pg_catalog.record OPERATOR(pg_catalog.*=) \
                     ROW(($1).id, $3::pg_catalog.bytea)::pg_catalog.record)";
    for step in [
        Step::Update(vec![false, true], Returned::Plain),
        Step::Delete,
        Step::Unchanged,
    ] {
        assert!(it.sql(&step).unwrap().contains(unchanged), "{step:?}");
    }
}

#[test]
fn an_update_sets_what_has_changed() {
    let it = of(None);
    let sql = it
        .sql(&Step::Update(vec![false, true], Returned::Plain))
        .unwrap();
    assert!(sql.starts_with("UPDATE s.t SET iban = $4 WHERE "), "{sql}");
    assert!(sql.ends_with(" RETURNING id, NULL"), "{sql}");
    let sql = it
        .sql(&Step::Update(vec![true, false], Returned::All))
        .unwrap();
    assert!(
        sql.ends_with(" RETURNING id, iban::colcrypt.ciphertext"),
        "{sql}"
    );
    assert!(
        sql.starts_with("UPDATE s.t SET id = ($2).id WHERE "),
        "{sql}"
    );
}

#[test]
fn an_insert_encrypts_by_itself_where_no_context_is_somebodys_code() {
    let plainly = of(None);
    assert!(!plainly.has_expressions());
    assert_eq!(
        plainly.sql(&Step::Insert(Returned::Nothing)).unwrap(),
        "INSERT INTO s.t (id, iban) OVERRIDING SYSTEM VALUE VALUES (($2).id, colcrypt.encrypt_col(($2).iban, 'k'))"
    );
    // What its table may change is compared with what was given.
    assert_eq!(
        plainly.sql(&Step::Insert(Returned::All)).unwrap(),
        "INSERT INTO s.t (id, iban) OVERRIDING SYSTEM VALUE VALUES (($2).id, $4) RETURNING id, iban::colcrypt.ciphertext"
    );
    let bound = of(Some("row_context(id)"));
    assert!(bound.has_expressions());
    assert_eq!(
        bound.sql(&Step::Insert(Returned::Plain)).unwrap(),
        "INSERT INTO s.t (id, iban) OVERRIDING SYSTEM VALUE VALUES (($2).id, $4) RETURNING id, NULL"
    );
    assert_eq!(
        bound.sql(&Step::Compute(Operation::Insert)).unwrap(),
        "SELECT colcrypt.encrypt_col(($2).iban, 'k', \
         (SELECT (row_context(id))::pg_catalog.bytea FROM (SELECT ($2).id AS id) AS t))"
    );
}

#[test]
fn what_the_table_generates_is_not_inserted_and_no_part_of_a_context() {
    let generated = ViewColumn {
        is_generated: true,
        ..plain(3, "sum")
    };
    let it = view(vec![
        plain(1, "id"),
        encrypted(2, "iban", Some("f(id)")),
        generated,
    ]);
    let insert = it.sql(&Step::Insert(Returned::Nothing)).unwrap();
    assert!(
        insert.starts_with("INSERT INTO s.t (id, iban) "),
        "{insert}"
    );
    let computed = it.sql(&Step::Compute(Operation::Insert)).unwrap();
    assert!(!computed.contains("sum"), "{computed}");
}

#[test]
fn what_the_table_changed_is_shown_to_who_may_read_it() {
    assert_eq!(
        of(Some("f(id)")).sql(&Step::Shown(vec![true])).unwrap(),
        "SELECT (CASE WHEN colcrypt.may_read_column('s.t'::pg_catalog.regclass, 'iban'::pg_catalog.name) \
         AND colcrypt.has_key_privilege('k', 'decrypt') THEN colcrypt.decrypt_col($3, NULL::text, \
         (SELECT (f(id))::pg_catalog.bytea FROM (SELECT ($2).id AS id) AS t)) END)::text"
    );
    assert_eq!(
        of(None).sql(&Step::Shown(vec![false])).unwrap(),
        "SELECT NULL"
    );
}

#[test]
fn a_value_is_encrypted_again_only_if_it_or_its_context_changed() {
    let sql = of(Some("f(id)"))
        .sql(&Step::Compute(Operation::Update))
        .unwrap();
    assert!(
        sql.contains("$3 IS NOT NULL AND x0.o IS DISTINCT FROM x0.n"),
        "{sql}"
    );
    // Who does not see the value keeps it: what is stored is decrypted and encrypted, not what he was shown.
    assert!(
        sql.contains(
            "THEN ($2).iban ELSE colcrypt.decrypt_col($3, NULL::text, x0.o) END, 'k', x0.n) END"
        ),
        "{sql}"
    );
    let sql = of(None).sql(&Step::Compute(Operation::Update)).unwrap();
    assert!(!sql.contains(" FROM "), "{sql}");
}

proptest! {
    /// The plans are prepared with two rows and two ciphertexts for each encrypted column.
    #[test]
    fn no_step_asks_for_a_parameter_that_there_is_not(kinds in proptest::collection::vec(0_u8..4, 0..6)) {
        let mut columns = vec![plain(1, "id")];
        for (at, kind) in kinds.iter().enumerate() {
            let (number, name) = (at as i16 + 2, format!("Col {at}"));
            columns.push(match kind {
                0 => plain(number, &name),
                1 => encrypted(number, &name, None),
                2 => encrypted(number, &name, Some("f(id)")),
                _ => ViewColumn { is_generated: true, ..plain(number, &name) },
            });
        }
        let it = view(columns);
        for step in steps(&it.columns) {
            let sql = it.sql(&step).unwrap();
            prop_assert!(parameters(&sql) <= 2 + 2 * it.encrypted.len(), "{}", sql);
        }
    }

    #[test]
    fn no_name_ends_its_quotes(name in "[^\0]{1,30}", key in "[^\0]{1,30}") {
        let mut secret = encrypted(2, &name, None);
        secret.encrypted.as_mut().unwrap().key = KeyOf::Column(key.clone());
        let it = view(vec![plain(1, "id"), secret]);
        let said = tokens(&it.sql(&Step::Insert(Returned::Nothing)).unwrap());
        let named = said.iter().filter(|token| **token == Token::Name(name.clone())).count();
        prop_assert!(named >= 2);
        let keys: Vec<Token> = said.into_iter().filter(|token| matches!(token, Token::Literal(_))).collect();
        prop_assert_eq!(keys, vec![Token::Literal(key)]);
    }
}

#[test]
fn a_row_with_a_key_of_its_own_names_it_wherever_a_value_is_written() {
    let mut secret = encrypted(2, "iban", Some("f(id)"));
    secret.encrypted.as_mut().unwrap().key = KeyOf::Row {
        expression: "'tenant-' || tenant".into(),
        keyring: "tenants".into(),
    };
    let it = view(vec![plain(1, "id"), secret, plain(3, "tenant")]);
    let key = |row: &str| {
        format!(
            "(SELECT ('tenant-' || tenant)::pg_catalog.text FROM (SELECT ({row}).id AS id, ({row}).tenant AS tenant) AS t)"
        )
    };
    assert!(it.hangs_on_search_path());
    assert_eq!(
        it.sql(&Step::Compute(Operation::Insert)).unwrap(),
        format!(
            "SELECT colcrypt.encrypt_for_row(($2).iban, {}, 'tenants', \
             (SELECT (f(id))::pg_catalog.bytea FROM (SELECT ($2).id AS id, ($2).tenant AS tenant) AS t))",
            key("$2")
        )
    );
    let update = it.sql(&Step::Compute(Operation::Update)).unwrap();
    assert!(
        update.contains(
            "$3 IS NOT NULL AND (x0.o IS DISTINCT FROM x0.n OR x0.p IS DISTINCT FROM x0.q)"
        ),
        "{update}"
    );
    assert!(
        update.contains(" END, x0.q, 'tenants', x0.n) END"),
        "{update}"
    );
    assert!(
        update.contains(&format!("{} AS p, {} AS q) AS x0", key("$1"), key("$2"))),
        "{update}"
    );
    let shown = it.sql(&Step::Shown(vec![true])).unwrap();
    assert!(
        shown.contains("has_key_privilege((colcrypt.ciphertext_info($3)).key, 'decrypt')"),
        "{shown}"
    );
}
