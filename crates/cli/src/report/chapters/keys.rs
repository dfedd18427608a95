//! Root keys, keyrings and keys: what there is, in which states, how long in use, and what becomes of them in the end.

use super::super::{
    blocks::{
        Block, Chapter, LINES, NUMBER, TEXT, TIME, acts, bad_if, chapter, duration, left_out,
        moment, moment_or, table, text_or, yes,
    },
    charts::{self, Line, grouped},
    facts::{Facts, Section},
};

pub fn keyrings(facts: &Facts) -> Chapter {
    let blocks = vec![
        table(
            "Keyrings and their root keys",
            "There is no keyring.",
            &facts.keyrings,
            &[
                ("keyring", TEXT, 15),
                ("keys", NUMBER, 8),
                ("first root key", TEXT, 20),
                ("root keys, escrows", TEXT, 10),
                ("wrapping, source", TEXT, 15),
                ("second person", TEXT, 10),
                ("key encryption key", TEXT, 22),
            ],
            |it| {
                let root = match (&it.provider, &it.root_key) {
                    (Some(provider), Some(key)) => format!("{provider}, {key}"),
                    (Some(provider), None) => provider.clone(),
                    _ => "–".into(),
                };
                let kind = it
                    .provider_kind
                    .as_ref()
                    .map_or(String::new(), |kind| format!(" ({kind})"));
                let problem = it
                    .root_problem
                    .as_ref()
                    .map_or(String::new(), |it| format!(" – fails: {it}"));
                let cells = vec![
                    it.keyring.clone(),
                    grouped(it.keys),
                    format!("{root}{kind}{problem}"),
                    format!("{}, {}", it.roots, it.escrows),
                    format!("{}, {}", it.wrapping, it.key_source),
                    if it.four_eyes {
                        format!("yes, within {}", it.approval_window)
                    } else {
                        "no".into()
                    },
                    format!(
                        "version {} of {}, period {}, next {}",
                        it.version,
                        moment(&it.kek_created_at),
                        text_or(it.kek_cryptoperiod.as_ref(), "without end"),
                        moment_or(it.next_rotation_at.as_ref(), "–")
                    ),
                ];
                let class = if it.root_problem.is_some() {
                    "bad"
                } else if it.overdue {
                    "warn"
                } else {
                    ""
                };
                (class, cells)
            },
        ),
        table(
            "Key encryption keys that were made, relieved, marked or destroyed in the period",
            "None was.",
            &facts.keyring_versions,
            &[
                ("keyring, version", TEXT, 18),
                ("state", TEXT, 12),
                ("made", TIME, 14),
                ("relieved", TIME, 14),
                ("compromised, destroyed", TIME, 14),
                ("by, reason", TEXT, 28),
            ],
            |it| {
                let ended = [&it.compromised_at, &it.destroyed_at]
                    .into_iter()
                    .flatten()
                    .map(|at| moment(at))
                    .collect::<Vec<_>>()
                    .join(", ");
                let cells = vec![
                    format!("{}, {}", it.keyring, it.version),
                    it.state.clone(),
                    moment(&it.created_at),
                    moment_or(it.deactivated_at.as_ref(), "–"),
                    if ended.is_empty() {
                        "–".into()
                    } else {
                        ended
                    },
                    match &it.reason {
                        Some(reason) => format!("{}: {reason}", it.changed_by),
                        None => it.changed_by.clone(),
                    },
                ];
                (bad_if(it.compromised_at.is_some()), cells)
            },
        ),
    ];
    chapter(
        "keyrings",
        "Root keys and keyrings",
        "A root key lies outside the database: in a key management system, an HSM or a file. It protects (wraps) the key encryption \
         key of a keyring, and that protects the keyring's keys. Without a root key nobody reads anything.",
        blocks,
    )
}

pub fn keys(facts: &Facts) -> Chapter {
    let blocks = vec![
        table(
            "Key versions by algorithm and state",
            "There is no key.",
            &facts.key_totals,
            &[
                ("algorithm", TEXT, 30),
                ("state", TEXT, 30),
                ("versions", NUMBER, 20),
                ("of these in use for new values", NUMBER, 20),
            ],
            |it| {
                let cells = vec![
                    it.suite.clone(),
                    it.state.clone(),
                    grouped(it.versions),
                    grouped(it.current),
                ];
                (bad_if(it.state == "compromised"), cells)
            },
        ),
        table(
            "Keys and where each is used",
            "There is no key.",
            &facts.keys,
            &[
                ("key", TEXT, 17),
                ("algorithm, keyring", TEXT, 16),
                ("version, state", TEXT, 13),
                ("active since", TIME, 13),
                ("next rotation", TIME, 17),
                ("used", NUMBER, 7),
                ("columns", TEXT, 17),
            ],
            |it| {
                let more = it.columns_total - it.columns.len() as i64;
                let mut columns = it.columns.join(", ");
                if more > 0 {
                    columns = format!("{columns} and {} more", grouped(more));
                }
                let next = match (&it.next_rotation_at, &it.why) {
                    (Some(at), Some(why)) => format!("{} ({why})", moment(at)),
                    (Some(at), None) => moment(at),
                    _ => "–".into(),
                };
                let cells = vec![
                    it.key.clone(),
                    format!("{}, {}", it.suite, text_or(it.keyring.as_ref(), "(none)")),
                    format!("{} of {}, {}", it.version, it.versions, it.state),
                    moment_or(it.activated_at.as_ref(), "–"),
                    match &it.problem {
                        Some(problem) => format!("{next}; failed: {problem}"),
                        None => next,
                    },
                    it.used_percent
                        .map_or_else(|| "–".into(), |percent| format!("{percent:.2} %")),
                    if columns.is_empty() {
                        "none registered".into()
                    } else {
                        columns
                    },
                ];
                let class = match &it.state[..] {
                    "compromised" => "bad",
                    _ if it.overdue || it.problem.is_some() => "warn",
                    _ => "",
                };
                (class, cells)
            },
        ),
    ];
    chapter(
        "keys",
        "Keys and where each is used",
        "A key has a name and versions. New values are encrypted with its current version; older versions stay to read older \
         values until these are moved. “Used” says how many of the values that a version may encrypt it has encrypted.",
        blocks,
    )
}

pub fn states(facts: &Facts) -> Chapter {
    chapter(
        "states",
        "States of keys, and who moved them",
        "A key version is made (pre-active), activated, perhaps suspended for a while, deactivated when another takes its place, \
         marked as compromised if somebody may know it, and destroyed in the end. Each move has a person and should have a reason.",
        vec![acts(
            "Moves in the period",
            "No key was made or moved to another state.",
            &facts.moves,
        )],
    )
}

pub fn periods(facts: &Facts) -> Chapter {
    let mut blocks = Vec::new();
    match &facts.period_totals {
        Section::LeftOut(reason) => blocks.push(left_out("Periods kept and overrun", reason)),
        Section::Facts(it) => blocks.push(Block::Text(format!(
            "Of {} key versions that were in use in the period, {} kept to their period, {} overran it, and {} have none. {} keys may \
             decrypt without end; docs/compliance.md says why that is the default.",
            grouped(it.versions),
            grouped(it.kept),
            grouped(it.overrun),
            grouped(it.without_end),
            grouped(it.decrypt_without_end)
        ))),
    }
    if let Some(periods) = facts.periods.facts() {
        let lines: Vec<Line> = periods
            .shown
            .iter()
            .filter_map(|it| Some((it, it.period_seconds?)))
            .take(LINES)
            .map(|(it, period)| Line {
                name: format!("{}, version {}", it.key, it.version),
                value: it.used_seconds / period,
                says: format!("{} of {}", duration(it.used_seconds), duration(period)),
                class: match it.used_seconds / period {
                    _ if it.overrun => "bad",
                    share if share > 0.9 => "warn",
                    _ => "good",
                },
            })
            .collect();
        if !lines.is_empty() {
            blocks.push(Block::Chart(charts::lines(
                "chart-periods",
                "How long key versions encrypted, of how long they may (the line is the end of the period)",
                &lines,
                Some(1.0),
            )));
        }
    }
    blocks.push(table(
        "Key versions in use in the period, the longest used first",
        "No key version was in use.",
        &facts.periods,
        &[
            ("key, version", TEXT, 21),
            ("state", TEXT, 12),
            ("active since", TIME, 14),
            ("encrypted until", TIME, 14),
            ("may encrypt", TEXT, 21),
            ("then decrypt", TEXT, 12),
            ("kept", TEXT, 6),
        ],
        |it| {
            let period = match (&it.period, &it.ends_at) {
                (Some(period), Some(ends)) => format!("{period}, to {}", moment(ends)),
                _ => "without end".into(),
            };
            let cells = vec![
                format!("{}, {}", it.key, it.version),
                it.state.clone(),
                moment(&it.activated_at),
                moment_or(it.used_until.as_ref(), "now"),
                period,
                text_or(it.recipient_period.as_ref(), "without end"),
                yes(!it.overrun),
            ];
            let class = if it.overrun {
                "bad"
            } else if it.period.is_none() {
                "warn"
            } else {
                ""
            };
            (class, cells)
        },
    ));
    chapter(
        "periods",
        "Periods kept and overrun",
        "A key should not be used for too long: the more is encrypted with it, the more is lost with it. Its period says how long a \
         version may encrypt, and how long after that it may decrypt. At the end of the first a version is refused for new values.",
        blocks,
    )
}

pub fn destruction(facts: &Facts) -> Chapter {
    let blocks = vec![
        table(
            "Key versions that were destroyed in the period, or are to be",
            "None was, and none is to be.",
            &facts.destructions,
            &[
                ("key, version", TEXT, 20),
                ("state", TEXT, 14),
                ("due", TIME, 14),
                ("destroyed", TIME, 14),
                ("values lost on purpose", TEXT, 10),
                ("by, reason", TEXT, 28),
            ],
            |it| {
                let by = text_or(it.by.as_ref(), "–");
                let mut why = match &it.reason {
                    Some(reason) => format!("{by}: {reason}"),
                    None => by,
                };
                if let Some(problem) = &it.problem {
                    why = format!("{why}; postponed: {problem}");
                }
                let cells = vec![
                    format!("{}, {}", it.key, it.version),
                    it.state.clone(),
                    moment_or(it.destroy_at.as_ref(), "–"),
                    moment_or(it.destroyed_at.as_ref(), "–"),
                    yes(it.shreds),
                    why,
                ];
                (if it.problem.is_some() { "warn" } else { "" }, cells)
            },
        ),
        acts(
            "Acts of destruction and erasure",
            "There was none.",
            &facts.destruction_acts,
        ),
    ];
    chapter(
        "destruction",
        "Destruction and erasure",
        "A key version that is destroyed is gone for everybody. That waits for a while in which it can be taken back, and is refused \
         while rows need the version, unless it is done to erase them: then their values are lost on purpose, which is how the \
         data of one person is erased. Backups that are older have the wrapped key still.",
        blocks,
    )
}

pub fn escrow(facts: &Facts) -> Chapter {
    let blocks = vec![
        table(
            "Escrows",
            "There is no escrow: if the root keys are lost, so is everything under them.",
            &facts.escrows,
            &[
                ("escrow", TEXT, 20),
                ("keyrings sealed, not sealed", NUMBER, 16),
                ("holders, checks overdue", NUMBER, 16),
                ("last drill", TIME, 16),
                ("next due", TIME, 16),
                ("retired", TIME, 16),
            ],
            |it| {
                let retired = match (&it.retired_at, &it.retired_by) {
                    (Some(at), Some(by)) => format!("{} by {by}", moment(at)),
                    (Some(at), None) => moment(at),
                    _ => "no".into(),
                };
                let cells = vec![
                    it.escrow.clone(),
                    format!("{}, {}", grouped(it.keyrings), grouped(it.keyrings_without)),
                    format!("{}, {}", grouped(it.holders), grouped(it.checks_overdue)),
                    moment_or(it.drilled_at.as_ref(), "never"),
                    moment_or(it.drill_due.as_ref(), "–"),
                    retired,
                ];
                (
                    if it.drill_overdue || it.checks_overdue > 0 {
                        "warn"
                    } else {
                        ""
                    },
                    cells,
                )
            },
        ),
        table(
            "Holders of shares",
            "There is none.",
            &facts.custodians,
            &[
                ("escrow", TEXT, 18),
                ("group", TEXT, 14),
                ("holder", TEXT, 20),
                ("since", TIME, 16),
                ("share last shown to be whole", TIME, 16),
                ("due again", TIME, 16),
            ],
            |it| {
                let cells = vec![
                    it.escrow.clone(),
                    it.circle.clone(),
                    it.holder.clone(),
                    moment(&it.since),
                    moment_or(it.checked_at.as_ref(), "never"),
                    moment_or(it.check_due.as_ref(), "–"),
                ];
                (if it.is_overdue { "warn" } else { "" }, cells)
            },
        ),
        table(
            "Drills in the period",
            "Recovery was not rehearsed in the period.",
            &facts.drills,
            &[
                ("escrow", TEXT, 18),
                ("when", TIME, 16),
                ("outcome", TEXT, 12),
                ("who took part", TEXT, 26),
                ("key versions opened", NUMBER, 12),
                ("recorded by", TEXT, 16),
            ],
            |it| {
                let cells = vec![
                    it.escrow.clone(),
                    moment(&it.drilled_at),
                    if it.succeeded { "succeeded" } else { "failed" }.into(),
                    it.holders.join(", "),
                    it.key_versions.map_or_else(|| "–".into(), grouped),
                    it.recorded_by.clone(),
                ];
                (bad_if(!it.succeeded), cells)
            },
        ),
        acts("Acts about escrows", "There was none.", &facts.escrow_acts),
    ];
    chapter(
        "escrow",
        "Recovery: escrow, shares and drills",
        "An escrow is a way back if the root keys are lost: its key is in shares with people, some of whom together can open it. A \
         share is shown to be whole by a receipt that only it can sign, and recovery is rehearsed (a drill), which those who took \
         part sign. Where the shares lie is not in this report, which is passed around: the view custodian_status has it.",
        blocks,
    )
}
