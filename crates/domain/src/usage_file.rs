//! Counts of use that were not flushed when the server was stopped, as the file that has them until its next start.

use std::fmt::Write;

/// How many encryptions of a version are in no total yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionLine {
    pub key: u64,
    pub database: u32,
    pub version: u32,
    pub unflushed: i64,
}

/// What a role did with a version, since when (the server's timestamp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UseLine {
    pub key: u64,
    pub database: u32,
    pub version: u32,
    pub role: u32,
    pub encryptions: i64,
    pub decryptions: i64,
    pub since: i64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub versions: Vec<VersionLine>,
    pub uses: Vec<UseLine>,
}

const TITLE: &str = "colcrypt usage 1";

impl Kept {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.uses.is_empty()
    }

    /// A line each, and how many at the end, so that a part is not taken for the whole.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{TITLE}\n");
        for v in &self.versions {
            let _ = writeln!(
                text,
                "version {} {} {} {}",
                v.database, v.key, v.version, v.unflushed
            );
        }
        for u in &self.uses {
            let _ = writeln!(
                text,
                "use {} {} {} {} {} {} {}",
                u.database, u.key, u.version, u.role, u.encryptions, u.decryptions, u.since
            );
        }
        let _ = writeln!(text, "end {}", self.versions.len() + self.uses.len());
        text
    }

    /// None where it is not whole.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) || !text.ends_with('\n') {
            return None;
        }
        let mut kept = Self::default();
        for line in lines.by_ref() {
            let parts: Vec<&str> = line.split(' ').collect();
            match parts[..] {
                ["version", database, key, version, unflushed] => kept.versions.push(VersionLine {
                    key: key.parse().ok()?,
                    database: database.parse().ok()?,
                    version: version.parse().ok()?,
                    unflushed: unflushed.parse().ok().filter(|n| *n >= 0)?,
                }),
                [
                    "use",
                    database,
                    key,
                    version,
                    role,
                    encryptions,
                    decryptions,
                    since,
                ] => {
                    kept.uses.push(UseLine {
                        key: key.parse().ok()?,
                        database: database.parse().ok()?,
                        version: version.parse().ok()?,
                        role: role.parse().ok()?,
                        encryptions: encryptions.parse().ok().filter(|n| *n >= 0)?,
                        decryptions: decryptions.parse().ok().filter(|n| *n >= 0)?,
                        since: since.parse().ok()?,
                    });
                }
                ["end", count] => {
                    let is_whole = count.parse() == Ok(kept.versions.len() + kept.uses.len());
                    return (is_whole && lines.next().is_none()).then_some(kept);
                }
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept() -> impl Strategy<Value = Kept> {
        let version = (any::<u64>(), any::<u32>(), any::<u32>(), 0..i64::MAX).prop_map(
            |(key, database, version, unflushed)| VersionLine {
                key,
                database,
                version,
                unflushed,
            },
        );
        let done = (0..i64::MAX, 0..i64::MAX, any::<i64>());
        let used = (any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>(), done).prop_map(
            |(key, database, version, role, (encryptions, decryptions, since))| UseLine {
                key,
                database,
                version,
                role,
                encryptions,
                decryptions,
                since,
            },
        );
        let (versions, uses) = (
            prop::collection::vec(version, 0..8),
            prop::collection::vec(used, 0..8),
        );
        (versions, uses).prop_map(|(versions, uses)| Kept { versions, uses })
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back_whole_or_not_at_all(kept in kept(), cut in 0usize..2_000) {
            let text = kept.text();
            prop_assert_eq!(Kept::parse(&text), Some(kept));
            if cut < text.len() {
                prop_assert_eq!(Kept::parse(&text[..cut]), None);
            }
        }

        #[test]
        fn no_text_is_too_odd(text: String) {
            let _ = Kept::parse(&text);
        }
    }
}
