//! What becomes of everything that hangs on a column that is to be migrated. Whatever is not known here stands in the
//! way.

use crate::error::{Error, Result};
use crate::migration::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is as good as before afterwards.
    Kept,
    /// It is gone afterwards.
    Lost,
    /// As long as it is there nothing is done.
    Blocks,
}

/// A thing that hangs on the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Tells it from all others, whatever it is called: its catalog and OID. Empty for what cannot be accepted as a
    /// loss.
    pub token: String,
    pub object: String,
    pub becomes: String,
    pub fate: Fate,
}

impl Line {
    pub fn keep(object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self::new(Fate::Kept, object, becomes)
    }

    pub fn lose(object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self::new(Fate::Lost, object, becomes)
    }

    pub fn block(object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self::new(Fate::Blocks, object, becomes)
    }

    /// The same thing, told from all others by a token.
    #[must_use]
    pub fn known_by(self, token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            ..self
        }
    }

    /// What becomes of it, and whether somebody has to do something first.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self.fate {
            Fate::Kept => self.becomes.clone(),
            Fate::Lost => format!("{} (accept_losses)", self.becomes),
            Fate::Blocks => format!("stands in the way: {}", self.becomes),
        }
    }

    fn new(fate: Fate, object: impl Into<String>, becomes: impl Into<String>) -> Self {
        Self {
            token: String::new(),
            object: object.into(),
            becomes: becomes.into(),
            fate,
        }
    }
}

/// What a table, its tree and the column are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Properties {
    /// An ordinary table, or a partitioned one.
    pub is_table: bool,
    pub is_temporary: bool,
    /// `CREATE TABLE … OF`.
    pub is_of_composite_type: bool,
    /// The column comes from a parent.
    pub is_inherited: bool,
    /// A foreign table is among those below.
    pub has_foreign_table_below: bool,
    /// In a table below, the column comes from more than one parent.
    pub has_more_parents_below: bool,
    pub is_identity: bool,
    /// The column is computed from others.
    pub is_generated: bool,
    pub is_not_null: bool,
    pub is_of_the_system: bool,
    /// The column is NOT NULL in a table below, and not in this one.
    pub is_not_null_only_below: bool,
    /// A partitioned table of the tree is divided by the column.
    pub is_in_partition_key: bool,
}

impl Properties {
    /// What they mean for a migration.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let blocks = [
            (!self.is_table, "the relation", "is no table"),
            (
                self.is_temporary,
                "the table",
                "is temporary: no worker can reach it",
            ),
            (
                self.is_of_composite_type,
                "the table",
                "is of a composite type: make it an ordinary one with ALTER TABLE … NOT OF",
            ),
            (
                self.is_inherited,
                "the column",
                "is inherited: migrate it in the table that it comes from",
            ),
            (
                self.has_foreign_table_below,
                "the table",
                "has a foreign table below it: detach that",
            ),
            (
                self.has_more_parents_below,
                "the column",
                "comes to a child from more than one parent",
            ),
            (self.is_identity, "the column", "is an identity column"),
            (self.is_generated, "the column", "is generated from others"),
            (self.is_of_the_system, "the table", "belongs to the system"),
            (
                self.is_in_partition_key,
                "the partition key",
                "is made of the column",
            ),
        ];
        let mut lines: Vec<Line> = blocks
            .into_iter()
            .filter(|(so, ..)| *so)
            .map(|(_, object, why)| Line::block(object, why))
            .collect();
        if self.is_not_null {
            lines.push(Line::keep(
                "NOT NULL",
                "holds for the new column from the swap on, proven beforehand",
            ));
        }
        if self.is_not_null_only_below {
            lines.push(
                Line::lose("NOT NULL of a partition or child alone", "is dropped")
                    .known_by("not null below"),
            );
        }
        lines
    }
}

/// What search indexes take over from a thing that hangs on the column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// The thing is of this column alone, and asks nothing that terms cannot answer.
    pub alone: bool,
    /// The column has a search index of equality, or will have it before it is encrypted.
    pub equality: bool,
    /// And that one is unique.
    pub unique: bool,
    /// A foreign key of the columns' terms does the same.
    pub on_terms: bool,
}

/// A thing that the server's record of dependencies ties to the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependent {
    /// The column's own default.
    Default,
    /// Another column is computed from it.
    GeneratedColumn,
    Check,
    ForeignKey,
    /// A primary key, a unique or exclusion constraint, a unique index.
    Uniqueness,
    Index,
    Statistics,
    Sequence,
    PartitionKey,
    /// A view or rule that is none of ours.
    Rule,
    /// An access view of the table.
    AccessView,
    /// Anything else, such as a function or a policy.
    Other,
}

impl Dependent {
    /// As the survey's query names it. Of a rule it must be known apart whether it is an access view of the table.
    #[must_use]
    pub fn named(kind: &str, is_access_view: bool) -> Self {
        match kind {
            "default" => Self::Default,
            "generated" => Self::GeneratedColumn,
            "constraint c" => Self::Check,
            "constraint f" => Self::ForeignKey,
            "constraint p" | "constraint u" | "constraint x" | "unique index" => Self::Uniqueness,
            "index" => Self::Index,
            "statistics" => Self::Statistics,
            "sequence" => Self::Sequence,
            "partition key" => Self::PartitionKey,
            "rule" if is_access_view => Self::AccessView,
            "rule" => Self::Rule,
            _ => Self::Other,
        }
    }

    /// What becomes of it where search indexes of the column do what it does; none where they do not.
    #[must_use]
    pub const fn taken_over(self, by: TakenOver) -> Option<&'static str> {
        match self {
            Self::Uniqueness if by.alone && by.unique => {
                Some("goes with the plaintext: a unique search index keeps the values apart")
            }
            Self::Index if by.alone && by.equality => {
                Some("goes with the plaintext: a search index finds the values")
            }
            Self::ForeignKey if by.on_terms => {
                Some("goes with the plaintext: the foreign key of the terms ties the values")
            }
            _ => None,
        }
    }

    /// What becomes of it. `viewed` is whether a view takes the table's name in this migration, or has it.
    #[must_use]
    pub const fn fate(self, kind: Kind, viewed: bool) -> (Fate, &'static str) {
        match self {
            Self::Default if matches!(kind, Kind::Encrypt) && viewed => {
                (Fate::Kept, "moves to the access view's column")
            }
            Self::Default => (Fate::Lost, "is dropped: the new column has none"),
            Self::GeneratedColumn => (Fate::Blocks, "a column is generated from it"),
            Self::Check | Self::Index | Self::Statistics => (Fate::Lost, "is dropped"),
            Self::ForeignKey => (
                Fate::Blocks,
                "ties the column's values to another table's, and ciphertexts are never equal: \
                 give both columns search indexes of one search domain, and their terms a foreign key",
            ),
            Self::Uniqueness => (
                Fate::Blocks,
                "keeps the column's values apart, and ciphertexts are never equal: \
                 say search_key for a unique search index, where it is of this column alone, and compares by its own type and collation",
            ),
            Self::Sequence => (
                Fate::Blocks,
                "belongs to the column: ALTER SEQUENCE … OWNED BY NONE first",
            ),
            Self::PartitionKey => (Fate::Blocks, "is made of the column"),
            Self::AccessView => (Fate::Kept, "is made anew in the swap"),
            Self::Rule => (Fate::Blocks, "reads the column"),
            Self::Other => (Fate::Blocks, "needs the column"),
        }
    }

    /// The line of the thing of this name.
    #[must_use]
    pub fn line(
        self,
        token: String,
        object: String,
        kind: Kind,
        viewed: bool,
        by: TakenOver,
    ) -> Line {
        let (fate, becomes) = match self.taken_over(by) {
            Some(becomes) if matches!(kind, Kind::Encrypt) => (Fate::Kept, becomes),
            _ => self.fate(kind, viewed),
        };
        Line::new(fate, object, becomes).known_by(token)
    }
}

/// A trigger before a row is written. One that fires after ours would change a row that was brought in step, and what
/// the function of any does with the column nobody can tell.
#[must_use]
pub fn trigger(object: String, fires_after_ours: bool) -> Line {
    if fires_after_ours {
        Line::block(
            object,
            "would fire after colcrypt's: triggers fire in the order of their names",
        )
    } else {
        Line::keep(
            object,
            "fires as before; should its function use the column, it has another type from the swap on",
        )
    }
}

/// A publication of the table: a subscriber without the new column stops.
#[must_use]
pub fn publication(token: String, object: String) -> Line {
    Line::lose(
        object,
        "publishes the table: its subscribers stop until they have the same columns and names",
    )
    .known_by(token)
}

/// The tokens of what would be lost: who accepts losses accepts these, and none that come later.
#[must_use]
pub fn losses(lines: &[Line]) -> Vec<String> {
    let lost = lines.iter().filter(|line| line.fate == Fate::Lost);
    lost.map(|line| line.token.clone()).collect()
}

/// Refuses what blocks, and what would be lost unless it was accepted.
///
/// # Errors
/// [`Error::MigrationBlocked`], [`Error::LossesNotAccepted`].
pub fn refuse(lines: &[Line], column: &str, accepted: impl Fn(&Line) -> bool) -> Result<()> {
    let listed = |wanted: &dyn Fn(&Line) -> bool| {
        let chosen = lines.iter().filter(|line| wanted(line));
        chosen
            .map(|line| format!("{} {}", line.object, line.becomes))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let blocks = listed(&|line| line.fate == Fate::Blocks);
    if !blocks.is_empty() {
        return Err(Error::MigrationBlocked {
            column: column.into(),
            blocks,
        });
    }
    let losses = listed(&|line| line.fate == Fate::Lost && !accepted(line));
    if losses.is_empty() {
        return Ok(());
    }
    Err(Error::LossesNotAccepted {
        column: column.into(),
        losses,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A property, and what it is to make of a table that is fine.
    type Case = (fn(&mut Properties), Fate, &'static str);

    fn fine() -> Properties {
        Properties {
            is_table: true,
            ..Properties::default()
        }
    }

    #[test]
    fn each_property_has_one_line() {
        assert_eq!(fine().lines(), []);
        let cases: [Case; 12] = [
            (
                |it| it.is_table = false,
                Fate::Blocks,
                "the relation is no table",
            ),
            (
                |it| it.is_temporary = true,
                Fate::Blocks,
                "the table is temporary",
            ),
            (
                |it| it.is_of_composite_type = true,
                Fate::Blocks,
                "the table is of a composite type",
            ),
            (
                |it| it.is_inherited = true,
                Fate::Blocks,
                "the column is inherited",
            ),
            (
                |it| it.has_foreign_table_below = true,
                Fate::Blocks,
                "the table has a foreign table below",
            ),
            (
                |it| it.has_more_parents_below = true,
                Fate::Blocks,
                "the column comes to a child from more",
            ),
            (
                |it| it.is_identity = true,
                Fate::Blocks,
                "the column is an identity column",
            ),
            (
                |it| it.is_generated = true,
                Fate::Blocks,
                "the column is generated",
            ),
            (
                |it| it.is_of_the_system = true,
                Fate::Blocks,
                "the table belongs to the system",
            ),
            (
                |it| it.is_in_partition_key = true,
                Fate::Blocks,
                "the partition key is made of the column",
            ),
            (
                |it| it.is_not_null = true,
                Fate::Kept,
                "NOT NULL holds for the new column",
            ),
            (
                |it| it.is_not_null_only_below = true,
                Fate::Lost,
                "NOT NULL of a partition or child alone is dropped",
            ),
        ];
        for (set, fate, words) in cases {
            let mut properties = fine();
            set(&mut properties);
            let lines = properties.lines();
            assert_eq!(lines.len(), 1, "{words}");
            assert_eq!(lines[0].fate, fate, "{words}");
            let said = format!("{} {}", lines[0].object, lines[0].becomes);
            assert!(said.starts_with(words), "{said}");
        }
    }

    #[test]
    fn each_dependent_has_its_fate() {
        use Dependent::*;
        for (kind, dependent, fate) in [
            ("default", Default, Fate::Lost),
            ("generated", GeneratedColumn, Fate::Blocks),
            ("constraint c", Check, Fate::Lost),
            ("constraint f", ForeignKey, Fate::Blocks),
            ("constraint p", Uniqueness, Fate::Blocks),
            ("constraint u", Uniqueness, Fate::Blocks),
            ("constraint x", Uniqueness, Fate::Blocks),
            ("unique index", Uniqueness, Fate::Blocks),
            ("index", Index, Fate::Lost),
            ("statistics", Statistics, Fate::Lost),
            ("sequence", Sequence, Fate::Blocks),
            ("partition key", PartitionKey, Fate::Blocks),
            ("rule", Rule, Fate::Blocks),
            ("other", Other, Fate::Blocks),
            ("constraint t", Other, Fate::Blocks),
            ("", Other, Fate::Blocks),
        ] {
            assert_eq!(Dependent::named(kind, false), dependent, "{kind}");
            assert_eq!(dependent.fate(Kind::Encrypt, false).0, fate, "{kind}");
            assert_eq!(dependent.fate(Kind::Decrypt, true).0, fate, "{kind}");
        }
        assert_eq!(Dependent::named("rule", true), AccessView);
        assert_eq!(AccessView.fate(Kind::Encrypt, true).0, Fate::Kept);
    }

    #[test]
    fn what_search_indexes_do_instead_goes() {
        use Dependent::*;
        let line = |dependent: Dependent, kind, by| {
            dependent
                .line("t".into(), "it".into(), kind, false, by)
                .fate
        };
        let all = TakenOver {
            alone: true,
            equality: true,
            unique: true,
            on_terms: true,
        };
        for dependent in [Uniqueness, Index, ForeignKey] {
            assert_eq!(line(dependent, Kind::Encrypt, all), Fate::Kept);
            assert_ne!(line(dependent, Kind::Decrypt, all), Fate::Kept);
            let by = TakenOver::default();
            assert_ne!(line(dependent, Kind::Encrypt, by), Fate::Kept);
        }
        for (dependent, by) in [
            (
                Uniqueness,
                TakenOver {
                    unique: false,
                    ..all
                },
            ),
            (
                Uniqueness,
                TakenOver {
                    alone: false,
                    ..all
                },
            ),
            (
                Index,
                TakenOver {
                    alone: false,
                    ..all
                },
            ),
            (
                ForeignKey,
                TakenOver {
                    on_terms: false,
                    ..all
                },
            ),
        ] {
            assert_ne!(line(dependent, Kind::Encrypt, by), Fate::Kept);
        }
        assert_eq!(line(Other, Kind::Encrypt, all), Fate::Blocks);
    }

    #[test]
    fn only_what_is_encrypted_behind_a_view_keeps_its_default() {
        for (kind, viewed, fate) in [
            (Kind::Encrypt, true, Fate::Kept),
            (Kind::Encrypt, false, Fate::Lost),
            (Kind::Decrypt, true, Fate::Lost),
            (Kind::Decrypt, false, Fate::Lost),
        ] {
            assert_eq!(Dependent::Default.fate(kind, viewed).0, fate);
        }
    }

    #[test]
    fn triggers_and_publications() {
        assert_eq!(trigger("t".into(), true).fate, Fate::Blocks);
        assert_eq!(trigger("t".into(), false).fate, Fate::Kept);
        let publication = publication("pg_publication/7".into(), "p".into());
        assert_eq!(publication.fate, Fate::Lost);
        assert_eq!(losses(&[publication]), ["pg_publication/7"]);
    }

    #[test]
    fn words_say_who_has_to_act() {
        assert_eq!(Line::keep("a", "stays").in_words(), "stays");
        assert_eq!(Line::lose("a", "goes").in_words(), "goes (accept_losses)");
        assert_eq!(
            Line::block("a", "is there").in_words(),
            "stands in the way: is there"
        );
    }

    fn lines() -> impl Strategy<Value = Vec<Line>> {
        let fate = prop_oneof![Just(Fate::Kept), Just(Fate::Lost), Just(Fate::Blocks)];
        let line = (fate, "[a-z]{1,5}", any::<u8>()).prop_map(|(fate, object, id)| {
            Line::new(fate, object, "is so").known_by(id.to_string())
        });
        proptest::collection::vec(line, 0..8)
    }

    proptest! {
        #[test]
        fn what_blocks_is_never_accepted(lines in lines()) {
            let has = |fate| lines.iter().any(|line| line.fate == fate);
            let outcome = refuse(&lines, "c", |_| true);
            prop_assert_eq!(outcome.is_err(), has(Fate::Blocks));
            let strict = refuse(&lines, "c", |_| false);
            prop_assert_eq!(strict.is_err(), has(Fate::Blocks) || has(Fate::Lost));
        }

        #[test]
        fn what_was_accepted_by_token_holds_and_a_new_loss_does_not(lines in lines(), extra in "[a-z]{3}") {
            let accepted = losses(&lines);
            let mut lines = lines;
            lines.retain(|line| line.fate != Fate::Blocks);
            prop_assert!(refuse(&lines, "c", |line| accepted.contains(&line.token)).is_ok());
            lines.push(Line::lose("new", "is lost").known_by(extra));
            let refused = refuse(&lines, "c", |line| accepted.contains(&line.token));
            let told = matches!(refused, Err(Error::LossesNotAccepted { ref losses, .. }) if losses == "new is lost");
            prop_assert!(told);
        }
    }
}
