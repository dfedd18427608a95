//! Values that follow what they are bound to: an UPDATE of a context column leaves a value where nobody could read it,
//! so the trigger of enforced columns (`enforced.rs`) has it bound anew here.
//!
//! That moves a value, so it takes the right to decrypt and to encrypt, of whoever writes. A foreign key's cascade runs
//! as the owner of the rows that refer to others; there the role counts whose statement the cascade goes on with. That
//! power is nobody else's to use: where the owner's own code may have had a say in where the value goes, none of it is
//! taken, and the owner's is what there is.
//!
//! What the value was and is to be bound to is computed first, as the table's owner, in an operation that has no right
//! on any key; from there to the new value no code but ours runs.

use std::ffi::CStr;

use colcrypt_core::{KeyId, KeyState, Value, VersionId, context, place};
use colcrypt_domain::context::{BYTES, over};
use colcrypt_domain::quote::quote_identifier;
use pgrx::datum::DatumWithOid;
use pgrx::{Spi, pg_sys};

use crate::audit::Act;
use crate::catalog::read;
use crate::error::{Error, Result};
use crate::server::enclosure::{self, Cascade};
use crate::server::relation::{self, Held, Lock};
use crate::server::roles::{self, AsRole};
use crate::server::trigger::Rows;
use crate::server::varlena::Varlena;
use crate::server::{spi, types, watched};
use crate::session;
use crate::values::reseal;

/// What a value's context is of the row that is replaced and of the new one.
pub struct Follows {
    /// `$1` is the new row, `$2` the one it replaces.
    sql: String,
    /// The registered table's, whose code the context is.
    owner: pg_sys::Oid,
    /// Whether no code of the owner's is in it.
    is_plain: bool,
}

/// A context as it was computed; none for NULL.
type Context = Option<Vec<u8>>;

/// What became of a value.
pub enum Bound {
    Anew(Moved),
    /// As it is to be, or it opens for nobody any more.
    Already,
    /// Why not.
    Refused(String),
}

/// A value that was bound anew: of which key, and who had the right.
pub struct Moved {
    pub value: pg_sys::Datum,
    key: KeyId,
    role: pg_sys::Oid,
}

/// What a foreign key of the table has done to its rows: how such a statement begins.
pub struct Referring(Vec<String>);

impl Referring {
    /// Of a table, and of those that it is a partition of. One with rules is left out: these may make another statement
    /// of it.
    ///
    /// # Errors
    /// Of SPI.
    pub fn of(table: pg_sys::Oid) -> Result<Self> {
        let found = spi::query(
            "WITH RECURSIVE up(relid) AS (SELECT $1::oid UNION SELECT i.inhparent FROM pg_inherits i JOIN up u ON i.inhrelid = u.relid \
                 JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition) \
             SELECT c.oid, n.nspname::text, c.relname::text FROM up u JOIN pg_class c ON c.oid = u.relid \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)",
            &[table.into()],
            |row| {
                Ok((
                    row.get::<pg_sys::Oid>(1)?,
                    spi::at::<String>(row, 2)?,
                    spi::at::<String>(row, 3)?,
                ))
            },
        )?;
        let mut beginnings = Vec::new();
        for (oid, schema, name) in found {
            watched::watch(oid);
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            for only in ["ONLY ", ""] {
                beginnings.push(format!(
                    "UPDATE {only}{}.{} SET ",
                    quoted(&schema),
                    quoted(&name)
                ));
            }
        }
        Ok(Self(beginnings))
    }

    fn has(&self, cascade: &Cascade) -> bool {
        let mut beginnings = self.0.iter();
        beginnings.any(|beginning| cascade.text.starts_with(beginning))
    }
}

impl Follows {
    /// Of a table, or of a partition or child of the one that is registered.
    ///
    /// # Errors
    /// When the registered table is gone.
    pub fn new(held: &Held, registered: pg_sys::Oid, expression: &str) -> Result<Self> {
        let alias = quote_identifier(Held::take(registered, Lock::Read)?.bare_name());
        let of = |row: &str| {
            let columns = held.attributes().iter().map(|column| {
                let name = quote_identifier(&column.name);
                format!("({row}).{name} AS {name}")
            });
            over(
                expression,
                BYTES,
                &columns.collect::<Vec<_>>(),
                None,
                &alias,
            )
        };
        Ok(Self {
            sql: format!("SELECT ({}), ({})", of("$1"), of("$2")),
            owner: relation::owner(registered)?,
            is_plain: place::is_plain(expression),
        })
    }

    /// Binds a value, which the new row has as the one before had it, to what the new row says.
    ///
    /// # Errors
    /// Of the context, of the key, and of a value that does not open.
    pub fn bind_anew(
        &self,
        trigger: &pg_sys::TriggerData,
        rows: &Rows,
        number: i32,
        referring: &Referring,
    ) -> Result<Bound> {
        let role = match self.whose(trigger, referring) {
            Ok(role) => role,
            Err(why) => return Ok(Bound::Refused(why)),
        };
        let (Some(now), Some(former)) = self.contexts(trigger, rows)? else {
            return Ok(Bound::Refused("its context is NULL".into()));
        };
        let Some(stored) = rows.value(number) else {
            return Ok(Bound::Already);
        };
        // SAFETY: the column is a ciphertext.
        let stored = unsafe { Varlena::from_datum(stored) };
        let value = Value::parse(stored.bytes())?;
        let id = VersionId {
            key: value.header.key,
            version: value.header.version,
        };
        let either = context::pair(&now, &former)?;
        // From here to the end nothing runs but what is ours.
        let _role = AsRole::of_statement(role);
        let (from, to) = match session::permit_rebind(id) {
            Ok(permits) => permits,
            Err(Error::KeyDenied {
                key,
                role,
                privilege,
            }) => {
                return Ok(Bound::Refused(format!(
                    "role \"{role}\" may not {} with key \"{key}\"",
                    privilege.name()
                )));
            }
            Err(Error::KeyState {
                state: KeyState::Destroyed,
                ..
            }) => return Ok(Bound::Already),
            Err(error) => return Err(error),
        };
        let bound = reseal::rebind(&from, &to, &value, &either, false, |_| Ok(()))?;
        Ok(match bound {
            None => Bound::Already,
            Some(value) => Bound::Anew(Moved {
                value,
                key: id.key,
                role,
            }),
        })
    }

    /// With whose rights.
    fn whose(
        &self,
        trigger: &pg_sys::TriggerData,
        referring: &Referring,
    ) -> std::result::Result<pg_sys::Oid, String> {
        let current = roles::current_user();
        let Some(cascade) = enclosure::cascade().filter(|cascade| cascade.role != current) else {
            return Ok(current);
        };
        if !referring.has(&cascade) {
            return Ok(current);
        }
        if !self.is_plain {
            return Err(format!(
                "a foreign key changes it for role \"{}\", and what it is bound to is an expression of the table's owner",
                roles::role_name(cascade.role)
            ));
        }
        if let Some(name) = others_trigger(trigger) {
            return Err(format!(
                "a foreign key changes it for role \"{}\", and trigger {name} of the table may change it further",
                roles::role_name(cascade.role)
            ));
        }
        Ok(cascade.role)
    }

    /// What the value is to be bound to, and what it was.
    fn contexts(&self, trigger: &pg_sys::TriggerData, rows: &Rows) -> Result<(Context, Context)> {
        // SAFETY: the relation that the trigger was fired for is open; both rows are of its type.
        let arguments = unsafe {
            let row_type = (*(*trigger.tg_relation).rd_rel).reltype;
            let row = |tuple| {
                let row = pg_sys::heap_copy_tuple_as_datum(tuple, rows.descriptor);
                DatumWithOid::new(row, row_type)
            };
            [row(rows.new), row(rows.old.unwrap_or(rows.new))]
        };
        let _role = AsRole::restricted(self.owner);
        let _path = spi::safe_search_path();
        Spi::connect(|client| {
            let rows = client
                .select(self.sql.as_str(), Some(1), &arguments)?
                .first();
            Ok((rows.get::<Vec<u8>>(1)?, rows.get::<Vec<u8>>(2)?))
        })
        .map_err(crate::error::of_spi)
    }
}

/// A trigger of somebody's that changes rows before they are updated.
fn others_trigger(trigger: &pg_sys::TriggerData) -> Option<String> {
    // SAFETY: the relation that the trigger was fired for is open, and has as many triggers as it says; names are C
    // strings.
    unsafe {
        let triggers = (*trigger.tg_relation).trigdesc;
        let all =
            std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize);
        let of_updates = (pg_sys::TRIGGER_TYPE_ROW
            | pg_sys::TRIGGER_TYPE_BEFORE
            | pg_sys::TRIGGER_TYPE_UPDATE) as i16;
        all.iter()
            .filter(|one| one.tgtype & of_updates == of_updates && one.tgenabled as u8 != b'D')
            .find(|one| {
                !types::is_function(one.tgfoid, &[c"check_encrypted_columns", c"keep_in_step"])
            })
            .map(|one| quote_identifier(CStr::from_ptr(one.tgname).to_string_lossy()))
    }
}

impl Moved {
    /// Leaves a record of it, of whoever did it.
    ///
    /// # Errors
    /// Of the record.
    pub fn record(&self, table: pg_sys::Oid, shown: &str, by: &str) -> Result<()> {
        let _role = AsRole::of_statement(self.role);
        Act::new("follow_context")
            .key(&read::key_by_id(self.key)?)
            .relation(table)
            .detail(format!(
                "a value of {shown} is bound anew, since {by} changed"
            ))
            .record()
    }
}
