//! Columns that are found by keyed terms: what these tell, and who looks up how often.

use super::super::{
    blocks::{Chapter, NUMBER, TEXT, TIME, chapter, moment_or, table, text_or},
    charts::grouped,
    facts::Facts,
};

pub fn searched(facts: &Facts) -> Chapter {
    let number = |it: Option<i64>| it.map_or_else(|| "not counted".into(), grouped);
    let blocks = vec![
        table(
            "Search indexes, those with the commonest term first",
            "No column has a search index.",
            &facts.searched,
            &[
                ("column", TEXT, 20),
                ("kind", TEXT, 13),
                ("key", TEXT, 12),
                ("a thief of the disk learns", TEXT, 27),
                ("terms", NUMBER, 9),
                ("commonest in", NUMBER, 11),
                ("counted", TIME, 8),
            ],
            |it| {
                let kind = match (it.is_unique, it.bits) {
                    (true, _) => format!("{}, unique", it.kind),
                    (_, 256) => it.kind.clone(),
                    (_, bits) => format!("{}, {bits} bits", it.kind),
                };
                let share = it.largest_share.map_or_else(
                    || "not counted".into(),
                    |share| format!("{:.1} % of rows", share * 100.0),
                );
                let cells = vec![
                    it.column.clone(),
                    kind,
                    text_or(it.key.as_ref(), "(dropped)"),
                    text_or(it.thief_learns.as_ref(), ""),
                    number(it.distinct_terms),
                    share,
                    moment_or(it.measured_at.as_ref(), "never"),
                ];
                let stands_out = it.kind == "equality"
                    && it.largest_group > Some(1)
                    && it.largest_share > Some(0.05);
                (if stands_out { "warn" } else { "" }, cells)
            },
        ),
        table(
            "Look-ups by role and search key",
            "Nobody looked anything up.",
            &facts.look_ups,
            &[
                ("role", TEXT, 24),
                ("key", TEXT, 20),
                ("look-ups", NUMBER, 12),
                ("limit", TEXT, 20),
                ("first day", TIME, 12),
                ("last day", TIME, 12),
            ],
            |it| {
                let limit = match (it.limit, &it.limit_per) {
                    (Some(limit), Some(per)) => format!("{limit} in {per}"),
                    _ => "none".into(),
                };
                let cells = vec![
                    it.role.clone(),
                    it.key.clone(),
                    grouped(it.look_ups),
                    limit,
                    it.first_day.clone(),
                    it.last_day.clone(),
                ];
                ("", cells)
            },
        ),
    ];
    chapter(
        "search",
        "Columns that are searched",
        "Which encrypted columns are found by keyed terms, what these terms tell whoever has the disk, as counted when somebody last called \
         search_leakage, and which role looked up how often by which search key. A look-up is a guess: whoever may search \
         can ask whether a value is there.",
        blocks,
    )
}
