//! The triggers on the catalog tables. One tells every session that the key catalog changed. The other records what
//! somebody changed by hand, past the functions: which table, by what command, which rows by their names, which
//! columns; never a value that is wrapped or a setting.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use pgrx::pg_sys;

use crate::audit::Act;
use crate::catalog::{epoch, known};
use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::{names, spi, trigger};
use crate::sql::entry::sql_functions;

/// The columns that tell which row it was.
const NAMES: [&std::ffi::CStr; 11] = [
    c"name",
    c"key_id",
    c"keyring_id",
    c"version",
    c"preference",
    c"root_key",
    c"grantee",
    c"relation",
    c"attribute",
    c"request_id",
    c"event",
];
/// Rows of a statement that are named.
const NAMED: usize = 3;
/// Longest name of a row that is kept.
const LONGEST: usize = 200;

/// When the transaction began, and its subtransaction.
type Moment = (i64, pg_sys::SubTransactionId);

fn here() -> Moment {
    // SAFETY: in a transaction; reads its state.
    unsafe {
        (
            pg_sys::GetCurrentTransactionStartTimestamp(),
            pg_sys::GetCurrentSubTransactionId(),
        )
    }
}

/// What a statement has done by hand so far.
#[derive(Default)]
struct ByHand {
    rows: u64,
    named: Vec<String>,
    columns: BTreeSet<String>,
}

thread_local! {
    /// By table; and the subtransaction that it was in: what one left that failed is not the next one's.
    static BY_HAND: RefCell<(Moment, HashMap<u32, ByHand>)> = RefCell::default();
}

/// Before a statement, and after it.
fn catalog_changed(_call: Call) -> Result<pg_sys::Datum> {
    // What is no news to those who know of it is news to those who will ask.
    known::changes();
    if spi::is_quiet() {
        return Ok(pg_sys::Datum::from(0));
    }
    let marker = epoch::learn_marker();
    if marker != pg_sys::Oid::INVALID {
        // SAFETY: queues a message for the end of this transaction.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(marker) };
    }
    epoch::advance();
    // A trigger function gives a null pointer that is not SQL NULL.
    Ok(pg_sys::Datum::from(0))
}

/// A row as `name k, version 2`.
///
/// # Safety
/// The tuple is of the description.
unsafe fn name_of(tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) -> String {
    let mut parts = Vec::new();
    for column in NAMES {
        // SAFETY: the caller's promise; the text is palloc'd or null.
        unsafe {
            let number = pg_sys::SPI_fnumber(description, column.as_ptr());
            if number > 0 {
                let text = pg_sys::SPI_getvalue(tuple, description, number);
                if !text.is_null() {
                    let text = std::ffi::CStr::from_ptr(text).to_string_lossy();
                    let text: String = text.chars().take(LONGEST).collect();
                    parts.push(format!("{} {text}", column.to_string_lossy()));
                }
            }
        }
    }
    parts.join(", ")
}

/// The columns in which two rows differ.
///
/// # Safety
/// The tuples are of the description.
unsafe fn changed_columns(
    old: pg_sys::HeapTuple,
    new: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
    into: &mut BTreeSet<String>,
) {
    // SAFETY: the caller's promise; columns are numbered from 1. Texts are palloc'd or null.
    unsafe {
        let text = |tuple, number| {
            let text = pg_sys::SPI_getvalue(tuple, description, number);
            (!text.is_null()).then(|| std::ffi::CStr::from_ptr(text))
        };
        for number in 1..=(*description).natts {
            if text(old, number) != text(new, number) {
                let name = std::ffi::CStr::from_ptr(pg_sys::SPI_fname(description, number));
                into.insert(name.to_string_lossy().into_owned());
            }
        }
    }
}

/// Whether there is a chain to record in. Where there is none yet, a dump is being restored: a record would begin
/// another one before the dump's is there.
fn has_chain() -> Result<bool> {
    let found = spi::query(
        "SELECT EXISTS (SELECT FROM colcrypt.audit_state) OR EXISTS (SELECT FROM colcrypt.audit_log) \
             OR EXISTS (SELECT FROM colcrypt.audit_outbox)",
        &[],
        |row| row.get::<bool>(1),
    )?;
    Ok(found.first().copied().flatten() == Some(true))
}

fn changed_by_hand(call: Call) -> Result<pg_sys::Datum> {
    // A trigger function gives a null pointer that is not SQL NULL.
    let nothing = pg_sys::Datum::from(0);
    // SAFETY: reads a flag: a script of the extension's is no hand.
    if spi::is_ours() || unsafe { pg_sys::creating_extension } {
        return Ok(nothing);
    }
    let data = trigger::data(call)
        .ok_or_else(|| Error::CatalogCorrupt("a trigger's declaration".into()))?;
    // SAFETY: the relation is open for the length of the call.
    let (oid, table, description) = unsafe {
        let relation = &*data.tg_relation;
        let table = names::name_of(&(*relation.rd_rel).relname);
        (relation.rd_id.to_u32(), table, relation.rd_att)
    };
    let command = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => "INSERT",
        pg_sys::TRIGGER_EVENT_DELETE => "DELETE",
        pg_sys::TRIGGER_EVENT_UPDATE => "UPDATE",
        _ => "TRUNCATE",
    };
    if data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0 {
        BY_HAND.with_borrow_mut(|(moment, tables)| {
            if *moment != here() {
                *moment = here();
                tables.clear();
            }
            let by_hand = tables.entry(oid).or_default();
            by_hand.rows += 1;
            // SAFETY: the rows of the event, of the relation's description.
            unsafe {
                if by_hand.named.len() < NAMED {
                    by_hand.named.push(name_of(data.tg_trigtuple, description));
                }
                if command == "UPDATE" {
                    changed_columns(
                        data.tg_trigtuple,
                        data.tg_newtuple,
                        description,
                        &mut by_hand.columns,
                    );
                }
            }
        });
        return Ok(nothing);
    }
    let by_hand = BY_HAND.with_borrow_mut(|(moment, tables)| match tables.remove(&oid) {
        Some(by_hand) if *moment == here() => by_hand,
        _ => ByHand::default(),
    });
    let is_counted = table != "audit_outbox" && table != "audit_state" && command != "TRUNCATE";
    if is_counted && by_hand.rows == 0 || !has_chain()? {
        return Ok(nothing);
    }
    let mut detail = format!("{command} on colcrypt.{table}");
    if is_counted {
        detail.push_str(&format!(" of {} rows", by_hand.rows));
    }
    if !by_hand.columns.is_empty() {
        let columns: Vec<String> = by_hand.columns.into_iter().collect();
        detail.push_str(&format!(", columns {}", columns.join(", ")));
    }
    if !by_hand.named.is_empty() {
        detail.push_str(&format!(": {}", by_hand.named.join("; ")));
    }
    Act::new("changed_by_hand").detail(detail).record()?;
    Ok(nothing)
}

sql_functions! {
    Asks {
        changed_by_hand => changed_by_hand;
    }
    Harmless {
        catalog_changed => catalog_changed;
    }
}
