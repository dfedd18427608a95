//! Rows that move to other keys, and people: who used keys, who may, and who asked whom.

use super::super::{
    blocks::{
        Block, Chapter, LINES, NUMBER, TEXT, TIME, acts, bad_if, chapter, left_out, moment,
        moment_or, table, text_or,
    },
    charts::{self, Line, grouped},
    facts::{Facts, Section},
};

pub fn rotations(facts: &Facts) -> Chapter {
    let blocks = vec![
        acts(
            "Rotations, re-encryption and changes of periods",
            "There was none.",
            &facts.rotations,
        ),
        table(
            "Jobs that move rows",
            "No job ran in the period.",
            &facts.jobs,
            &[
                ("job", NUMBER, 7),
                ("what, on what", TEXT, 25),
                ("to", TEXT, 16),
                ("phase", TEXT, 11),
                ("rows", NUMBER, 11),
                ("failed", NUMBER, 8),
                ("ordered", TIME, 11),
                ("ended", TIME, 11),
            ],
            |it| {
                let what = format!("{} on {}", it.kind, it.column);
                let cells = vec![
                    it.job.to_string(),
                    match &it.problem {
                        Some(problem) => format!("{what}: {problem}"),
                        None => what,
                    },
                    format!(
                        "{}, version {}",
                        text_or(it.key.as_ref(), "each row's key"),
                        it.target_version
                    ),
                    it.phase.clone(),
                    grouped(it.rows_done),
                    grouped(it.rows_failed),
                    moment(&it.created_at),
                    moment_or(it.finished_at.as_ref(), "–"),
                ];
                (bad_if(it.phase == "failed"), cells)
            },
        ),
    ];
    chapter(
        "rotations",
        "Rotations and re-encryption",
        "A rotation makes a new version of a key, which encrypts from then on. A job then moves the values that are there, row by row, \
         while the application works. Rotations of key encryption keys and root keys wrap keys again and touch no row.",
        blocks,
    )
}

pub fn census(facts: &Facts) -> Chapter {
    let mut blocks = Vec::new();
    match &facts.census_totals {
        Section::LeftOut(reason) => blocks.push(left_out("How many rows are under which version", reason)),
        Section::Facts(it) => blocks.push(Block::Text(format!(
            "{} encrypted columns are registered, of which {} were never counted. Of {} rows, {} are under their key's current version, \
             {} under an older one, {} under one that is compromised, and {} under one that was destroyed on purpose. The oldest of \
             these counts is of {}.",
            grouped(it.columns),
            grouped(it.never_counted),
            grouped(it.rows),
            grouped(it.rows_current),
            grouped(it.rows_older),
            grouped(it.rows_compromised),
            grouped(it.rows_shredded),
            moment_or(it.oldest_count.as_ref(), "no day: nothing was counted"),
        ))),
    }
    if let Some(census) = facts
        .census
        .facts()
        .filter(|census| !census.shown.is_empty())
    {
        let lines: Vec<Line> = census
            .shown
            .iter()
            .take(LINES)
            .map(|it| Line {
                name: format!("{} v{}, {}", it.key, it.version, it.column),
                value: it.rows as f64,
                says: format!(
                    "{} rows, {}",
                    grouped(it.rows),
                    state(it.state.as_ref(), it.is_current)
                ),
                class: match it.state.as_deref() {
                    Some("compromised") => "bad",
                    _ if it.is_current => "good",
                    _ => "warn",
                },
            })
            .collect();
        blocks.push(Block::Chart(charts::lines(
            "chart-census",
            "Rows by key version, most rows first",
            &lines,
            None,
        )));
    }
    blocks.push(table(
        "Rows of each column by key version",
        "No rows were counted.",
        &facts.census,
        &[
            ("column", TEXT, 26),
            ("key, version", TEXT, 22),
            ("state", TEXT, 15),
            ("rows", NUMBER, 12),
            ("counted", TIME, 14),
            ("older rows", TEXT, 11),
        ],
        |it| {
            let cells = vec![
                it.column.clone(),
                format!("{}, {}", it.key, it.version),
                state(it.state.as_ref(), it.is_current),
                grouped(it.rows),
                moment(&it.counted_at),
                match &it.rotation[..] {
                    "reencrypt" => "are moved".into(),
                    "keep" => "stay".into(),
                    "expire" => "expire".into(),
                    other => other.into(),
                },
            ];
            let class = match it.state.as_deref() {
                Some("compromised") => "bad",
                Some("destroyed") | None => "warn",
                _ => "",
            };
            (class, cells)
        },
    ));
    chapter(
        "census",
        "Rows by key version",
        "How many rows are under which key version, counted when the last job on the column verified its work, or when somebody \
         asked for a count. Rows of registered columns only.",
        blocks,
    )
}

fn state(state: Option<&String>, is_current: bool) -> String {
    match (state, is_current) {
        (Some(state), true) => format!("{state}, current"),
        (Some(state), false) => state.clone(),
        (None, _) => "key is gone".into(),
    }
}

pub fn access(facts: &Facts) -> Chapter {
    let blocks = vec![
        table(
            "Values that were encrypted and decrypted, by role",
            "No key was used.",
            &facts.usage,
            &[
                ("role", TEXT, 28),
                ("encrypted", NUMBER, 16),
                ("decrypted", NUMBER, 16),
                ("keys", NUMBER, 12),
                ("first day", TIME, 14),
                ("last day", TIME, 14),
            ],
            |it| {
                let cells = vec![
                    it.role.clone(),
                    grouped(it.encryptions),
                    grouped(it.decryptions),
                    grouped(it.keys),
                    it.first_day.clone(),
                    it.last_day.clone(),
                ];
                ("", cells)
            },
        ),
        table(
            "The same by role and key",
            "No key was used.",
            &facts.usage_by_key,
            &[
                ("role", TEXT, 34),
                ("key", TEXT, 34),
                ("encrypted", NUMBER, 16),
                ("decrypted", NUMBER, 16),
            ],
            |it| {
                let cells = vec![
                    it.role.clone(),
                    it.key.clone(),
                    grouped(it.encryptions),
                    grouped(it.decryptions),
                ];
                ("", cells)
            },
        ),
        table(
            "Who may, at the moment of the report",
            "No role was granted a key. Superusers need no grant.",
            &facts.grants,
            &[
                ("role", TEXT, 32),
                ("keys", NUMBER, 17),
                ("may encrypt with", NUMBER, 17),
                ("may decrypt with", NUMBER, 17),
                ("may manage", NUMBER, 17),
            ],
            |it| {
                let cells = vec![
                    it.grantee.clone(),
                    grouped(it.keys),
                    grouped(it.encrypt),
                    grouped(it.decrypt),
                    grouped(it.manage),
                ];
                (
                    if it.grantee == "PUBLIC" && it.decrypt > 0 {
                        "bad"
                    } else {
                        ""
                    },
                    cells,
                )
            },
        ),
        acts(
            "Rights that were given and taken, columns and root keys that were added",
            "There was none.",
            &facts.access_acts,
        ),
    ];
    chapter(
        "access",
        "Who used keys, and who may",
        "Successful use is counted by role, key and minute, and later by day; it is not logged by row. Whole days of UTC are counted here, \
         those that the period touches. A value that was moved to another key version counts as encrypted. On a standby only \
         what its primary has counted is there, and what was read on the standby itself of late.",
        blocks,
    )
}

pub fn approvals(facts: &Facts) -> Chapter {
    let mut blocks = Vec::new();
    if let Some(keyrings) = facts.keyrings.facts() {
        let asks = keyrings.shown.iter().filter(|it| it.four_eyes).count() as i64;
        let of = grouped(keyrings.shown.len() as i64);
        let of = match keyrings.is_cut() {
            true => format!("the first {of} of {}", grouped(keyrings.total)),
            false => of,
        };
        blocks.push(Block::Text(format!(
            "{} of {of} keyrings ask for a second person.",
            grouped(asks)
        )));
    }
    blocks.push(table(
        "Requests that were made, decided or open in the period",
        "There was none.",
        &facts.approvals,
        &[
            ("request", NUMBER, 8),
            ("what, on what", TEXT, 28),
            ("asked by", TEXT, 14),
            ("asked", TIME, 12),
            ("outcome", TEXT, 10),
            ("decided by", TEXT, 14),
            ("decided", TIME, 14),
        ],
        |it| {
            let of = match (&it.key, &it.keyring) {
                (Some(key), _) => format!("{} on key {key}", it.function),
                (None, Some(keyring)) => format!("{} on keyring {keyring}", it.function),
                _ => it.function.clone(),
            };
            let cells = vec![
                it.request.to_string(),
                match &it.reason {
                    Some(reason) => format!("{of}: {reason}"),
                    None => of,
                },
                it.requested_by.clone(),
                moment(&it.requested_at),
                it.outcome.clone(),
                text_or(it.decided_by.as_ref(), "–"),
                moment_or(it.decided_at.as_ref(), "–"),
            ];
            // Nobody approves their own; a row that says so was made by hand.
            let alone =
                it.outcome == "approved" && it.decided_by.as_ref() == Some(&it.requested_by);
            (bad_if(alone), cells)
        },
    ));
    chapter(
        "approvals",
        "Four eyes: acts that took two people",
        "On a keyring that asks for four eyes, an act that could do harm (activation, destruction, moves, grants, longer periods) is a \
         request that waits until a second role approves it. Nobody approves their own.",
        blocks,
    )
}
