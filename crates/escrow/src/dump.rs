//! The key catalog out of a database's dump in plain text: what is sealed to an escrow, and the keys under it.
//!
//! Nothing but the blocks of COPY is read, as `pg_dump` and `COPY … TO STDOUT` write them.

use std::collections::BTreeMap;

use colcrypt_core::{
    Canary, CryptoError, EscrowKey, KekId, KeyCheckValue, KeyEncryptionKey, KeyId, KeyVersion,
    KeyringId, Suite, VersionId, WrapMethod, escrow::Recipient, wrap,
};
use thiserror::Error;

/// The tables that are read, and their columns.
pub const TABLES: &[(&str, &[&str])] = &[
    ("provider", &["provider_id", "kind", "config"]),
    ("keyring", &["keyring_id", "name", "dek_wrap"]),
    (
        "kek_version",
        &["keyring_id", "version", "kcv", "destroyed_at"],
    ),
    (
        "kek_copy",
        &[
            "keyring_id",
            "version",
            "preference",
            "provider_id",
            "wrapped",
        ],
    ),
    ("key", &["key_id", "name", "keyring_id", "suite"]),
    (
        "key_version",
        &[
            "key_id",
            "version",
            "kek_version",
            "wrapped",
            "kcv",
            "canary",
            "destroyed_at",
        ],
    ),
];

/// Why a dump is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoCatalog {
    #[error(
        "no table colcrypt.{0} is in it: is it a dump of a database with the extension, in plain text (pg_restore -f - DUMP)?"
    )]
    Table(&'static str),
    #[error("table colcrypt.{0} has no column {1}: it is of another version")]
    Column(&'static str, &'static str),
    #[error("a row of colcrypt.{0} cannot be read")]
    Row(&'static str),
}

/// A version of a keyring's key encryption key.
pub struct Kek {
    pub id: KekId,
    pub keyring: String,
    pub kcv: KeyCheckValue,
    pub dek_wrap: WrapMethod,
    /// As each escrow has it, by the escrow's public key.
    sealed: Vec<(Recipient, Vec<u8>)>,
    pub deks: Vec<Dek>,
}

/// A version of a data encryption key.
pub struct Dek {
    pub key: String,
    pub id: VersionId,
    pub suite: Suite,
    pub wrapped: Vec<u8>,
    pub kcv: KeyCheckValue,
    /// A version of a release without canary values has none.
    pub canary: Option<Canary>,
}

/// Why a key encryption key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotOpened {
    #[error("it is not sealed to this escrow")]
    NotSealed,
    #[error("what is sealed does not open: {0}")]
    Crypto(#[from] CryptoError),
}

/// Why a key version of a dump cannot be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DekFailed {
    #[error("{0}")]
    Wrapping(CryptoError),
    #[error("its canary value does not decrypt: {0}")]
    Canary(CryptoError),
}

/// A name out of a dump as a terminal may have it: whoever wrote the dump may have put there what he liked.
#[must_use]
pub fn shown(name: &str) -> String {
    const MOST: usize = 200;
    let begin: String = name.chars().take(MOST).collect();
    match begin.len() < name.len() {
        true => format!("{begin:?}…"),
        false => format!("{begin:?}"),
    }
}

impl Kek {
    /// How messages call it.
    #[must_use]
    pub fn name(&self) -> String {
        format!(
            "keyring {}, version {} of its key encryption key",
            shown(&self.keyring),
            self.id.version
        )
    }

    /// Opens it, and compares it with its check value.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn open(&self, key: &EscrowKey) -> Result<KeyEncryptionKey, NotOpened> {
        let recipient = key.recipient()?;
        let mut sealed = self.sealed.iter().filter(|(to, _)| *to == recipient);
        let (_, sealed) = sealed.next().ok_or(NotOpened::NotSealed)?;
        let kek = key.open(&wrap::kek_aad(self.id), sealed)?;
        let got = KeyCheckValue::of_kek(&kek);
        if got != self.kcv {
            return Err(NotOpened::Crypto(CryptoError::KeyCheckValue {
                expected: self.kcv,
                got,
            }));
        }
        Ok(kek)
    }

    /// Opens a key version under it, compares it with its check value, and decrypts its canary value; keeps nothing of
    /// it. Returns whether there was a canary value.
    ///
    /// # Errors
    /// [`DekFailed`].
    pub fn try_dek(&self, kek: &KeyEncryptionKey, dek: &Dek) -> Result<bool, DekFailed> {
        let aad = wrap::dek_aad(self.id, dek.id, dek.suite);
        let key = wrap::unwrap_data_key(kek, self.dek_wrap, &aad, &dek.wrapped, dek.kcv)
            .map_err(DekFailed::Wrapping)?;
        let Some(canary) = &dek.canary else {
            return Ok(false);
        };
        canary
            .verify(dek.id, dek.suite, &key)
            .map_err(DekFailed::Canary)?;
        Ok(true)
    }
}

/// Every version of a key encryption key that is not destroyed, by keyring and version.
///
/// # Errors
/// [`NoCatalog`].
pub fn keks(dump: &str) -> Result<Vec<Kek>, NoCatalog> {
    let table = |at: usize| rows(dump, TABLES[at].0, TABLES[at].1);
    let (providers, keyrings) = (table(0)?, table(1)?);
    let mut keks = BTreeMap::new();
    for row in table(2)? {
        if row.get("destroyed_at").is_some() {
            continue;
        }
        let keyring = row.text("keyring_id")?;
        let version = row.number("version")?;
        let its = keyrings
            .iter()
            .find(|row| row.get("keyring_id") == Some(keyring))
            .ok_or(NoCatalog::Row("kek_version"))?;
        let id = KekId {
            keyring: row.keyring()?,
            version: row.version("version")?,
        };
        let kek = Kek {
            id,
            keyring: its.text("name")?.into(),
            kcv: row.parsed("kcv")?,
            dek_wrap: its.parsed("dek_wrap")?,
            sealed: Vec::new(),
            deks: Vec::new(),
        };
        keks.insert((keyring.to_owned(), version), kek);
    }
    for row in table(3)? {
        let provider = row.get("provider_id");
        let recipient = providers
            .iter()
            .filter(|row| row.get("kind") == Some("escrow"))
            .find(|row| row.get("provider_id") == provider)
            .and_then(|row| recipient(row.get("config")?));
        let place = (row.text("keyring_id")?.to_owned(), row.number("version")?);
        if let (Some(recipient), Some(kek)) = (recipient, keks.get_mut(&place)) {
            kek.sealed.push((recipient, row.bytes("wrapped")?));
        }
    }
    let keys = table(4)?;
    for row in table(5)? {
        if row.get("destroyed_at").is_some() {
            continue;
        }
        let id = row.text("key_id")?;
        let key = keys
            .iter()
            .find(|row| row.get("key_id") == Some(id))
            .ok_or(NoCatalog::Row("key_version"))?;
        let place = (
            key.text("keyring_id")?.to_owned(),
            row.number("kek_version")?,
        );
        let kek = keks.get_mut(&place).ok_or(NoCatalog::Row("key_version"))?;
        kek.deks.push(Dek {
            key: key.text("name")?.into(),
            id: VersionId {
                key: KeyId::of_bigint(row.number("key_id")?),
                version: row.version("version")?,
            },
            suite: key.parsed("suite")?,
            wrapped: row.bytes("wrapped")?,
            kcv: row.parsed("kcv")?,
            canary: match row.get("canary") {
                Some(_) => Some(Canary::stored(row.bytes("canary")?)),
                None => None,
            },
        });
    }
    let mut keks: Vec<Kek> = keks.into_values().collect();
    keks.sort_by(|one, other| {
        (&one.keyring, one.id.version).cmp(&(&other.keyring, other.id.version))
    });
    Ok(keks)
}

fn recipient(config: &str) -> Option<Recipient> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    config.get("recipient")?.as_str()?.parse().ok()
}

/// A row: its columns by name, NULL left out.
struct Row {
    table: &'static str,
    columns: BTreeMap<&'static str, String>,
}

impl Row {
    fn get(&self, column: &str) -> Option<&str> {
        self.columns.get(column).map(String::as_str)
    }

    fn bad(&self) -> NoCatalog {
        NoCatalog::Row(self.table)
    }

    fn text(&self, column: &str) -> Result<&str, NoCatalog> {
        self.get(column).ok_or_else(|| self.bad())
    }

    fn parsed<T: std::str::FromStr>(&self, column: &str) -> Result<T, NoCatalog> {
        self.text(column)?.parse().map_err(|_| self.bad())
    }

    fn number(&self, column: &str) -> Result<i64, NoCatalog> {
        self.parsed(column)
    }

    fn version(&self, column: &str) -> Result<KeyVersion, NoCatalog> {
        KeyVersion::of_int(self.parsed(column)?).ok_or_else(|| self.bad())
    }

    fn bytes(&self, column: &str) -> Result<Vec<u8>, NoCatalog> {
        let digits = self.text(column)?.strip_prefix("\\x");
        hex::decode(digits.ok_or_else(|| self.bad())?).map_err(|_| self.bad())
    }

    fn keyring(&self) -> Result<KeyringId, NoCatalog> {
        let digits = self.text("keyring_id")?.replace('-', "");
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_| self.bad())?;
        Ok(KeyringId(id))
    }
}

/// The rows of a table, as COPY writes them.
fn rows(
    dump: &str,
    table: &'static str,
    wanted: &'static [&'static str],
) -> Result<Vec<Row>, NoCatalog> {
    let begin = format!("COPY colcrypt.{table} (");
    let mut lines = dump.lines();
    let head = lines
        .find(|line| line.starts_with(&begin))
        .ok_or(NoCatalog::Table(table))?;
    let names: Vec<&str> = head[begin.len()..]
        .split(')')
        .next()
        .unwrap_or_default()
        .split(", ")
        .map(|name| name.trim_matches('"'))
        .collect();
    let mut places = Vec::new();
    for &column in wanted {
        let place = names.iter().position(|&name| name == column);
        places.push((column, place.ok_or(NoCatalog::Column(table, column))?));
    }
    let mut rows = Vec::new();
    for line in lines.take_while(|line| *line != "\\.") {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields.len() != names.len() {
            return Err(NoCatalog::Row(table));
        }
        let mut columns = BTreeMap::new();
        for &(column, place) in &places {
            if fields[place] != "\\N" {
                columns.insert(column, unescaped(fields[place]));
            }
        }
        rows.push(Row { table, columns });
    }
    Ok(rows)
}

/// COPY's backslashes. Those for octal and hexadecimal digits are read and never written by the server.
fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(char) = chars.next() {
        text.push(match char {
            '\\' => match chars.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(key: &EscrowKey, kek: &KeyEncryptionKey) -> String {
        let id = KekId {
            keyring: KeyringId([0x11; 16]),
            version: KeyVersion::FIRST,
        };
        let recipient = key.recipient().unwrap();
        let sealed = hex::encode(recipient.seal(&wrap::kek_aad(id), kek).unwrap());
        let kcv = KeyCheckValue::of_kek(kek);
        let uuid = "11111111-1111-1111-1111-111111111111";
        format!(
            "SET x;\n\
             COPY colcrypt.provider (provider_id, name, kind, config, created_at) FROM stdin;\n\
             a\tlocal\tfile\t{{\"path\": \"/k\"}}\tnow\n\
             b\te\tescrow\t{{\"recipient\": \"{recipient}\"}}\tnow\n\\.\n\
             COPY colcrypt.keyring (keyring_id, name, dek_wrap) FROM stdin;\n\
             {uuid}\ta\\tring\taes-256-gcm\n\\.\n\
             COPY colcrypt.kek_version (keyring_id, version, kcv, destroyed_at) FROM stdin;\n\
             {uuid}\t1\t{kcv}\t\\N\n{uuid}\t2\t{kcv}\tlong ago\n\\.\n\
             COPY colcrypt.kek_copy (keyring_id, version, preference, provider_id, wrapped) FROM stdin;\n\
             {uuid}\t1\t1\ta\t\\\\x00\n{uuid}\t1\t2\tb\t\\\\x{sealed}\n\\.\n\
             COPY colcrypt.key (key_id, name, keyring_id, suite) FROM stdin;\n\\.\n\
             COPY colcrypt.key_version (key_id, version, kek_version, wrapped, kcv, canary, destroyed_at) FROM stdin;\n\\.\n"
        )
    }

    #[test]
    fn what_is_sealed_to_an_escrow_comes_out_of_a_dump() {
        let key = EscrowKey::generate().unwrap();
        let kek = KeyEncryptionKey::generate().unwrap();
        let dump = made(&key, &kek);
        let keks = keks(&dump).unwrap();
        assert_eq!(keks.len(), 1, "the destroyed one is none");
        assert_eq!(keks[0].keyring, "a\tring");
        assert!(keks[0].name().contains(r#"keyring "a\tring", version 1"#));
        assert!(shown(&"x".repeat(5_000)).len() < 300);
        assert!(keks[0].open(&key).unwrap() == kek);
        let other = EscrowKey::generate().unwrap();
        assert_eq!(keks[0].open(&other).err(), Some(NotOpened::NotSealed));
    }

    #[test]
    fn what_is_no_dump_of_ours_is_told() {
        assert_eq!(keks("").err(), Some(NoCatalog::Table("provider")));
        let dump = made(
            &EscrowKey::generate().unwrap(),
            &KeyEncryptionKey::generate().unwrap(),
        );
        let without = dump.replace("kcv, destroyed_at", "destroyed_at");
        assert!(matches!(
            keks(&without).err(),
            Some(NoCatalog::Column("kek_version", "kcv"))
        ));
        let torn = dump.replace("\\\\x", "\\\\y");
        assert_eq!(keks(&torn).err(), Some(NoCatalog::Row("kek_copy")));
    }
    /// A dump that was cut short or altered anywhere is read otherwise or refused, and nothing else.
    #[test]
    fn no_dump_is_too_much() {
        let key = EscrowKey::generate().unwrap();
        let kek = KeyEncryptionKey::generate().unwrap();
        let dump = made(&key, &kek);
        for at in 0..dump.len() {
            let _ = keks(&dump[..at]);
            for byte in ["\\", "\t", "\n", "9", "-", "ü"] {
                let altered = format!("{}{byte}{}", &dump[..at], &dump[at + 1..]);
                for kek in keks(&altered).unwrap_or_default() {
                    let _ = kek.open(&key);
                }
            }
        }
    }
}
