//! The report of a drill: a text, and signatures over it that only the shares that took part can make.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::collect::Collector;
use crate::record::{NotOurs, Place, Record};

const FORMAT: &str = "colcrypt-escrow-drill-1";

/// What a drill found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    format: String,
    escrow: String,
    fingerprint: String,
    /// Seconds since 1970.
    pub at: u64,
    pub holders: Vec<String>,
    pub keyrings: Vec<String>,
    pub key_encryption_keys: usize,
    pub key_versions: usize,
    /// Key versions whose canary value was decrypted.
    #[serde(default)]
    pub canaries: usize,
    /// Empty when every key was opened.
    pub problems: Vec<String>,
    pub seconds_for_shares: u64,
    pub milliseconds_to_open: u64,
}

/// The report: the text of a [`Drill`], as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    drill: String,
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    holder: String,
    signature: String,
}

/// Why a report is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotBelieved {
    #[error("not the report of a drill, as `colcrypt escrow drill` prints it")]
    Malformed,
    #[error("this report is of another escrow")]
    Foreign,
    #[error("the report was not signed with {0}'s share")]
    Signature(String),
    #[error("fewer have signed it than it takes to open the escrow")]
    TooFew,
}

impl Drill {
    /// Of an escrow, with nothing found yet.
    #[must_use]
    pub fn of(record: &Record, at: u64) -> Self {
        Self {
            format: FORMAT.into(),
            escrow: record.name.clone(),
            fingerprint: record.fingerprint(),
            at,
            holders: Vec::new(),
            keyrings: Vec::new(),
            key_encryption_keys: 0,
            key_versions: 0,
            canaries: 0,
            problems: Vec::new(),
            seconds_for_shares: 0,
            milliseconds_to_open: 0,
        }
    }

    /// Names who took part, and has each share sign.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn signed(mut self, record: &Record, collector: &Collector) -> Result<Report, NotOurs> {
        let mut holders = Vec::new();
        for share in collector.shares() {
            holders.push(record.whose(share)?.1.name.clone());
        }
        self.holders.clone_from(&holders);
        let drill = serde_json::to_string(&self).unwrap_or_default();
        let signatures = collector
            .shares()
            .iter()
            .zip(holders)
            .map(|(share, holder)| {
                let signature = record.sign(share, drill.as_bytes())?;
                Ok(Signed { holder, signature })
            });
        let signatures = signatures.collect::<Result<_, NotOurs>>()?;
        Ok(Report { drill, signatures })
    }
}

impl Report {
    /// As one line.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a report, and believes it when enough holders have signed that it takes to open the escrow.
    ///
    /// # Errors
    /// [`NotBelieved`].
    pub fn believed(record: &Record, text: &str) -> Result<Drill, NotBelieved> {
        let report: Self = serde_json::from_str(text).map_err(|_| NotBelieved::Malformed)?;
        let drill: Drill =
            serde_json::from_str(&report.drill).map_err(|_| NotBelieved::Malformed)?;
        if drill.format != FORMAT {
            return Err(NotBelieved::Malformed);
        }
        if drill.fingerprint != record.fingerprint() {
            return Err(NotBelieved::Foreign);
        }
        let mut signers: BTreeSet<Place> = BTreeSet::new();
        for Signed { holder, signature } in report.signatures {
            // Who the record does not know is not called by the name that somebody wrote there.
            let (place, _) = record
                .holders()
                .find(|(_, known)| known.name == holder)
                .ok_or(NotBelieved::Foreign)?;
            if !record.has_signed(place, report.drill.as_bytes(), &signature) {
                return Err(NotBelieved::Signature(holder));
            }
            signers.insert(place);
        }
        if !record.is_enough(&signers) {
            return Err(NotBelieved::TooFew);
        }
        Ok(drill)
    }
}

#[cfg(test)]
mod tests {
    use colcrypt_core::EscrowKey;

    use super::*;
    use crate::record::Wanted;

    #[test]
    fn a_report_is_believed_when_enough_have_signed_it() {
        let key = EscrowKey::generate().unwrap();
        let wanted = [Wanted {
            name: "holders".into(),
            needed: 2,
            holders: ["Ada", "Ben", "Cleo"].map(String::from).to_vec(),
        }];
        let (record, shares) = Record::make("escrow", &key, 1, &wanted).unwrap();
        let report = |count| {
            let mut collector = Collector::new(Some(&record));
            for share in &shares[0][..count] {
                collector.add(share.clone()).unwrap();
            }
            Drill::of(&record, 1).signed(&record, &collector).unwrap()
        };
        let text = report(2).text();
        let drill = Report::believed(&record, &text).unwrap();
        assert_eq!(
            (drill.at, drill.holders),
            (1, vec!["Ada".into(), "Ben".into()])
        );
        assert_eq!(
            Report::believed(&record, &report(1).text()),
            Err(NotBelieved::TooFew)
        );
        let mut twice = report(1);
        twice.signatures.push(twice.signatures[0].clone());
        assert_eq!(
            Report::believed(&record, &twice.text()),
            Err(NotBelieved::TooFew)
        );
        let later = text.replace("\\\"at\\\":1,", "\\\"at\\\":2,");
        assert_ne!(later, text);
        assert_eq!(
            Report::believed(&record, &later),
            Err(NotBelieved::Signature("Ada".into()))
        );
        let (other, _) =
            Record::make("other", &EscrowKey::generate().unwrap(), 1, &wanted).unwrap();
        assert_eq!(Report::believed(&other, &text), Err(NotBelieved::Foreign));
        assert_eq!(Report::believed(&record, "{}"), Err(NotBelieved::Malformed));
    }
}
