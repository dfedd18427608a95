//! Every value against the plaintext kept aside, on the server.

use std::collections::BTreeMap;
use std::time::Instant;

use postgres::Client;

use crate::ui::{per_second, seconds, table, thousands};
use crate::{COLUMNS, Demo, Result};

const BATCHES: i64 = 20;

pub fn everything(demo: &mut Demo, client: &mut Client) -> Result<()> {
    demo.ui.step("Every value against the plaintext kept aside");
    let row = client.query_one(
        "SELECT count(*) FILTER (WHERE c.id IS NULL OR p.id IS NULL), coalesce(max(p.id), 0), count(p.id)
         FROM customers c FULL JOIN customers_plain p USING (id)",
        &[],
    )?;
    let (unmatched, last, rows): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    if unmatched != 0 {
        return Err(format!("{unmatched} customers are in one table only").into());
    }

    let began = Instant::now();
    let mismatches: Vec<_> = COLUMNS
        .iter()
        .map(|column| {
            let value = column.decrypt(&format!("c.{}", column.name));
            format!(
                "count(*) FILTER (WHERE {value} IS DISTINCT FROM p.{})",
                column.name
            )
        })
        .collect();
    let compare = client.prepare(&format!(
        "SELECT {} FROM customers c JOIN customers_plain p USING (id) WHERE id BETWEEN $1 AND $2",
        mismatches.join(", ")
    ))?;
    let mut wrong = vec![0_i64; COLUMNS.len()];
    let mut bar = demo.ui.bar("comparing", last.unsigned_abs());
    for batch in 0..BATCHES {
        let (from, to) = (batch * last / BATCHES + 1, (batch + 1) * last / BATCHES);
        let row = client.query_one(&compare, &[&from, &to])?;
        for (i, sum) in wrong.iter_mut().enumerate() {
            *sum += row.get::<_, i64>(i);
        }
        bar.set(
            to.unsigned_abs(),
            format!("{} rows/s", per_second(to.unsigned_abs(), began.elapsed())),
        );
    }
    let values = rows.unsigned_abs() * COLUMNS.len() as u64;
    bar.done(format!(
        "{} values in {}",
        thousands(values),
        seconds(began.elapsed())
    ));

    for (column, wrong) in COLUMNS.iter().zip(&wrong) {
        if *wrong != 0 {
            return Err(format!(
                "{wrong} values of {} differ from the plaintext",
                column.name
            )
            .into());
        }
    }
    demo.sum_up(
        "checked",
        format!("{} values", thousands(values)),
        "every one equal to the plaintext kept aside",
    );
    versions(demo, client)
}

/// Which key version each value is encrypted under: all must be under the newest.
fn versions(demo: &mut Demo, client: &mut Client) -> Result<()> {
    let selects: Vec<_> = COLUMNS
        .iter()
        .map(|column| {
            let name = column.name;
            format!(
                "SELECT '{name}', (colcrypt.ciphertext_info({name})).version::int, count(*)
                 FROM customers WHERE {name} IS NOT NULL GROUP BY 2"
            )
        })
        .collect();
    let found = client.query(&selects.join(" UNION ALL "), &[])?;
    let mut counts: BTreeMap<i32, BTreeMap<String, u64>> = BTreeMap::new();
    for row in &found {
        counts
            .entry(row.get(1))
            .or_default()
            .insert(row.get(0), row.get::<_, i64>(2).unsigned_abs());
    }
    let mut lines = vec![
        std::iter::once("key version")
            .chain(COLUMNS.iter().map(|c| c.name))
            .map(str::to_owned)
            .collect(),
    ];
    for (version, columns) in &counts {
        let cells = COLUMNS
            .iter()
            .map(|column| thousands(columns.get(column.name).copied().unwrap_or(0)));
        lines.push(
            std::iter::once(version.to_string())
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
    for line in table(&lines) {
        demo.ui.line(line);
    }
    match counts.keys().collect::<Vec<_>>()[..] {
        [2] => Ok(()),
        _ => Err("not every value is under key version 2".into()),
    }
}
