//! What in the facts departs from what one would want to see: what an auditor asks about first.

use super::{
    charts::grouped,
    facts::{Exception, Facts, Listed, Section},
};

/// The worst first.
pub fn exceptions(facts: &Facts) -> Vec<Exception> {
    let mut found = Found(Vec::new());
    record(facts, &mut found);
    keys(facts, &mut found);
    rows(facts, &mut found);
    people(facts, &mut found);
    if let Some(findings) = facts.findings.facts()
        && findings.critical + findings.warnings > 0
    {
        found.say(
            "findings",
            format!(
                "doctor finds {} and {}",
                count(findings.critical, "critical fault", "critical faults"),
                count(findings.warnings, "warning", "warnings")
            ),
        );
    }
    found.some(
        "left-out",
        facts.left_out().len() as i64,
        ("list", "lists"),
        "{} could not be read with the rights of this role",
    );
    found.0
}

struct Found(Vec<Exception>);

impl Found {
    fn say(&mut self, chapter: &str, what: String) {
        self.0.push(Exception {
            what,
            chapter: chapter.into(),
        });
    }

    /// How many there are of something, in the place of `{}`; nothing of none.
    fn some(&mut self, chapter: &str, number: i64, (one, more): (&str, &str), sentence: &str) {
        if number > 0 {
            let counted = count(number, one, more);
            self.say(chapter, sentence.replacen("{}", &counted, 1));
        }
    }

    /// What is counted here of a list's rows is not told of those that were left out of it.
    fn cut<T>(&mut self, chapter: &str, what: &str, section: &Section<Listed<T>>) {
        if let Some(listed) = section.facts().filter(|listed| listed.is_cut()) {
            self.say(
                chapter,
                format!(
                    "only {} of {} {what} were looked at for this list: --rows takes more",
                    grouped(listed.shown.len() as i64),
                    grouped(listed.total)
                ),
            );
        }
    }
}

fn of_rows<T>(section: &Section<Listed<T>>, is_it: impl Fn(&&T) -> bool) -> i64 {
    section
        .facts()
        .map_or(0, |listed| listed.shown.iter().filter(is_it).count()) as i64
}

fn record(facts: &Facts, found: &mut Found) {
    if let Some(chain) = facts.chain.facts() {
        if !chain.ok {
            found.say(
                "chain",
                format!(
                    "the audit log was changed: its chain of hashes breaks at record {}: {}",
                    chain.first_bad.unwrap_or_default(),
                    chain.problem.as_deref().unwrap_or("no reason given")
                ),
            );
        }
        found.some(
            "chain",
            chain.not_recorded,
            ("event was", "events were"),
            "{} since the log began only counted, since they came too fast for a record each",
        );
    }
    for anchor in facts.anchors.iter().filter(|anchor| !anchor.holds()) {
        found.say(
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
    found.some(
        "refusals",
        happened(&|_, outcome| outcome == "alarm"),
        ("alarm", "alarms"),
        "{}: a value that nobody has a reason to read was read",
    );
    found.some(
        "unusual",
        happened(&|event, _| event == "changed_by_hand"),
        (
            "change of the key catalog was",
            "changes of the key catalog were",
        ),
        "{} made by hand, past the functions",
    );
    found.some(
        "events",
        happened(&|event, _| event == "superuser_override"),
        ("time", "times"),
        "a superuser acted without a grant {}",
    );
    found.some(
        "refusals",
        happened(&|_, outcome| outcome == "denied"),
        ("attempt was", "attempts were"),
        "{} refused",
    );
}

fn keys(facts: &Facts, found: &mut Found) {
    if let Some(totals) = facts.period_totals.facts() {
        found.some(
            "periods",
            totals.overrun,
            ("key version was", "key versions were"),
            "{} in use longer than its period allows",
        );
        found.some(
            "periods",
            totals.without_end,
            ("key version has", "key versions have"),
            "{} no end of the time in which it encrypts",
        );
    }
    if let Some(keyrings) = facts.keyrings.facts() {
        for keyring in keyrings.shown.iter().filter(|it| it.root_problem.is_some()) {
            found.say(
                "keyrings",
                format!("a root key of keyring {} fails", keyring.keyring),
            );
        }
    }
    found.some(
        "keyrings",
        of_rows(&facts.keyrings, |it| it.overdue),
        ("keyring", "keyrings"),
        "the key encryption key of {} is due for rotation",
    );
    found.cut("keyrings", "keyrings", &facts.keyrings);
    let compromised = facts.key_totals.facts().map_or(0, |totals| {
        totals
            .shown
            .iter()
            .filter(|total| total.state == "compromised")
            .map(|total| total.versions)
            .sum()
    });
    found.some(
        "keys",
        compromised,
        ("key version is", "key versions are"),
        "{} marked as compromised",
    );
}

fn rows(facts: &Facts, found: &mut Found) {
    if let Some(totals) = facts.census_totals.facts() {
        found.some(
            "census",
            totals.rows_compromised,
            ("row is still", "rows are still"),
            "{} under a compromised key version",
        );
        found.some(
            "census",
            totals.never_counted,
            ("column", "columns"),
            "the rows of {} were never counted",
        );
    }
    found.some(
        "rotations",
        of_rows(&facts.jobs, |job| job.phase == "failed"),
        ("re-encryption job", "re-encryption jobs"),
        "{} failed",
    );
    found.cut("rotations", "jobs", &facts.jobs);
}

fn people(facts: &Facts, found: &mut Found) {
    found.some(
        "approvals",
        of_rows(&facts.keyrings, |keyring| !keyring.four_eyes),
        (
            "keyring asks for no second person",
            "keyrings ask for no second person",
        ),
        "{}: one person alone may give rights away, move values out and destroy",
    );
    for escrow in facts
        .escrows
        .facts()
        .map_or(&[][..], |escrows| &escrows.shown)
    {
        let name = &escrow.escrow;
        if escrow.drill_overdue {
            found.say(
                "escrow",
                format!("the rehearsal of recovery from escrow {name} is overdue"),
            );
        }
        found.some(
            "escrow",
            escrow.checks_overdue,
            ("share was not checked", "shares were not checked"),
            &format!("{{}} of escrow {name} for longer than it may be"),
        );
        if escrow.retired_at.is_none() {
            found.some(
                "escrow",
                escrow.keyrings_without,
                ("keyring is", "keyrings are"),
                &format!("{{}} not sealed to escrow {name}"),
            );
        }
    }
    found.cut("escrow", "escrows", &facts.escrows);
    found.some(
        "escrow",
        of_rows(&facts.drills, |drill| !drill.succeeded),
        ("drill", "drills"),
        "{} failed",
    );
    found.cut("escrow", "drills", &facts.drills);
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
    fn what_was_cut_off_a_list_is_said_to_be() {
        let mut facts = samples::quiet();
        facts.drills = Section::Facts(Listed {
            total: 1200,
            shown: Vec::new(),
        });
        assert_eq!(
            texts(&facts),
            ["only 0 of 1,200 drills were looked at for this list: --rows takes more"]
        );
    }

    #[test]
    fn numbers_agree_with_what_is_counted() {
        let mut found = Found(Vec::new());
        for number in [0, 1, 1234] {
            found.some("c", number, ("share of {} was", "shares were"), "{} lost");
        }
        let texts: Vec<&str> = found.0.iter().map(|it| &it.what[..]).collect();
        assert_eq!(texts, ["1 share of {} was lost", "1,234 shares were lost"]);
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
