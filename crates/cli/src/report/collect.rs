//! Reads a report's facts: all of one moment, by the rights of the role that asks. What that role may not read is said
//! to be left out.

use std::error::Error;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use postgres::{
    Client, IsolationLevel, Transaction, fallible_iterator::FallibleIterator, types::ToSql,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    facts::{
        About, Anchor, Buckets, Chain, Drill, FORMAT, Facts, Finding, Findings, Listed, Section,
    },
    queries as q,
    span::{unit, written},
};
use crate::connection::explain;

/// Classes of errors after which nothing more can be asked, or the answer would be of another moment: of the
/// connection, of conflicts with replay, of memory and disk, and of who ended it.
const ENDS: [&str; 6] = ["08", "40", "53", "57", "58", "XX"];

/// The steps that are told while they are made.
const STEPS: u64 = 7;

/// More than there are kinds of events and outcomes.
const KINDS: i64 = 10_000;

/// What is wanted.
pub struct Wanted {
    pub since: OffsetDateTime,
    /// Up to the moment of the report where there is none.
    pub until: Option<OffsetDateTime>,
    /// Heads of the audit log that were written down elsewhere.
    pub anchors: Vec<(i64, String)>,
    /// The longest list.
    pub rows: i64,
}

/// Everything, in one transaction that writes nothing.
///
/// # Errors
/// In words for who typed it: no extension, no connection, or one that ended.
pub fn collect(client: &mut Client, wanted: &Wanted) -> Result<Facts, String> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .map_err(|error| explain(&error))?;
    transaction
        .batch_execute(
            "SET LOCAL TimeZone = 'UTC'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL jit = off",
        )
        .map_err(|error| explain(&error))?;
    let mut reader = Reader {
        transaction,
        since: written(wanted.since)?,
        until: wanted.until.map_or(Ok(String::new()), written)?,
        rows: wanted.rows,
    };
    reader.everything(wanted)
}

struct Reader<'a> {
    transaction: Transaction<'a>,
    since: String,
    /// Empty is the moment of the transaction.
    until: String,
    rows: i64,
}

impl Reader<'_> {
    fn everything(&mut self, wanted: &Wanted) -> Result<Facts, String> {
        // Before all else: what is not flushed yet is in shared memory, of this very moment, and the rest in a table,
        // as it is in the snapshot that the first statement takes. A flush in between would have it in neither.
        let usage = self.list(&q::usage(), "q.encryptions + q.decryptions DESC, q.role")?;
        let usage_by_key = self.list(
            &q::usage_by_key(),
            "q.encryptions + q.decryptions DESC, q.role, q.key",
        )?;
        let look_ups = self.list(&q::look_ups(), "q.look_ups DESC, q.role, q.key")?;
        let is_there = self
            .transaction
            .query_opt(q::EXTENSION, &[])
            .map_err(|error| explain(&error))?;
        if is_there.is_none() {
            return Err("this database has no extension colcrypt".into());
        }
        let about = self
            .transaction
            .query_one(
                &format!("SELECT to_jsonb(q)::text FROM ({}) q", q::ABOUT),
                &[],
            )
            .map_err(|error| explain(&error))?;
        let about: About = parse(about.get(0))?;
        let seconds = match self.one::<Value>(
            "SELECT extract(epoch FROM p.until - p.since)::float8 AS seconds FROM period p",
        )? {
            Section::LeftOut(reason) => return Err(reason),
            Section::Facts(row) => row["seconds"].as_f64().unwrap_or_default(),
        };
        if seconds < 0.0 {
            return Err("--from is after the end of the period".into());
        }
        let until = if self.until.is_empty() {
            about.read_at.clone()
        } else {
            self.until.clone()
        };
        let progress = progress();
        let step = |what: &'static str| {
            progress.set_message(what);
            progress.inc(1);
        };

        step("verifying the audit log");
        let chain = self.chain()?;
        let chain_of_period = self.one(q::CHAIN_OF_PERIOD)?;
        let anchored = self.one(q::ANCHORED)?;
        let anchors = self.anchors(&wanted.anchors)?;
        step("reading the audit log");
        let events = self.buckets(unit(seconds as i64))?;
        // These two have a row a kind, and are counted through: a shorter list would hide alarms.
        let event_kinds = self.rows(
            q::EVENT_KINDS,
            "q.happened DESC, q.event, q.outcome",
            KINDS,
            &[],
        )?;
        let refusals = self.list(
            q::REFUSALS,
            "q.outcome = 'alarm' DESC, q.attempts DESC, q.role, q.event, q.key",
        )?;
        let moves = self.acts(q::ACTS, q::MOVES)?;
        let rotations = self.acts(q::ACTS, q::ROTATIONS)?;
        let access_acts = self.acts(q::ACTS, q::ACCESS)?;
        let destruction_acts = self.acts(q::ACTS, q::DESTROYED)?;
        let escrow_acts = self.acts(q::ACTS, q::RECOVERY)?;
        let unusual = self.acts(q::ALARMS, q::UNUSUAL)?;
        step("reading keys");
        let keyrings = self.list(q::KEYRINGS, "q.overdue DESC, q.keyring")?;
        let keyring_versions =
            self.list(q::KEYRING_VERSIONS, "q.created_at, q.keyring, q.version")?;
        let key_totals = self.rows(q::KEY_TOTALS, "q.suite, q.state", KINDS, &[])?;
        let keys = self.list(
            q::KEYS,
            "q.overdue DESC, q.state = 'compromised' DESC, q.state = 'suspended' DESC, q.key",
        )?;
        let period_totals = self.one(&q::period_totals())?;
        let periods = self.list(
            &q::periods(),
            "q.overrun DESC, q.used_seconds / q.period_seconds DESC NULLS FIRST, q.key, q.version",
        )?;
        let destructions = self.list(
            q::DESTRUCTIONS,
            "q.destroyed_at DESC NULLS FIRST, q.key, q.version",
        )?;
        step("reading columns and jobs");
        let jobs = self.list(q::JOBS, "q.job DESC")?;
        let census_totals = self.one(&q::census_totals())?;
        let census = self.list(&q::census(), "q.rows DESC, q.\"column\", q.key, q.version")?;
        let searched = self.list(
            q::SEARCHED,
            "q.largest_share DESC NULLS LAST, q.\"column\", q.kind",
        )?;
        step("reading who did what");
        let grants = self.list(q::GRANTS, "q.decrypt DESC, q.keys DESC, q.grantee")?;
        let approvals = self.list(q::APPROVALS, "q.request DESC")?;
        step("reading escrows");
        let escrows = self.list(q::ESCROWS, "q.retired_at IS NOT NULL, q.escrow")?;
        let custodians = self.list(q::CUSTODIANS, "q.is_overdue DESC, q.escrow, q.holder")?;
        let drills = self.drills()?;
        step("asking doctor, who asks the root keys");
        let findings = self.findings()?;
        progress.finish_and_clear();
        Ok(Facts {
            format: FORMAT.into(),
            program: env!("CARGO_PKG_VERSION").into(),
            about,
            since: self.since.clone(),
            until,
            exceptions: Vec::new(),
            chain,
            chain_of_period,
            anchored,
            anchors,
            events,
            event_kinds,
            keyrings,
            keyring_versions,
            key_totals,
            keys,
            moves,
            period_totals,
            periods,
            rotations,
            jobs,
            census_totals,
            census,
            searched,
            look_ups,
            usage,
            usage_by_key,
            grants,
            access_acts,
            refusals,
            unusual,
            approvals,
            destructions,
            destruction_acts,
            escrows,
            custodians,
            drills,
            escrow_acts,
            findings,
        })
    }

    /// Rows of a query, one after the other, until the function has had all of them. An error of the server's is undone
    /// to before the query, so that others can be asked.
    fn read(
        &mut self,
        query: &str,
        more: &[&(dyn ToSql + Sync)],
        mut take: impl FnMut(Value, i64),
    ) -> Result<Section<()>, String> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.since, &self.until];
        parameters.extend(more);
        let query = format!(
            "WITH period AS (SELECT $1::text::timestamptz AS since, coalesce(nullif($2::text, '')::timestamptz, now()) AS until) {query}"
        );
        let mut savepoint = self
            .transaction
            .savepoint("asked")
            .map_err(|error| explain(&error))?;
        let read = savepoint
            .query_raw(&query, parameters)
            .and_then(|mut rows| {
                while let Some(row) = rows.next()? {
                    let value = serde_json::from_str(row.try_get(0)?);
                    take(value.unwrap_or(Value::Null), row.try_get(1)?);
                }
                Ok(())
            });
        match read {
            Ok(()) => {
                savepoint.commit().map_err(|error| explain(&error))?;
                Ok(Section::Facts(()))
            }
            Err(error) => {
                let ends = error
                    .code()
                    .is_none_or(|code| ENDS.iter().any(|class| code.code().starts_with(class)));
                if ends {
                    return Err(explain(&error));
                }
                savepoint.rollback().map_err(|error| explain(&error))?;
                Ok(Section::LeftOut(explain(&error)))
            }
        }
    }

    fn rows<T: DeserializeOwned>(
        &mut self,
        body: &str,
        order: &str,
        limit: i64,
        more: &[&(dyn ToSql + Sync)],
    ) -> Result<Section<Listed<T>>, String> {
        let (mut total, mut values) = (0, Vec::new());
        let query = format!(
            "SELECT to_jsonb(q)::text, count(*) OVER () FROM ({body}) q ORDER BY {order} LIMIT {limit}"
        );
        let read = self.read(&query, more, |value, count| {
            total = count;
            values.push(value);
        })?;
        Ok(match read {
            Section::LeftOut(reason) => Section::LeftOut(reason),
            Section::Facts(()) => Section::Facts(Listed {
                total,
                shown: values
                    .into_iter()
                    .map(typed)
                    .collect::<Result<Vec<T>, String>>()?,
            }),
        })
    }

    fn list<T: DeserializeOwned>(
        &mut self,
        body: &str,
        order: &str,
    ) -> Result<Section<Listed<T>>, String> {
        self.rows(body, order, self.rows, &[])
    }

    /// A query of one row.
    fn one<T: DeserializeOwned>(&mut self, body: &str) -> Result<Section<T>, String> {
        Ok(match self.rows(body, "1", 1, &[])? {
            Section::LeftOut(reason) => Section::LeftOut(reason),
            Section::Facts(mut rows) => match rows.shown.pop() {
                Some(row) => Section::Facts(row),
                None => Section::LeftOut("there is no such row".into()),
            },
        })
    }

    fn acts<T: DeserializeOwned>(
        &mut self,
        body: &str,
        events: &[&str],
    ) -> Result<Section<Listed<T>>, String> {
        self.rows(body, "q.seq DESC", self.rows, &[&events])
    }

    fn chain(&mut self) -> Result<Section<Chain>, String> {
        let mut chain: Section<Chain> = self.one(q::CHAIN)?;
        if let Section::Facts(chain) = &mut chain
            && let Some(seq) = chain.first_bad
        {
            let body = q::ENTRY.replace("$1", &seq.to_string());
            chain.bad = self.one(&body)?.facts().cloned();
        }
        Ok(chain)
    }

    fn anchors(&mut self, given: &[(i64, String)]) -> Result<Vec<Anchor>, String> {
        given
            .iter()
            .map(|(seq, hash)| {
                let body = q::ENTRY.replace("$1", &seq.to_string());
                let found = match self.rows::<Value>(&body, "1", 1, &[])? {
                    Section::LeftOut(reason) => Section::LeftOut(reason),
                    Section::Facts(rows) => Section::Facts(
                        rows.shown
                            .first()
                            .and_then(|row| row["hash"].as_str().map(str::to_owned)),
                    ),
                };
                Ok(Anchor {
                    seq: *seq,
                    hash: hash.clone(),
                    found,
                })
            })
            .collect()
    }

    fn buckets(&mut self, unit: &str) -> Result<Section<Buckets>, String> {
        let body = q::BUCKETS.replace("UNIT", unit);
        Ok(match self.rows(&body, "q.start", 100, &[])? {
            Section::LeftOut(reason) => Section::LeftOut(reason),
            Section::Facts(rows) => Section::Facts(Buckets {
                unit: unit.into(),
                buckets: rows.shown,
            }),
        })
    }

    fn drills(&mut self) -> Result<Section<Listed<Drill>>, String> {
        Ok(
            match self.list::<Value>(q::DRILLS, "q.drilled_at DESC, q.escrow")? {
                Section::LeftOut(reason) => Section::LeftOut(reason),
                Section::Facts(rows) => Section::Facts(Listed {
                    total: rows.total,
                    shown: rows
                        .shown
                        .into_iter()
                        .map(drill)
                        .collect::<Result<_, String>>()?,
                }),
            },
        )
    }

    /// However many there are, the first ones are kept.
    fn findings(&mut self) -> Result<Section<Findings>, String> {
        let mut counts = [0, 0, 0];
        let (mut total, mut shown, limit) = (0, Vec::new(), self.rows as usize);
        let query = format!(
            "SELECT to_jsonb(q)::text, 0::bigint FROM ({}) q",
            q::FINDINGS
        );
        let read = self.read(&query, &[], |value, _| {
            total += 1;
            match value["severity"].as_str() {
                Some("critical") => counts[0] += 1,
                Some("warning") => counts[1] += 1,
                _ => counts[2] += 1,
            }
            // They come the worst first.
            if shown.len() < limit {
                shown.push(value);
            }
        })?;
        Ok(match read {
            Section::LeftOut(reason) => Section::LeftOut(reason),
            Section::Facts(()) => Section::Facts(Findings {
                critical: counts[0],
                warnings: counts[1],
                notices: counts[2],
                list: Listed {
                    total,
                    shown: shown
                        .into_iter()
                        .map(typed)
                        .collect::<Result<Vec<Finding>, String>>()?,
                },
            }),
        })
    }
}

/// A drill as its signed report has it; a report that somebody wrote by hand may be anything.
fn drill(mut row: Value) -> Result<Drill, String> {
    let report: Option<Value> = row["report"]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .and_then(|signed: Value| serde_json::from_str(signed["drill"].as_str()?).ok());
    if let Some(fields) = row.as_object_mut() {
        fields.remove("report");
    }
    let mut drill: Drill = typed(row)?;
    if let Some(report) = report {
        drill.holders = serde_json::from_value(report["holders"].clone()).unwrap_or_default();
        drill.key_versions = report["key_versions"].as_i64();
    }
    Ok(drill)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| unexpected(&error))
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| unexpected(&error))
}

fn unexpected(error: &dyn Error) -> String {
    format!("the extension in this database is of another release: {error}")
}

/// On a terminal; elsewhere nothing is told.
fn progress() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} of {len}: {msg}, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
