//! Honeytokens: marked, and their marks taken away.

use colcrypt_core::Value;
use pgrx::pg_sys;

use crate::audit::Act;
use crate::audit::honeytoken::tag_of;
use crate::catalog::read;
use crate::columns::search::marked;
use crate::error::{Error, Privilege, Result};
use crate::rights;
use crate::server::call::Call;
use crate::server::spi;
use crate::server::varlena::Varlena;
use crate::sql::entry::sql_functions;

fn with_value<R>(call: Call, body: impl FnOnce(&Value<'_>, &read::Key) -> Result<R>) -> Result<R> {
    let datum = call.datum(0).ok_or(Error::NullArgument("value"))?;
    // SAFETY: declared as ciphertext.
    let stored = unsafe { Varlena::from_datum(datum) };
    let value = Value::parse(stored.bytes())?;
    let key = read::key_by_id(value.header.key)?;
    rights::require(&key, Privilege::Manage)?;
    body(&value, &key)
}

fn mark(call: Call) -> Result<pg_sys::Datum> {
    with_value(call, |value, key| {
        // SAFETY: declared as text.
        let note = unsafe { call.long::<String>(1, "note")? };
        spi::execute(
            "INSERT INTO colcrypt.honeytoken (key_id, tag, origin, note) VALUES ($1, $2, $2, $3) \
             ON CONFLICT (key_id, tag) DO UPDATE SET note = EXCLUDED.note",
            &[
                key.id.bigint().into(),
                value.tag.to_vec().into(),
                note.into(),
            ],
        )?;
        if let Some(tag) = tag_of(value.tag) {
            marked::remember_marked(key, &tag)?;
        }
        record_mark("mark_honeytoken", value, key)
    })
}

fn unmark(call: Call) -> Result<pg_sys::Datum> {
    with_value(call, |value, key| {
        // What others are just making of the value is marked, too: it has to be seen.
        spi::execute(
            "LOCK TABLE colcrypt.honeytoken IN SHARE ROW EXCLUSIVE MODE",
            &[],
        )?;
        let marks = spi::execute(
            "DELETE FROM colcrypt.honeytoken h USING colcrypt.honeytoken this \
             WHERE this.key_id = $1 AND this.tag = $2 AND h.key_id = $1 AND h.origin = this.origin",
            &[key.id.bigint().into(), value.tag.to_vec().into()],
        )?;
        if marks == 0 {
            return Err(Error::UnknownObject {
                what: "honeytoken",
                name: hex::encode(value.tag),
            });
        }
        marked::forget()?;
        record_mark("unmark_honeytoken", value, key)
    })
}

fn record_mark(event: &'static str, value: &Value<'_>, key: &read::Key) -> Result<pg_sys::Datum> {
    Act::new(event)
        .key(key)
        .version(value.header.version.number())
        .detail(format!("honeytoken {}", hex::encode(value.tag)))
        .record()?;
    Ok(pg_sys::Datum::from(0))
}

sql_functions! {
    Decides {
        mark_honeytoken => mark;
        unmark_honeytoken => unmark;
    }
}
