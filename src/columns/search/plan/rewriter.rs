//! Conditions of a query, each with what holds of terms wherever it does.

use std::ffi::c_int;
use std::rc::Rc;

use colcrypt_search::{Class, Kind, Pipeline, TextSpec};
use pgrx::pg_sys::{self, NodeTag};

use crate::catalog::epoch;
use crate::columns::search::plan::asked::{self, Asked, Condition, asked};
use crate::columns::search::plan::decided::{self, Decision, Why};
use crate::columns::search::plan::names::{self, Names};
use crate::columns::search::plan::plaintext::Plaintext;
use crate::columns::search::plan::rechecked::rechecked;
use crate::columns::search::plan::spans::{Span, joined};
use crate::columns::search::plan::tables::{KnownColumn, KnownTable, Usable, known, with_key};
use crate::columns::search::plan::terms::Terms;
use crate::columns::search::plan::{shown, unserved};
use crate::error::Result;
use crate::server::constants;
use crate::server::planned::{self, Join};
use crate::server::{collations, encoding, tree};
use crate::settings;

type Outcome<T> = std::result::Result<T, Why>;

const OR: pg_sys::BoolExprType::Type = pg_sys::BoolExprType::OR_EXPR;

/// What rewrites the conditions on one relation of a query.
pub struct Rewriter {
    root: *mut pg_sys::PlannerInfo,
    /// Its index in the query.
    relation: c_int,
    table: Rc<KnownTable>,
    pub names: Rc<Names>,
    /// That what is known is of.
    epoch: u64,
    /// Whether what is decided is nobody's business yet.
    pub is_trial: bool,
}

impl Rewriter {
    /// What rewrites conditions on this relation of a query; none where it has no encrypted column.
    ///
    /// # Errors
    /// Of the key catalog.
    pub fn of(
        root: *mut pg_sys::PlannerInfo,
        table: pg_sys::Oid,
        relation: c_int,
    ) -> Result<Option<Self>> {
        let epoch = epoch::refresh(false);
        let Some(names) = names::known(epoch) else {
            return Ok(None);
        };
        let table = known(table, names.ciphertext, epoch)?;
        Ok(table.map(|table| Self {
            root,
            relation,
            table,
            names,
            epoch,
            is_trial: false,
        }))
    }

    /// The conditions of a list, all of which have to hold, with what is put beside them; none where nothing is.
    pub fn list(
        &self,
        join: Join,
        conditions: *mut pg_sys::List,
    ) -> Option<Vec<*mut pg_sys::Node>> {
        let (mut all, mut spans, mut is_changed) = (Vec::new(), Vec::new(), false);
        // SAFETY: conditions of the query; a node is what its tag says.
        unsafe {
            for condition in tree::items::<pg_sys::Node>(conditions) {
                if let Some(members) = planned::members(condition, OR) {
                    match self.any(join, members) {
                        None => all.push(condition),
                        Some(changed) => {
                            is_changed = true;
                            all.push(changed);
                        }
                    }
                    continue;
                }
                let beside = self.beside(join, condition, &mut spans);
                let Some(beside) = beside else {
                    all.push(condition);
                    continue;
                };
                is_changed = true;
                all.push(match self.stays_as_it_is(join, condition) {
                    true => condition,
                    false => rechecked(&self.names, condition),
                });
                all.extend(beside);
            }
            for span in joined(self.root, spans) {
                all.push(self.span(&span)?);
            }
        }
        is_changed.then_some(all)
    }

    /// What holds of terms where all conditions of a list do.
    ///
    /// # Safety
    /// Conditions of the query.
    pub unsafe fn terms(&self, conditions: *mut pg_sys::List) -> Vec<*mut pg_sys::Node> {
        let (mut made, mut spans) = (Vec::new(), Vec::new());
        let join = Join::INNER;
        // SAFETY: the caller's promise.
        unsafe {
            for condition in tree::items::<pg_sys::Node>(conditions) {
                made.extend(match planned::members(condition, OR) {
                    Some(members) => self.any(join, members).into_iter().collect(),
                    None => self.beside(join, condition, &mut spans).unwrap_or_default(),
                });
            }
            made.extend(
                joined(self.root, spans)
                    .iter()
                    .filter_map(|span| self.span(span)),
            );
        }
        made
    }

    /// The same of those of which one has to hold.
    ///
    /// # Safety
    /// A list of conditions of the query.
    unsafe fn any(&self, join: Join, members: *mut pg_sys::List) -> Option<*mut pg_sys::Node> {
        let mut is_changed = false;
        // SAFETY: the caller's promise.
        unsafe {
            let members = tree::items::<pg_sys::Node>(members).into_iter();
            let members: Vec<*mut pg_sys::Node> = members
                .map(|member| match self.list(join, planned::list_of(member)) {
                    None => member,
                    Some(changed) => {
                        is_changed = true;
                        planned::all_of(&changed)
                    }
                })
                .collect();
            is_changed.then(|| pg_sys::make_orclause(tree::list(members)).cast())
        }
    }

    /// Whether a condition that has one on terms beside it stays as the planner knows it. What a semi-join compares has
    /// to be plain for the right side's rows to be made unique and looked up on the left one after the other.
    ///
    /// # Safety
    /// A condition of the query.
    unsafe fn stays_as_it_is(&self, join: Join, condition: *mut pg_sys::Node) -> bool {
        // SAFETY: the caller's promise.
        let is_of_others =
            |variable: &*mut pg_sys::Var| unsafe { (**variable).varno as c_int != self.relation };
        // SAFETY: the caller's promise.
        join.kind == pg_sys::JoinType::JOIN_SEMI
            && unsafe {
                join.has_left(self.relation)
                    && planned::variables(condition).iter().any(is_of_others)
            }
    }

    /// What is put beside one condition; of a range what is asked is added to `spans`.
    ///
    /// # Safety
    /// A condition of the query.
    unsafe fn beside(
        &self,
        join: Join,
        condition: *mut pg_sys::Node,
        spans: &mut Vec<Span>,
    ) -> Option<Vec<*mut pg_sys::Node>> {
        // SAFETY: the caller's promise.
        unsafe {
            let found = match asked(&self.names, condition, self.relation) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.tell_unknown(condition, &Why::Shape);
                    return None;
                }
                Err(why) => {
                    self.tell_unknown(condition, &why);
                    return None;
                }
            };
            // Of a table that is read by ALTER TABLE or the like the number may be another's.
            let column = self.table.column(found.of.number)?;
            let wanted = found.asked.kind();
            let outcome = self.served(join, column, found, spans);
            let kind = outcome.as_ref().ok().map(|(kind, _)| *kind);
            let why = outcome.as_ref().err().cloned();
            self.count(column, wanted, why.as_ref());
            self.tell(condition, column, kind, why);
            outcome.ok().map(|(_, beside)| beside)
        }
    }

    /// # Safety
    /// As [`beside`](Self::beside); what a condition asks of the column.
    unsafe fn served(
        &self,
        join: Join,
        column: &KnownColumn,
        condition: Condition,
        spans: &mut Vec<Span>,
    ) -> Outcome<(Kind, Vec<*mut pg_sys::Node>)> {
        if !settings::SEARCH_REWRITE.get() {
            return Err(Why::SettingOff);
        }
        if join.kind == pg_sys::JoinType::JOIN_FULL {
            return Err(Why::FullJoin);
        }
        // SAFETY: the caller's promise.
        unsafe {
            if !column.is_as_shown(&condition.of.lengths) {
                return self.uncut(column, &condition);
            }
            match condition.asked {
                Asked::Equals(with) => self.equals(column, &condition, with),
                Asked::EqualsAny(with) => {
                    let usable = self.usable(column, &condition, Kind::Equality)?;
                    let terms = self.in_column(column, usable, &condition.of);
                    Ok((Kind::Equality, vec![terms.equal_any(with)]))
                }
                Asked::AtLeast(with) | Asked::AtMost(with) => {
                    if condition.class.is_text() && !is_in_order(condition.collation) {
                        return Err(Why::NotInOrder);
                    }
                    self.usable(column, &condition, Kind::Range)?;
                    let is_low = matches!(condition.asked, Asked::AtLeast(_));
                    spans.push(Span {
                        of: condition.of,
                        low: is_low.then_some(with),
                        high: (!is_low).then_some(with),
                        type_oid: pg_sys::exprType(with),
                    });
                    Ok((Kind::Range, Vec::new()))
                }
                // The letters as they are, so that an escape is none.
                Asked::EqualsCased(with) => self.like(column, &condition, with, None),
                // Grams are of folded letters, for LIKE as well.
                Asked::Like(pattern) => self.like(column, &condition, pattern, Some('\\')),
                Asked::Begins(with) => {
                    let begins = planned::call(
                        pg_sys::F_TEXTCAT.into(),
                        pg_sys::TEXTOID,
                        [with, constants::text("%")],
                    );
                    // What LIKE takes for any letters finds more, and the condition itself decides.
                    self.like(column, &condition, begins, None)
                }
            }
        }
    }

    /// A value that is longer than an access view shows it: texts that are equal are so when both are cut. Of anything
    /// else nothing is known.
    ///
    /// # Safety
    /// As [`served`](Self::served).
    unsafe fn uncut(
        &self,
        column: &KnownColumn,
        condition: &Condition,
    ) -> Outcome<(Kind, Vec<*mut pg_sys::Node>)> {
        let (Asked::Equals(with), Some(length)) = (&condition.asked, column.text_length()) else {
            return Err(Why::OtherLength);
        };
        // SAFETY: the caller's promise; the server's cast of texts to a length, which raises no error.
        unsafe {
            let is_text = [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&pg_sys::exprType(*with));
            if !is_text || !condition.of.lengths.is_empty() {
                return Err(Why::OtherLength);
            }
            let usable = self.usable(column, condition, Kind::Equality)?;
            let terms = self.in_column(column, usable, &condition.of);
            let cut = planned::call(
                pg_sys::F_VARCHAR_VARCHAR_INT4_BOOL.into(),
                pg_sys::VARCHAROID,
                [*with, constants::integer(length), constants::truth()],
            );
            Ok((Kind::Equality, vec![terms.equal(cut)]))
        }
    }

    /// # Safety
    /// As [`served`](Self::served).
    unsafe fn equals(
        &self,
        column: &KnownColumn,
        condition: &Condition,
        with: *mut pg_sys::Node,
    ) -> Outcome<(Kind, Vec<*mut pg_sys::Node>)> {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(other) = &condition.other
                && let Some(beside) = self.joins(column, condition, other)
            {
                return Ok((Kind::Equality, beside));
            }
            let no_equality = match self.usable(column, condition, Kind::Equality) {
                Ok(usable) => {
                    let terms = self.in_column(column, usable, &condition.of);
                    return Ok((Kind::Equality, vec![terms.equal(with)]));
                }
                Err(why) => why,
            };
            if let Ok(usable) = self.usable(column, condition, Kind::Range) {
                let terms = self.in_column(column, usable, &condition.of);
                return Ok((Kind::Range, vec![terms.between(with, with)]));
            }
            if condition.class == Class::Text
                && pg_sys::exprType(with) == pg_sys::TEXTOID
                && let Ok(served) = self.like(column, condition, with, None)
            {
                return Ok(served);
            }
            Err(no_equality)
        }
    }

    /// The companions of two columns compared with each other, where their terms are of one search domain. For whoever
    /// may read both: no key is asked, nobody counts, and conditions of the query's own may see rows before these are
    /// decrypted to be compared.
    ///
    /// # Safety
    /// As [`served`](Self::served).
    unsafe fn joins(
        &self,
        column: &KnownColumn,
        condition: &Condition,
        other: &Plaintext,
    ) -> Option<Vec<*mut pg_sys::Node>> {
        // SAFETY: the caller's promise; the planner has an entry for each relation of the query.
        unsafe {
            let entry = *(*self.root).simple_rte_array.add(other.relation as usize);
            let is_table = !entry.is_null() && (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION;
            if !is_table || other.is_guarded_by_row {
                return None;
            }
            let table = known((*entry).relid, self.names.ciphertext, self.epoch).ok()??;
            let other_column = table.column(other.number)?;
            if !other_column.is_as_shown(&other.lengths)
                || !column.may_be_read()
                || !other_column.may_be_read()
            {
                return None;
            }
            let ours = self.all_usable(column, condition, Kind::Equality).ok()?;
            let theirs = table.usable(other_column, Kind::Equality);
            self.depend(&theirs);
            let theirs = theirs.ok()?;
            let pairs = ours
                .iter()
                .flat_map(|one| theirs.iter().map(move |two| (one, two)));
            let (one, two) = pairs
                .into_iter()
                .find(|(one, two)| one.is_comparable(two))?;
            let here = self.in_column(column, *one, &condition.of);
            let there = Terms {
                names: &self.names,
                column: other_column,
                usable: *two,
                relation: other.relation,
                nulling: other.nulling,
                guards: &[],
            };
            let mut beside = vec![here.equal_to(&there)];
            // Nobody looks at a row where one of the columns is not shown.
            beside.extend(condition.of.guards.iter().chain(&other.guards).copied());
            Some(beside)
        }
    }

    /// # Safety
    /// As [`served`](Self::served); a text.
    unsafe fn like(
        &self,
        column: &KnownColumn,
        condition: &Condition,
        pattern: *mut pg_sys::Node,
        escape: Option<char>,
    ) -> Outcome<(Kind, Vec<*mut pg_sys::Node>)> {
        let usable = self.usable(column, condition, Kind::Text)?;
        // SAFETY: the caller's promise.
        unsafe {
            let constant = asked::constant_text(pattern);
            if constant.is_some_and(|text| !has_piece(&usable, &text, escape)) {
                return Err(Why::NoPiece);
            }
            let terms = self.in_column(column, usable, &condition.of);
            let escape = escape.map_or_else(String::new, String::from);
            Ok((
                Kind::Text,
                vec![terms.like(pattern, constants::text(&escape))],
            ))
        }
    }

    /// # Safety
    /// A span that [`served`](Self::served) took on.
    unsafe fn span(&self, span: &Span) -> Option<*mut pg_sys::Node> {
        let column = self.table.column(span.of.number)?;
        let usable = with_key(&self.table.usable(column, Kind::Range).ok()?).ok()?;
        let terms = self.in_column(column, usable, &span.of);
        let open = || constants::null(span.type_oid);
        // SAFETY: the caller's promise.
        unsafe {
            Some(terms.between(
                span.low.unwrap_or_else(open),
                span.high.unwrap_or_else(open),
            ))
        }
    }

    fn in_column<'a>(
        &'a self,
        column: &'a KnownColumn,
        usable: Usable<'a>,
        of: &'a Plaintext,
    ) -> Terms<'a> {
        Terms {
            names: &self.names,
            column,
            usable,
            relation: self.relation,
            nulling: of.nulling,
            guards: &of.guards,
        }
    }

    fn usable<'a>(
        &'a self,
        column: &'a KnownColumn,
        condition: &Condition,
        kind: Kind,
    ) -> Outcome<Usable<'a>> {
        with_key(&self.all_usable(column, condition, kind)?)
    }

    /// The companions that may serve; the plan is told what it depends on.
    fn all_usable<'a>(
        &'a self,
        column: &'a KnownColumn,
        condition: &Condition,
        kind: Kind,
    ) -> Outcome<Vec<Usable<'a>>> {
        let usable = self.table.usable(column, kind);
        self.depend(&usable);
        let usable = usable?;
        match usable.iter().all(|it| it.index.class == condition.class) {
            true => Ok(usable),
            false => Err(Why::OtherType),
        }
    }

    /// Tells the plan what it depends on, where a column has an index.
    fn depend(&self, usable: &Outcome<Vec<Usable<'_>>>) {
        if matches!(usable, Err(Why::NoIndex(_))) {
            return;
        }
        // SAFETY: a query that is being planned.
        unsafe {
            let global = (*self.root).glob;
            (*global).dependsOnRole = true;
            (*global).transientPlan |= matches!(usable, Err(Why::OlderSnapshot));
            planned::depend_on(self.root, epoch::marker());
        }
    }

    /// Tells whoever asks of a condition on an encrypted column that nothing is known of.
    ///
    /// # Safety
    /// A condition of the query.
    unsafe fn tell_unknown(&self, condition: *mut pg_sys::Node, why: &Why) {
        // SAFETY: the caller's promise.
        if !decided::is_asked() || unsafe { self.is_ours(condition) } {
            return;
        }
        // SAFETY: the caller's promise.
        for variable in unsafe { planned::variables(condition) } {
            // SAFETY: as above.
            let (relation, number) = unsafe { ((*variable).varno as c_int, (*variable).varattno) };
            if relation == self.relation
                && let Some(column) = self.table.column(number)
            {
                // SAFETY: the caller's promise.
                unsafe { self.tell(condition, column, None, Some(why.clone())) };
                return;
            }
        }
    }

    /// Whether the condition is one that was put there, or served, when another relation of the query was looked at.
    ///
    /// # Safety
    /// A condition of the query.
    unsafe fn is_ours(&self, condition: *mut pg_sys::Node) -> bool {
        // SAFETY: the caller's promise; a node is what its tag says.
        unsafe {
            let compared = match (*condition).type_ {
                NodeTag::T_OpExpr => (*condition.cast::<pg_sys::OpExpr>()).args,
                NodeTag::T_ScalarArrayOpExpr => {
                    (*condition.cast::<pg_sys::ScalarArrayOpExpr>()).args
                }
                _ => tree::list([condition]),
            };
            tree::items::<pg_sys::Node>(compared)
                .into_iter()
                .map(|side| planned::shown_by(side))
                .filter(|&side| tree::is(side, NodeTag::T_FuncExpr))
                .any(|call| {
                    self.names
                        .is_of_terms((*call.cast::<pg_sys::FuncExpr>()).funcid)
                })
        }
    }

    /// Counts a condition that an index would have served.
    fn count(&self, column: &KnownColumn, wanted: Kind, why: Option<&Why>) {
        if let Some(why) = why.filter(|_| !self.is_trial && !decided::is_asked())
            && let Some(lack) = why.lack()
        {
            let kind = why.kind().unwrap_or(wanted);
            unserved::count(column.root, column.number_in_root, kind, lack);
        }
    }

    /// # Safety
    /// A condition of the query.
    unsafe fn tell(
        &self,
        condition: *mut pg_sys::Node,
        column: &KnownColumn,
        kind: Option<Kind>,
        why: Option<Why>,
    ) {
        if self.is_trial || !decided::is_asked() {
            return;
        }
        decided::tell(Decision {
            // SAFETY: the caller's promise.
            condition: unsafe { shown::condition(self.root, &self.names, condition, &column.name) },
            relation: column.root,
            attribute: column.name.clone(),
            kind: kind.or(why.as_ref().and_then(Why::kind)),
            why,
        });
    }
}

/// Whether texts are compared in the order of a range index: by their bytes, in UTF-8.
fn is_in_order(collation: pg_sys::Oid) -> bool {
    collations::is_by_bytes(collation) && encoding::database_is_utf8()
}

/// Whether a pattern has a piece that is long enough for an n-gram.
fn has_piece(usable: &Usable<'_>, pattern: &str, escape: Option<char>) -> bool {
    let spec = Pipeline::parse(&usable.index.normalise)
        .ok()
        .zip(usable.index.gram)
        .and_then(|(pipeline, letters)| TextSpec::new(letters, &pipeline).ok());
    spec.is_some_and(|spec| spec.like_grams(pattern, escape).is_some())
}
