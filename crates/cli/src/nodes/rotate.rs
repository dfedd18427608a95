//! `colcrypt nodes rotate`: a key's next version, first to where it decrypts on every server, then to where it
//! encrypts, then every server's rows.
//!
//! How far a rotation has come stands in the servers and nowhere else: whoever was interrupted calls again. A version
//! that is prepared goes on from there; a follower that lags behind, or jobs that are open, are seen through.

use clap::Args;
use postgres::Client;
use serde::Serialize;

use crate::connection::refusal;
use crate::nodes::each::on_each;
use crate::nodes::jobs::{self, Need};
use crate::nodes::list::{Listed, Node, Nodes};
use crate::nodes::sync::{self, Synced, write_json};

/// A rotation that stopped, with nothing lost.
const STOPPED: u8 = 2;

/// Where a key stands on a server.
const STANDING: &str = "
    SELECT k.current_version, p.version,
           (SELECT count(*) FROM colcrypt.job_progress j WHERE j.key = k.name AND j.kind = 'reencrypt_column' AND j.finished_at IS NULL)
    FROM colcrypt.key k
    LEFT JOIN LATERAL (
        SELECT max(v.version) AS version FROM colcrypt.key_version v
        WHERE v.key_id = k.key_id AND v.version > k.current_version AND v.state = 'pre-active' AND v.prepared_at IS NOT NULL) p ON true
    WHERE k.name = $1";

/// Whether a server has the version that the primary prepared, and opens it, whatever is cached.
const OPENS: &str = "
    WITH c AS MATERIALIZED (SELECT * FROM colcrypt.verify_keys())
    SELECT v.kcv, (SELECT bool_and(c.ok) FROM c WHERE c.key = $1 AND c.version = $2),
           (SELECT string_agg(DISTINCT c.problem, '; ') FROM c WHERE NOT c.ok AND (c.key = $1 OR c.key IS NULL))
    FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) WHERE k.name = $1 AND v.version = $2";

#[derive(Args)]
pub struct Options {
    /// The key
    key: String,
    #[command(flatten)]
    nodes: Listed,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

struct Standing {
    current: i32,
    prepared: Option<i32>,
    open_jobs: i64,
}

/// The names are part of the interface: docs/cluster.md has them.
#[derive(Serialize)]
struct Rotated {
    key: String,
    version: Option<i32>,
    /// Why it went no further; none where it is done.
    stopped: Option<String>,
    nodes: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    node: String,
    problem: Option<String>,
    /// What is under older versions.
    needs: Vec<Need>,
}

pub fn run(options: &Options) -> Result<u8, String> {
    let nodes = options.nodes.read()?;
    let rotation = Rotation {
        key: &options.key,
        nodes: &nodes,
        is_told: !options.json,
    };
    let rotated = rotation.go(options.reason.as_deref())?;
    if options.json {
        write_json(&rotated)?;
    } else if let Some(why) = &rotated.stopped {
        println!("STOPPED: {why}");
    }
    Ok(rotated.exit_status())
}

impl Rotated {
    fn exit_status(&self) -> u8 {
        let is_whole = (self.nodes.iter()).all(|part| part.problem.is_none());
        if self.stopped.is_none() && is_whole {
            0
        } else {
            STOPPED
        }
    }
}

struct Rotation<'a> {
    key: &'a str,
    nodes: &'a Nodes,
    is_told: bool,
}

impl Rotation<'_> {
    fn tell(&self, line: impl FnOnce() -> String) {
        if self.is_told {
            println!("{}", line());
        }
    }

    fn stopped(
        &self,
        version: Option<i32>,
        why: String,
        problems: Vec<(String, String)>,
    ) -> Rotated {
        Rotated {
            key: self.key.into(),
            version,
            stopped: Some(why),
            nodes: problems
                .into_iter()
                .map(|(node, problem)| Part {
                    node,
                    problem: Some(problem),
                    needs: Vec::new(),
                })
                .collect(),
        }
    }

    fn go(&self, reason: Option<&str>) -> Result<Rotated, String> {
        let all = self.nodes.all();
        let standings = on_each(&all, |node| self.standing(node), |_, _| None);
        let of_primary = |error: &str| format!("{}: {error}", self.nodes.primary.name);
        let primary = match &standings[0] {
            Err(error) => return Err(of_primary(error)),
            Ok(None) => return Err(of_primary(&format!("there is no key {}", self.key))),
            Ok(Some(primary)) => primary,
        };
        let is_under_way =
            |standing: &Standing| standing.current < primary.current || standing.open_jobs > 0;
        let is_unfinished =
            primary.prepared.is_none() && standings.iter().flatten().flatten().any(is_under_way);
        let version = if is_unfinished {
            self.tell(|| format!("version {} is seen through", primary.current));
            primary.current
        } else {
            let away = problems(&all, &standings);
            if !away.is_empty() {
                self.tell_all(&away);
                let why = "each server has to know the next version before one encrypts with it; nothing was changed";
                return Ok(self.stopped(primary.prepared, why.into(), away));
            }
            match self.switch(primary, reason)? {
                Ok(version) => version,
                Err(stopped) => return Ok(stopped),
            }
        };
        let synced = self.sync()?;
        let ends = on_each(
            &all,
            |node| self.end(node, version, &synced),
            |_, part| self.is_told.then(|| part.line()),
        );
        // What rows need is another than when the version was brought.
        let reached: Vec<Node> = (self.nodes.followers.iter())
            .zip(&ends[1..])
            .filter(|(_, part)| part.problem.is_none())
            .map(|(node, _)| node.clone())
            .collect();
        let missed = sync::acknowledge(&mut self.primary()?, &reached)
            .map_err(|error| of_primary(&error))?;
        for (node, problem) in &missed {
            self.tell(|| format!("{node}: its report did not reach the primary: {problem}"));
        }
        Ok(Rotated {
            key: self.key.into(),
            version: Some(version),
            stopped: None,
            nodes: ends,
        })
    }

    /// Prepares a version, brings it to all, and has the primary encrypt with it once every server opens it.
    fn switch(
        &self,
        primary: &Standing,
        reason: Option<&str>,
    ) -> Result<Result<i32, Rotated>, String> {
        let mut client = self.primary()?;
        let version = match primary.prepared {
            Some(version) => version,
            None => self.one(
                &mut client,
                "SELECT colcrypt.prepare_key_version($1, $2)",
                &[&self.key, &reason],
            )?,
        };
        self.tell(|| format!("{}: version {version} is prepared", self.nodes.primary.name));
        let waits = |what: &str| {
            format!(
                "{what}; version {version} is prepared and encrypts nowhere: call again, and it goes on from there"
            )
        };
        let synced = self.sync()?;
        let missed: Vec<(String, String)> = synced
            .failed()
            .map(|node| (node.node.clone(), node.problem.clone().unwrap_or_default()))
            .collect();
        if !missed.is_empty() {
            let why = waits("not every server has it");
            return Ok(Err(self.stopped(Some(version), why, missed)));
        }
        let value: String = self.one(
            &mut client,
            "SELECT v.kcv FROM colcrypt.key k JOIN colcrypt.key_version v USING (key_id) WHERE k.name = $1 AND v.version = $2",
            &[&self.key, &version],
        )?;
        let all = self.nodes.all();
        let opened = on_each(
            &all,
            |node| self.opens(node, version, &value),
            |node, opened| {
                self.is_told.then(|| match opened {
                    Ok(()) => format!("{}: opens version {version}", node.name),
                    Err(problem) => format!("{}: FAILED: {problem}", node.name),
                })
            },
        );
        let shut = problems(&all, &opened);
        if !shut.is_empty() {
            let why = waits("not every server can open it");
            return Ok(Err(self.stopped(Some(version), why, shut)));
        }
        let _: i32 = self.one(&mut client, "SELECT colcrypt.rotate_key($1)", &[&self.key])?;
        let current: i32 = self.one(
            &mut client,
            "SELECT current_version FROM colcrypt.key WHERE name = $1",
            &[&self.key],
        )?;
        if current < version {
            let why = waits("somebody else has to approve");
            return Ok(Err(self.stopped(Some(version), why, Vec::new())));
        }
        self.tell(|| format!("{}: version {version} encrypts", self.nodes.primary.name));
        Ok(Ok(version))
    }

    fn primary(&self) -> Result<Client, String> {
        let client = self.nodes.primary.connect();
        client.map_err(|error| format!("{}: {error}", self.nodes.primary.name))
    }

    fn sync(&self) -> Result<Synced, String> {
        sync::sync(self.nodes, false, self.is_told)
    }

    fn one<T: for<'a> postgres::types::FromSql<'a>>(
        &self,
        client: &mut Client,
        sql: &str,
        arguments: &[&(dyn postgres::types::ToSql + Sync)],
    ) -> Result<T, String> {
        client
            .query_one(sql, arguments)
            .and_then(|row| row.try_get(0))
            .map_err(|error| format!("{}: {}", self.nodes.primary.name, refusal(&error)))
    }

    fn standing(&self, node: &Node) -> Result<Option<Standing>, String> {
        let row = node
            .connect()?
            .query_opt(STANDING, &[&self.key])
            .map_err(|error| refusal(&error))?;
        Ok(row.map(|row| Standing {
            current: row.get(0),
            prepared: row.get(1),
            open_jobs: row.get(2),
        }))
    }

    fn opens(&self, node: &Node, version: i32, value: &str) -> Result<(), String> {
        let row = node
            .connect()?
            .query_opt(OPENS, &[&self.key, &version])
            .map_err(|error| refusal(&error))?;
        let Some(row) = row else {
            return Err(format!("it does not have version {version}"));
        };
        let (own, is_ok, problem): (String, Option<bool>, Option<String>) =
            (row.get(0), row.get(1), row.get(2));
        match is_ok {
            _ if own != value => Err(format!("it has another version {version}")),
            Some(true) => Ok(()),
            _ => Err(problem.unwrap_or_else(|| format!("it does not open version {version}"))),
        }
    }

    /// What is left on a server once its jobs are over.
    fn end(&self, node: &Node, version: i32, synced: &Synced) -> Part {
        let missed = synced.failed().find(|failed| failed.node == node.name);
        let ended = match missed {
            Some(failed) => Err(failed.problem.clone().unwrap_or_default()),
            None => jobs::see_through(node, self.key, version, self.is_told),
        };
        let (problem, needs) = match ended {
            Ok((problem, needs)) => (problem, needs),
            Err(problem) => (Some(problem), Vec::new()),
        };
        Part {
            node: node.name.clone(),
            problem,
            needs,
        }
    }

    fn tell_all(&self, problems: &[(String, String)]) {
        for (node, problem) in problems {
            self.tell(|| format!("{node}: FAILED: {problem}"));
        }
    }
}

fn problems<T>(nodes: &[Node], results: &[Result<T, String>]) -> Vec<(String, String)> {
    let both = nodes.iter().zip(results);
    both.filter_map(|(node, result)| {
        let problem = result.as_ref().err()?;
        Some((node.name.clone(), problem.clone()))
    })
    .collect()
}

impl Part {
    fn line(&self) -> String {
        let mut told: Vec<String> = (self.problem.iter())
            .map(|problem| format!("FAILED: {problem}"))
            .collect();
        told.extend(self.needs.iter().map(Need::told));
        if told.is_empty() {
            told.push("nothing is under older versions".into());
        }
        format!("{}: {}", self.node, told.join("; "))
    }
}
