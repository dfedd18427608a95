//! The root key: how it is named, and what its attributes say about using it.

use std::time::{SystemTime, UNIX_EPOCH};

use colcrypt_protocol::FailureKind;

use super::{
    message::{self, Operation},
    tag,
    ttlv::{Item, Tag, Value},
};
use crate::KmsError;

const ID_PREFIX: &str = "id:";
/// Longer than any server's identifiers and names.
const MAX_NAME: usize = 512;
const DAY: i64 = 24 * 60 * 60;

const PRE_ACTIVE: u32 = 1;
const ACTIVE: u32 = 2;
const DEACTIVATED: u32 = 3;
const COMPROMISED: u32 = 4;
const DESTROYED: u32 = 5;
const DESTROYED_COMPROMISED: u32 = 6;

const MAY_ENCRYPT: i32 = 0x04;
const MAY_DECRYPT: i32 = 0x08;

/// A root key as SQL names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyName<'a> {
    /// By its attribute Name, which a server moves to the new key when it rekeys.
    Name(&'a str),
    /// By its Unique Identifier: this very key.
    Id(&'a str),
}

impl<'a> KeyName<'a> {
    pub(super) fn parse(root_key: &'a str) -> Result<Self, KmsError> {
        let (name, parsed) = match root_key.strip_prefix(ID_PREFIX) {
            Some(id) => (id, Self::Id(id)),
            None => (root_key, Self::Name(root_key)),
        };
        if !is_text(name) {
            return Err(KmsError::config(
                "give the name of the key as the root key, or id: and its unique identifier",
            ));
        }
        Ok(parsed)
    }
}

/// Whether it is of a sound length and a line that shows as it is: it goes into requests, the catalog and messages,
/// which a server or whoever writes to the catalog could otherwise break in two or have read as something else.
fn is_text(name: &str) -> bool {
    let is_hidden = |c: char| {
        let format = [
            '\u{200b}'..='\u{200f}',
            '\u{2028}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
        ];
        c.is_control() || c == '\u{feff}' || format.iter().any(|range| range.contains(&c))
    };
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(is_hidden)
}

/// The identifier in a stored root key version.
pub(super) fn recorded_id(root_key_version: &str) -> Result<&str, KmsError> {
    if !is_text(root_key_version) {
        return Err(KmsError::new(
            FailureKind::Corrupt,
            "the wrapped KEK does not say which key wrapped it: it was altered",
        ));
    }
    Ok(root_key_version)
}

/// The attributes that say whether and for how long a key can be used; what is missing, the server
/// did not tell.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    state: Option<u32>,
    usage: Option<i32>,
    algorithm: Option<u32>,
    length: Option<i32>,
    process_start: Option<i64>,
    protect_stop: Option<i64>,
    deactivation: Option<i64>,
    destruction: Option<i64>,
    uses_left: Option<i64>,
    sensitive: Option<bool>,
    extractable: Option<bool>,
}

impl Attributes {
    fn is_aes(&self) -> bool {
        self.algorithm
            .is_none_or(|algorithm| algorithm == message::AES)
    }

    /// Of the answer to Get Attributes.
    pub(super) fn read(payload: &Item<'_>, id: &str) -> Option<Self> {
        message::of_key(payload, id)?;
        let mut found = Self::default();
        for item in payload.all(tag::ATTRIBUTE) {
            let name = item.text(tag::ATTRIBUTE_NAME)?;
            if let Some((_, attribute)) = tag::ATTRIBUTE_NAMES.iter().find(|known| known.0 == name)
            {
                found.set(*attribute, item.find(tag::ATTRIBUTE_VALUE)?);
            }
        }
        if let Some(attributes) = payload.inner(tag::ATTRIBUTES) {
            for item in attributes.items() {
                found.set(item.tag, &item.value);
            }
        }
        Some(found)
    }

    fn set(&mut self, attribute: Tag, value: &Value<'_>) {
        match (attribute, value) {
            (tag::STATE, Value::Enumeration(state)) => self.state = Some(*state),
            (tag::CRYPTOGRAPHIC_USAGE_MASK, Value::Integer(mask)) => self.usage = Some(*mask),
            (tag::CRYPTOGRAPHIC_ALGORITHM, Value::Enumeration(algorithm)) => {
                self.algorithm = Some(*algorithm);
            }
            (tag::CRYPTOGRAPHIC_LENGTH, Value::Integer(bits)) => self.length = Some(*bits),
            (tag::PROCESS_START_DATE, Value::DateTime(date)) => self.process_start = Some(*date),
            (tag::PROTECT_STOP_DATE, Value::DateTime(date)) => self.protect_stop = Some(*date),
            (tag::DEACTIVATION_DATE, Value::DateTime(date)) => self.deactivation = Some(*date),
            (tag::DESTROY_DATE, Value::DateTime(date)) => self.destruction = Some(*date),
            (tag::USAGE_LIMITS, Value::Structure(limits)) => {
                let left = limits
                    .iter()
                    .find(|item| item.tag == tag::USAGE_LIMITS_COUNT);
                if let Some(Value::LongInteger(left)) = left.map(|item| &item.value) {
                    self.uses_left = Some(*left);
                }
            }
            (tag::SENSITIVE, Value::Boolean(yes)) => self.sensitive = Some(*yes),
            (tag::EXTRACTABLE, Value::Boolean(yes)) => self.extractable = Some(*yes),
            _ => {}
        }
    }

    /// Why the key cannot be used so, if the attributes say that.
    pub(super) fn obstacle(&self, operation: Operation, server: &str) -> Option<KmsError> {
        let disabled = |what: &str| {
            KmsError::new(
                FailureKind::KeyDisabled,
                format!("the root key at {server} {what}"),
            )
        };
        let state = match self.state {
            None | Some(ACTIVE) => None,
            Some(PRE_ACTIVE) => Some("is not active yet: activate it there"),
            Some(DEACTIVATED) => Some("is deactivated"),
            Some(COMPROMISED) => Some("is marked as compromised"),
            Some(DESTROYED | DESTROYED_COMPROMISED) => Some("was destroyed"),
            // A vendor's own may be one that passes.
            Some(_) => {
                return Some(KmsError::new(
                    FailureKind::Unavailable,
                    format!("the root key at {server} is in a state that KMIP does not know"),
                ));
            }
        };
        if let Some(state) = state {
            return Some(disabled(state));
        }
        if !self.is_aes() {
            return Some(KmsError::config(format!(
                "the root key at {server} is not an AES key: make one of 256 bits"
            )));
        }
        let needed = match operation {
            Operation::Encrypt => MAY_ENCRYPT,
            _ => MAY_DECRYPT,
        };
        let lacks = self.usage.is_some_and(|mask| mask & needed == 0);
        lacks.then(|| {
            disabled(&format!(
                "may not {}: its usage mask lacks that",
                operation.name()
            ))
        })
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() as i64);
        self.warnings_at(now)
    }

    fn warnings_at(&self, now: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for (date, what) in [
            (
                self.destruction,
                "the server will destroy the root key: all data becomes unreadable",
            ),
            (
                self.deactivation,
                "the server will deactivate the root key: it will wrap nothing then, and some servers let a \
                 deactivated key unwrap nothing either",
            ),
            (
                self.protect_stop,
                "the root key will wrap nothing from then on (protect stop date)",
            ),
            (
                self.process_start,
                "the root key unwraps nothing before then (process start date)",
            ),
        ] {
            if let Some(left) = date.map(|date| date.saturating_sub(now))
                && left > 0
            {
                warnings.push(format!("{} from now: {what}", days(left)));
            }
        }
        if let Some(left) = self.uses_left {
            warnings.push(format!(
                "the root key has a usage limit, of which {left} are left: then it can be used no more"
            ));
        }
        if self.sensitive == Some(false) || self.extractable == Some(true) {
            warnings.push(
                "the root key can be taken out of the server by those who may (it is not sensitive, or extractable)"
                    .to_owned(),
            );
        }
        if let Some(bits) = self.length
            && bits < 256
        {
            warnings.push(format!("the root key has {bits} bits: 256 are better"));
        }
        warnings
    }
}

fn days(seconds: i64) -> String {
    match seconds / DAY {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_in_two_ways() {
        assert_eq!(
            KeyName::parse("app-root").unwrap(),
            KeyName::Name("app-root")
        );
        assert_eq!(KeyName::parse("id:42").unwrap(), KeyName::Id("42"));
        for bad in ["", "id:", &"x".repeat(MAX_NAME + 1), "a\nb", "id:a\0"] {
            assert_eq!(KeyName::parse(bad).unwrap_err().kind, FailureKind::Config);
        }
        for bad in [
            "",
            "a\nb",
            "\u{1b}[2J",
            "a\u{202e}b",
            "a\u{200b}",
            "a\u{85}",
        ] {
            assert_eq!(recorded_id(bad).unwrap_err().kind, FailureKind::Corrupt);
        }
        for good in ["1", "Clé n° 1 – Zürich", "urn:uuid:0/1"] {
            assert_eq!(recorded_id(good).unwrap(), good);
        }
    }

    #[test]
    fn both_ways_to_write_attributes_are_read() {
        let id = || Item::new(tag::UNIQUE_IDENTIFIER, Value::Text("1"));
        let old = |name, value| {
            Item::structure(
                tag::ATTRIBUTE,
                vec![
                    Item::new(tag::ATTRIBUTE_NAME, Value::Text(name)),
                    Item::new(tag::ATTRIBUTE_VALUE, value),
                ],
            )
        };
        let limits = || {
            Value::Structure(vec![
                Item::new(Tag(0x42_00_97), Value::LongInteger(9)),
                Item::new(tag::USAGE_LIMITS_COUNT, Value::LongInteger(7)),
            ])
        };
        let v1 = Item::structure(
            tag::RESPONSE_PAYLOAD,
            vec![
                id(),
                old("State", Value::Enumeration(2)),
                old("x-Owner", Value::Text("somebody")),
                old("Cryptographic Usage Mask", Value::Integer(12)),
                old("Deactivation Date", Value::DateTime(5)),
                old("Usage Limits", limits()),
            ],
        );
        let v2 = Item::structure(
            tag::RESPONSE_PAYLOAD,
            vec![
                id(),
                Item::structure(
                    tag::ATTRIBUTES,
                    vec![
                        Item::new(tag::STATE, Value::Enumeration(2)),
                        Item::new(tag::CRYPTOGRAPHIC_USAGE_MASK, Value::Integer(12)),
                        Item::new(tag::DEACTIVATION_DATE, Value::DateTime(5)),
                        Item::new(tag::USAGE_LIMITS, limits()),
                    ],
                ),
            ],
        );
        for payload in [v1, v2] {
            let found = Attributes::read(&payload, "1").unwrap();
            let told = (
                found.state,
                found.usage,
                found.deactivation,
                found.uses_left,
            );
            assert_eq!(told, (Some(2), Some(12), Some(5), Some(7)));
            assert!(found.length.is_none() && found.is_aes());
            assert!(Attributes::read(&payload, "2").is_none(), "of another key");
        }
    }

    #[test]
    fn obstacles_are_named() {
        let usable = || Attributes {
            state: Some(ACTIVE),
            usage: Some(MAY_ENCRYPT | MAY_DECRYPT),
            algorithm: Some(3),
            ..Attributes::default()
        };
        let obstacle = |key: Attributes, operation| {
            key.obstacle(operation, "s:1")
                .map(|error| (error.kind, error.message))
        };
        assert!(obstacle(usable(), Operation::Encrypt).is_none());
        assert!(obstacle(Attributes::default(), Operation::Decrypt).is_none());
        for (state, words) in [
            (PRE_ACTIVE, "not active yet"),
            (DEACTIVATED, "deactivated"),
            (COMPROMISED, "compromised"),
            (DESTROYED, "destroyed"),
            (DESTROYED_COMPROMISED, "destroyed"),
        ] {
            let key = Attributes {
                state: Some(state),
                ..usable()
            };
            let (kind, message) = obstacle(key, Operation::Decrypt).unwrap();
            assert_eq!(kind, FailureKind::KeyDisabled);
            assert!(message.contains(words), "{message}");
        }
        let unheard_of = Attributes {
            state: Some(99),
            ..usable()
        };
        let (kind, message) = obstacle(unheard_of, Operation::Decrypt).unwrap();
        assert_eq!(kind, FailureKind::Unavailable, "{message}");
        let decrypt_only = || Attributes {
            usage: Some(MAY_DECRYPT),
            ..usable()
        };
        assert!(obstacle(decrypt_only(), Operation::Decrypt).is_none());
        let (_, message) = obstacle(decrypt_only(), Operation::Encrypt).unwrap();
        assert!(message.contains("may not Encrypt"), "{message}");
        let other = Attributes {
            algorithm: Some(2),
            ..usable()
        };
        let (kind, _) = obstacle(other, Operation::Encrypt).unwrap();
        assert_eq!(kind, FailureKind::Config);
    }

    #[test]
    fn what_the_server_will_do_by_itself_is_told() {
        let now = 1_000 * DAY;
        assert!(Attributes::default().warnings_at(now).is_empty());
        let past = Attributes {
            deactivation: Some(now - 1),
            process_start: Some(0),
            length: Some(256),
            sensitive: Some(true),
            extractable: Some(false),
            ..Attributes::default()
        };
        assert!(past.warnings_at(now).is_empty());
        let risky = Attributes {
            deactivation: Some(now + 12 * DAY),
            destruction: Some(now + 30 * DAY),
            protect_stop: Some(now + 2 * DAY),
            process_start: Some(now + DAY),
            uses_left: Some(7),
            length: Some(128),
            sensitive: Some(false),
            ..Attributes::default()
        };
        let warnings = risky.warnings_at(now);
        for part in [
            "12 days from now: the server will deactivate",
            "30 days from now: the server will destroy",
            "2 days from now: the root key will wrap nothing",
            "1 day from now: the root key unwraps nothing before",
            "7 are left",
            "128 bits",
            "taken out",
        ] {
            assert!(
                warnings.iter().any(|note| note.contains(part)),
                "{part}: {warnings:?}"
            );
        }
    }
}
