//! What the server tells a function that it calls as a trigger.

use std::ffi::CStr;

use pgrx::{PgTupleDesc, pg_sys};

use crate::server::call::Call;
use crate::server::types;
use crate::server::varlena::{Varlena, image_of};

/// The call's trigger data; none where the function was called otherwise.
pub fn data<'a>(call: Call) -> Option<&'a pg_sys::TriggerData> {
    // SAFETY: the context of a call is null or a node; a TriggerData says so in its tag, and lasts as long as the call.
    unsafe {
        let context = (*call.fcinfo()).context;
        let is_data = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData;
        is_data.then(|| &*context.cast::<pg_sys::TriggerData>())
    }
}

/// The same of a trigger BEFORE INSERT OR UPDATE, for each row, with the rows; none of any other.
pub fn before_row<'a>(call: Call) -> Option<(&'a pg_sys::TriggerData, Rows)> {
    let trigger = data(call)?;
    let timing = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
    if trigger.tg_event & timing != pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE {
        return None;
    }
    let (new, old) = match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => (trigger.tg_trigtuple, None),
        pg_sys::TRIGGER_EVENT_UPDATE => (trigger.tg_newtuple, Some(trigger.tg_trigtuple)),
        _ => return None,
    };
    // SAFETY: the relation that the trigger was fired for is open for the length of the call.
    let descriptor = unsafe { (*trigger.tg_relation).rd_att };
    let rows = Rows {
        descriptor,
        new,
        old,
    };
    Some((trigger, rows))
}

/// The row that is to be written, and the one it replaces.
pub struct Rows {
    pub descriptor: pg_sys::TupleDesc,
    pub new: pg_sys::HeapTuple,
    pub old: Option<pg_sys::HeapTuple>,
}

impl Rows {
    /// What the new row has in a column.
    pub fn value(&self, number: i32) -> Option<pg_sys::Datum> {
        self.in_row(self.new, number)
    }

    /// The new row, for who reads no column but some: of others what is out of line stays there.
    pub fn narrowed_to(&self, numbers: &[i32]) -> pg_sys::HeapTuple {
        // SAFETY: the row that is written, and the description of its table.
        let (is_whole, columns) = unsafe {
            let flags = u32::from((*(*self.new).t_data).t_infomask);
            (
                flags & pg_sys::HEAP_HASEXTERNAL == 0,
                (*self.descriptor).natts,
            )
        };
        if is_whole {
            return self.new;
        }
        let others = (1..=columns).filter(|number| !numbers.contains(number));
        self.with_all(&others.map(|number| (number, None)).collect::<Vec<_>>())
    }

    /// What the row that it replaces has there.
    pub fn former(&self, number: i32) -> Option<pg_sys::Datum> {
        self.in_row(self.old?, number)
    }

    fn in_row(&self, tuple: pg_sys::HeapTuple, number: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: a tuple of the table, which has this column.
        let datum = unsafe { pg_sys::heap_getattr(tuple, number, self.descriptor, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// Whether a row is replaced that has the same value in the column, bit by bit.
    pub fn keeps(&self, number: i32) -> bool {
        if self.old.is_none() {
            return false;
        }
        match (self.former(number), self.value(number)) {
            (None, None) => true,
            (Some(before), Some(after)) => {
                // SAFETY: two values of the column's type, by whose length they are read.
                unsafe { same_image(before, after, by_value_and_length(self.descriptor, number)) }
            }
            _ => false,
        }
    }

    /// Whether the column has a default.
    pub fn has_default(&self, number: i32) -> bool {
        // SAFETY: the table's descriptor, which lasts as long as the call.
        let columns = unsafe { PgTupleDesc::from_pg_unchecked(self.descriptor) };
        columns
            .iter()
            .any(|column| i32::from(column.attnum) == number && column.atthasdef)
    }

    /// The new row with other values in some columns.
    pub fn with_all(&self, changed: &[(i32, Option<pg_sys::Datum>)]) -> pg_sys::HeapTuple {
        let mut numbers: Vec<i32> = changed.iter().map(|(number, _)| *number).collect();
        let mut nulls: Vec<bool> = changed.iter().map(|(_, value)| value.is_none()).collect();
        let none = pg_sys::Datum::from(0);
        let values = changed.iter().map(|(_, value)| value.unwrap_or(none));
        let mut values: Vec<pg_sys::Datum> = values.collect();
        // SAFETY: a tuple of the table, some of its columns, values of these columns' types.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                self.new,
                self.descriptor,
                numbers.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        }
    }

    /// The new row with another value in a column.
    pub fn with(&self, number: i32, value: Option<pg_sys::Datum>) -> pg_sys::HeapTuple {
        let (mut number, mut is_null) = (number, value.is_none());
        let mut value = value.unwrap_or(pg_sys::Datum::from(0));
        // SAFETY: a tuple of the table, one of its columns, a value of that column's type.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                self.new,
                self.descriptor,
                1,
                &mut number,
                &mut value,
                &mut is_null,
            )
        }
    }
}

/// Whether a column's type is passed by value, and its length.
///
/// # Safety
/// The descriptor has the column.
unsafe fn by_value_and_length(descriptor: pg_sys::TupleDesc, number: i32) -> (bool, i16) {
    let (mut length, mut by_value) = (0, false);
    // SAFETY: the caller's promise; a look-up in the type catalog.
    unsafe {
        let type_oid = pg_sys::SPI_gettypeid(descriptor, number);
        pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value);
    }
    (by_value, length)
}

/// Whether two values are the same, bit by bit.
///
/// # Safety
/// Both are of a type of this kind and length.
unsafe fn same_image(
    left: pg_sys::Datum,
    right: pg_sys::Datum,
    (by_value, length): (bool, i16),
) -> bool {
    if by_value || left == right {
        return left == right;
    }
    // SAFETY: the caller's promise: a fixed number of bytes, or a varlena.
    unsafe {
        if length == -1 && image_of(left) == image_of(right) {
            return true;
        }
        match usize::try_from(length) {
            Ok(length) => {
                std::slice::from_raw_parts(left.cast_mut_ptr::<u8>(), length)
                    == std::slice::from_raw_parts(right.cast_mut_ptr::<u8>(), length)
            }
            Err(_) => Varlena::from_datum(left).bytes() == Varlena::from_datum(right).bytes(),
        }
    }
}

/// The name of a trigger that fires on the same rows after this one, and is none of these functions of ours.
pub fn later(trigger: &pg_sys::TriggerData, but: &[&CStr]) -> Option<String> {
    let (all, fires) = of_the_same(trigger);
    // SAFETY: names are C strings.
    unsafe {
        all.iter()
            .skip_while(|it| it.tgoid != (*trigger.tg_trigger).tgoid)
            .skip(1)
            .find(|it| {
                it.tgtype & fires == fires
                    && it.tgenabled as u8 != b'D'
                    && !types::is_function(it.tgfoid, but)
            })
            .map(|it| CStr::from_ptr(it.tgname).to_string_lossy().into_owned())
    }
}

/// Whether one of somebody's fires on the same rows before this one, where changes are applied.
pub fn is_after_others(trigger: &pg_sys::TriggerData) -> bool {
    let (all, fires) = of_the_same(trigger);
    // SAFETY: the trigger itself.
    let own = unsafe { (*trigger.tg_trigger).tgoid };
    all.iter()
        .take_while(|it| it.tgoid != own)
        .any(|it| it.tgtype & fires == fires && matches!(it.tgenabled as u8, b'A' | b'R'))
}

/// The table's triggers in the order in which they fire, and what the type has of those that fire as this one does now.
fn of_the_same(trigger: &pg_sys::TriggerData) -> (&[pg_sys::Trigger], i16) {
    let event = match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => pg_sys::TRIGGER_TYPE_INSERT,
        _ => pg_sys::TRIGGER_TYPE_UPDATE,
    };
    let fires = (pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE | event) as i16;
    // SAFETY: the relation is open as long as the call, and has this trigger at least.
    unsafe {
        let all = &*(*trigger.tg_relation).trigdesc;
        let all = std::slice::from_raw_parts(all.triggers, all.numtriggers as usize);
        (all, fires)
    }
}
