//! Who sees what: a clerk may read the table, an officer may decrypt it, a thief has the disk.

use postgres::Client;

use crate::ui::texts;
use crate::{COLUMNS, DATABASE, Demo, KEY, Result, connect, explain};

const SHOWN: usize = 34;

pub fn compare(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui.step("Who sees what");
    client.batch_execute("GRANT SELECT ON customers TO clerk, officer")?;
    client.execute(
        "SELECT colcrypt.grant_key($1::text, 'officer', '{decrypt}')",
        &[&KEY],
    )?;
    demo.ui.line(format!(
        "both may read the table; only officer is granted decrypt on {KEY}"
    ));

    // Three rows in which something is to be seen.
    let ids: Vec<i64> = client
        .query(
            "SELECT id FROM customers_plain WHERE email LIKE '%@%' AND iban <> '' AND birth_date IS NOT NULL
             AND salary IS NOT NULL AND octet_length(notes) BETWEEN 1 AND 1000 ORDER BY id LIMIT 3",
            &[],
        )?
        .iter()
        .map(|row| row.get(0))
        .collect();

    clerk(demo, &ids)?;
    officer(demo, &ids)?;
    row_swap(demo, client, &ids)?;
    disk(demo, client, ids[0])?;
    client.batch_execute("REVOKE SELECT ON customers FROM clerk, officer")?;
    Ok(())
}

/// The ciphertexts, and the error.
fn clerk(demo: &mut Demo, ids: &[i64]) -> Result<()> {
    demo.ui.line("clerk:");
    let mut client = connect(DATABASE, "clerk")?;
    let sql =
        "SELECT id, name, email::text, iban::text FROM customers WHERE id = ANY($1) ORDER BY id";
    let rows = client.query(sql, &[&ids])?;
    let cells = rows.iter().map(|row| {
        let texts = (1..4).map(|i| shorten(&row.get::<_, Option<String>>(i).unwrap_or_default()));
        std::iter::once(row.get::<_, i64>(0).to_string())
            .chain(texts)
            .collect()
    });
    show(demo, &cells.collect::<Vec<_>>());

    let refused = client.query(
        "SELECT colcrypt.decrypt_col(email, colcrypt.place_context('customers.email', id)) FROM customers WHERE id = ANY($1)",
        &[&ids],
    );
    match refused {
        Ok(_) => return Err("the clerk could decrypt".into()),
        Err(error)
            if error
                .as_db_error()
                .is_some_and(|db| db.code().code() == "42501") =>
        {
            demo.ui
                .line(format!("decrypt_col(email, …) → {}", explain(&error)));
        }
        Err(error) => {
            return Err(format!(
                "the clerk was refused, but not for want of a right: {}",
                explain(&error)
            )
            .into());
        }
    }
    demo.sum_up(
        "clerk",
        "refused",
        "reads the table, sees ciphertext, may not decrypt",
    );
    Ok(())
}

/// The values.
fn officer(demo: &mut Demo, ids: &[i64]) -> Result<()> {
    demo.ui.line("officer:");
    let mut client = connect(DATABASE, "officer")?;
    let values: Vec<_> = COLUMNS
        .iter()
        .map(|column| format!("{}::text", column.decrypt(column.name)))
        .collect();
    let sql = format!(
        "SELECT id, name, {} FROM customers WHERE id = ANY($1) ORDER BY id",
        values.join(", ")
    );
    let rows = client.query(&sql, &[&ids])?;
    let cells = rows.iter().map(|row| {
        let texts =
            (1..row.len()).map(|i| shorten(&row.get::<_, Option<String>>(i).unwrap_or_default()));
        std::iter::once(row.get::<_, i64>(0).to_string())
            .chain(texts)
            .collect()
    });
    show(demo, &cells.collect::<Vec<_>>());
    Ok(())
}

/// One customer's IBAN copied over another's: the context is another row's, so it does not decrypt.
fn row_swap(demo: &mut Demo, client: &mut Client, ids: &[i64]) -> Result<()> {
    let mut transaction = client.transaction()?;
    transaction.execute(
        "UPDATE customers SET iban = (SELECT iban FROM customers WHERE id = $2) WHERE id = $1",
        &[&ids[0], &ids[1]],
    )?;
    let sql = "SELECT colcrypt.decrypt_col(iban, colcrypt.place_context('customers.iban', id)) FROM customers WHERE id = $1";
    let swapped = transaction.query(sql, &[&ids[0]]);
    let Err(error) = swapped else {
        return Err("an IBAN copied to another row was decrypted".into());
    };
    if error.as_db_error().is_none() {
        return Err(error.into());
    }
    transaction.rollback()?;
    demo.ui.line(format!(
        "an IBAN copied from customer {} to {}:",
        ids[1], ids[0]
    ));
    demo.ui
        .line(format!("decrypt_col(iban, …) → {}", explain(&error)));
    demo.sum_up(
        "row swap",
        "refused",
        "an IBAN moved to another row does not decrypt",
    );
    Ok(())
}

/// Looks for one customer's e-mail in the files of both tables.
fn disk(demo: &mut Demo, client: &mut Client, id: i64) -> Result<()> {
    client.batch_execute("CHECKPOINT")?;
    let mut found = Vec::new();
    for relation in ["customers_plain", "customers"] {
        let sql = format!(
            "SELECT position(convert_to((SELECT email FROM customers_plain WHERE id = $1), 'UTF8')
                    IN pg_read_binary_file(pg_relation_filepath('{relation}'))) > 0"
        );
        found.push(client.query_one(&sql, &[&id])?.get::<_, bool>(0));
    }
    if found != [true, false] {
        return Err(format!(
            "a known e-mail in the files of customers_plain, customers: {found:?}"
        )
        .into());
    }
    demo.ui.line(format!("on disk: customer {id}'s e-mail stands in the file of customers_plain, not in that of customers"));
    Ok(())
}

fn shorten(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.chars().count() <= SHOWN {
        line
    } else {
        line.chars().take(SHOWN - 1).chain(['…']).collect()
    }
}

fn show(demo: &Demo, rows: &[Vec<String>]) {
    for line in texts(rows) {
        demo.ui.line(format!("  {line}"));
    }
}
