//! The audit log: whether it is whole, what happened, who was refused, what nobody's function did.

use super::super::{
    blocks::{
        Block, CODE, Chapter, NUMBER, Row, TEXT, TIME, Table, acts, bad_if, chapter, column,
        left_out, moment, table, text_or,
    },
    charts::{self, grouped},
    facts::{Anchor, Chain, Entry, Facts, Section},
};

pub fn chain(facts: &Facts) -> Chapter {
    let mut blocks = Vec::new();
    match &facts.chain {
        Section::LeftOut(reason) => blocks.push(left_out("Whether the record is whole", reason)),
        Section::Facts(chain) => blocks.push(verdict(chain)),
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |class, cells| rows.push(Row { class, cells });
    match &facts.chain_of_period {
        Section::LeftOut(reason) => blocks.push(left_out("The records of the period", reason)),
        Section::Facts(period) => {
            blocks.push(Block::Text(format!(
                "The period has {} records.",
                grouped(period.records)
            )));
            let ends = [
                ("first of the period", &period.first),
                ("last of the period", &period.last),
            ];
            for (name, it) in ends {
                if let Some(it) = it {
                    add("", entry(name, it));
                }
            }
        }
    }
    if let Some(chain) = facts.chain.facts() {
        if let Some(bad) = &chain.bad {
            add("bad", entry("where it breaks", bad));
        }
        if let (Some(seq), Some(hash)) = (chain.head_seq, &chain.head_hash) {
            let cells = [
                "the head: the last that holds",
                &grouped(seq),
                "–",
                "–",
                hash,
            ];
            add("", cells.map(str::to_owned).to_vec());
        }
    }
    match &facts.anchored {
        Section::LeftOut(reason) => {
            blocks.push(left_out("The last anchor in the server's log", reason))
        }
        Section::Facts(it) => {
            if let (Some(at), Some(hash)) = (&it.at, &it.hash) {
                let cells = vec![
                    "last anchor in the server's log".into(),
                    grouped(it.seq),
                    moment(at),
                    "–".into(),
                    hash.clone(),
                ];
                add("", cells);
            } else {
                blocks.push(Block::Text(
                    "No anchor was written into the server's log yet.".into(),
                ));
            }
        }
    }
    for anchor in &facts.anchors {
        let (class, cells) = given_anchor(anchor);
        add(class, cells);
    }
    if facts.anchors.is_empty() {
        blocks.push(Block::Text(
            "No anchor was given to compare with (--anchor). Without one, a log that somebody wrote again from its \
             beginning, hashes and all, looks whole: compare the head or the last anchor with what was shipped to \
             another machine."
                .into(),
        ));
    }
    let total = grouped(rows.len() as i64);
    blocks.push(Block::Table(Table {
        caption: "Records to compare with what was written down elsewhere".into(),
        columns: vec![
            column("which", TEXT, 18),
            column("record", NUMBER, 9),
            column("when", TIME, 14),
            column("what", CODE, 21),
            column("hash (SHA-256)", CODE, 38),
        ],
        rows,
        total,
        is_cut: false,
        empty: "The log has no record.",
    }));
    chapter(
        "chain",
        "Is the record whole?",
        "Every act and every refusal is a record of the audit log. Each record carries a fingerprint (hash) of itself and of the \
         one before, so that a record that is changed, removed or put in later breaks the chain from there on.",
        blocks,
    )
}

fn entry(name: &str, entry: &Entry) -> Vec<String> {
    vec![
        name.into(),
        grouped(entry.seq),
        moment(&entry.at),
        format!("{} by {}", entry.event, entry.role),
        entry.hash.clone(),
    ]
}

fn verdict(chain: &Chain) -> Block {
    if chain.ok {
        return Block::Text(format!(
            "The whole log was read, {} records, and the chain of hashes holds: no record was changed, removed or put in. {} \
             more events came too fast for a record each and were only counted.",
            grouped(chain.events),
            grouped(chain.not_recorded)
        ));
    }
    Block::Warning(format!(
        "The chain of hashes does not hold. It breaks at record {}: {}. What stands in the log from there on proves nothing.",
        grouped(chain.first_bad.unwrap_or_default()),
        chain.problem.as_deref().unwrap_or("no reason given")
    ))
}

fn given_anchor(anchor: &Anchor) -> (&'static str, Vec<String>) {
    let (class, says) = match &anchor.found {
        Section::LeftOut(reason) => ("warn", format!("not compared: {reason}")),
        Section::Facts(_) if anchor.holds() => ("", "the log has the same".into()),
        Section::Facts(Some(hash)) => ("bad", format!("the log has {hash}")),
        Section::Facts(None) => ("bad", "the log has no such record".into()),
    };
    let cells = vec![
        "given anchor".into(),
        grouped(anchor.seq),
        "–".into(),
        says,
        anchor.hash.clone(),
    ];
    (class, cells)
}

pub fn events(facts: &Facts) -> Chapter {
    let mut blocks = Vec::new();
    match &facts.events {
        Section::LeftOut(reason) => blocks.push(left_out("Events over the period", reason)),
        Section::Facts(events) if events.buckets.is_empty() => {
            blocks.push(Block::Text(
                "The period is empty: it ends when it begins.".into(),
            ));
        }
        Section::Facts(events) => {
            let name = |start: &str| match &events.unit[..] {
                "day" | "week" => start.get(5..).unwrap_or(start).into(),
                "month" => start.get(..7).unwrap_or(start).into(),
                _ => start.get(..4).unwrap_or(start).into(),
            };
            let columns: Vec<charts::Column> = events
                .buckets
                .iter()
                .map(|bucket| charts::Column {
                    name: name(&bucket.start),
                    parts: [bucket.done, bucket.refused, bucket.alarms],
                })
                .collect();
            blocks.push(Block::Chart(charts::columns(
                "chart-events",
                &format!("Events by {}", events.unit),
                &columns,
                [
                    ("good", "done"),
                    ("warn", "refused, failed or rolled back"),
                    ("bad", "alarms"),
                ],
            )));
        }
    }
    blocks.push(table(
        "Kinds of events",
        "Nothing happened in the period.",
        &facts.event_kinds,
        &[
            ("event", CODE, 26),
            ("outcome", TEXT, 12),
            ("times", NUMBER, 12),
            ("roles", NUMBER, 10),
            ("first", TIME, 20),
            ("last", TIME, 20),
        ],
        |it| {
            let class = match &it.outcome[..] {
                "alarm" => "bad",
                "denied" | "failed" => "warn",
                _ => "",
            };
            let cells = vec![
                it.event.clone(),
                it.outcome.clone(),
                grouped(it.happened),
                grouped(it.roles),
                moment(&it.first_at),
                moment(&it.last_at),
            ];
            (class, cells)
        },
    ));
    chapter(
        "events",
        "What happened",
        "Everything in the audit log of the period, by kind. An event has the name of the function that was called. The \
         chapters after this one have the acts one by one.",
        blocks,
    )
}

pub fn refusals(facts: &Facts) -> Chapter {
    let blocks = vec![table(
        "Refusals, failures and alarms",
        "No attempt was refused, none failed, and no alarm was raised.",
        &facts.refusals,
        &[
            ("role", TEXT, 13),
            ("what", CODE, 15),
            ("key", TEXT, 13),
            ("outcome", TEXT, 9),
            ("times", NUMBER, 7),
            ("first, last", TIME, 14),
            ("from", TEXT, 11),
            ("for example", TEXT, 18),
        ],
        |it| {
            let outcome = match &it.sqlstate {
                Some(code) => format!("{} ({code})", it.outcome),
                None => it.outcome.clone(),
            };
            let cells = vec![
                it.role.clone(),
                it.event.clone(),
                text_or(it.key.as_ref(), "–"),
                outcome,
                grouped(it.attempts),
                format!("{}, {}", moment(&it.first_at), moment(&it.last_at)),
                text_or(it.addresses.as_ref(), "this machine"),
                text_or(it.detail.as_ref(), "–"),
            ];
            (bad_if(it.outcome == "alarm"), cells)
        },
    )];
    chapter(
        "refusals",
        "Denied attempts",
        "Who tried to do what they may not, or what could not be done: those of one role, key and reason are one row. An alarm is \
         the reading of a value that was marked because nobody has a reason to read it. What PostgreSQL refuses by itself, before \
         colcrypt is asked, is in the server's own log.",
        blocks,
    )
}

pub fn unusual(facts: &Facts) -> Chapter {
    let blocks = vec![acts(
        "Changes by hand, clocks, events without a record, alarms",
        "There was nothing of the kind.",
        &facts.unusual,
    )];
    chapter(
        "unusual",
        "Past the functions",
        "A superuser can write into the tables of the key catalog without the functions that check and ask for a second person. \
         Such a change is on record as changed_by_hand, unless he saw to it that it is not. A dump that was restored leaves such \
         records, too. Ask for a reason for each.",
        blocks,
    )
}

pub fn findings(facts: &Facts) -> Chapter {
    let mut blocks = Vec::new();
    let listed = match &facts.findings {
        Section::LeftOut(reason) => Section::LeftOut(reason.clone()),
        Section::Facts(it) => {
            blocks.push(Block::Text(format!(
                "{} critical, {} warnings, {} notices, at the moment of the report.",
                grouped(it.critical),
                grouped(it.warnings),
                grouped(it.notices)
            )));
            Section::Facts(it.list.clone())
        }
    };
    blocks.push(table(
        "Findings, the worst first",
        "Nothing was found.",
        &listed,
        &[
            ("severity", TEXT, 9),
            ("finding", CODE, 17),
            ("of what", TEXT, 22),
            ("what it means", TEXT, 28),
            ("what to do", TEXT, 24),
        ],
        |it| {
            let object = match (&it.object, &it.detail) {
                (Some(object), Some(detail)) => format!("{object}: {detail}"),
                (Some(text), None) | (None, Some(text)) => text.clone(),
                (None, None) => "–".into(),
            };
            let class = match &it.severity[..] {
                "critical" => "bad",
                "warning" => "warn",
                _ => "",
            };
            let cells = vec![
                it.severity.clone(),
                it.finding.clone(),
                object,
                it.meaning.clone(),
                it.remedy.clone(),
            ];
            (class, cells)
        },
    ));
    chapter(
        "findings",
        "Is it well? Findings of doctor",
        "doctor looks at the server, its settings, root keys, keys, columns and the record, and says what is wrong. A check that \
         could not be made with the rights of this role is a finding of its own, not_checked.",
        blocks,
    )
}
