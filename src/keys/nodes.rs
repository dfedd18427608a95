//! The servers that follow a primary, as it knows them: registered by an operator, and what each reported last.
//!
//! Nobody connects anywhere from here. A program of the operator's asks each server for its report and brings it to the
//! primary, which believes it as far as it goes: a report can hold up a destruction or a rotation, and never bring one
//! about that was not ordered.

use colcrypt_core::{KeyId, KeyState, KeyVersion, VersionId};
use colcrypt_domain::nodes;
use pgrx::{IntoDatum, JsonB, pg_sys};
use serde_json::{Value, json};

use crate::audit::Act;
use crate::catalog::read::{self, Key};
use crate::error::{Error, Result};
use crate::jobs::wake;
use crate::keys::{names, roots};
use crate::rows::holders;
use crate::server::call::Call;
use crate::server::varlena::varlena_from;
use crate::server::{report::one_line, spi};

/// What a report says it is.
const FORMAT: &str = "colcrypt-node-1";

/// What a server says of itself, but for its rows and answers of root keys.
const FACTS: &str = "SELECT jsonb_build_object( \
    'format', $1::text, 'deep', $2::boolean, 'at', clock_timestamp(), \
    'role', current_setting('colcrypt.node'), 'follows', colcrypt.follows(), \
    'release', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'colcrypt'), \
    'server_version', current_setting('server_version'), \
    'system', (SELECT s.system_identifier::text FROM pg_control_system() s), \
    'database', current_database(), 'in_recovery', pg_is_in_recovery(), \
    'origin', n.origin, 'epoch', n.epoch, 'imported_at', n.at, \
    'drift', (SELECT coalesce(jsonb_agg(c.key ORDER BY c.key), '[]') FROM jsonb_each(colcrypt.catalog_digests()) c \
              WHERE n.parts->c.key IS DISTINCT FROM c.value HAVING n.parts IS NOT NULL), \
    'keks', (SELECT coalesce(jsonb_agg(jsonb_build_object('keyring', r.name, 'version', e.version, 'kcv', e.kcv) ORDER BY r.name, e.version), '[]') \
             FROM colcrypt.kek_version e JOIN colcrypt.keyring r USING (keyring_id) WHERE e.destroyed_at IS NULL), \
    'roots', (SELECT coalesce(jsonb_agg(jsonb_build_object('keyring', r.keyring, 'kek_version', r.kek_version, 'preference', r.preference, \
                  'provider', r.provider, 'root_key', r.root_key, 'opens', CASE WHEN r.problem IS NOT NULL THEN false WHEN r.served_at IS NOT NULL THEN true END, \
                  'problem', r.problem) ORDER BY r.keyring, r.kek_version, r.preference), '[]') \
              FROM colcrypt.root_status r WHERE r.state <> 'escrow' AND NOT $2), \
    'usage', (SELECT coalesce(jsonb_agg(jsonb_build_object('key_id', u.key_id, 'version', u.version, 'encryptions', u.encryptions) \
                                        ORDER BY u.key_id, u.version), '[]') \
              FROM (SELECT a.key_id, a.version, sum(a.encryptions) AS encryptions \
                    FROM (SELECT key_id, version, encryptions FROM colcrypt.version_usage \
                          UNION ALL SELECT key_id, version, encryptions + reserved FROM colcrypt.unflushed_versions()) a \
                    JOIN colcrypt.key_version v USING (key_id, version) \
                    WHERE v.state <> 'destroyed' GROUP BY 1, 2) u), \
    'prepared', (SELECT coalesce(jsonb_agg(jsonb_build_object('key_id', v.key_id, 'version', v.version) ORDER BY v.key_id, v.version), '[]') \
                 FROM colcrypt.key_version v WHERE v.state = 'pre-active' AND v.prepared_at IS NOT NULL)) \
    FROM (SELECT) one LEFT JOIN colcrypt.node_state n ON true";

/// Versions that are not the current ones and may have rows: those that are to be destroyed are counted now, of the
/// others is told what the last count of a registered column said.
const OLD_VERSIONS: &str = "WITH counted AS MATERIALIZED ( \
        SELECT r.key_id, r.version, sum(r.rows)::bigint AS rows, min(c.counted_at) AS counted_at, \
               string_agg(format('%s.%I: %s rows', c.relation, c.attribute, r.rows), E'\\n' ORDER BY c.relation, c.attribute) AS at \
        FROM colcrypt.census c JOIN pg_class p ON p.oid = c.relation, \
             jsonb_to_recordset(c.counts) AS r(key_id bigint, version int, rows bigint) \
        WHERE r.rows > 0 GROUP BY 1, 2) \
    SELECT v.key_id, v.version, v.state, \
        jsonb_build_object('key_id', v.key_id, 'key', k.name, 'version', v.version, 'state', v.state, 'state_changed_at', v.state_changed_at, \
            'rows', c.rows, 'where', c.at, 'counted_at', c.counted_at, 'problem', NULL) \
    FROM colcrypt.key_version v JOIN colcrypt.key k USING (key_id) LEFT JOIN counted c USING (key_id, version) \
    WHERE v.version <> k.current_version AND v.destroyed_at IS NULL AND NOT v.shreds \
      AND (v.state = 'destruction scheduled' OR c.rows > 0) \
    ORDER BY v.key_id, v.version";

pub fn register_node(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    names::refuse_bad_name("node", &name)?;
    // SAFETY: declared as text.
    let connection: Option<String> = unsafe { call.long(1, "connection")? };
    if connection.as_deref().is_some_and(nodes::has_password) {
        return Err(Error::InvalidParameter {
            message: "a connection string with a password is not kept".into(),
            hint: "Leave the password out: a password file (passfile), a certificate or peer authentication is the program's own."
                .into(),
        });
    }
    let is_new = spi::query(
        "INSERT INTO colcrypt.node AS n (name, connection) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET connection = excluded.connection RETURNING n.xmax = 0",
        &[name.clone().into(), connection.into()],
        |row| spi::at::<bool>(row, 1),
    )?;
    Act::new("register_node").detail(name).record()?;
    let said: &[u8] = if is_new == [true] {
        b"registered"
    } else {
        b"changed"
    };
    varlena_from(said)
}

pub fn drop_node(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    let gone = spi::execute(
        "DELETE FROM colcrypt.node WHERE name = $1",
        &[name.clone().into()],
    )?;
    if gone == 0 {
        return Err(unknown(name));
    }
    spi::execute(
        "DELETE FROM colcrypt.node_usage WHERE node = $1",
        &[name.clone().into()],
    )?;
    Act::new("drop_node").detail(name).record()?;
    look_again(None)?;
    varlena_from(b"dropped")
}

fn unknown(name: String) -> Error {
    Error::UnknownObject { what: "node", name }
}

pub fn node_report(call: Call) -> Result<pg_sys::Datum> {
    // SAFETY: declared as boolean.
    let deep = unsafe { call.get::<bool>(0) }.unwrap_or_default();
    let facts = spi::look(FACTS, &[FORMAT.into(), deep.into()], |row| {
        spi::at::<JsonB>(row, 1)
    })?;
    let Some(JsonB(Value::Object(mut told))) = facts.into_iter().next() else {
        return Err(Error::CatalogCorrupt("the extension is not there".into()));
    };
    if deep {
        told.insert("roots".into(), asked_roots()?);
    }
    told.insert("needs".into(), needs()?);
    let told = JsonB(Value::Object(told));
    Ok(told.into_datum().expect("a jsonb has a datum"))
}

/// What each root key answers now.
fn asked_roots() -> Result<Value> {
    let keyrings = spi::look(
        "SELECT name FROM colcrypt.keyring ORDER BY name",
        &[],
        |row| spi::at::<String>(row, 1),
    )?;
    let mut all = Vec::new();
    for name in keyrings {
        for root in roots::ask_all(&read::keyring_by_name(&name)?)? {
            all.push(json!({
                "keyring": name, "kek_version": root.kek_version, "preference": root.preference, "provider": root.provider,
                "root_key": root.root_key, "opens": root.problem.is_none(), "problem": root.problem,
            }));
        }
    }
    Ok(Value::Array(all))
}

fn needs() -> Result<Value> {
    let listed = spi::look(OLD_VERSIONS, &[], |row| {
        Ok((
            spi::at::<i64>(row, 1)?,
            spi::at::<i32>(row, 2)?,
            spi::at::<String>(row, 3)?,
            spi::at::<JsonB>(row, 4)?.0,
        ))
    })?;
    let mut all = Vec::with_capacity(listed.len());
    for (key, version, state, mut need) in listed {
        if state == KeyState::DestructionScheduled.name() {
            let key = read::key_by_id(KeyId::of_bigint(key))?;
            count(&key, version, &mut need)?;
        }
        all.push(need);
    }
    Ok(Value::Array(all))
}

/// Counts the rows that need a version, in all tables. What cannot be looked into is told as well.
fn count(key: &Key, version: i32, need: &mut Value) -> Result<()> {
    let now = spi::look("SELECT to_jsonb(clock_timestamp())", &[], |row| {
        spi::at::<JsonB>(row, 1)
    })?;
    match holders::needing(key, &[version]) {
        Ok(found) => {
            need["rows"] = found.iter().map(|(_, rows)| rows).sum::<i64>().into();
            need["where"] = match found.as_slice() {
                [] => Value::Null,
                found => holders::describe(found).into(),
            };
        }
        Err(error @ Error::RowsOutOfReach { .. }) => {
            need["rows"] = Value::Null;
            need["problem"] = one_line(&error).into();
        }
        Err(error) => return Err(error),
    }
    need["counted_at"] = now.into_iter().next().map_or(Value::Null, |now| now.0);
    Ok(())
}

pub fn acknowledge_node(call: Call) -> Result<pg_sys::Datum> {
    let name = call.text(0, "name")?;
    // SAFETY: declared as jsonb.
    let report: JsonB = unsafe { call.long(1, "report")? }.ok_or(Error::NullArgument("report"))?;
    refuse_others(&report.0)?;
    let former = spi::query(
        "SELECT coalesce(report, '{}') FROM colcrypt.node WHERE name = $1 FOR UPDATE",
        &[name.clone().into()],
        |row| spi::at::<JsonB>(row, 1),
    )?;
    let Some(JsonB(former)) = former.into_iter().next() else {
        return Err(unknown(name));
    };
    let (role, epoch) = (report.0["role"].clone(), report.0["epoch"].clone());
    let is_news = former["role"] != role || former["epoch"] != epoch;
    spi::execute(
        "UPDATE colcrypt.node SET report = $2, acknowledged_at = clock_timestamp() WHERE name = $1",
        &[name.clone().into(), JsonB(report.0.clone()).into()],
    )?;
    spi::execute(
        "WITH said AS MATERIALIZED ( \
             SELECT u.key_id, u.version, max(u.encryptions) AS encryptions \
             FROM jsonb_to_recordset($2->'usage') AS u(key_id bigint, version int, encryptions bigint) \
             WHERE u.encryptions > 0 GROUP BY 1, 2), \
         gone AS ( \
             DELETE FROM colcrypt.node_usage o WHERE o.node = $1 \
               AND NOT EXISTS (SELECT FROM said WHERE said.key_id = o.key_id AND said.version = o.version)) \
         INSERT INTO colcrypt.node_usage AS o (key_id, version, node, encryptions) \
         SELECT key_id, version, $1, encryptions FROM said \
         ON CONFLICT (key_id, version, node) DO UPDATE SET encryptions = excluded.encryptions WHERE o.encryptions <> excluded.encryptions",
        &[name.clone().into(), JsonB(report.0.clone()).into()],
    )?;
    // Who asks every minute whether anything changed is no event.
    if is_news {
        Act::new("acknowledge_node")
            .detail(format!(
                "{name}: {}, epoch {epoch}",
                role.as_str().unwrap_or_default()
            ))
            .record()?;
    }
    look_again(Some((&former, &report.0)))?;
    varlena_from(b"acknowledged")
}

/// Refuses what is no report of this format.
fn refuse_others(report: &Value) -> Result<()> {
    let is_one = report["format"] == FORMAT
        && ["usage", "prepared", "needs", "roots", "keks"]
            .iter()
            .all(|part| report[part].is_array());
    if is_one {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: "that is no report of a node".into(),
        hint: "Give what colcrypt.node_report() gives there, as it is.".into(),
    })
}

/// Has what waited for a report tried again, where the report is other than the one before.
fn look_again(reports: Option<(&Value, &Value)>) -> Result<()> {
    let changed = |part: &str| reports.is_none_or(|(former, now)| former[part] != now[part]);
    if changed("needs") {
        spi::execute(
            "UPDATE colcrypt.destruction SET retry_at = clock_timestamp() WHERE retry_at > clock_timestamp() AND isfinite(retry_at)",
            &[],
        )?;
        wake::wake_at_commit();
    }
    if changed("prepared") {
        spi::execute(
            "UPDATE colcrypt.rotation_try SET retry_at = clock_timestamp() WHERE retry_at > clock_timestamp() AND isfinite(retry_at)",
            &[],
        )?;
        wake::wake_at_commit();
    }
    if changed("usage") {
        wake::wake_at_commit();
    }
    Ok(())
}

/// Refuses the destruction of a version that a server needs by its last report. Whether the others do is told only once
/// they have heard of the order.
///
/// # Errors
/// [`Error::NodesNeedVersion`].
pub fn refuse_needed(key: &Key, version: KeyVersion) -> Result<()> {
    let id = VersionId {
        key: key.id,
        version,
    };
    refuse(key, version, held_by(id, false)?)
}

/// Refuses the destruction, now, of a version whose order not every server has answered: that no row there needs it.
///
/// # Errors
/// [`Error::NodesNeedVersion`].
pub fn refuse_unanswered(key: &Key, version: KeyVersion) -> Result<()> {
    let id = VersionId {
        key: key.id,
        version,
    };
    refuse(key, version, held_by(id, true)?)
}

fn refuse(key: &Key, version: KeyVersion, nodes: Vec<String>) -> Result<()> {
    if nodes.is_empty() {
        return Ok(());
    }
    Err(Error::NodesNeedVersion {
        key: key.name.clone(),
        version,
        nodes: nodes.join("\n"),
    })
}

/// Servers that stand in the way of a version's destruction, a line each. `answered`: those that have not answered this
/// order, too. An order is told by when it was given, which an import takes along.
fn held_by(id: VersionId, answered: bool) -> Result<Vec<String>> {
    spi::query(
        "SELECT w.line FROM ( \
             SELECT n.name, n.name || ': ' || CASE \
                 WHEN (e.need->>'rows')::bigint > 0 THEN coalesce(e.need->>'where', e.need->>'rows' || ' rows') \
                 WHEN NOT $3 THEN NULL \
                 WHEN n.report IS NULL THEN 'has never reported' \
                 WHEN e.need IS NULL OR (e.need->>'state_changed_at')::timestamptz <> v.state_changed_at OR e.need->>'state' <> v.state \
                     THEN format('its last report, of %s, knows nothing of the order', (n.report->>'at')::timestamptz(0)) \
                 WHEN e.need->>'rows' IS NULL THEN coalesce(e.need->>'problem', 'its rows were not counted') END AS line \
             FROM colcrypt.node n JOIN colcrypt.key_version v ON v.key_id = $1 AND v.version = $2 \
             LEFT JOIN LATERAL (SELECT need FROM jsonb_array_elements(n.report->'needs') need \
                                WHERE (need->>'key_id')::bigint = $1 AND (need->>'version')::int = $2 LIMIT 1) e ON true) w \
         WHERE w.line IS NOT NULL ORDER BY w.name",
        &[
            id.key.bigint().into(),
            id.version.int().into(),
            answered.into(),
        ],
        |row| spi::at::<String>(row, 1),
    )
}

/// Whether other servers follow this one, as far as anybody registered them.
///
/// # Errors
/// Of SPI.
pub fn are_there() -> Result<bool> {
    let found = spi::query("SELECT EXISTS (SELECT FROM colcrypt.node)", &[], |row| {
        spi::at::<bool>(row, 1)
    })?;
    Ok(found == [true])
}

/// Registered servers that do not have a prepared version, as far as is known.
///
/// # Errors
/// Of SPI.
pub fn without(id: VersionId) -> Result<Vec<String>> {
    spi::query(
        "SELECT name FROM colcrypt.node \
         WHERE NOT coalesce(report->'prepared' @> jsonb_build_array(jsonb_build_object('key_id', $1::bigint, 'version', $2::int)), false) \
         ORDER BY name",
        &[id.key.bigint().into(), id.version.int().into()],
        |row| spi::at::<String>(row, 1),
    )
}
