//! The public record of an escrow: its public key, and of each share whose it is and a commitment to it.
//!
//! A share's commitment is the public half of a signing key (Ed25519) that is made of a salt and the share's words. So
//! one share alone shows whether it is whole and of this escrow, without any other; nothing is learnt of it from the
//! commitment; and its holder can sign that he has it.

use std::collections::BTreeSet;

use aws_lc_rs::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use colcrypt_core::{CryptoError, EscrowKey, escrow::Recipient, secret::fill_random};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::slip39::{self, Group, Share, SplitError};

const FORMAT: &str = "colcrypt-escrow-record-1";
const COMMITMENT: &[u8] = b"colcrypt escrow share 1\0";
const RECEIPT: &str = "colcrypt-escrow-receipt-1";
const SALT_LEN: usize = 16;
const LONGEST_NAME: usize = 100;

/// An escrow, without a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: String,
    /// What people call it.
    pub name: String,
    /// The public key, as the provider's settings have it.
    pub recipient: String,
    /// The number that all shares of this splitting carry.
    set: u16,
    /// How many of the groups it takes.
    pub groups_needed: u8,
    pub groups: Vec<Circle>,
}

/// A group of holders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circle {
    pub name: String,
    /// How many of its holders it takes.
    pub needed: u8,
    pub holders: Vec<Holder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    pub name: String,
    salt: String,
    /// The commitment: what verifies a signature that only this share can make.
    check_key: String,
}

/// A group as it is asked for.
pub struct Wanted {
    pub name: String,
    pub needed: u8,
    pub holders: Vec<String>,
}

/// Where a share belongs: group and place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub group: u8,
    pub member: u8,
}

/// Why no escrow is made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotMade {
    #[error("a name has 1 to {LONGEST_NAME} characters, none of them a control character: {0:?}")]
    Name(String),
    #[error("two have the name {0:?}: refusals call people by name")]
    Twice(String),
    #[error(transparent)]
    Split(#[from] SplitError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Why a text is no record.
#[derive(Debug, Error)]
pub enum NotARecord {
    /// What is there is not repeated: it may be anything.
    #[error(
        "not the record of an escrow, as `colcrypt escrow create` writes it: see line {line}, column {column}"
    )]
    Json { line: usize, column: usize },
    #[error("not the record of an escrow that this version knows: {0}")]
    Content(String),
}

/// Why a share is not one of this escrow. Holders are called by name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotOurs {
    #[error(
        "this share is of another escrow, or of an earlier sharing of this one: {escrow} has set {expected}, and it is of \
         set {got}"
    )]
    Foreign {
        escrow: String,
        expected: u16,
        got: u16,
    },
    #[error(
        "this share is in the place of {holder}'s, but it is not that share: it was altered, or made up"
    )]
    Altered { holder: String },
}

/// Why a text is no receipt of this escrow's holders.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotAReceipt {
    #[error("not a receipt, as `colcrypt escrow check` prints it")]
    Malformed,
    #[error("this receipt is of another escrow")]
    Foreign,
    #[error("this receipt was not signed with {0}'s share")]
    Signature(String),
}

/// What a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub place: Place,
    /// Seconds since 1970.
    pub at: u64,
}

impl Record {
    /// Splits a key for these groups. Returns the record, and the shares in its order.
    ///
    /// # Errors
    /// [`NotMade`].
    pub fn make(
        name: &str,
        key: &EscrowKey,
        groups_needed: u8,
        groups: &[Wanted],
    ) -> Result<(Self, Vec<Vec<Share>>), NotMade> {
        refuse_bad_names(name, groups)?;
        let sizes: Vec<Group> = groups
            .iter()
            .map(|group| Group {
                threshold: group.needed,
                // More than fit are too many there.
                members: u8::try_from(group.holders.len()).unwrap_or(u8::MAX),
            })
            .collect();
        let shares = slip39::split(key.expose(), b"", groups_needed, &sizes)?;
        let mut circles = Vec::with_capacity(groups.len());
        for (group, shares) in groups.iter().zip(&shares) {
            let mut holders = Vec::with_capacity(shares.len());
            for (name, share) in group.holders.iter().zip(shares) {
                let mut salt = [0; SALT_LEN];
                fill_random(&mut salt)?;
                holders.push(Holder {
                    name: name.clone(),
                    salt: hex::encode(salt),
                    check_key: hex::encode(signer(&salt, share).public_key()),
                });
            }
            circles.push(Circle {
                name: group.name.clone(),
                needed: group.needed,
                holders,
            });
        }
        let record = Self {
            format: FORMAT.into(),
            name: name.into(),
            recipient: key.recipient()?.to_string(),
            set: shares[0][0].id,
            groups_needed,
            groups: circles,
        };
        Ok((record, shares))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`NotARecord`].
    pub fn parse(json: &str) -> Result<Self, NotARecord> {
        let record: Self = serde_json::from_str(json).map_err(|error| NotARecord::Json {
            line: error.line(),
            column: error.column(),
        })?;
        let bad = |what: &str| Err(NotARecord::Content(what.into()));
        if record.format != FORMAT {
            return bad("its format has another number");
        }
        if let Err(why) = record.recipient.parse::<Recipient>() {
            return bad(&format!("its recipient is {why}"));
        }
        let holders = || record.groups.iter().flat_map(|group| &group.holders);
        let circles = record.groups.iter().map(|group| &group.name);
        let mut names = holders().map(|holder| &holder.name).chain(circles);
        if is_bad(&record.name) || names.any(|name| is_bad(name)) {
            return bad("a name in it is empty, too long, or no line of text");
        }
        for holder in holders() {
            if holder.salt().is_none() || hex::decode(&holder.check_key).is_err() {
                return bad(&format!("the commitment of {} is none", holder.name));
            }
        }
        Ok(record)
    }

    /// As JSON, for people too.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The short name of the public key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let (_, fingerprint) = self.recipient.rsplit_once(':').unwrap_or_default();
        fingerprint.into()
    }

    /// The holder at a place.
    #[must_use]
    pub fn holder(&self, place: Place) -> Option<&Holder> {
        let group = self.groups.get(usize::from(place.group))?;
        group.holders.get(usize::from(place.member))
    }

    /// Every place and its holder.
    pub fn holders(&self) -> impl Iterator<Item = (Place, &Holder)> {
        (0..).zip(&self.groups).flat_map(|(group, circle)| {
            (0..)
                .zip(&circle.holders)
                .map(move |(member, holder)| (Place { group, member }, holder))
        })
    }

    /// Whether the shares at these places open the escrow together.
    #[must_use]
    pub fn is_enough(&self, places: &BTreeSet<Place>) -> bool {
        let complete = (0..).zip(&self.groups).filter(|(group, circle)| {
            let of_it = places.iter().filter(|place| place.group == *group);
            of_it.count() >= usize::from(circle.needed)
        });
        complete.count() >= usize::from(self.groups_needed)
    }

    /// Whose share it is, which is whole then and of this escrow.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn whose(&self, share: &Share) -> Result<(Place, &Holder), NotOurs> {
        let foreign = || NotOurs::Foreign {
            escrow: self.name.clone(),
            expected: self.set,
            got: share.id,
        };
        if share.id != self.set {
            return Err(foreign());
        }
        let place = Place {
            group: share.group,
            member: share.member,
        };
        let holder = self.holder(place).ok_or_else(foreign)?;
        let is_his = holder
            .salt()
            .is_some_and(|salt| hex::encode(signer(&salt, share).public_key()) == holder.check_key);
        if !is_his {
            return Err(NotOurs::Altered {
                holder: holder.name.clone(),
            });
        }
        Ok((place, holder))
    }

    /// What a holder can show: that whoever made this had his share, whole, at that time. It is no secret.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn receipt(&self, share: &Share, at: u64) -> Result<String, NotOurs> {
        let (place, _) = self.whose(share)?;
        let said = self.said(Receipt { place, at });
        Ok(format!("{said}:{}", self.sign(share, said.as_bytes())?))
    }

    /// A signature over `message` that only this share can make, as hexadecimal digits.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn sign(&self, share: &Share, message: &[u8]) -> Result<String, NotOurs> {
        let (_, holder) = self.whose(share)?;
        let salt = holder.salt().unwrap_or_default();
        Ok(hex::encode(signer(&salt, share).sign(message)))
    }

    /// Whether a signature over `message` is of the share at this place.
    #[must_use]
    pub fn has_signed(&self, place: Place, message: &[u8], signature: &str) -> bool {
        let bytes = |text: &str| hex::decode(text).ok();
        let check_key = self
            .holder(place)
            .and_then(|holder| bytes(&holder.check_key));
        check_key
            .zip(bytes(signature))
            .is_some_and(|(key, signature)| {
                UnparsedPublicKey::new(&ED25519, key)
                    .verify(message, &signature)
                    .is_ok()
            })
    }

    /// What a receipt says, which is true of the one who signed it.
    ///
    /// # Errors
    /// [`NotAReceipt`].
    pub fn verify(&self, receipt: &str) -> Result<Receipt, NotAReceipt> {
        let receipt = receipt.trim();
        let parts: Vec<&str> = receipt.split(':').collect();
        let [RECEIPT, fingerprint, group, member, at, signature] = parts[..] else {
            return Err(NotAReceipt::Malformed);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotAReceipt::Malformed);
        let small = |text: &str| text.parse::<u8>().map_err(|_| NotAReceipt::Malformed);
        let said = Receipt {
            place: Place {
                group: small(group)?,
                member: small(member)?,
            },
            at: number(at)?,
        };
        let holder = self
            .holder(said.place)
            .filter(|_| fingerprint == self.fingerprint())
            .ok_or(NotAReceipt::Foreign)?;
        if !self.has_signed(said.place, self.said(said).as_bytes(), signature) {
            return Err(NotAReceipt::Signature(holder.name.clone()));
        }
        Ok(said)
    }

    fn said(&self, receipt: Receipt) -> String {
        let Receipt { place, at } = receipt;
        let fingerprint = self.fingerprint();
        format!(
            "{RECEIPT}:{fingerprint}:{}:{}:{at}",
            place.group, place.member
        )
    }
}

impl Holder {
    fn salt(&self) -> Option<[u8; SALT_LEN]> {
        let mut salt = [0; SALT_LEN];
        hex::decode_to_slice(&self.salt, &mut salt).ok()?;
        Some(salt)
    }
}

/// The signing key that a salt and a share make.
fn signer(salt: &[u8; SALT_LEN], share: &Share) -> Ed25519KeyPair {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, salt));
    context.update(COMMITMENT);
    context.update(share.words().as_bytes());
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(context.sign().as_ref());
    Ed25519KeyPair::from_seed_unchecked(&seed[..]).expect("a seed has 32 bytes")
}

/// Whether it cannot be shown to people as a name.
fn is_bad(name: &str) -> bool {
    !(1..=LONGEST_NAME).contains(&name.chars().count()) || name.contains(char::is_control)
}

fn refuse_bad_names(name: &str, groups: &[Wanted]) -> Result<(), NotMade> {
    let mut seen = BTreeSet::new();
    let holders = groups.iter().flat_map(|group| &group.holders);
    for holder in holders.clone() {
        if !seen.insert(holder) {
            return Err(NotMade::Twice(holder.clone()));
        }
    }
    let mut all = holders
        .chain(groups.iter().map(|group| &group.name))
        .map(String::as_str)
        .chain([name]);
    match all.find(|name| is_bad(name)) {
        Some(name) => Err(NotMade::Name(name.into())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> (Record, Vec<Share>) {
        let key = EscrowKey::generate().unwrap();
        let wanted = Wanted {
            name: "holders".into(),
            needed: 2,
            holders: ["Ada", "Ben", "Cleo"].map(String::from).to_vec(),
        };
        let (record, mut shares) = Record::make(name, &key, 1, &[wanted]).unwrap();
        (record, shares.remove(0))
    }

    #[test]
    fn one_share_alone_shows_whose_it_is() {
        let (record, shares) = made("escrow");
        let record = Record::parse(&record.text()).unwrap();
        for (share, name) in shares.iter().zip(["Ada", "Ben", "Cleo"]) {
            let read = Share::parse(&share.words()).unwrap();
            assert_eq!(record.whose(&read).unwrap().1.name, name);
        }
        let (_, others) = made("other");
        let foreign = record.whose(&others[0]).unwrap_err().to_string();
        assert!(foreign.contains("of another escrow"), "{foreign}");
    }

    #[test]
    fn an_altered_share_is_called_by_its_holders_name() {
        let (record, shares) = made("escrow");
        let mut altered = shares[1].clone();
        altered.value[31] ^= 1;
        // With a checksum that fits again.
        let altered = Share::parse(&altered.words()).unwrap();
        assert_eq!(
            record.whose(&altered).unwrap_err(),
            NotOurs::Altered {
                holder: "Ben".into()
            }
        );
    }

    #[test]
    fn a_receipt_is_of_one_share_one_escrow_and_one_time() {
        let (record, shares) = made("escrow");
        let receipt = record.receipt(&shares[1], 1_800_000_000).unwrap();
        let said = record.verify(&format!(" {receipt}\n")).unwrap();
        assert_eq!(record.holder(said.place).unwrap().name, "Ben");
        assert_eq!(said.at, 1_800_000_000);
        let later = receipt.replace("1800000000", "1800000001");
        assert_eq!(
            record.verify(&later),
            Err(NotAReceipt::Signature("Ben".into()))
        );
        let of_another = receipt.replacen(":0:1:", ":0:2:", 1);
        assert_eq!(
            record.verify(&of_another),
            Err(NotAReceipt::Signature("Cleo".into()))
        );
        assert_eq!(made("other").0.verify(&receipt), Err(NotAReceipt::Foreign));
        assert_eq!(record.verify("hello"), Err(NotAReceipt::Malformed));
    }

    #[test]
    fn names_are_people_and_no_two_are_the_same() {
        let key = EscrowKey::generate().unwrap();
        let with = |name: &str, holders: [&str; 2]| {
            let wanted = Wanted {
                name: "holders".into(),
                needed: 2,
                holders: holders.map(String::from).to_vec(),
            };
            Record::make(name, &key, 1, &[wanted]).err()
        };
        assert_eq!(
            with("e", ["Ada", "Ada"]),
            Some(NotMade::Twice("Ada".into()))
        );
        assert_eq!(with("e", ["Ada", ""]), Some(NotMade::Name(String::new())));
        assert_eq!(
            with("e\n", ["Ada", "Ben"]),
            Some(NotMade::Name("e\n".into()))
        );
    }

    /// A record may come from anywhere, and its names are shown.
    #[test]
    fn a_name_that_is_no_line_of_text_is_no_record() {
        let (record, _) = made("e");
        let text = record.text();
        for (name, other) in [
            ("\"e\"", "\"e\\u001b[2J\""),
            ("\"Ben\"", "\"\""),
            ("\"holders\"", "\"a\\nb\""),
        ] {
            let forged = text.replacen(name, other, 1);
            assert_ne!(forged, text, "{name}");
            assert!(
                matches!(Record::parse(&forged), Err(NotARecord::Content(_))),
                "{other}"
            );
        }
    }
}
