//! What is wrong with servers that share keys, from what each says of itself.

use serde::Serialize;

use crate::nodes::drift::{Difference, drift, own_settings};
use crate::nodes::state::State;

/// The worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    Warning,
    Critical,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub finding: &'static str,
    pub detail: String,
}

impl Finding {
    pub fn told(&self) -> String {
        format!(
            "{:<8}  {}  {}",
            self.severity.name(),
            self.finding,
            self.detail
        )
    }
}

/// The names are part of the interface: docs/cluster.md has them.
#[derive(Debug, Serialize)]
pub struct Found {
    pub node: String,
    pub status: Severity,
    pub state: Option<State>,
    pub findings: Vec<Finding>,
    /// What is otherwise than on the primary; what a sync will bring, where the server is behind.
    pub differences: Vec<Difference>,
    /// How it reaches providers otherwise.
    pub providers: Vec<Difference>,
}

impl Found {
    fn new(node: &str, state: Option<State>) -> Self {
        Self {
            node: node.into(),
            status: Severity::Ok,
            state,
            findings: Vec::new(),
            differences: Vec::new(),
            providers: Vec::new(),
        }
    }

    pub fn add(&mut self, severity: Severity, finding: &'static str, detail: impl Into<String>) {
        self.status = self.status.max(severity);
        self.findings.push(Finding {
            severity,
            finding,
            detail: detail.into(),
        });
    }

    fn not_reached(node: &str, problem: &str) -> Self {
        let mut found = Self::new(node, None);
        found.add(Severity::Critical, "not_reached", problem);
        found
    }

    fn look_at_roots(&mut self, state: &State) {
        for root in state.roots.iter().filter(|root| !root.opens) {
            let severity = match root.is_stood_in_for(&state.roots) {
                true => Severity::Warning,
                false => Severity::Critical,
            };
            self.add(severity, "root_not_opening", root.told());
        }
    }
}

/// The primary's part.
pub fn of_primary(node: &str, state: &Result<State, String>) -> Found {
    let state = match state {
        Ok(state) => state,
        Err(problem) => return Found::not_reached(node, problem),
    };
    let mut found = Found::new(node, Some(state.clone()));
    if let Some(why) = &state.follows {
        found.add(Severity::Critical, "no_primary", why);
    } else if state.role != "primary" {
        found.add(
            Severity::Warning,
            "no_primary",
            format!("colcrypt.node is {}", state.role),
        );
    }
    match state.epoch {
        None => found.add(Severity::Warning, "not_exported", "nothing was exported yet"),
        Some(epoch) if !state.is_unchanged => found.add(
            Severity::Warning,
            "not_exported",
            format!("what was changed since epoch {epoch} has not left for followers: colcrypt nodes sync"),
        ),
        Some(_) => {}
    }
    found.look_at_roots(state);
    found
}

/// A follower's, compared with the primary's, if that is known.
pub fn of_follower(node: &str, state: &Result<State, String>, primary: Option<&State>) -> Found {
    let state = match state {
        Ok(state) => state,
        Err(problem) => return Found::not_reached(node, problem),
    };
    let mut found = Found::new(node, Some(state.clone()));
    if state.follows.is_none() {
        let role = &state.role;
        found.add(
            Severity::Critical,
            "no_follower",
            format!("colcrypt.node is {role}: it makes and rotates keys of its own"),
        );
    }
    found.look_at_roots(state);
    let Some(primary) = primary else {
        return found;
    };
    found.providers = own_settings(&primary.content, &state.content);
    found.differences = drift(&primary.content, &state.content);
    match (primary.epoch, state.epoch) {
        (_, None) => found.add(Severity::Warning, "behind", "it has imported nothing yet"),
        _ if primary.origin != state.origin => found.add(
            Severity::Critical,
            "other_origin",
            "its keys are of another primary: see docs/cluster.md, adopt",
        ),
        (Some(there), Some(here)) if here < there => found.add(
            Severity::Warning,
            "behind",
            format!("epoch {here} of {there}: colcrypt nodes sync"),
        ),
        (there, Some(here)) if there.is_none_or(|there| there < here) => found.add(
            Severity::Critical,
            "ahead",
            format!("epoch {here} is later than the primary's: was that restored from a backup?"),
        ),
        // What the primary has not sent yet is no drift.
        _ if primary.is_unchanged && !found.differences.is_empty() => {
            let detail = told(&found.differences);
            found.add(Severity::Critical, "drift", detail);
        }
        _ if !primary.is_unchanged => {
            found.add(
                Severity::Warning,
                "behind",
                "the primary has newer changes: colcrypt nodes sync",
            );
        }
        _ => {}
    }
    if !state.unregistered.is_empty() {
        found.add(
            Severity::Warning,
            "not_registered",
            format!(
                "registered on the primary, and not here: {}",
                state.unregistered.join(", ")
            ),
        );
    }
    found
}

/// The first few, by name.
fn told(differences: &[Difference]) -> String {
    const SHOWN: usize = 5;
    let of = |found: &Difference| format!("{} {} ({})", found.part, found.name, found.difference);
    let mut told: Vec<String> = differences.iter().take(SHOWN).map(of).collect();
    if differences.len() > SHOWN {
        told.push(format!("and {} more", differences.len() - SHOWN));
    }
    told.join("; ")
}

/// More than one server that makes keys.
pub fn primaries(found: &mut [Found]) {
    let makes: Vec<String> = found
        .iter()
        .filter(|found| {
            (found.state.as_ref())
                .is_some_and(|state| state.role == "primary" && state.follows.is_none())
        })
        .map(|found| found.node.clone())
        .collect();
    if makes.len() > 1 {
        let names = makes.join(", ");
        for found in found.iter_mut().filter(|found| makes.contains(&found.node)) {
            found.add(Severity::Critical, "two_primaries", &names);
        }
    }
}
