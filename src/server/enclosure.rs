//! Who is asking: a person, or code of somebody else's that his statement happens to run.
//!
//! A CHECK, an index expression, a trigger, a view or a policy runs with whatever login the statement has, so a
//! decision (`colcrypt_core::verbs`) is taken only where each statement around the call is a CALL, a DO, or a SELECT
//! that reads no relation of another role's. PostgreSQL does not say what encloses a function, so the executor's, the
//! utility processor's and the planner's hooks keep a stack. What a SELECT or a CALL names by itself (a function of
//! another role's) is the caller's own choice, as the name of a program is that he runs.
//!
//! The hooks are plain functions without pgrx's guards: those would rebuild every error of every statement. An ERROR
//! passes them by longjmp, so a frame holds nothing that wants dropping, and the stack is cut back by whoever goes on:
//! the end of an outer frame, of the subtransaction, or of the transaction.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::server::call::Call;
use crate::server::names::name_of;
use crate::server::xact::{End, PartEnd};
use crate::server::{ours, process, roles};

/// A statement that is being planned or run.
#[derive(Clone, Copy)]
enum Statement {
    Planning,
    Query(*mut pg_sys::QueryDesc),
    Utility(*mut pg_sys::PlannedStmt),
}

#[derive(Clone, Copy)]
struct Frame {
    statement: Statement,
    /// Whether it was begun in the portal of a client's message. Asked of the outermost one only: what runs in it is in
    /// it.
    is_clients: bool,
    /// The subtransaction it runs in: that one's abort is its end.
    level: c_int,
    /// The role it runs as.
    role: pg_sys::Oid,
    /// Whether it runs past forced policies: as none does but what a foreign key has done to the rows that refer to
    /// another, and what is called in there.
    is_past_policies: bool,
}

thread_local! {
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;
static mut PREVIOUS_PLANNER: pg_sys::planner_hook_type = None;
static mut REGISTERED: bool = false;

/// Without pgrx's guards: an ERROR goes through to whom it concerns as it is.
mod server {
    use std::ffi::{c_char, c_int};

    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        #[link_name = "standard_ExecutorStart"]
        pub fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int);
        #[cfg(not(feature = "pg18"))]
        #[link_name = "standard_ExecutorRun"]
        pub fn executor_run(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        #[cfg(feature = "pg18")]
        #[link_name = "standard_ExecutorRun"]
        pub fn executor_run(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
        );
        #[link_name = "standard_ExecutorFinish"]
        pub fn executor_finish(query: *mut pg_sys::QueryDesc);
        #[link_name = "standard_ProcessUtility"]
        pub fn process_utility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const c_char,
            read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            params: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            dest: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
        #[link_name = "standard_planner"]
        pub fn planner(
            parse: *mut pg_sys::Query,
            text: *const c_char,
            options: c_int,
            params: pg_sys::ParamListInfo,
        ) -> *mut pg_sys::PlannedStmt;
        #[link_name = "GetCurrentTransactionNestLevel"]
        pub fn nest_level() -> c_int;
        #[link_name = "GetUserIdAndSecContext"]
        pub fn role_and_flags(role: *mut pg_sys::Oid, flags: *mut c_int);
    }
}

/// PostgreSQL's own, for a hook that nobody came before.
///
/// # Safety
/// As the planner's hook.
pub unsafe fn standard_planner(
    parse: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the caller's promise.
    unsafe { server::planner(parse, text, options, params) }
}

/// Puts the hooks in place, in front of those there are.
pub fn register() {
    // SAFETY: in the postmaster, in _PG_init; each hook chains to whoever came before.
    unsafe {
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(on_start);
        PREVIOUS_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(on_run);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(on_finish);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
        PREVIOUS_PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(on_planner);
        REGISTERED = true;
    }
}

/// Gives the depth to go back to.
fn push(statement: Statement, goes_to: pg_sys::CommandDest::Type) -> usize {
    let (mut role, mut flags) = (pg_sys::Oid::INVALID, 0);
    // SAFETY: reads variables of the transaction machinery; cannot raise.
    let level = unsafe {
        server::role_and_flags(&mut role, &mut flags);
        server::nest_level()
    };
    STACK.with_borrow_mut(|stack| {
        let is_clients = !stack.is_empty() || is_clients(goes_to);
        stack.push(Frame {
            statement,
            is_clients,
            level,
            role,
            is_past_policies: flags & pg_sys::SECURITY_NOFORCE_RLS as c_int != 0,
        });
        stack.len() - 1
    })
}

/// Whether a statement is what the client sent. Literals, parameters and cursors that are kept at commit run code of
/// others' outside of any statement, and a cursor that such code opens is in a portal, too. But only the client has one
/// without a name, and only to him a statement's rows go.
fn is_clients(goes_to: pg_sys::CommandDest::Type) -> bool {
    // SAFETY: reads a variable of the process; an active portal is there, and its name with it.
    unsafe {
        let portal = pg_sys::ActivePortal;
        !portal.is_null()
            && (*(*portal).name == 0
                || matches!(
                    goes_to,
                    pg_sys::CommandDest::DestRemote | pg_sys::CommandDest::DestRemoteExecute
                ))
    }
}

/// Not by one: what an ERROR left above goes, too.
fn cut(depth: usize) {
    STACK.with_borrow_mut(|stack| stack.truncate(depth));
}

unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    let depth = push(Statement::Query(query), pg_sys::CommandDest::DestNone);
    // SAFETY: the server's call, passed on. Nothing in this frame wants dropping.
    unsafe {
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => server::executor_start(query, flags),
        }
    }
    cut(depth);
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn on_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: where the rows go is known when it runs.
    let goes_to = unsafe { (*(*query).dest).mydest };
    let depth = push(Statement::Query(query), goes_to);
    // SAFETY: as on_start.
    unsafe {
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count, once),
            None => server::executor_run(query, direction, count, once),
        }
    }
    cut(depth);
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn on_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: where the rows go is known when it runs.
    let goes_to = unsafe { (*(*query).dest).mydest };
    let depth = push(Statement::Query(query), goes_to);
    // SAFETY: as on_start.
    unsafe {
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count),
            None => server::executor_run(query, direction, count),
        }
    }
    cut(depth);
}

unsafe extern "C-unwind" fn on_finish(query: *mut pg_sys::QueryDesc) {
    let depth = push(Statement::Query(query), pg_sys::CommandDest::DestNone);
    // SAFETY: as on_start.
    unsafe {
        match PREVIOUS_FINISH {
            Some(previous) => previous(query),
            None => server::executor_finish(query),
        }
    }
    cut(depth);
}

unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: as on_run.
    let goes_to = unsafe { (*dest).mydest };
    let depth = push(Statement::Utility(statement), goes_to);
    // SAFETY: as on_start.
    unsafe {
        let next = PREVIOUS_UTILITY.unwrap_or(server::process_utility);
        next(
            statement,
            text,
            read_only,
            context,
            params,
            environment,
            dest,
            completion,
        );
    }
    cut(depth);
}

unsafe extern "C-unwind" fn on_planner(
    parse: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let depth = push(Statement::Planning, pg_sys::CommandDest::DestNone);
    // SAFETY: as on_start.
    let plan = unsafe {
        match PREVIOUS_PLANNER {
            Some(previous) => previous(parse, text, options, params),
            None => server::planner(parse, text, options, params),
        }
    };
    cut(depth);
    plan
}

/// The utility statement that calls us by itself, and not by a statement within it.
pub fn utility_under_way() -> Option<*mut pg_sys::PlannedStmt> {
    STACK.with_borrow(|stack| match stack.last()?.statement {
        Statement::Utility(statement) => Some(statement),
        _ => None,
    })
}

/// Whether a statement is being planned, and nothing runs for that: what is called then by itself is called for an
/// estimate.
pub fn is_planning() -> bool {
    STACK.with_borrow(|stack| {
        let innermost = stack.last();
        innermost.is_some_and(|frame| matches!(frame.statement, Statement::Planning))
    })
}

/// Whether a statement runs. What logical replication applies is in none.
pub fn is_within_statement() -> bool {
    STACK.with_borrow(|stack| !stack.is_empty())
}

/// The queries that run or are set up, the innermost first.
pub fn queries() -> Vec<*mut pg_sys::QueryDesc> {
    STACK.with_borrow(|stack| {
        let innermost_first = stack.iter().rev();
        innermost_first
            .filter_map(|frame| match frame.statement {
                Statement::Query(query) => Some(query),
                _ => None,
            })
            .collect()
    })
}

/// A statement of the server's own by which a foreign key goes on in rows that refer to others.
pub struct Cascade {
    /// The role whose statement it goes on with, and not the owner that the server's runs as.
    pub role: pg_sys::Oid,
    /// As the server made it.
    pub text: String,
}

/// The foreign key's statement that calls us by itself. None where any other does, one of somebody's code in the midst
/// of that included.
pub fn cascade() -> Option<Cascade> {
    STACK.with_borrow(|stack| {
        let [.., caused, cascading] = stack.as_slice() else {
            return None;
        };
        let Statement::Query(query) = cascading.statement else {
            return None;
        };
        // What runs within it inherits that it runs past policies: only its beginning tells.
        let begins = cascading.is_past_policies && !caused.is_past_policies;
        let is_run = !matches!(caused.statement, Statement::Planning);
        // SAFETY: a frame on the stack is that of a call that has not returned; the text is a C string or null.
        let text = unsafe { (*query).sourceText };
        if !begins || !is_run || cascading.role != roles::current_user() || text.is_null() {
            return None;
        }
        Some(Cascade {
            role: caused.role,
            // SAFETY: as above.
            text: unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned(),
        })
    })
}

/// How deep in subtransactions this process is.
pub fn level() -> c_int {
    // SAFETY: reads a variable of the process.
    unsafe { server::nest_level() }
}

/// A procedure that ends the transaction goes on after it. What it was called by can only be CALL and DO, which
/// the stack would allow anyway.
pub fn at_end(end: End) {
    if end == End::Abort {
        cut(0);
    }
}

/// What a subtransaction ran is over with it.
pub fn at_part_end(end: PartEnd) {
    if let PartEnd::Abort { .. } = end {
        // SAFETY: as push; the level is still that of the subtransaction.
        let level = unsafe { server::nest_level() };
        STACK.with_borrow_mut(|stack| {
            let live = stack
                .iter()
                .position(|frame| frame.level >= level)
                .unwrap_or(stack.len());
            stack.truncate(live);
        });
    }
}

/// Refuses a decision that owner code may have asked for.
///
/// # Errors
/// [`Error::Enclosed`], and [`Error::NotPreloaded`] where nobody kept the stack.
pub fn refuse_enclosed(call: Call) -> Result<()> {
    // SAFETY: written in the postmaster.
    if !unsafe { REGISTERED } {
        return Err(Error::NotPreloaded);
    }
    let refused = why_process().map(Into::into).or_else(|| {
        STACK.with_borrow(|stack| {
            if !stack.first().is_some_and(|frame| frame.is_clients) {
                return Some("no statement of the client's is under way".into());
            }
            stack
                .iter()
                .find_map(|frame| why_statement(frame.statement))
        })
    });
    match refused {
        None => Ok(()),
        Some(why) => Err(Error::Enclosed {
            function: function_name(call),
            why,
        }),
    }
}

fn function_name(call: Call) -> String {
    // SAFETY: flinfo belongs to the call; the look-up gives a C string or null.
    unsafe {
        let name = pg_sys::get_func_name((*call.flinfo()).fn_oid);
        if name.is_null() {
            return "the function".into();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Why nobody decides anything in this process, or at this moment of it.
fn why_process() -> Option<&'static str> {
    // SAFETY: reads variables of the process; the functions look at others.
    unsafe {
        if process::is_parallel_worker() {
            return Some("a parallel worker is no person");
        }
        let worker = pg_sys::MyBgworkerEntry;
        if !worker.is_null() {
            let library = CStr::from_ptr((*worker).bgw_library_name.as_ptr());
            if library == c"colcrypt" {
                return Some("a worker of colcrypt is no person");
            }
        } else if pg_sys::MyBackendType != pg_sys::BackendType::B_BACKEND {
            return Some("this process is no client's session");
        }
        if pg_sys::InSecurityRestrictedOperation() {
            return Some("a security-restricted operation is under way");
        }
        // Deferred triggers run when the transaction ends, outside of any statement.
        if trigger_depth() > 0 {
            return Some("a trigger is under way");
        }
        if is_analyzing() {
            return Some("a statement is being read");
        }
    }
    None
}

thread_local! {
    /// The parser's own error callback, which is on the stack of them while a literal's input function runs.
    static LITERAL: Cell<Option<ErrorCallback>> = const { Cell::new(None) };
}

type ErrorCallback = unsafe extern "C-unwind" fn(*mut std::ffi::c_void);

/// Whether the parser is making a value of a literal: of a composite type, an array or a range of a domain, that runs
/// the domain's checks, before the statement is planned or run.
fn is_analyzing() -> bool {
    // SAFETY: the pair of calls leaves the stack of callbacks as it was; the entries are of calls that have not
    // returned.
    unsafe {
        let literal = LITERAL.get().or_else(|| {
            let mut state = pg_sys::ParseCallbackState::default();
            pg_sys::setup_parser_errposition_callback(&mut state, std::ptr::null_mut(), -1);
            pg_sys::cancel_parser_errposition_callback(&mut state);
            LITERAL.set(state.errcallback.callback);
            state.errcallback.callback
        });
        let mut entry = pg_sys::error_context_stack;
        while let Some(it) = entry.as_ref() {
            if it.callback.map(|it| it as usize) == literal.map(|it| it as usize) {
                return true;
            }
            entry = it.previous;
        }
    }
    false
}

fn trigger_depth() -> i32 {
    // SAFETY: the function looks at no argument.
    unsafe { pg_sys::pg_trigger_depth(std::ptr::null_mut()).value() as i32 }
}

fn why_statement(statement: Statement) -> Option<String> {
    // SAFETY: a frame on the stack is that of a call that has not returned, so what it was given is there.
    unsafe {
        match statement {
            Statement::Planning => Some("a statement is being planned".into()),
            Statement::Query(query) => why_query((*query).plannedstmt),
            Statement::Utility(statement) => why_utility((*statement).utilityStmt),
        }
    }
}

/// # Safety
/// A plan that is running.
unsafe fn why_query(plan: *mut pg_sys::PlannedStmt) -> Option<String> {
    // SAFETY: as the caller says; the lists are of the plan.
    unsafe {
        if (*plan).commandType == pg_sys::CmdType::CMD_UTILITY {
            return None;
        }
        if (*plan).commandType != pg_sys::CmdType::CMD_SELECT || (*plan).hasModifyingCTE {
            return Some("a statement that writes encloses the call".into());
        }
        let ranges = pgrx::PgList::<pg_sys::RangeTblEntry>::from_pg((*plan).rtable);
        // Views are among them, for the sake of their permissions. Not relationOids, which has constants of type
        // regclass as well: the table that a call is about.
        ranges
            .iter_ptr()
            .map(|range| (*range).relid)
            .filter(|&relation| relation != pg_sys::Oid::INVALID)
            .find_map(why_relation)
    }
}

/// # Safety
/// A utility statement that is running.
unsafe fn why_utility(statement: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: as the caller says.
    let tag = unsafe { (*statement).type_ };
    let allowed = matches!(
        tag,
        pg_sys::NodeTag::T_CallStmt
            | pg_sys::NodeTag::T_DoStmt
            // What these run is on the stack by itself.
            | pg_sys::NodeTag::T_ExecuteStmt
            | pg_sys::NodeTag::T_FetchStmt
            | pg_sys::NodeTag::T_DeclareCursorStmt
            | pg_sys::NodeTag::T_PrepareStmt
    );
    (!allowed).then(|| "a command that runs other people's code encloses the call".into())
}

/// The owner's code is run by whoever reads a relation: its view's query, its policies.
fn why_relation(relation: pg_sys::Oid) -> Option<String> {
    // SAFETY: catalog look-ups, in a transaction.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as c_int,
            pg_sys::Datum::from(relation),
        );
        if tuple.is_null() {
            return Some("a relation that is read is not there any more".into());
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let (owner, schema) = (row.relowner, row.relnamespace);
        let name = name_of(&row.relname);
        pg_sys::ReleaseSysCache(tuple);
        let ours = owner == pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID)
            || owner == pg_sys::GetAuthenticatedUserId()
            || (schema == pg_sys::get_namespace_oid(c"colcrypt".as_ptr(), true)
                && ours::is_member(pg_sys::RelationRelationId, relation));
        (!ours).then(|| {
            format!(
                "a SELECT around it reads {}, which belongs to another role",
                colcrypt_domain::quote::quote_identifier(name)
            )
        })
    }
}
