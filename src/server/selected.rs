//! Rows that a statement of ours selects, or that a scan met. They are taken as they come and kept in memory of ours:
//! no tuple is formed, and the statement ends where the caller has enough.

use std::ffi::{CString, c_int};
use std::mem::offset_of;

use colcrypt_core::memory;
use pgrx::{Spi, pg_guard, pg_sys};
use zeroize::Zeroize;

use crate::error::{Error, Result};
use crate::server::types;

/// How a column's values are passed.
#[derive(Clone, Copy)]
struct Attribute {
    type_oid: pg_sys::Oid,
    length: i16,
    by_value: bool,
}

/// The rows of a SELECT. What they hold is wiped when they are dropped: it may be plaintext.
#[derive(Default)]
pub struct Rows {
    attributes: Vec<Attribute>,
    /// A row after another: where in the words a value begins, none for NULL.
    cells: Vec<Option<usize>>,
    /// The values: words, since PostgreSQL reads some types aligned.
    words: Vec<u64>,
    /// Whether there were more than the caller has room for.
    is_cut: bool,
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

impl Rows {
    pub fn len(&self) -> usize {
        self.cells
            .len()
            .checked_div(self.attributes.len())
            .unwrap_or(0)
    }

    /// A column's value, `None` for NULL; columns begin with 1. It lives as long as the rows do.
    pub fn value(&self, row: usize, column: usize) -> Option<pg_sys::Datum> {
        let attribute = self.attributes[column - 1];
        let word = self.cells[row * self.attributes.len() + column - 1]?;
        Some(if attribute.by_value {
            pg_sys::Datum::from(self.words[word])
        } else {
            pg_sys::Datum::from(self.words[word..].as_ptr())
        })
    }

    /// Whether these are all that there are.
    pub fn is_complete(&self) -> bool {
        !self.is_cut
    }

    /// The type that a column has in this very result.
    pub fn type_of(&self, column: usize) -> pg_sys::Oid {
        self.attributes[column - 1].type_oid
    }

    /// Refuses a column that is not of type ciphertext, or of a domain over it.
    ///
    /// # Errors
    /// [`Error::OutOfStep`].
    pub fn expect_ciphertext(&self, column: usize) -> Result<()> {
        // SAFETY: a look-up in the type catalog.
        let base = unsafe { pg_sys::getBaseType(self.type_of(column)) };
        if Some(base) == types::ciphertext_oid() {
            Ok(())
        } else {
            Err(type_changed())
        }
    }

    /// Refuses a column that is not of a type, or of a domain over it.
    ///
    /// # Errors
    /// [`Error::OutOfStep`].
    pub fn expect_base_type(&self, column: usize, type_oid: pg_sys::Oid) -> Result<()> {
        // SAFETY: a look-up in the type catalog.
        let base = unsafe { pg_sys::getBaseType(self.type_of(column)) };
        match base == type_oid {
            true => Ok(()),
            false => Err(type_changed()),
        }
    }

    /// None yet, of columns of these types.
    pub fn of(types: &[pg_sys::Oid]) -> Self {
        let attributes = types.iter().map(|&type_oid| {
            let (mut length, mut by_value) = (0, false);
            // SAFETY: a look-up in the type catalog.
            unsafe { pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value) };
            Attribute {
                type_oid,
                length,
                by_value,
            }
        });
        let mut rows = Self::default();
        rows.attributes = attributes.collect();
        rows
    }

    /// Takes a row, unless there are so many bytes already; whether it did.
    ///
    /// # Safety
    /// The datums are of the columns' types.
    pub unsafe fn take(
        &mut self,
        row: impl ExactSizeIterator<Item = Option<pg_sys::Datum>>,
        most_bytes: usize,
    ) -> Result<bool> {
        self.is_cut = self.words.len() * size_of::<u64>() > most_bytes;
        if self.is_cut {
            return Ok(false);
        }
        memory::reserve_amortised(&mut self.cells, row.len())?;
        for (at, value) in row.enumerate() {
            let attribute = self.attributes[at];
            let cell = value
                // SAFETY: the caller vouches for a datum of this type.
                .map(|value| unsafe { self.keep(value, attribute) })
                .transpose()?;
            self.cells.push(cell);
        }
        Ok(true)
    }

    /// Copies a datum, or what it points to; where to, in words.
    ///
    /// # Safety
    /// The datum is of a type that is passed so.
    unsafe fn keep(&mut self, value: pg_sys::Datum, attribute: Attribute) -> Result<usize> {
        let at = self.words.len();
        if attribute.by_value {
            memory::reserve_secret(&mut self.words, 1)?;
            self.words.push(value.value() as u64);
            return Ok(at);
        }
        let mut pointer = value.cast_mut_ptr::<u8>();
        // SAFETY: the caller vouches for the type; lengths are PostgreSQL's own.
        unsafe {
            let mut flat = std::ptr::null_mut();
            let length = match attribute.length {
                -1 if is_in_memory(pointer) => {
                    // It points to memory of the statement's, which ends with it.
                    flat = pg_sys::pg_detoast_datum_copy(pointer.cast());
                    pointer = flat.cast();
                    pgrx::varlena::varsize_any(flat)
                }
                -1 => pgrx::varlena::varsize_any(pointer.cast()),
                -2 => std::ffi::CStr::from_ptr(pointer.cast()).count_bytes() + 1,
                fixed => usize::from(fixed.unsigned_abs()),
            };
            let words = length.div_ceil(8);
            memory::reserve_secret(&mut self.words, words)?;
            self.words.resize(at + words, 0);
            std::ptr::copy_nonoverlapping(pointer, self.words[at..].as_mut_ptr().cast(), length);
            if !flat.is_null() {
                std::slice::from_raw_parts_mut(pointer, length).zeroize();
                pg_sys::pfree(flat.cast());
            }
            Ok(at)
        }
    }
}

/// Whether a varlena points elsewhere in memory: an expanded value, or an indirect one.
///
/// # Safety
/// The pointer is to a varlena.
unsafe fn is_in_memory(pointer: *const u8) -> bool {
    // SAFETY: the caller vouches for it; a pointer's tag follows its header.
    unsafe {
        *pointer == 0x01 && u32::from(*pointer.add(1)) != pg_sys::vartag_external::VARTAG_ONDISK
    }
}

pub fn type_changed() -> Error {
    Error::OutOfStep {
        why: "the column's type was changed".into(),
    }
}

/// What PostgreSQL hands rows to. It calls with the first field's address.
#[repr(C)]
struct Receiver {
    head: pg_sys::DestReceiver,
    rows: Rows,
    most_bytes: usize,
    failed: Option<Error>,
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    receiver: *mut pg_sys::DestReceiver,
    _operation: c_int,
    described: pg_sys::TupleDesc,
) {
    // SAFETY: PostgreSQL passes back the receiver that it was given, and the description of the rows to come.
    unsafe {
        let rows = &mut (*receiver.cast::<Receiver>()).rows;
        rows.attributes = pgrx::PgTupleDesc::from_pg_unchecked(described)
            .iter()
            .map(|attribute| Attribute {
                type_oid: attribute.atttypid,
                length: attribute.attlen,
                by_value: attribute.attbyval,
            })
            .collect();
    }
}

/// Whether to go on.
#[pg_guard]
unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: PostgreSQL passes back the receiver that it was given, and a slot with a row of the type it described;
    // its arrays are as long as the row.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver>();
        let columns = receiver.rows.attributes.len();
        if usize::from((*slot).tts_nvalid.unsigned_abs()) < columns {
            pg_sys::slot_getsomeattrs_int(slot, columns as c_int);
        }
        let values = std::slice::from_raw_parts((*slot).tts_values, columns);
        let nulls = std::slice::from_raw_parts((*slot).tts_isnull, columns);
        let row = values
            .iter()
            .zip(nulls)
            .map(|(&value, is_null)| (!is_null).then_some(value));
        match receiver.rows.take(row, receiver.most_bytes) {
            Ok(goes_on) => goes_on,
            Err(error) => {
                receiver.failed = Some(error);
                false
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn nothing_to_do(_receiver: *mut pg_sys::DestReceiver) {}

/// Runs a SELECT and gives its rows to `look` before the connection ends. `read_only`: with the snapshot that is
/// active, and no row locks. It ends when the rows have more than `most_bytes`.
///
/// # Errors
/// Of the statement, and of `look`.
pub fn selected<R>(
    sql: &str,
    read_only: bool,
    most_bytes: usize,
    look: impl FnOnce(Rows) -> Result<R>,
) -> Result<R> {
    let sql = CString::new(sql).map_err(|_| Error::Spi("a name holds NUL".into()))?;
    let mut receiver = Receiver {
        head: pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(startup),
            rShutdown: Some(nothing_to_do),
            rDestroy: Some(nothing_to_do),
            // Nothing asks but SPI, which says of none that it was no SELECT.
            mydest: pg_sys::CommandDest::DestTuplestore,
        },
        rows: Rows::default(),
        most_bytes,
        failed: None,
    };
    const { assert!(offset_of!(Receiver, head) == 0) };
    Spi::connect(|_| {
        // SAFETY: connected; the receiver outlives the statement.
        let code = unsafe {
            let receiver = &raw mut receiver;
            let options = pg_sys::SPIExecuteOptions {
                read_only,
                dest: receiver.cast(),
                ..pg_sys::SPIExecuteOptions::default()
            };
            pg_sys::SPI_execute_extended(sql.as_ptr(), &options)
        };
        if let Some(error) = receiver.failed.take() {
            return Err(error);
        }
        if code != pg_sys::SPI_OK_SELECT as i32 {
            return Err(Error::Spi(format!("SPI_execute_extended gave {code}")));
        }
        look(std::mem::take(&mut receiver.rows))
    })
}
