//! What a server says of itself among those that share keys.

use postgres::Client;
use serde::Serialize;

use crate::connection::refusal;
use crate::nodes::drift::Content;
use crate::nodes::list::Node;
use crate::screen::printable;

const STATE: &str = "
    SELECT current_setting('colcrypt.node', true), colcrypt.follows(), n.origin::text, n.epoch,
           to_char(n.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), c::text,
           coalesce(encode(sha256(convert_to(c::text, 'UTF8')), 'hex') = n.digest, false), pg_is_in_recovery()
    FROM colcrypt.catalog_content() c LEFT JOIN colcrypt.node_state n ON true";

/// Each root key is asked, whatever is cached.
const ROOTS: &str = "
    SELECT r.name, c.kek_version, concat_ws(' ', c.provider, nullif(c.root_key, '')), c.opens, c.problem
    FROM colcrypt.keyring r, colcrypt.check_roots(r.name) c WHERE c.opens IS NOT NULL ORDER BY 1, 2, c.preference";

/// Columns of ciphertexts that are registered on the primary, and here are not.
const UNREGISTERED: &str = "
    SELECT format('%s.%s.%s', o.schema, o.relation, o.attribute)
    FROM jsonb_to_recordset($1::text::jsonb) AS o (schema text, relation text, attribute text)
    JOIN pg_namespace n ON n.nspname = o.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = o.relation
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = o.attribute AND NOT a.attisdropped
    WHERE a.atttypid = to_regtype('colcrypt.ciphertext')
      AND NOT EXISTS (SELECT FROM colcrypt.protected_column p WHERE p.relation = c.oid AND p.attribute = o.attribute)
    ORDER BY 1";

/// The names are part of the interface, as those of what holds it.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    pub role: String,
    pub follows: Option<String>,
    pub origin: Option<String>,
    pub epoch: Option<i64>,
    /// When that was exported or imported.
    pub at: Option<String>,
    pub in_recovery: bool,
    pub roots: Vec<Root>,
    #[serde(skip)]
    pub content: Content,
    /// Whether the catalog is still what was exported or imported.
    #[serde(skip)]
    pub is_unchanged: bool,
    #[serde(skip)]
    pub unregistered: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Root {
    pub keyring: String,
    pub kek_version: i32,
    pub root: String,
    pub opens: bool,
    pub problem: Option<String>,
}

/// Asks a server; its registrations are compared with the columns of `primary`, if that is another.
///
/// # Errors
/// In words for people.
pub fn ask(node: &Node, primary: Option<&Content>) -> Result<State, String> {
    let mut client = node.connect()?;
    read(&mut client, primary).map_err(|error| refusal(&error))
}

fn read(client: &mut Client, primary: Option<&Content>) -> Result<State, postgres::Error> {
    let row = client.query_one(STATE, &[])?;
    let content = Content::of(row.try_get(5)?).unwrap_or_default();
    let roots = client.query(ROOTS, &[])?;
    let unregistered = match primary {
        Some(primary) => client.query(UNREGISTERED, &[&primary.columns()])?,
        None => Vec::new(),
    };
    let words = |text: Option<String>| text.map(|text| printable(&text));
    Ok(State {
        role: words(row.try_get(0)?).unwrap_or_default(),
        follows: words(row.try_get(1)?),
        origin: row.try_get(2)?,
        epoch: row.try_get(3)?,
        at: row.try_get(4)?,
        in_recovery: row.try_get(7)?,
        roots: roots
            .iter()
            .map(|row| {
                Ok(Root {
                    keyring: printable(row.try_get(0)?),
                    kek_version: row.try_get(1)?,
                    root: printable(row.try_get(2)?),
                    opens: row.try_get(3)?,
                    problem: words(row.try_get(4)?),
                })
            })
            .collect::<Result<_, postgres::Error>>()?,
        content,
        is_unchanged: row.try_get(6)?,
        unregistered: unregistered
            .iter()
            .map(|row| printable(row.get(0)))
            .collect(),
    })
}

impl Root {
    /// Whether another root key gives the same key encryption key.
    pub fn is_stood_in_for(&self, roots: &[Self]) -> bool {
        roots.iter().any(|root| {
            root.opens && root.keyring == self.keyring && root.kek_version == self.kek_version
        })
    }

    pub fn told(&self) -> String {
        format!(
            "keyring {} version {}: {} does not open: {}",
            self.keyring,
            self.kek_version,
            self.root,
            self.problem.as_deref().unwrap_or("no reason is known")
        )
    }
}
