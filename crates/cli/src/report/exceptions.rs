//! What in the facts departs from what one would want to see: what an auditor asks about first.

use super::{
    charts::grouped,
    facts::{Exception, Facts},
};

/// The worst first.
pub fn exceptions(facts: &Facts) -> Vec<Exception> {
    let mut found = Vec::new();
    let mut say = |chapter: &str, what: String| {
        found.push(Exception {
            what,
            chapter: chapter.into(),
        });
    };
    record(facts, &mut say);
    keys(facts, &mut say);
    rows(facts, &mut say);
    people(facts, &mut say);
    if let Some(findings) = facts.findings.facts()
        && findings.critical + findings.warnings > 0
    {
        say(
            "findings",
            format!(
                "doctor finds {} and {}",
                count(findings.critical, "critical fault", "critical faults"),
                count(findings.warnings, "warning", "warnings")
            ),
        );
    }
    let left_out = facts.left_out().len() as i64;
    if left_out > 0 {
        say(
            "left-out",
            format!(
                "{} could not be read with the rights of this role",
                count(left_out, "list", "lists")
            ),
        );
    }
    found
}

fn record(facts: &Facts, say: &mut impl FnMut(&str, String)) {
    if let Some(chain) = facts.chain.facts() {
        if !chain.ok {
            say(
                "chain",
                format!(
                    "the audit log was changed: its chain of hashes breaks at record {}: {}",
                    chain.first_bad.unwrap_or_default(),
                    chain.problem.as_deref().unwrap_or("no reason given")
                ),
            );
        }
        if chain.not_recorded > 0 {
            say(
                "chain",
                format!(
                    "{} since the log began only counted, since they came too fast for a record each",
                    count(chain.not_recorded, "event was", "events were")
                ),
            );
        }
    }
    for anchor in facts.anchors.iter().filter(|anchor| !anchor.holds()) {
        say(
            "chain",
            format!(
                "record {} has another hash than the one that was written down elsewhere, or is gone: the log was \
                 written again, or cut",
                anchor.seq
            ),
        );
    }
    let kinds = facts
        .event_kinds
        .facts()
        .map_or(&[][..], |kinds| &kinds.shown);
    let happened = |wanted: &dyn Fn(&str, &str) -> bool| -> i64 {
        kinds
            .iter()
            .filter(|kind| wanted(&kind.event, &kind.outcome))
            .map(|kind| kind.happened)
            .sum()
    };
    let alarms = happened(&|_, outcome| outcome == "alarm");
    if alarms > 0 {
        say(
            "refusals",
            format!(
                "{}: a value that nobody has a reason to read was read",
                count(alarms, "alarm", "alarms")
            ),
        );
    }
    let by_hand = happened(&|event, _| event == "changed_by_hand");
    if by_hand > 0 {
        say(
            "unusual",
            format!(
                "{} made by hand, past the functions",
                count(
                    by_hand,
                    "change of the key catalog was",
                    "changes of the key catalog were"
                )
            ),
        );
    }
    let overrides = happened(&|event, _| event == "superuser_override");
    if overrides > 0 {
        say(
            "events",
            format!(
                "a superuser acted without a grant {}",
                count(overrides, "time", "times")
            ),
        );
    }
    let refused = happened(&|_, outcome| outcome == "denied");
    if refused > 0 {
        say(
            "refusals",
            format!("{} refused", count(refused, "attempt was", "attempts were")),
        );
    }
}

fn keys(facts: &Facts, say: &mut impl FnMut(&str, String)) {
    if let Some(totals) = facts.period_totals.facts() {
        if totals.overrun > 0 {
            say(
                "periods",
                format!(
                    "{} in use longer than its period allows",
                    count(totals.overrun, "key version was", "key versions were")
                ),
            );
        }
        if totals.without_end > 0 {
            say(
                "periods",
                format!(
                    "{} no end of the time in which it encrypts",
                    count(totals.without_end, "key version has", "key versions have")
                ),
            );
        }
    }
    if let Some(keyrings) = facts.keyrings.facts() {
        for keyring in keyrings.shown.iter().filter(|it| it.root_problem.is_some()) {
            say(
                "keyrings",
                format!("a root key of keyring {} fails", keyring.keyring),
            );
        }
        let overdue = keyrings.shown.iter().filter(|it| it.overdue).count() as i64;
        if overdue > 0 {
            say(
                "keyrings",
                format!(
                    "the key encryption key of {} is due for rotation",
                    count(overdue, "keyring", "keyrings")
                ),
            );
        }
    }
    let compromised: i64 = facts.key_totals.facts().map_or(0, |totals| {
        totals
            .shown
            .iter()
            .filter(|total| total.state == "compromised")
            .map(|total| total.versions)
            .sum()
    });
    if compromised > 0 {
        say(
            "keys",
            format!(
                "{} marked as compromised",
                count(compromised, "key version is", "key versions are")
            ),
        );
    }
}

fn rows(facts: &Facts, say: &mut impl FnMut(&str, String)) {
    if let Some(totals) = facts.census_totals.facts() {
        if totals.rows_compromised > 0 {
            say(
                "census",
                format!(
                    "{} under a compromised key version",
                    count(totals.rows_compromised, "row is still", "rows are still")
                ),
            );
        }
        if totals.never_counted > 0 {
            say(
                "census",
                format!(
                    "the rows of {} were never counted",
                    count(totals.never_counted, "column", "columns")
                ),
            );
        }
    }
    let failed = facts.jobs.facts().map_or(0, |jobs| {
        jobs.shown
            .iter()
            .filter(|job| job.phase == "failed")
            .count()
    }) as i64;
    if failed > 0 {
        say(
            "rotations",
            format!(
                "{} failed",
                count(failed, "re-encryption job", "re-encryption jobs")
            ),
        );
    }
}

fn people(facts: &Facts, say: &mut impl FnMut(&str, String)) {
    let alone = facts.keyrings.facts().map_or(0, |keyrings| {
        keyrings
            .shown
            .iter()
            .filter(|keyring| !keyring.four_eyes)
            .count()
    }) as i64;
    if alone > 0 {
        say(
            "approvals",
            format!(
                "{}: one person alone may give rights away, move values out and destroy",
                count(
                    alone,
                    "keyring asks for no second person",
                    "keyrings ask for no second person"
                )
            ),
        );
    }
    for escrow in facts
        .escrows
        .facts()
        .map_or(&[][..], |escrows| &escrows.shown)
    {
        if escrow.drill_overdue {
            say(
                "escrow",
                format!(
                    "the rehearsal of recovery from escrow {} is overdue",
                    escrow.escrow
                ),
            );
        }
        if escrow.checks_overdue > 0 {
            say(
                "escrow",
                format!(
                    "{} of escrow {} for longer than it may be",
                    count(
                        escrow.checks_overdue,
                        "share was not checked",
                        "shares were not checked"
                    ),
                    escrow.escrow
                ),
            );
        }
        if escrow.keyrings_without > 0 && escrow.retired_at.is_none() {
            say(
                "escrow",
                format!(
                    "{} not sealed to escrow {}",
                    count(escrow.keyrings_without, "keyring is", "keyrings are"),
                    escrow.escrow
                ),
            );
        }
    }
    let failed = facts.drills.facts().map_or(0, |drills| {
        drills.shown.iter().filter(|drill| !drill.succeeded).count()
    }) as i64;
    if failed > 0 {
        say(
            "escrow",
            format!("{} failed", count(failed, "drill", "drills")),
        );
    }
}

fn count(number: i64, one: &str, more: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { more }
    )
}

#[cfg(test)]
mod tests {
    use super::super::{facts::*, samples};
    use super::*;

    fn texts(facts: &Facts) -> Vec<String> {
        exceptions(facts).into_iter().map(|it| it.what).collect()
    }

    #[test]
    fn nothing_is_said_where_nothing_departs() {
        assert_eq!(texts(&samples::quiet()), [""; 0]);
    }

    #[test]
    fn a_broken_chain_comes_first() {
        let mut facts = samples::quiet();
        facts.findings = Section::LeftOut("may not".into());
        if let Section::Facts(chain) = &mut facts.chain {
            chain.ok = false;
            chain.first_bad = Some(7);
            chain.problem = Some("the record was altered".into());
        }
        let texts = texts(&facts);
        assert!(
            texts[0].contains("breaks at record 7: the record was altered"),
            "{texts:?}"
        );
        assert!(
            texts[1].starts_with("1 list could not be read"),
            "{texts:?}"
        );
        assert!(facts.chain_is_broken());
    }

    #[test]
    fn an_anchor_that_differs_or_is_gone_breaks_the_chain() {
        let mut facts = samples::quiet();
        let anchor = |found| Anchor {
            seq: 4,
            hash: "ab".into(),
            found,
        };
        for (found, broken) in [
            (Section::Facts(Some("ab".into())), false),
            (Section::Facts(Some("cd".into())), true),
            (Section::Facts(None), true),
            (Section::LeftOut("may not".into()), false),
        ] {
            facts.anchors = vec![anchor(found)];
            assert_eq!(facts.chain_is_broken(), broken);
            assert_eq!(texts(&facts).len(), usize::from(broken));
        }
    }
}
