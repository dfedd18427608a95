//! What a condition asks of a decrypted column, as far as terms can answer it.

use std::ffi::{CStr, c_int};

use colcrypt_search::{Class, Kind};
use pgrx::pg_sys::{self, NodeTag};

use crate::columns::search::plan::decided::Why;
use crate::columns::search::plan::names::Names;
use crate::columns::search::plan::plaintext::{Plaintext, plaintext};
use crate::columns::search::term::class_of;
use crate::server::{collations, planned, tree};

/// What is asked of a value.
#[derive(Clone, Copy)]
pub enum Asked {
    Equals(*mut pg_sys::Node),
    /// One of an array's.
    EqualsAny(*mut pg_sys::Node),
    /// With the end or without: the terms are the same.
    AtLeast(*mut pg_sys::Node),
    AtMost(*mut pg_sys::Node),
    /// Or ILIKE.
    Like(*mut pg_sys::Node),
    Begins(*mut pg_sys::Node),
    /// In the lower or the upper case of both.
    EqualsCased(*mut pg_sys::Node),
}

impl Asked {
    /// The kind of index that serves it best.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Equals(_) | Self::EqualsAny(_) => Kind::Equality,
            Self::AtLeast(_) | Self::AtMost(_) => Kind::Range,
            Self::Like(_) | Self::Begins(_) | Self::EqualsCased(_) => Kind::Text,
        }
    }

    /// What the value is compared with.
    pub fn with(self) -> *mut pg_sys::Node {
        match self {
            Self::Equals(with)
            | Self::EqualsAny(with)
            | Self::AtLeast(with)
            | Self::AtMost(with)
            | Self::Like(with)
            | Self::Begins(with)
            | Self::EqualsCased(with) => with,
        }
    }
}

/// A condition on a decrypted column.
pub struct Condition {
    pub of: Plaintext,
    pub class: Class,
    pub asked: Asked,
    pub collation: pg_sys::Oid,
    /// Where what it is compared with is another relation's decrypted column.
    pub other: Option<Plaintext>,
}

/// What a condition asks of an encrypted column of this relation; none where it is about no such column alone.
///
/// # Errors
/// Why no terms answer it.
///
/// # Safety
/// A condition of a query that is being planned.
pub unsafe fn asked(
    names: &Names,
    condition: *mut pg_sys::Node,
    relation: c_int,
) -> Result<Option<Condition>, Why> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        let (arguments, operator, collation, any) = match (*condition).type_ {
            NodeTag::T_OpExpr => {
                let it = &*condition.cast::<pg_sys::OpExpr>();
                (it.args, it.opno, it.inputcollid, false)
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let it = &*condition.cast::<pg_sys::ScalarArrayOpExpr>();
                if !it.useOr {
                    return Ok(None);
                }
                (it.args, it.opno, it.inputcollid, true)
            }
            NodeTag::T_FuncExpr => {
                let it = &*condition.cast::<pg_sys::FuncExpr>();
                return begins(names, it, relation);
            }
            _ => return Ok(None),
        };
        let [left, right] = tree::items::<pg_sys::Node>(arguments)[..] else {
            return Ok(None);
        };
        let cased = [left, right].map(|side| case_of(side));
        let of_side = |at: usize, side| plaintext(names, cased[at].unwrap_or(side));
        let (one, two) = (of_side(0, left), of_side(1, right));
        let is_here =
            |side: &Option<Plaintext>| side.as_ref().is_some_and(|side| side.relation == relation);
        let (of, other, with, is_turned) = match (is_here(&one), is_here(&two)) {
            (true, true) => return Err(Why::SameRow),
            (true, false) => (one, two, right, false),
            (false, true) if !any => (two, one, left, true),
            _ => return Ok(None),
        };
        let Some(of) = of else { return Ok(None) };
        let class = class_of(of.type_oid).ok_or(Why::OtherType)?;
        if cased[usize::from(is_turned)].is_some() {
            if any {
                return Err(Why::Operator);
            }
            return folded(of, class, operator, (collation, with), is_turned, relation).map(Some);
        }
        let asked = match strategy(class, operator) {
            Some(pg_sys::BTEqualStrategyNumber) if any => Asked::EqualsAny(with),
            _ if any => return Err(Why::Operator),
            Some(pg_sys::BTEqualStrategyNumber) => Asked::Equals(with),
            Some(pg_sys::BTLessStrategyNumber | pg_sys::BTLessEqualStrategyNumber) => {
                match is_turned {
                    true => Asked::AtLeast(with),
                    false => Asked::AtMost(with),
                }
            }
            Some(pg_sys::BTGreaterStrategyNumber | pg_sys::BTGreaterEqualStrategyNumber) => {
                match is_turned {
                    true => Asked::AtMost(with),
                    false => Asked::AtLeast(with),
                }
            }
            _ if is_turned => return Err(Why::Operator),
            _ => like(class, operator, with).ok_or(Why::Operator)?,
        };
        checked(
            Condition {
                of,
                class,
                asked,
                collation,
                other,
            },
            relation,
        )
        .map(Some)
    }
}

/// What `lower()` or `upper()` is called with, where letters that differ in case alone are one letter to an index of
/// texts, too: an upper case that makes several letters of one, or drops marks, is ICU's.
///
/// # Safety
/// An expression of a query that is being planned.
unsafe fn case_of(side: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        let mut at = side;
        while tree::is(at, NodeTag::T_RelabelType) {
            at = (*at.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        if !tree::is(at, NodeTag::T_FuncExpr) {
            return None;
        }
        let call = &*at.cast::<pg_sys::FuncExpr>();
        let is_case = match call.funcid.to_u32() {
            pg_sys::F_LOWER_TEXT => true,
            pg_sys::F_UPPER_TEXT => collations::is_of_libc(call.inputcollid),
            _ => false,
        };
        let arguments = tree::items::<pg_sys::Node>(call.args);
        is_case.then(|| arguments.first().copied()).flatten()
    }
}

/// What is asked of a value's lower or upper case: an index of texts holds letters folded.
///
/// # Safety
/// As [`asked`].
unsafe fn folded(
    of: Plaintext,
    class: Class,
    operator: pg_sys::Oid,
    (collation, with): (pg_sys::Oid, *mut pg_sys::Node),
    is_turned: bool,
    relation: c_int,
) -> Result<Condition, Why> {
    if class != Class::Text {
        return Err(Why::Operator);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let asked = match strategy(class, operator) {
            Some(pg_sys::BTEqualStrategyNumber) => Asked::EqualsCased(with),
            None if !is_turned => like(class, operator, with).ok_or(Why::Operator)?,
            _ => return Err(Why::Operator),
        };
        let condition = Condition {
            of,
            class,
            asked,
            collation,
            other: None,
        };
        checked(condition, relation)
    }
}

/// The number that a B-tree knows the operator by, on values of this class. Only an operator of that family is sure to
/// hold for equal what terms do.
///
/// # Safety
/// In a transaction.
unsafe fn strategy(class: Class, operator: pg_sys::Oid) -> Option<u32> {
    // SAFETY: the caller's promise; the cache has an entry for each type that is defined.
    unsafe {
        let flags = pg_sys::TYPECACHE_BTREE_OPFAMILY as c_int;
        let family = (*pg_sys::lookup_type_cache(type_of(class), flags)).btree_opf;
        let number = pg_sys::get_op_opfamily_strategy(operator, family);
        (number != 0).then_some(number as u32)
    }
}

/// The type whose operators a class has.
const fn type_of(class: Class) -> pg_sys::Oid {
    match class {
        Class::Int => pg_sys::INT8OID,
        Class::Float => pg_sys::FLOAT8OID,
        Class::Numeric => pg_sys::NUMERICOID,
        Class::Text => pg_sys::TEXTOID,
        Class::Bpchar => pg_sys::BPCHAROID,
        Class::Bytea => pg_sys::BYTEAOID,
        Class::Uuid => pg_sys::UUIDOID,
        Class::Date => pg_sys::DATEOID,
        Class::Timestamp => pg_sys::TIMESTAMPOID,
        Class::Timestamptz => pg_sys::TIMESTAMPTZOID,
        Class::Time => pg_sys::TIMEOID,
        Class::Interval => pg_sys::INTERVALOID,
    }
}

/// # Safety
/// In a transaction.
unsafe fn like(class: Class, operator: pg_sys::Oid, with: *mut pg_sys::Node) -> Option<Asked> {
    if class != Class::Text {
        return None;
    }
    // SAFETY: a look-up in the operator catalog.
    let function = unsafe { pg_sys::get_opcode(operator) }.to_u32();
    match function {
        pg_sys::F_TEXTLIKE | pg_sys::F_TEXTICLIKE => Some(Asked::Like(with)),
        pg_sys::F_STARTS_WITH => Some(Asked::Begins(with)),
        _ => None,
    }
}

/// What `starts_with(value, prefix)` asks.
///
/// # Safety
/// As [`asked`].
unsafe fn begins(
    names: &Names,
    call: &pg_sys::FuncExpr,
    relation: c_int,
) -> Result<Option<Condition>, Why> {
    if call.funcid.to_u32() != pg_sys::F_STARTS_WITH {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let [value, prefix] = tree::items::<pg_sys::Node>(call.args)[..] else {
            return Ok(None);
        };
        let Some(of) = plaintext(names, value).filter(|of| of.relation == relation) else {
            return Ok(None);
        };
        let class = class_of(of.type_oid).ok_or(Why::OtherType)?;
        if class != Class::Text {
            return Err(Why::OtherType);
        }
        let condition = Condition {
            of,
            class,
            asked: Asked::Begins(prefix),
            collation: call.inputcollid,
            other: None,
        };
        checked(condition, relation).map(Some)
    }
}

/// The condition, if terms of what it compares with can be made and mean the same.
///
/// # Safety
/// As [`asked`].
unsafe fn checked(condition: Condition, relation: c_int) -> Result<Condition, Why> {
    let with = condition.asked.with();
    // SAFETY: the caller's promise.
    unsafe {
        if condition.of.is_guarded_by_row {
            return Err(Why::OtherGuard);
        }
        if planned::is_costly_or_volatile(with) {
            return Err(Why::Volatile);
        }
        let is_of_row = |variable: &*mut pg_sys::Var| (**variable).varno as c_int == relation;
        if planned::variables(with).iter().any(is_of_row) {
            return Err(Why::SameRow);
        }
        let mut type_oid = pg_sys::exprType(with);
        if matches!(condition.asked, Asked::EqualsAny(_)) {
            type_oid = pg_sys::get_base_element_type(type_oid);
        }
        if class_of(type_oid) != Some(condition.class) {
            return Err(Why::OtherType);
        }
        if condition.class.is_text() && !collations::is_deterministic(condition.collation) {
            return Err(Why::Collation);
        }
    }
    Ok(condition)
}

/// The text of a constant, where what a value is compared with is one.
///
/// # Safety
/// An expression.
pub unsafe fn constant_text(expression: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the caller's promise; a node is what its tag says, and a text's datum a varlena.
    unsafe {
        if !tree::is(expression, NodeTag::T_Const) {
            return None;
        }
        let it = &*expression.cast::<pg_sys::Const>();
        if it.constisnull || it.consttype != pg_sys::TEXTOID {
            return None;
        }
        let text = pg_sys::text_to_cstring(it.constvalue.cast_mut_ptr());
        Some(CStr::from_ptr(text).to_str().ok()?.to_owned())
    }
}
