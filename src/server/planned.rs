//! What looks at each relation that a query reads, when the planner has just read about it: one hook, and those who are
//! asked in turn. At that moment subqueries are pulled up, constants folded and outer joins reduced, and no condition
//! has been given its place yet, so that one which is put beside another is planned as if the client had written it.

use std::ffi::c_int;
use std::sync::OnceLock;

use pgrx::pg_sys::{self, NodeTag};

use crate::server::tree;

/// One that looks. It may change the conditions of the query, and raise an ERROR natively.
///
/// # Safety
/// A query that is being planned, and one of its relations.
pub type Look = unsafe fn(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    place: *mut pg_sys::RelOptInfo,
);

static LOOKS: OnceLock<&'static [Look]> = OnceLock::new();
static mut PREVIOUS: pg_sys::get_relation_info_hook_type = None;

/// Has these asked in this order, after those that are there already.
pub fn register(looks: &'static [Look]) {
    if LOOKS.set(looks).is_ok() {
        // SAFETY: in the postmaster, in _PG_init.
        unsafe {
            PREVIOUS = pg_sys::get_relation_info_hook;
            pg_sys::get_relation_info_hook = Some(on_relation);
        }
    }
}

/// Without pgrx's guard: it is called for each relation of each statement, and most have nothing that could raise.
unsafe extern "C-unwind" fn on_relation(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    is_parent: bool,
    place: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: the server's call, passed on; nothing here wants dropping when an ERROR goes.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(root, relation, is_parent, place);
        }
        for look in LOOKS.get().copied().unwrap_or_default() {
            look(root, relation, place);
        }
    }
}

/// The join that conditions are about; those of a WHERE are of an inner one.
#[derive(Clone, Copy)]
pub struct Join {
    pub kind: pg_sys::JoinType::Type,
    left: *mut pg_sys::Node,
}

impl Join {
    /// Of no two sides.
    pub const INNER: Self = Self {
        kind: pg_sys::JoinType::JOIN_INNER,
        left: std::ptr::null_mut(),
    };

    /// Whether a relation is on the left of it.
    ///
    /// # Safety
    /// The query whose join it is.
    pub unsafe fn has_left(self, relation: c_int) -> bool {
        // SAFETY: the caller's promise.
        unsafe { has_relation(self.left, relation) }
    }
}

/// # Safety
/// A node of a join tree, or null.
unsafe fn has_relation(node: *mut pg_sys::Node, relation: c_int) -> bool {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if tree::is(node, NodeTag::T_RangeTblRef) {
            return (*node.cast::<pg_sys::RangeTblRef>()).rtindex == relation;
        }
        if tree::is(node, NodeTag::T_FromExpr) {
            return tree::items((*node.cast::<pg_sys::FromExpr>()).fromlist)
                .into_iter()
                .any(|member| has_relation(member, relation));
        }
        if tree::is(node, NodeTag::T_JoinExpr) {
            let join = &*node.cast::<pg_sys::JoinExpr>();
            return has_relation(join.larg, relation) || has_relation(join.rarg, relation);
        }
        false
    }
}

/// What takes the place of a list of conditions, if anything does.
pub type Change<'a> = dyn FnMut(Join, *mut pg_sys::List) -> Option<Vec<*mut pg_sys::Node>> + 'a;

/// Gives each list of conditions of a query, all of which have to hold, to `change`, with the join that they are about;
/// what it gives back takes the list's place.
///
/// # Safety
/// A query that is being planned, before its conditions have their places.
pub unsafe fn each_list(root: *mut pg_sys::PlannerInfo, change: &mut Change<'_>) {
    // SAFETY: the caller's promise. What is planned for its cost alone (CREATE INDEX, CLUSTER) has no join tree.
    unsafe {
        let query = (*root).parse;
        if !query.is_null() && !(*query).jointree.is_null() {
            each_list_below((*query).jointree.cast(), change);
        }
    }
}

/// # Safety
/// A node of a join tree.
unsafe fn each_list_below(node: *mut pg_sys::Node, change: &mut Change<'_>) {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if tree::is(node, NodeTag::T_FromExpr) {
            let from = node.cast::<pg_sys::FromExpr>();
            for member in tree::items::<pg_sys::Node>((*from).fromlist) {
                each_list_below(member, change);
            }
            changed(Join::INNER, &raw mut (*from).quals, change);
        } else if tree::is(node, NodeTag::T_JoinExpr) {
            let join = node.cast::<pg_sys::JoinExpr>();
            each_list_below((*join).larg, change);
            each_list_below((*join).rarg, change);
            let of = Join {
                kind: (*join).jointype,
                left: (*join).larg,
            };
            changed(of, &raw mut (*join).quals, change);
        }
    }
}

/// # Safety
/// Conditions as the planner has them: a list of those that all have to hold, or null.
unsafe fn changed(join: Join, conditions: *mut *mut pg_sys::Node, change: &mut Change<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        if tree::is(*conditions, NodeTag::T_List)
            && let Some(by) = change(join, (*conditions).cast())
        {
            *conditions = tree::list(by).cast();
        }
    }
}

/// The variables of this query in an expression.
///
/// # Safety
/// An expression of a query that is being planned.
pub unsafe fn variables(expression: *mut pg_sys::Node) -> Vec<*mut pg_sys::Var> {
    let all = pg_sys::PVC_RECURSE_AGGREGATES
        | pg_sys::PVC_RECURSE_WINDOWFUNCS
        | pg_sys::PVC_RECURSE_PLACEHOLDERS;
    // SAFETY: the caller's promise; with these flags the list has variables alone.
    unsafe { tree::items(pg_sys::pull_var_clause(expression, all as c_int)) }
}

/// Whether an expression has a variable of this query.
///
/// # Safety
/// As [`variables`].
pub unsafe fn has_variables(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise.
    unsafe { !variables(expression).is_empty() }
}

/// Whether two expressions have one value in a run of the query: as they stand, or because each is what a subquery of
/// its own gives once, and these say the same and read no table. A column of a view that is named twice brings one each
/// time.
///
/// # Safety
/// Expressions of a query that is being planned.
pub unsafe fn have_same_value(
    root: *mut pg_sys::PlannerInfo,
    one: *mut pg_sys::Node,
    other: *mut pg_sys::Node,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if tree::same(one, other) {
            return true;
        }
        match (given_once(root, one), given_once(root, other)) {
            (Some(one), Some(other)) => tree::same(one, other),
            _ => false,
        }
    }
}

/// What a subquery without tables gives, where an expression is the parameter for that.
///
/// # Safety
/// An expression of a query that is being planned.
unsafe fn given_once(
    root: *mut pg_sys::PlannerInfo,
    expression: *mut pg_sys::Node,
) -> Option<*mut pg_sys::List> {
    // SAFETY: the caller's promise; a node is what its tag says. Each initial plan's query is kept with its number.
    unsafe {
        if !tree::is(expression, NodeTag::T_Param) {
            return None;
        }
        let parameter = &*expression.cast::<pg_sys::Param>();
        if parameter.paramkind != pg_sys::ParamKind::PARAM_EXEC {
            return None;
        }
        let plan = tree::items::<pg_sys::SubPlan>((*root).init_plans)
            .into_iter()
            .find(|&plan| pg_sys::list_member_int((*plan).setParam, parameter.paramid))?;
        let queries = tree::items::<pg_sys::PlannerInfo>((*(*root).glob).subroots);
        let query = (**queries.get((*plan).plan_id as usize - 1)?).parse;
        let reads_nothing = tree::items::<pg_sys::RangeTblEntry>((*query).rtable)
            .into_iter()
            .all(|entry| (*entry).rtekind == pg_sys::RTEKind::RTE_RESULT);
        let gives = (*query).targetList;
        (reads_nothing
            && (*(*query).jointree).quals.is_null()
            && !is_costly_or_volatile(gives.cast()))
        .then_some(gives)
    }
}

/// Whether an expression is another each time, or has to run a plan for each row.
///
/// # Safety
/// An expression of a query that is being planned.
pub unsafe fn is_costly_or_volatile(expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::contain_volatile_functions(expression) || pg_sys::contain_subplans(expression)
    }
}

/// Rows of a relation that may be missing from a join: which outer joins would leave its variables null. PostgreSQL 15
/// says nothing of that in variables.
#[derive(Clone, Copy)]
pub struct Nulling(#[cfg(not(feature = "pg15"))] *mut pg_sys::Bitmapset);

impl Nulling {
    /// Of what is never missing.
    pub const NONE: Self = Self(
        #[cfg(not(feature = "pg15"))]
        std::ptr::null_mut(),
    );

    /// # Safety
    /// A variable.
    pub unsafe fn of(variable: *const pg_sys::Var) -> Self {
        let _ = variable;
        // SAFETY: the caller's promise.
        Self(
            #[cfg(not(feature = "pg15"))]
            unsafe {
                (*variable).varnullingrels
            },
        )
    }

    /// With those of a value that is computed below a join and looked at above.
    ///
    /// # Safety
    /// A placeholder of the query.
    pub unsafe fn with(self, placeholder: *const pg_sys::PlaceHolderVar) -> Self {
        let _ = placeholder;
        // SAFETY: the caller's promise.
        Self(
            #[cfg(not(feature = "pg15"))]
            unsafe {
                pg_sys::bms_union(self.0, (*placeholder).phnullingrels)
            },
        )
    }

    /// Both of them.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let _ = other;
        Self(
            #[cfg(not(feature = "pg15"))]
            // SAFETY: sets, or null for the empty one.
            unsafe {
                pg_sys::bms_union(self.0, other.0)
            },
        )
    }

    /// Whether two variables of one relation are missing in the same rows.
    pub fn is(self, other: Self) -> bool {
        let _ = other;
        #[cfg(feature = "pg15")]
        return true;
        // SAFETY: sets, or null for the empty one.
        #[cfg(not(feature = "pg15"))]
        unsafe {
            pg_sys::bms_equal(self.0, other.0)
        }
    }

    /// # Safety
    /// A variable.
    unsafe fn give(self, variable: *mut pg_sys::Var) {
        let _ = variable;
        #[cfg(not(feature = "pg15"))]
        // SAFETY: the caller's promise.
        unsafe {
            (*variable).varnullingrels = self.0;
        }
    }
}

/// A variable without a modifier or a collation, which is missing where `nulling` says.
///
/// # Safety
/// A column of that type of the relation that has this index in a query.
pub unsafe fn variable(
    relation: c_int,
    number: i16,
    type_oid: pg_sys::Oid,
    nulling: Nulling,
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise.
    unsafe {
        let made = pg_sys::makeVar(relation, number, type_oid, -1, pg_sys::Oid::INVALID, 0);
        nulling.give(made);
        made.cast()
    }
}

/// A call of a function.
///
/// # Safety
/// Arguments as the function takes them.
pub unsafe fn call(
    function: pg_sys::Oid,
    result: pg_sys::Oid,
    arguments: impl IntoIterator<Item = *mut pg_sys::Node>,
) -> *mut pg_sys::Node {
    let none = pg_sys::Oid::INVALID;
    let plain = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::makeFuncExpr(function, result, tree::list(arguments), none, none, plain).cast()
    }
}

/// `left operator right`, a boolean.
///
/// # Safety
/// An operator on these.
pub unsafe fn compared(
    operator: pg_sys::Oid,
    left: *mut pg_sys::Node,
    right: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    let none = pg_sys::Oid::INVALID;
    // SAFETY: the caller's promise.
    unsafe {
        let made = pg_sys::make_opclause(
            operator,
            pg_sys::BOOLOID,
            false,
            left.cast(),
            right.cast(),
            none,
            none,
        );
        pg_sys::set_opfuncid(made.cast());
        made.cast()
    }
}

/// `left operator ANY (right)`.
///
/// # Safety
/// As [`compared`], with an array on the right.
pub unsafe fn compared_with_any(
    operator: pg_sys::Oid,
    left: *mut pg_sys::Node,
    right: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; the node that the tag says.
    unsafe {
        let made: *mut pg_sys::ScalarArrayOpExpr = tree::node(NodeTag::T_ScalarArrayOpExpr);
        (*made).opno = operator;
        (*made).opfuncid = pg_sys::get_opcode(operator);
        (*made).useOr = true;
        (*made).args = tree::list([left, right]);
        (*made).location = -1;
        made.cast()
    }
}

/// `CASE WHEN condition THEN value END`.
///
/// # Safety
/// An expression of this type, which has no collation, and a boolean.
pub unsafe fn only_if(
    condition: *mut pg_sys::Node,
    value: *mut pg_sys::Node,
    type_oid: pg_sys::Oid,
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; the nodes that the tags say.
    unsafe {
        let when: *mut pg_sys::CaseWhen = tree::node(NodeTag::T_CaseWhen);
        (*when).expr = condition.cast();
        (*when).result = value.cast();
        (*when).location = -1;
        let case: *mut pg_sys::CaseExpr = tree::node(NodeTag::T_CaseExpr);
        (*case).casetype = type_oid;
        (*case).args = tree::list([when]);
        (*case).defresult = pg_sys::makeNullConst(type_oid, -1, pg_sys::Oid::INVALID).cast();
        (*case).location = -1;
        case.cast()
    }
}

/// All of them, of one or more.
///
/// # Safety
/// Booleans.
pub unsafe fn all_of(conditions: &[*mut pg_sys::Node]) -> *mut pg_sys::Node {
    match conditions {
        [one] => *one,
        // SAFETY: the caller's promise.
        several => unsafe { pg_sys::make_andclause(tree::list(several.iter().copied())).cast() },
    }
}

/// Has the plan made anew when this relation's cache entry is invalidated, beside those that it reads.
///
/// # Safety
/// A query that is being planned.
pub unsafe fn depend_on(root: *mut pg_sys::PlannerInfo, relation: pg_sys::Oid) {
    // SAFETY: the caller's promise; the list is in the memory that the planner works in.
    unsafe {
        let global = (*root).glob;
        (*global).relationOids = pg_sys::list_append_unique_oid((*global).relationOids, relation);
    }
}

/// What is shown, and when, by `CASE WHEN … THEN … END`.
///
/// # Safety
/// A CASE.
pub unsafe fn guarded(
    case: *mut pg_sys::CaseExpr,
) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: the caller's promise; its arguments are what they are named after.
    unsafe {
        let otherwise: *mut pg_sys::Node = (*case).defresult.cast();
        let is_null = otherwise.is_null()
            || tree::is(otherwise, NodeTag::T_Const)
                && (*otherwise.cast::<pg_sys::Const>()).constisnull;
        let whens = tree::items::<pg_sys::CaseWhen>((*case).args);
        match whens[..] {
            [when] if (*case).arg.is_null() && is_null => {
                Some(((*when).expr.cast(), (*when).result.cast()))
            }
            _ => None,
        }
    }
}

/// What `CASE WHEN … THEN value END` shows; any other expression is itself.
///
/// # Safety
/// An expression.
pub unsafe fn shown_by(expression: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if !tree::is(expression, NodeTag::T_CaseExpr) {
            return expression;
        }
        let whens = tree::items::<pg_sys::CaseWhen>((*expression.cast::<pg_sys::CaseExpr>()).args);
        match whens[..] {
            [when] => (*when).result.cast(),
            _ => expression,
        }
    }
}

/// The members of an AND, or the one condition that it is.
///
/// # Safety
/// A condition.
pub unsafe fn list_of(condition: *mut pg_sys::Node) -> *mut pg_sys::List {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        match members(condition, pg_sys::BoolExprType::AND_EXPR) {
            Some(list) => list,
            None => tree::list([condition]),
        }
    }
}

/// The members of an AND or an OR; none of anything else.
///
/// # Safety
/// A condition.
pub unsafe fn members(
    condition: *mut pg_sys::Node,
    kind: pg_sys::BoolExprType::Type,
) -> Option<*mut pg_sys::List> {
    // SAFETY: the caller's promise; a node is what its tag says.
    unsafe {
        if !tree::is(condition, NodeTag::T_BoolExpr) {
            return None;
        }
        let it = &*condition.cast::<pg_sys::BoolExpr>();
        (it.boolop == kind).then_some(it.args)
    }
}

/// The one relation whose variables are in an expression.
///
/// # Safety
/// As [`variables`].
pub unsafe fn only_relation(expression: *mut pg_sys::Node) -> Option<c_int> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut found = variables(expression)
            .into_iter()
            .map(|it| (*it).varno as c_int);
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }
}

/// The conditions that a relation is read under.
///
/// # Safety
/// A relation whose conditions have their places.
pub unsafe fn conditions(place: *mut pg_sys::RelOptInfo) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller's promise: the list is one of such conditions.
    unsafe {
        let all = tree::items::<pg_sys::RestrictInfo>((*place).baserestrictinfo);
        all.into_iter().map(|it| (*it).clause.cast()).collect()
    }
}

/// An expression on the whole, with a member's columns in place of the whole's.
///
/// # Safety
/// How the member's columns are those of the whole; an expression or a list of them.
pub unsafe fn of_member(
    root: *mut pg_sys::PlannerInfo,
    part: *mut pg_sys::AppendRelInfo,
    expression: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    let mut parts = [part];
    // SAFETY: the caller's promise; it copies what it changes.
    unsafe { pg_sys::adjust_appendrel_attrs(root, expression, 1, parts.as_mut_ptr()) }
}

/// Has a relation read under one more condition, at the level of those that are not of a policy.
///
/// # Safety
/// A relation whose conditions have their places; a condition on it alone.
pub unsafe fn add_condition(
    root: *mut pg_sys::PlannerInfo,
    place: *mut pg_sys::RelOptInfo,
    condition: *mut pg_sys::Node,
) {
    let none = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe {
        let made = pg_sys::make_restrictinfo(
            root,
            condition.cast(),
            true,
            false,
            false,
            #[cfg(not(feature = "pg15"))]
            false,
            (*root).qual_security_level,
            none,
            none,
            none,
        );
        (*place).baserestrictinfo = pg_sys::lappend((*place).baserestrictinfo, made.cast());
    }
}
