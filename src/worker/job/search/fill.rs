//! Terms of the rows that were there. A batch reads values as they are stored, with the contexts that they are bound
//! to, which are the table owner's code; when that is over, terms are made in this process, and only then written: by
//! the table's storage alone, or by an UPDATE that touches the rows, in which the trigger looks their terms up.

use colcrypt_core::Value;
use colcrypt_domain::backoff;
use colcrypt_domain::phase::Phase;
use colcrypt_domain::quote::quote_identifier;
use colcrypt_domain::verdict::Fate;
use colcrypt_search::Kind;
use pgrx::{PgMemoryContexts, Spi, pg_sys};

use crate::catalog::search::Companion;
use crate::columns::moved::{Address, BATCH_BYTES, Batch};
use crate::columns::search::column::{Source, companion_in};
use crate::columns::search::ddl;
use crate::columns::search::making::Making;
use crate::columns::search::opened::Right;
use crate::columns::search::work::Work;
use crate::error::Result;
use crate::jobs::job::{Job, lock_jobs};
use crate::server::breath::{self, Breathing};
use crate::server::relation::{Attribute, Held, Lock, Named};
use crate::server::rewrite::Rewriter;
use crate::server::roles::AsRole;
use crate::server::selected::{Rows, selected};
use crate::server::spi::{self, safe_search_path};
use crate::server::txn::{Next, PATIENCE, RUNNING_TRANSACTIONS, attempt, set_local};
use crate::server::varlena::Varlena;
use crate::server::{limit, priority, scan};
use crate::session;
use crate::worker::job::one_by_one::forget_errors;
use crate::worker::job::one_by_one::one_by_one;
use crate::worker::job::pace;
use crate::worker::job::progress::{self, BlockRange, advance, in_blocks, place};
use crate::worker::job::search::moment::{changed, from_the_start, still};
use crate::worker::job::statement::{
    LITTLE_PATIENCE, Outcome, Taking, context_at, refuse_lent_context,
};
use crate::worker::job::step::{fate_of_batch, postpone};
use crate::worker::vacuum;

/// One batch, or the end of a pass.
pub fn fill(job: &Job, work: &Work, companion: &Companion) -> Next {
    let pace = pace::Work::begin();
    let batch = |taking: Taking| one_batch(job, work, companion, &pace, taking);
    let free = (job.passes <= 1).then(|| attempt(|| batch(Taking::Free)));
    let outcome = match free {
        Some(Ok(done)) => Ok(done),
        Some(Err(failed)) if failed.verdict.is_met_again() => Err(failed),
        _ => attempt(|| batch(Taking::Locked)),
    };
    match outcome {
        Ok((next, done)) => {
            if let Some((rows, place)) = done {
                let blocks = place.to - place.from;
                pace.end(job.id, rows, Some(blocks));
                if rows > 0 {
                    let began = std::time::Instant::now();
                    vacuum::as_it_goes(place.leaf, place.from..place.to, pace::share() < 1.0);
                    pace::rest_after(job.id, began.elapsed());
                }
            }
            next
        }
        Err(failed) if fate_of_batch(job, &failed) == Fate::OneByOne => {
            // A search key that is out of use is no row's fault.
            let id = work.index.version_of(companion);
            if let Err(failed) = attempt(|| session::search::permit_terms(id)) {
                return postpone(job, &failed.into_outage());
            }
            one_by_one(
                job,
                &failed,
                true,
                || rows_here(job, work, companion),
                |leaf, row| {
                    lock_jobs()?;
                    let filling = Filling::new(job, work, companion, leaf)?;
                    let rows = format!("ctid = '{row}'");
                    Ok(filling.by_sql(&rows, Taking::Locked)?.moved)
                },
            )
        }
        Err(failed) => postpone(job, &failed),
    }
}

fn rows_here(
    job: &Job,
    work: &Work,
    companion: &Companion,
) -> Result<Option<(BlockRange, Vec<String>)>> {
    let Some(place) = place(job)? else {
        return Ok(None);
    };
    let filling = Filling::new(job, work, companion, place.leaf)?;
    let rows = filling.rows(&in_blocks(&place))?;
    Ok(Some((place, rows)))
}

/// What comes next, and of a batch how many rows it wrote and where.
fn one_batch(
    job: &Job,
    work: &Work,
    companion: &Companion,
    pace: &pace::Work,
    taking: Taking,
) -> Result<(Next, Option<(i64, BlockRange)>)> {
    if !still(job)? {
        return Ok((Next::Again, None));
    }
    let Some(place) = place(job)? else {
        return Ok((end_of_pass(job, work, companion)?, None));
    };
    let filling = Filling::new(job, work, companion, place.leaf)?;
    let Outcome { moved, complete } = filling.fill(&place, taking)?;
    // What there was no memory for comes next. Where nothing was written, it is another pass's.
    let place = if complete || moved == 0 {
        place
    } else {
        BlockRange {
            to: place.from,
            ..place
        }
    };
    advance(job, &place, pace, moved, 0, None)?;
    Ok((Next::Again, Some((moved, place))))
}

/// How many rows of the pass that is over had other terms than they should; the next pass counts anew.
pub fn take_strays(job: &Job) -> Result<i64> {
    let found = spi::query(
        "WITH before AS (SELECT strays FROM colcrypt.search_job WHERE job_id = $1), \
              after AS (UPDATE colcrypt.search_job SET strays = 0 WHERE job_id = $1) SELECT strays FROM before",
        &[job.id.into()],
        |row| spi::at::<i64>(row, 1),
    )?;
    Ok(found.into_iter().next().unwrap_or_default())
}

fn add_strays(job: &Job, rows: i64) -> Result<()> {
    if rows > 0 {
        spi::execute(
            "UPDATE colcrypt.search_job SET strays = strays + $2 WHERE job_id = $1",
            &[job.id.into(), rows.into()],
        )?;
    }
    Ok(())
}

/// How many rows have a value and no term, by a scan of ours in which nobody's code takes part.
pub fn without_terms(job: &Job, work: &Work, companion: &Companion) -> Result<i64> {
    limit::lift();
    let mut count = 0;
    for leaf in progress::all_leaves(job)? {
        let held = Held::take(leaf, Lock::Read)?;
        let (source, terms) = attributes(&held, work, companion)?;
        let (source, terms) = (source.number, terms.number);
        scan::each_row(&held, |row| {
            count += i64::from(row.value(source).is_some() && row.value(terms).is_none());
            Ok(())
        })?;
    }
    Ok(count)
}

/// The column and its companion, in a table of the tree.
fn attributes<'a>(
    held: &'a Held,
    work: &Work,
    companion: &Companion,
) -> Result<(&'a Attribute, &'a Attribute)> {
    let source = held
        .attribute(&work.index.attribute)
        .ok_or_else(|| changed(&quote_identifier(&work.index.attribute)))?;
    let terms = companion_in(held, work.index.kind, &companion.attribute)
        .ok_or_else(|| changed(&quote_identifier(&companion.attribute)))?;
    Ok((source, terms))
}

/// One leaf table, held, and what makes the terms of its rows.
struct Filling<'a> {
    job: &'a Job,
    work: &'a Work,
    companion: &'a Companion,
    table: Named,
    source: Attribute,
    terms: Attribute,
    values: Source,
    making: Making,
    context: Option<String>,
    /// What expressions of the registered table's owner may qualify their columns with.
    alias: Option<String>,
    /// Holds what the codec looked up.
    _memory: PgMemoryContexts,
}

impl<'a> Filling<'a> {
    fn new(
        job: &'a Job,
        work: &'a Work,
        companion: &'a Companion,
        leaf: pg_sys::Oid,
    ) -> Result<Self> {
        let table = Named::take(leaf, Lock::Write)?;
        let (source, terms) = attributes(&table.held, work, companion)?;
        let (source, terms) = (source.clone(), terms.clone());
        let memory = PgMemoryContexts::new("colcrypt terms");
        let values = Source::of(&table.held, &source, memory.value())?
            .ok_or_else(|| changed("the registered column"))?;
        let (mut context, mut alias) = (None, None);
        if let Source::Sealed(registered, _) = &values {
            context = registered.context.clone();
            if context.is_some() && registered.relation != leaf {
                refuse_lent_context(registered.relation, &table)?;
                let top = Held::take(registered.relation, Lock::Read)?;
                alias = Some(quote_identifier(top.bare_name()));
            }
        }
        Ok(Self {
            job,
            work,
            companion,
            making: Making::new(&work.index, companion, values.type_oid())?,
            context,
            table,
            source,
            terms,
            values,
            alias,
            _memory: memory,
        })
    }

    /// Makes the terms of rows in some blocks, up to a batch's bytes.
    fn fill(&self, place: &BlockRange, taking: Taking) -> Result<Outcome> {
        let _guards = self.begin(taking);
        if self.context.is_none()
            && taking == Taking::Free
            && let Some(rewriter) = Rewriter::of(&self.table.held, &[&self.terms], false)?
        {
            return self.by_scan(place, rewriter);
        }
        self.written(&in_blocks(place), taking)
    }

    /// The same of rows that a condition finds.
    fn by_sql(&self, rows: &str, taking: Taking) -> Result<Outcome> {
        let _guards = self.begin(taking);
        self.written(rows, taking)
    }

    fn begin(&self, taking: Taking) -> (crate::server::spi::SafePath, AsRole, Breathing) {
        set_local(c"session_replication_role", c"replica");
        let patience = match taking {
            Taking::Free => LITTLE_PATIENCE,
            Taking::Locked => PATIENCE,
        };
        set_local(c"lock_timeout", patience);
        set_local(c"row_security", c"off");
        priority::give_way();
        (
            safe_search_path(),
            AsRole::restricted(self.table.owner()),
            Breathing::begin(pace::share()),
        )
    }

    /// In one pass, where nothing is bound to anything and nobody's code takes part.
    fn by_scan(&self, place: &BlockRange, mut rewriter: Rewriter) -> Result<Outcome> {
        let (source, terms) = (self.source.number, self.terms.number);
        let mut outcome = Outcome {
            moved: 0,
            complete: true,
        };
        let (mut bytes, mut strays) = (0, 0);
        let end = scan::each_row_in_while(&self.table.held, place.blocks(), |row| {
            if bytes > BATCH_BYTES {
                outcome.complete = false;
                return Ok(false);
            }
            let Some(stored) = row.value(source) else {
                return Ok(true);
            };
            let now = row.value(terms);
            if now.is_some() && !self.work.remakes {
                return Ok(true);
            }
            let is_free = row.is_free();
            if !is_free && !self.work.remakes {
                return Ok(true);
            }
            breath::take();
            // SAFETY: the column's attribute, of a table that is held.
            let term = self.timed(|| unsafe { self.term(stored, &[]) })?;
            // SAFETY: both are the companion's, a varlena's.
            if unsafe { is_same(now, term) } {
                return Ok(true);
            }
            strays += 1;
            // SAFETY: the row is of the table that the rewriter writes; the term is of the companion's type, and copied
            // into the row.
            unsafe {
                bytes += pgrx::varlena::varsize_any(term.cast_mut_ptr());
                let is_written = is_free && rewriter.write(row, &[(terms, term)]);
                outcome.moved += i64::from(is_written);
                pg_sys::pfree(term.cast_mut_ptr());
            }
            Ok(true)
        });
        rewriter.end();
        end?;
        self.count_strays(strays)?;
        Ok(outcome)
    }

    fn count_strays(&self, strays: i64) -> Result<()> {
        match self.work.remakes {
            true => add_strays(self.job, strays),
            false => Ok(()),
        }
    }

    /// Makes terms outside of the time that a table owner's code may take: a long text has millions of n-grams.
    fn timed<R>(&self, make: impl FnOnce() -> R) -> R {
        match self.work.index.kind {
            Kind::Text => limit::outside(make),
            Kind::Equality | Kind::Range => make(),
        }
    }

    /// The term of a value, in the current memory context.
    ///
    /// # Safety
    /// The datum is of the column's type.
    unsafe fn term(&self, stored: pg_sys::Datum, context: &[u8]) -> Result<pg_sys::Datum> {
        // SAFETY: the caller's promise; a column that is sealed has ciphertexts, of any other the making is for its
        // type, and the opener gives values of the type that the making is for.
        unsafe {
            match &self.values {
                Source::Plain(_) => self.making.term_of(stored),
                Source::Sealed(_, opener) => {
                    let stored = Varlena::from_datum(stored);
                    let value = Value::parse(stored.bytes())?;
                    self.making
                        .term(&opener.open(&value, context, Right::Order)?)
                }
            }
        }
    }

    /// Refuses rows that were selected of a column that has another type by now.
    fn expect(&self, found: &Rows) -> Result<()> {
        match &self.values {
            Source::Sealed(..) => found.expect_ciphertext(2),
            Source::Plain(type_oid) => found.expect_base_type(2, *type_oid),
        }
    }

    /// Whether a row has terms to be made, as SQL.
    fn wanted(&self) -> String {
        let source = quote_identifier(&self.source.name);
        match self.work.remakes {
            true => format!("{source} IS NOT NULL"),
            false => format!(
                "{source} IS NOT NULL AND {} IS NULL",
                quote_identifier(&self.terms.name)
            ),
        }
    }

    fn from(&self) -> String {
        match &self.alias {
            None => format!("ONLY {}", self.table.sql),
            Some(alias) => format!("ONLY {} AS {alias}", self.table.sql),
        }
    }

    fn select(&self, rows: &str, taking: Taking) -> String {
        let context = match &self.context {
            Some(expression) => format!("({expression})::pg_catalog.bytea"),
            None => "NULL::pg_catalog.bytea".into(),
        };
        let (free, lock) = match taking {
            Taking::Free => (" AND (xmax = 0 OR colcrypt.is_settled(xmax))", ""),
            Taking::Locked => ("", " FOR NO KEY UPDATE SKIP LOCKED"),
        };
        // What is counted is what everybody has, locked or not.
        let (free, lock) = match self.work.remakes {
            true => ("", ""),
            false => (free, lock),
        };
        format!(
            "SELECT ctid, {}, {context}, {} FROM {} WHERE {rows} AND {}{free}{lock}",
            quote_identifier(&self.source.name),
            quote_identifier(&self.terms.name),
            self.from(),
            self.wanted()
        )
    }

    /// Reads, makes and writes, one after the other.
    fn written(&self, rows: &str, taking: Taking) -> Result<Outcome> {
        let mut batch = Batch::new();
        let (touched, complete) = selected(
            &self.select(rows, taking),
            self.work.remakes || taking == Taking::Free,
            BATCH_BYTES,
            |found| {
                self.expect(&found)?;
                let found = batch.keep(found);
                let (touched, made_all) = self.made(&found, &mut batch)?;
                Ok((touched, made_all && found.is_complete()))
            },
        )?;
        self.count_strays(touched.len() as i64)?;
        if touched.is_empty() {
            return Ok(Outcome { moved: 0, complete });
        }
        let waits = taking == Taking::Locked;
        let rewriter = match self.values {
            Source::Sealed(..) => Rewriter::of(&self.table.held, &[&self.terms], waits)?,
            // The trigger makes them of what the row has.
            Source::Plain(_) => None,
        };
        let moved = match rewriter {
            Some(rewriter) => self.write_back(&batch, rewriter),
            None => {
                let _known = batch.publish_terms(self.job.id, self.work.of(self.companion));
                self.touch(&touched)?
            }
        };
        Ok(Outcome { moved, complete })
    }

    /// Terms of rows that were read, as many as there is memory for; the rows, and whether that was all.
    fn made(&self, found: &Rows, batch: &mut Batch) -> Result<(Vec<String>, bool)> {
        let (mut touched, mut bytes) = (Vec::new(), 0);
        for at in 0..found.len() {
            if bytes > BATCH_BYTES {
                return Ok((touched, false));
            }
            let (Some(row), Some(stored)) = (found.value(at, 1), found.value(at, 2)) else {
                continue;
            };
            let context = context_at(found, at, 3, self.context.is_some())?;
            let context = context.as_ref().map_or(&[][..], Varlena::bytes);
            breath::take();
            // SAFETY: the first column is a tid, the second of the column's type, as was asked of the result's
            // description. The memory is the batch's; the former context is put back on both ways, and by an ERROR's
            // handler.
            unsafe {
                let row = Address::of(row.cast_mut_ptr());
                let before = pg_sys::MemoryContextSwitchTo(batch.memory());
                let term = self.timed(|| self.term(stored, context));
                pg_sys::MemoryContextSwitchTo(before);
                let term = term?;
                if is_same(found.value(at, 4), term) {
                    continue;
                }
                bytes += pgrx::varlena::varsize_any(term.cast_mut_ptr());
                if let Source::Sealed(..) = self.values {
                    batch.add(0, row, at, term)?;
                }
                touched.push(row.text());
            }
        }
        Ok((touched, true))
    }

    fn write_back(&self, batch: &Batch, mut rewriter: Rewriter) -> i64 {
        let mut moved = 0;
        batch.each_row(|address, values| {
            breath::take();
            let Some(row) = rewriter.row_at(address.number()) else {
                return;
            };
            let Some(now) = row.value(self.source.number) else {
                return;
            };
            for new in values {
                // SAFETY: both are of the ciphertext's attribute; the row is of the table that the rewriter writes, and
                // the term of the companion's type.
                let is_written = unsafe {
                    new.replaces(now) && rewriter.write(&row, &[(self.terms.number, new.becomes)])
                };
                moved += i64::from(is_written);
            }
        });
        rewriter.end();
        moved
    }

    /// Has the trigger look the terms up.
    fn touch(&self, rows: &[String]) -> Result<i64> {
        let rows: Vec<String> = rows.iter().map(|row| format!("\"{row}\"")).collect();
        let sql = format!(
            "UPDATE ONLY {} SET {} = NULL WHERE ctid = ANY ('{{{}}}'::pg_catalog.tid[])",
            self.table.sql,
            quote_identifier(&self.terms.name),
            rows.join(",")
        );
        let count =
            Spi::connect_mut(|client| client.update(&sql, None, &[]).map(|rows| rows.len()))
                .map_err(crate::error::of_spi)?;
        Ok(count as i64)
    }

    /// The addresses of rows that have terms to be made.
    fn rows(&self, rows: &str) -> Result<Vec<String>> {
        let _guards = self.begin(Taking::Locked);
        Spi::connect(|client| {
            client
                .select(
                    &format!(
                        "SELECT ctid::pg_catalog.text FROM ONLY {} WHERE {rows} AND {}",
                        self.table.sql,
                        self.wanted()
                    ),
                    None,
                    &[],
                )?
                .map(|row| Ok(row.get::<String>(1)?.unwrap_or_default()))
                .collect::<std::result::Result<Vec<_>, pgrx::spi::Error>>()
        })
        .map_err(crate::error::of_spi)
    }
}

/// Whether a companion holds a term already.
///
/// # Safety
/// Both are varlenas of the companion's type.
unsafe fn is_same(now: Option<pg_sys::Datum>, term: pg_sys::Datum) -> bool {
    // SAFETY: the caller's promise.
    now.is_some_and(|now| unsafe {
        Varlena::from_datum(now).bytes() == Varlena::from_datum(term).bytes()
    })
}

/// The end of a pass: what comes next.
fn end_of_pass(job: &Job, work: &Work, companion: &Companion) -> Result<Next> {
    // A child that came meanwhile has no trigger yet; its rows are the next pass's.
    if ddl::lacks_trigger(work.index.relation)? {
        ddl::prepare(&work.index, companion)?;
        return once_more(job, 0);
    }
    let left = match work.remakes {
        true => take_strays(job)?,
        false => without_terms(job, work, companion)?,
    };
    if left == 0 {
        forget_errors(job)?;
        job.record(
            &format!(
                "{}, rows_failed = 0, settle_before = clock_timestamp(), settle_transactions = {RUNNING_TRANSACTIONS}, settle_prepared = NULL",
                from_the_start(Phase::WaitingForOld)
            ),
            [],
        )?;
        return Ok(Next::Again);
    }
    if left <= job.rows_failed {
        return job.finish(
            Phase::Failed,
            Some(format!(
                "{left} rows have no terms: colcrypt.job_error lists them; mend their values and have colcrypt.retry_job try again"
            )),
        );
    }
    once_more(job, job.passes)
}

/// Rows that were locked, or came otherwise.
pub fn once_more(job: &Job, passes: i32) -> Result<Next> {
    forget_errors(job)?;
    job.record(
        &format!(
            "{}, rows_failed = 0, passes = passes + 1, retry_at = clock_timestamp() + $2 * interval '1 second'",
            from_the_start(Phase::Filling).replace(", retry_at = NULL", "")
        ),
        [backoff::PASS.seconds_after(passes.saturating_sub(1)).into()],
    )?;
    Ok(Next::Again)
}
