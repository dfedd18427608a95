//! Shares on their way back together: taken one by one, refused by name, counted.

use colcrypt_core::EscrowKey;
use thiserror::Error;

use crate::record::{NotOurs, Place, Record};
use crate::slip39::{self, CombineError, Share};

/// What was given so far. Without a record whole shares are told from altered ones only at the end.
pub struct Collector<'a> {
    record: Option<&'a Record>,
    shares: Vec<Share>,
}

/// Why a share is not taken. The others stay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    #[error("{0} was given already")]
    Twice(String),
    #[error("this share is of another escrow, or of another sharing, than the ones before")]
    Foreign,
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoKey {
    #[error("shares are missing: {0}")]
    Missing(String),
    #[error("the shares do not give the key: {0}")]
    Combine(#[from] CombineError),
    #[error("the shares give the key {got}, and the escrow's is {expected}")]
    Other { expected: String, got: String },
    #[error("the shares give a secret that is no key of an escrow")]
    NotAKey,
}

impl<'a> Collector<'a> {
    #[must_use]
    pub fn new(record: Option<&'a Record>) -> Self {
        Self {
            record,
            shares: Vec::new(),
        }
    }

    /// Takes a share; returns whose it is.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn add(&mut self, share: Share) -> Result<String, Refused> {
        if let Some(record) = self.record {
            record.whose(&share)?;
        } else if let Some(first) = self.shares.first()
            && !share.is_of_the_set_of(first)
        {
            return Err(Refused::Foreign);
        }
        let name = self.name(&share);
        let is_it = |known: &Share| (known.group, known.member) == (share.group, share.member);
        if self.shares.iter().any(is_it) {
            return Err(Refused::Twice(name));
        }
        self.shares.push(share);
        Ok(name)
    }

    fn name(&self, share: &Share) -> String {
        let place = Place {
            group: share.group,
            member: share.member,
        };
        match self.record.and_then(|record| record.holder(place)) {
            Some(holder) => format!("{}'s share", holder.name),
            None => format!("share {} of group {}", place.member + 1, place.group + 1),
        }
    }

    /// The shares that were taken.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    fn of_group(&self, group: u8) -> Vec<&Share> {
        let of_it = self.shares.iter().filter(|share| share.group == group);
        of_it.collect()
    }

    /// Exactly the shares that it takes, if they are there.
    fn enough(&self) -> Option<Vec<&Share>> {
        let first = self.shares.first()?;
        let groups = (0..first.groups).filter_map(|group| {
            let mut of_it = self.of_group(group);
            let needed = usize::from(of_it.first()?.member_threshold);
            (of_it.len() >= needed).then(|| {
                of_it.truncate(needed);
                of_it
            })
        });
        let mut groups: Vec<Vec<&Share>> = groups.collect();
        let needed = usize::from(first.group_threshold);
        (groups.len() >= needed).then(|| {
            groups.truncate(needed);
            groups.concat()
        })
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.enough().is_some()
    }

    /// What is missing, in words; none when nothing is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        if self.is_complete() {
            return None;
        }
        let Some(first) = self.shares.first() else {
            return Some(match self.record {
                None => "all".into(),
                Some(record) if record.groups.len() == 1 => {
                    let group = &record.groups[0];
                    format!("{} of {}", group.needed, group.holders.len())
                }
                Some(record) => {
                    format!("{} of {} groups", record.groups_needed, record.groups.len())
                }
            });
        };
        let mut parts = Vec::new();
        let mut complete = 0;
        for group in 0..first.groups {
            let given = self.of_group(group);
            let known = self
                .record
                .and_then(|record| record.groups.get(usize::from(group)));
            let needed = match (given.first(), known) {
                (Some(share), _) => share.member_threshold,
                (None, Some(group)) => group.needed,
                (None, None) => continue,
            };
            let left = usize::from(needed).saturating_sub(given.len());
            if left == 0 {
                complete += 1;
                continue;
            }
            let more = if given.is_empty() { "" } else { " more" };
            let name = match known {
                _ if first.groups == 1 => String::new(),
                Some(known) => format!(" of {}", known.name),
                None => format!(" of group {}", group + 1),
            };
            parts.push(format!("{left}{more}{name}"));
        }
        let groups_left = first.group_threshold.saturating_sub(complete);
        Some(if first.groups == 1 {
            parts.concat()
        } else {
            format!("{groups_left} more groups ({})", parts.join(", "))
        })
    }

    /// The key that the shares give, compared with the record's.
    ///
    /// # Errors
    /// [`NoKey`].
    pub fn key(&self) -> Result<EscrowKey, NoKey> {
        let enough = self
            .enough()
            .ok_or_else(|| NoKey::Missing(self.missing().unwrap_or_default()))?;
        let secret = slip39::combine(&enough, b"")?;
        let key = EscrowKey::from_slice(&secret).map_err(|_| NoKey::NotAKey)?;
        let got = key.recipient().map_err(|_| NoKey::NotAKey)?.to_string();
        match self.record {
            Some(record) if record.recipient != got => Err(NoKey::Other {
                expected: record.recipient.clone(),
                got,
            }),
            _ => Ok(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Wanted;

    fn wanted(name: &str, needed: u8, holders: &[&str]) -> Wanted {
        Wanted {
            name: name.into(),
            needed,
            holders: holders.iter().map(|&name| name.into()).collect(),
        }
    }

    #[test]
    fn shares_are_taken_one_by_one_and_refused_by_name() {
        let key = EscrowKey::generate().unwrap();
        let group = [wanted("holders", 3, &["Ada", "Ben", "Cleo", "Dan", "Eve"])];
        let (record, shares) = Record::make("escrow", &key, 1, &group).unwrap();
        let (_, others) = Record::make("other", &key, 1, &group).unwrap();
        let mut collector = Collector::new(Some(&record));
        assert_eq!(collector.missing().unwrap(), "3 of 5");
        assert_eq!(collector.add(shares[0][3].clone()).unwrap(), "Dan's share");
        assert_eq!(collector.missing().unwrap(), "2 more");
        assert_eq!(
            collector.add(shares[0][3].clone()),
            Err(Refused::Twice("Dan's share".into()))
        );
        let foreign = collector.add(others[0][0].clone());
        // By chance of one in 32,768 they are of one set by number; then the commitment tells.
        assert!(matches!(foreign, Err(Refused::NotOurs(_))));
        collector.add(shares[0][0].clone()).unwrap();
        assert!(matches!(collector.key(), Err(NoKey::Missing(_))));
        collector.add(shares[0][4].clone()).unwrap();
        assert_eq!(collector.missing(), None);
        assert!(collector.key().unwrap() == key);
        // One more than it takes does no harm.
        collector.add(shares[0][1].clone()).unwrap();
        assert!(collector.key().unwrap() == key);
    }

    #[test]
    fn without_a_record_the_shares_alone_will_do() {
        let key = EscrowKey::generate().unwrap();
        let group = [wanted("holders", 2, &["Ada", "Ben", "Cleo"])];
        let (_, shares) = Record::make("escrow", &key, 1, &group).unwrap();
        let mut collector = Collector::new(None);
        assert_eq!(
            collector.add(shares[0][2].clone()).unwrap(),
            "share 3 of group 1"
        );
        collector.add(shares[0][0].clone()).unwrap();
        assert!(collector.key().unwrap() == key);
    }

    #[test]
    fn of_groups_so_many_must_be_complete() {
        let key = EscrowKey::generate().unwrap();
        let groups = [
            wanted("directors", 2, &["Ada", "Ben", "Cleo"]),
            wanted("auditors", 2, &["Dan", "Eve", "Fay"]),
        ];
        let (record, shares) = Record::make("escrow", &key, 2, &groups).unwrap();
        let mut collector = Collector::new(Some(&record));
        for at in [0, 1, 2] {
            collector.add(shares[0][at].clone()).unwrap();
        }
        assert_eq!(
            collector.missing().unwrap(),
            "1 more groups (2 of auditors)"
        );
        collector.add(shares[1][0].clone()).unwrap();
        assert_eq!(
            collector.missing().unwrap(),
            "1 more groups (1 more of auditors)"
        );
        collector.add(shares[1][2].clone()).unwrap();
        assert!(collector.key().unwrap() == key);
    }
}
