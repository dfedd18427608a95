//! Writing the catalog: SPI as the extension's owner, with a search path nobody can bend.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::PgOid;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiHeapTupleData, SpiTupleTable};
use pgrx::{FromDatum, IntoDatum, Spi, pg_sys};

use crate::error::{Result, of_spi};
use crate::server::roles::AsRole;

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether the statement that writes the catalog just now is one of ours; any other is somebody's own.
pub fn is_ours() -> bool {
    OURS.get()
}

/// Whether what is written just now concerns no session's knowledge.
pub fn is_quiet() -> bool {
    QUIET.get()
}

/// Runs one statement that changes nothing of what sessions remember: none of them forgets anything for it.
///
/// # Errors
/// As [`execute`].
pub fn execute_quietly(sql: &str, arguments: &[DatumWithOid]) -> Result<usize> {
    struct Quiet(bool);
    impl Drop for Quiet {
        fn drop(&mut self) {
            QUIET.set(self.0);
        }
    }
    let _quiet = Quiet(QUIET.replace(true));
    execute(sql, arguments)
}

/// While it lives, statements on the catalog are ours. Given back on every way out, an ERROR's unwinding too.
struct Ours(bool);

impl Ours {
    fn begin() -> Self {
        Self(OURS.replace(true))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        OURS.set(self.0);
    }
}

/// A search path that nobody can bend, until dropped.
pub struct SafePath {
    guc_level: i32,
}

/// Makes names mean pg_catalog's for as long as the guard lives, and has statements run uncompiled: the planner expects
/// far more rows than the key catalog has, and to compile takes a hundred times as long as what is compiled.
pub fn safe_search_path() -> SafePath {
    // SAFETY: a nested settings level, ended by the drop, or by the transaction's abort on ERROR.
    let guc_level = unsafe { pg_sys::NewGUCNestLevel() };
    SafePath { guc_level }
        .with(c"search_path", c"pg_catalog, pg_temp")
        .with(c"jit", c"off")
        .with_shards()
}

impl SafePath {
    /// Has CHECKs play no part in planning for as long as the guard lives: the planner would run what is constant in
    /// them.
    pub fn without_constraint_exclusion(self) -> Self {
        self.with(c"constraint_exclusion", c"off")
    }

    /// Citus keeps shards out of whatever a query finds in pg_class.
    fn with_shards(self) -> Self {
        const NAME: &std::ffi::CStr = c"citus.override_table_visibility";
        // SAFETY: a look-up among the settings.
        let is_there = unsafe { !pg_sys::GetConfigOption(NAME.as_ptr(), true, false).is_null() };
        if is_there {
            self.with(NAME, c"off")
        } else {
            self
        }
    }

    fn with(self, name: &std::ffi::CStr, value: &std::ffi::CStr) -> Self {
        // SAFETY: as safe_search_path, in its settings level.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        self
    }
}

impl Drop for SafePath {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the counterpart of safe_search_path.
            unsafe { pg_sys::AtEOXact_GUC(false, self.guc_level) };
        }
    }
}

/// SPI asks for a transaction id before the server looks whether there may be one.
fn refuse_read_only() {
    // SAFETY: raises an ERROR on a standby and in a read-only transaction.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"a change of the key catalog".as_ptr()) };
}

thread_local! {
    /// The plans of a worker, which says the same few statements in every batch: planning them anew would take a tenth
    /// of its time.
    static PLANS: RefCell<Option<HashMap<String, Rc<Kept>>>> = const { RefCell::new(None) };
}

/// Plans that are kept at most. The statements are a fixed set, but for their lists of columns.
const PLANS_KEPT: usize = 128;

struct Kept {
    plan: OwnedPreparedStatement,
    types: Vec<pg_sys::Oid>,
}

/// Has this process keep the plans of its statements, for as long as it lives.
pub fn keep_plans() {
    PLANS.set(Some(HashMap::new()));
}

/// The statement's plan, in a process that keeps them.
fn plan_of(
    client: &SpiClient<'_>,
    sql: &str,
    arguments: &[DatumWithOid],
) -> std::result::Result<Option<Rc<Kept>>, pgrx::spi::Error> {
    let types = || arguments.iter().map(DatumWithOid::oid);
    let (keeps, known) = PLANS.with_borrow(|plans| match plans {
        None => (false, None),
        Some(plans) => (
            plans.len() < PLANS_KEPT,
            plans
                .get(sql)
                .filter(|kept| kept.types.iter().copied().eq(types()))
                .cloned(),
        ),
    });
    if known.is_some() || !keeps {
        return Ok(known);
    }
    let declared: Vec<PgOid> = types().map(PgOid::from).collect();
    let kept = Rc::new(Kept {
        plan: client.prepare(sql, &declared)?.keep(),
        types: types().collect(),
    });
    PLANS.with_borrow_mut(|plans| {
        plans
            .get_or_insert_default()
            .insert(sql.to_owned(), kept.clone());
    });
    Ok(Some(kept))
}

/// Runs one statement that may write, by its kept plan where there is one.
fn rows_of<'a>(
    client: &mut SpiClient<'a>,
    sql: &str,
    arguments: &[DatumWithOid],
) -> std::result::Result<SpiTupleTable<'a>, pgrx::spi::Error> {
    match plan_of(client, sql, arguments)? {
        Some(kept) => client.update(&kept.plan, None, arguments),
        None => client.update(sql, None, arguments),
    }
}

/// Runs statements as a table's owner, in a security-restricted operation, so that his code in them has only his
/// rights.
///
/// # Errors
/// Of SPI; an ERROR of a statement itself aborts the transaction as ever.
pub fn run_as(owner: pg_sys::Oid, statements: &[String]) -> Result<()> {
    let _role = AsRole::restricted(owner);
    let _path = safe_search_path();
    for statement in statements {
        Spi::run(statement).map_err(of_spi)?;
    }
    Ok(())
}

/// Runs one statement; returns the number of rows.
///
/// # Errors
/// Of SPI; an ERROR of the statement itself aborts the transaction as ever.
pub fn execute(sql: &str, arguments: &[DatumWithOid]) -> Result<usize> {
    refuse_read_only();
    let _ours = Ours::begin();
    let _role = AsRole::owner();
    let _path = safe_search_path();
    Spi::connect_mut(|client| rows_of(client, sql, arguments).map(|rows| rows.len()))
        .map_err(of_spi)
}

/// A row's value in the column of this name, which is never null.
///
/// # Errors
/// For a null, for no such column and for another type.
pub fn named<T: FromDatum + IntoDatum>(
    row: &SpiHeapTupleData,
    name: &str,
) -> std::result::Result<T, pgrx::spi::Error> {
    row.get_by_name(name)?
        .ok_or(pgrx::spi::Error::InvalidPosition)
}

/// A row's value in the column of this number, which is never null.
///
/// # Errors
/// As [`named`].
pub fn at<T: FromDatum + IntoDatum>(
    row: &SpiHeapTupleData,
    number: usize,
) -> std::result::Result<T, pgrx::spi::Error> {
    row.get(number)?.ok_or(pgrx::spi::Error::InvalidPosition)
}

/// Runs one statement and reads its rows.
///
/// # Errors
/// As [`execute`].
pub fn query<T>(
    sql: &str,
    arguments: &[DatumWithOid],
    read: impl Fn(&SpiHeapTupleData) -> std::result::Result<T, pgrx::spi::Error>,
) -> Result<Vec<T>> {
    refuse_read_only();
    let _ours = Ours::begin();
    let _role = AsRole::owner();
    let _path = safe_search_path();
    Spi::connect_mut(|client| {
        rows_of(client, sql, arguments)?
            .map(|row| read(&row))
            .collect::<std::result::Result<Vec<T>, pgrx::spi::Error>>()
    })
    .map_err(of_spi)
}

/// The same of a statement that writes nothing, and asks for no transaction id.
///
/// # Errors
/// As [`execute`].
pub fn look<T>(
    sql: &str,
    arguments: &[DatumWithOid],
    read: impl Fn(&SpiHeapTupleData) -> std::result::Result<T, pgrx::spi::Error>,
) -> Result<Vec<T>> {
    let _role = AsRole::owner();
    let _path = safe_search_path();
    Spi::connect(|client| {
        let rows = match plan_of(client, sql, arguments)? {
            Some(kept) => client.select(&kept.plan, None, arguments)?,
            None => client.select(sql, None, arguments)?,
        };
        rows.map(|row| read(&row))
            .collect::<std::result::Result<Vec<T>, pgrx::spi::Error>>()
    })
    .map_err(of_spi)
}
