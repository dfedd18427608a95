//! What a follower's key catalog has otherwise than the primary's, by name.
//!
//! Some of it is each server's own and no drift: how a provider is reached, which tables there are, marks that jobs
//! made of marked values, and a destruction that waits for the server's own rows.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// A thing that is not the same; the names are part of the interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// What kind of thing it is.
    pub part: &'static str,
    pub name: String,
    /// `missing`, `only here`, or the fields that differ.
    pub difference: String,
}

/// A catalog as `catalog_content()` has it.
#[derive(Clone, Debug, Default)]
pub struct Content(Value);

type Row = Map<String, Value>;

impl Content {
    pub fn of(text: &str) -> Result<Self, String> {
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| format!("catalog_content(): {error}"))
    }

    fn rows(&self, part: &str) -> impl Iterator<Item = &Row> {
        let rows = self.0[part].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().filter_map(Value::as_object)
    }

    /// Registered columns, as JSON.
    pub fn columns(&self) -> String {
        self.0["columns"].to_string()
    }

    /// The name of a key or keyring by its number.
    fn named(&self, part: &str, id: &str, number: &Value) -> String {
        let found = self.rows(part).find(|row| &row[id] == number);
        match found.and_then(|row| row["name"].as_str()) {
            Some(name) => name.into(),
            None => number.to_string(),
        }
    }
}

/// How a thing is called, and with that told from others of its part.
type Naming = fn(&Content, &Row) -> String;

fn name(_: &Content, row: &Row) -> String {
    text(&row["name"])
}

fn version_of_key(content: &Content, row: &Row) -> String {
    let key = content.named("keys", "key_id", &row["key_id"]);
    format!("{key} version {}", row["version"])
}

fn version_of_keyring(content: &Content, row: &Row) -> String {
    let keyring = content.named("keyrings", "keyring_id", &row["keyring_id"]);
    format!("{keyring} version {}", row["version"])
}

fn root_of_keyring(content: &Content, row: &Row) -> String {
    let root = text(&row["root_key"]);
    let provider = content.named("providers", "provider_id", &row["provider_id"]);
    format!("{} at {provider} {root}", version_of_keyring(content, row))
        .trim_end()
        .into()
}

fn grant(content: &Content, row: &Row) -> String {
    let on = match &row["key_id"] {
        Value::Null => format!(
            "keyring {}",
            content.named("keyrings", "keyring_id", &row["keyring_id"])
        ),
        key => format!("key {}", content.named("keys", "key_id", key)),
    };
    format!("{} on {on}", text(&row["grantee"]))
}

fn mark(content: &Content, row: &Row) -> String {
    let key = content.named("keys", "key_id", &row["key_id"]);
    format!("{key} {}", text(&row["origin"]))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

/// What a follower has from its primary. Of marks and grants that there are two of for one thing, the last counts.
const PARTS: [(&str, &str, Naming); 7] = [
    ("keyrings", "keyring", name),
    ("kek_versions", "key encryption key", version_of_keyring),
    ("kek_copies", "root key", root_of_keyring),
    ("keys", "key", name),
    ("key_versions", "key version", version_of_key),
    ("grants", "grant", grant),
    ("honeytokens", "honeytoken", mark),
];

fn things(content: &Content, part: &str, naming: Naming) -> BTreeMap<String, Row> {
    let rows = content.rows(part);
    rows.map(|row| (naming(content, row), row.clone()))
        .collect()
}

/// What is drift. Registrations are only compared where the follower has one.
pub fn drift(primary: &Content, follower: &Content) -> Vec<Difference> {
    let mut found = Vec::new();
    for (part, word, naming) in PARTS {
        let (theirs, ours) = (
            things(primary, part, naming),
            things(follower, part, naming),
        );
        for (name, row) in &theirs {
            let difference = match ours.get(name) {
                None => "missing".into(),
                Some(_) if part == "honeytokens" => continue,
                Some(own) if part == "key_versions" && waits(row, own) => continue,
                Some(own) => fields(row, own, &["destroy_at"]),
            };
            found.push((word, name.clone(), difference));
        }
        for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
            found.push((word, name.clone(), "only here".into()));
        }
    }
    let place = |_: &Content, row: &Row| {
        let names = ["schema", "relation", "attribute"].map(|part| text(&row[part]));
        names.join(".")
    };
    let (theirs, ours) = (
        things(primary, "columns", place),
        things(follower, "columns", place),
    );
    for (name, row) in &theirs {
        if let Some(own) = ours.get(name) {
            found.push(("column", name.clone(), fields(row, own, &[])));
        }
    }
    differences(found)
}

/// How it reaches a provider otherwise than the primary does: its own affair.
pub fn own_settings(primary: &Content, follower: &Content) -> Vec<Difference> {
    let (theirs, ours) = (
        things(primary, "providers", name),
        things(follower, "providers", name),
    );
    let of = |(name, row): (&String, &Row)| {
        let own = ours.get(name)?;
        Some(("provider", name.clone(), fields(row, own, &["provider_id"])))
    };
    differences(theirs.iter().filter_map(of).collect())
}

fn differences(found: Vec<(&'static str, String, String)>) -> Vec<Difference> {
    let some = found
        .into_iter()
        .filter(|(_, _, difference)| !difference.is_empty());
    some.map(|(part, name, difference)| Difference {
        part,
        name,
        difference,
    })
    .collect()
}

/// Whether it is destroyed on the primary and waits here for rows that need it, or is destroyed here first.
fn waits(theirs: &Row, own: &Row) -> bool {
    let ends = |row: &Row| {
        matches!(
            row["state"].as_str(),
            Some("destroyed" | "destruction scheduled")
        )
    };
    let is_destroyed = |row: &Row| !row["destroyed_at"].is_null();
    ends(theirs) && ends(own) && (is_destroyed(theirs) || is_destroyed(own))
}

/// The fields in which two are not the same.
fn fields(theirs: &Row, own: &Row, but: &[&str]) -> String {
    let differ = theirs.keys().filter(|field| {
        !but.contains(&field.as_str()) && own.get(field.as_str()) != theirs.get(field.as_str())
    });
    differ.cloned().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn catalog() -> Value {
        json!({
            "providers": [{"name": "local", "provider_id": 1, "kind": "file", "config": {"path": "/a"}}],
            "keyrings": [{"name": "ring", "keyring_id": "u", "current_version": 1}],
            "keys": [{"name": "k", "key_id": 7, "current_version": 1}],
            "key_versions": [{"key_id": 7, "version": 1, "state": "active", "destroy_at": null, "destroyed_at": null}],
            "grants": [{"grantee": "app", "key_id": 7, "keyring_id": null, "can_decrypt": true}],
            "honeytokens": [{"key_id": 7, "tag": "t1", "origin": "t1"}],
            "columns": [{"schema": "public", "relation": "t", "attribute": "v", "key": "k"}],
        })
    }

    fn told(other: &Value) -> String {
        let found = drift(&Content(catalog()), &Content(other.clone()));
        let line =
            |found: &Difference| format!("{} {}: {}", found.part, found.name, found.difference);
        found.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_differs_is_named_and_what_is_a_servers_own_is_none() {
        let mut other = catalog();
        other["providers"][0]["config"]["path"] = "/b".into();
        other["columns"] = json!([]);
        other["honeytokens"][0]["tag"] = "t2".into();
        assert_eq!(told(&other), "");
        let own = own_settings(&Content(catalog()), &Content(other.clone()));
        assert_eq!((own.len(), own[0].difference.as_str()), (1, "config"));

        other["key_versions"][0]["state"] = "suspended".into();
        other["grants"] = json!([{"grantee": "other", "key_id": 7, "keyring_id": null}]);
        other["columns"] =
            json!([{"schema": "public", "relation": "t", "attribute": "v", "key": "l"}]);
        other["honeytokens"] = json!([]);
        assert_eq!(
            told(&other),
            "key version k version 1: state; grant app on key k: missing; grant other on key k: only here; \
             honeytoken k t1: missing; column public.t.v: key"
        );
    }

    #[test]
    fn a_destruction_that_waits_here_is_no_drift() {
        let mut theirs = catalog();
        theirs["key_versions"][0]["state"] = "destroyed".into();
        theirs["key_versions"][0]["destroyed_at"] = "then".into();
        let mut own = catalog();
        own["key_versions"][0]["state"] = "destruction scheduled".into();
        let differ = |own: &Value| drift(&Content(theirs.clone()), &Content(own.clone())).len();
        assert_eq!((differ(&own), differ(&catalog())), (0, 1));
    }
}
