//! What is written through an access view: the statements of its trigger, each on one row that is found by its key.
//!
//! Parameters: `$1` is the row that the view showed, `$2` the one that is to be, both of the view's type; from `$3` on
//! the encrypted columns' ciphertexts as they are, then as they shall be.

use colcrypt_core::place;

use crate::context;
use crate::error::{Error, Result};
use crate::quote::{quote_identifier, quote_literal};
use crate::view::{Encryption, KeyOf, ViewColumn, may_read};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// What a statement that writes gives back of the row as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Returned {
    Nothing,
    /// The columns that are not encrypted.
    Plain,
    /// The ciphertexts, too: the table's own triggers may have changed them.
    All,
}

/// A statement of this view, by what it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Current,
    /// Whether the row is there, whatever it holds.
    There,
    /// Whether it is there and holds what it held.
    Unchanged,
    Compute(Operation),
    Insert(Returned),
    /// The columns to set.
    Update(Vec<bool>, Returned),
    Delete,
    /// What the view shows of the encrypted columns that the table's own triggers changed. Nobody is known to have
    /// asked for it, so it is NULL, and no error, for who may not decrypt.
    Shown(Vec<bool>),
}

impl Step {
    /// Whether it is computed from the parameters alone, by expressions of others.
    #[must_use]
    pub const fn computes(&self) -> bool {
        matches!(self, Self::Compute(_) | Self::Shown(_))
    }
}

/// A view and its table, as far as statements are made of them.
#[derive(Clone, Debug)]
pub struct ViewRows {
    /// The table, qualified and quoted.
    pub table: String,
    /// The table's bare name, quoted: expressions may qualify their columns with it.
    pub alias: String,
    pub columns: Vec<ViewColumn>,
    /// The columns' names in the view, quoted: those of the table when the view was made.
    pub names: Vec<String>,
    /// Which columns are encrypted.
    pub encrypted: Vec<usize>,
    /// Finds the row that the view gave as $1.
    pub key: Option<String>,
}

impl ViewRows {
    /// `names` are the columns' names in the view, quoted, in the order of `columns`.
    #[must_use]
    pub fn new(
        relation: &str,
        table: String,
        columns: Vec<ViewColumn>,
        names: Vec<String>,
        key: Option<String>,
    ) -> Self {
        Self {
            table,
            alias: quote_identifier(relation),
            encrypted: (0..columns.len())
                .filter(|&at| columns[at].encrypted.is_some())
                .collect(),
            columns,
            names,
            key,
        }
    }

    fn registered(&self, at: usize) -> &Encryption {
        self.columns[at]
            .encrypted
            .as_ref()
            .expect("an encrypted column")
    }

    /// The parameter that holds an encrypted column's value as it is.
    fn current(&self, nth: usize) -> String {
        format!("${}", 3 + nth)
    }

    /// The parameter that holds its value as it shall be.
    fn future(&self, nth: usize) -> String {
        format!("${}", 3 + self.encrypted.len() + nth)
    }

    /// Columns whose values are the table's own and not computed from others.
    pub fn plain(&self) -> impl Iterator<Item = usize> {
        (0..self.columns.len()).filter(|&at| self.columns[at].is_plain())
    }

    /// # Errors
    /// [`Error::NoRowKey`].
    pub fn key(&self) -> Result<&str> {
        self.key.as_deref().ok_or_else(|| Error::NoRowKey {
            table: self.table.clone(),
        })
    }

    /// That the row holds what it held.
    fn unchanged(&self) -> String {
        let (mut stored, mut seen) = (Vec::new(), Vec::new());
        for at in self.plain() {
            stored.push(self.columns[at].quoted());
            seen.push(format!("($1).{}", self.names[at]));
        }
        for (nth, &at) in self.encrypted.iter().enumerate() {
            let column = self.columns[at].quoted();
            stored.push(format!("{column}::colcrypt.ciphertext::pg_catalog.bytea"));
            seen.push(format!("{}::pg_catalog.bytea", self.current(nth)));
        }
        same(&stored.join(", "), &seen.join(", "))
    }

    /// An expression of the table owner's over the row that is this parameter.
    fn over(&self, expression: &str, as_type: &str, row: &str) -> String {
        let known: Vec<String> = self
            .plain()
            .map(|at| {
                let name = &self.names[at];
                format!("({row}).{name} AS {}", self.columns[at].quoted())
            })
            .collect();
        let sql = context::over(expression, as_type, &known, None, &self.alias);
        format!("({sql})")
    }

    /// The statement of a step.
    ///
    /// # Errors
    /// [`Error::NoRowKey`] where it would have to find a row and cannot.
    pub fn sql(&self, step: &Step) -> Result<String> {
        let table = &self.table;
        Ok(match step {
            Step::Current => {
                let columns: Vec<String> = self
                    .encrypted
                    .iter()
                    .map(|&at| format!("{}::colcrypt.ciphertext", self.columns[at].quoted()))
                    .collect();
                format!(
                    "SELECT {} FROM {table} WHERE {}",
                    columns.join(", "),
                    self.key()?
                )
            }
            Step::There => format!("SELECT FROM {table} WHERE {}", self.key()?),
            Step::Unchanged => format!(
                "SELECT FROM {table} WHERE {} AND {}",
                self.key()?,
                self.unchanged()
            ),
            Step::Compute(Operation::Insert) => self.compute_insert(),
            Step::Compute(_) => self.compute_update(),
            Step::Insert(returned) => self.insert(*returned),
            Step::Update(changed, returned) => {
                let mut sets = Vec::new();
                for (at, _) in changed.iter().enumerate().filter(|&(_, &set)| set) {
                    let value = match self.encrypted.iter().position(|&other| other == at) {
                        Some(nth) => self.future(nth),
                        None => format!("($2).{}", self.names[at]),
                    };
                    sets.push(format!("{} = {value}", self.columns[at].quoted()));
                }
                format!(
                    "UPDATE {table} SET {} WHERE {} AND {}{}",
                    sets.join(", "),
                    self.key()?,
                    self.unchanged(),
                    self.returning(*returned)
                )
            }
            Step::Delete => format!(
                "DELETE FROM {table} WHERE {} AND {}",
                self.key()?,
                self.unchanged()
            ),
            Step::Shown(changed) => self.shown(changed),
        })
    }

    fn returning(&self, returned: Returned) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| match column.encrypted {
                None => column.quoted(),
                Some(_) if returned == Returned::All => {
                    format!("{}::colcrypt.ciphertext", column.quoted())
                }
                Some(_) => "NULL".into(),
            })
            .collect();
        match returned {
            Returned::Nothing => String::new(),
            _ => format!(" RETURNING {}", columns.join(", ")),
        }
    }

    fn shown(&self, changed: &[bool]) -> String {
        let mut values = Vec::new();
        for (nth, &at) in self.encrypted.iter().enumerate() {
            if !changed[nth] {
                values.push("NULL".into());
                continue;
            }
            let registered = self.registered(at);
            let type_name = &registered.plaintext_type;
            let context = match &registered.context {
                Some(expression) => format!(", {}", self.over(expression, context::BYTES, "$2")),
                None => String::new(),
            };
            let key = match &registered.key {
                KeyOf::Column(name) => quote_literal(name),
                // What the table's triggers made of it may be under any key.
                KeyOf::Row { .. } => {
                    format!("(colcrypt.ciphertext_info({})).key", self.current(nth))
                }
            };
            values.push(format!(
                "(CASE WHEN {} AND colcrypt.has_key_privilege({key}, 'decrypt') \
                 THEN colcrypt.decrypt_col({}, NULL::{type_name}{context}) END)::{}",
                may_read(&self.table, &self.columns[at].name),
                self.current(nth),
                registered.declared.as_ref().unwrap_or(type_name)
            ));
        }
        format!("SELECT {}", values.join(", "))
    }

    /// Whether an INSERT is given ciphertexts that were computed before: to run expressions of others in a step of its
    /// own with a safe search path, or to compare what comes back with them. Else it encrypts by itself, which is a
    /// third faster.
    #[must_use]
    pub fn computes_before(&self, returned: Returned) -> bool {
        self.has_expressions() || returned == Returned::All
    }

    fn insert(&self, returned: Returned) -> String {
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for (at, column) in self.columns.iter().enumerate() {
            if column.is_generated {
                continue;
            }
            columns.push(column.quoted());
            values.push(match self.encrypted.iter().position(|&e| e == at) {
                Some(_) if !self.computes_before(returned) => self.encryption(at),
                Some(nth) => self.future(nth),
                None => format!("($2).{}", self.names[at]),
            });
        }
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}){}",
            self.table,
            columns.join(", "),
            values.join(", "),
            self.returning(returned)
        )
    }

    fn has_expressions(&self) -> bool {
        let mut registered = self.encrypted.iter().map(|&at| self.registered(at));
        registered.any(|registered| registered.expressions().next().is_some())
    }

    /// Whether an expression has names in it that mean what the search path says.
    #[must_use]
    pub fn hangs_on_search_path(&self) -> bool {
        let mut expressions = self
            .encrypted
            .iter()
            .flat_map(|&at| self.registered(at).expressions());
        expressions.any(|(expression, _)| !place::is_plain(expression))
    }

    fn compute_insert(&self) -> String {
        let values: Vec<String> = self
            .encrypted
            .iter()
            .map(|&at| self.encryption(at))
            .collect();
        format!("SELECT {}", values.join(", "))
    }

    /// The new row's value of this column, encrypted.
    fn encryption(&self, at: usize) -> String {
        let value = format!("($2).{}", self.names[at]);
        self.registered(at).call(&value, |expression, as_type| {
            self.over(expression, as_type, "$2")
        })
    }

    /// For each encrypted column: whether the plaintext is what it was, whether it must be written, and
    /// what; then for each column whether it changed.
    fn compute_update(&self) -> String {
        let (mut values, mut from) = (Vec::new(), Vec::new());
        for (nth, &at) in self.encrypted.iter().enumerate() {
            let registered = self.registered(at);
            let (name, current) = (&self.names[at], self.current(nth));
            let (mut fields, mut moved, mut before) = (Vec::new(), Vec::new(), String::new());
            for (expression, as_type) in registered.expressions() {
                let (old, new) = names_of(as_type);
                for (row, name) in [("$1", old), ("$2", new)] {
                    fields.push(format!("{} AS {name}", self.over(expression, as_type, row)));
                }
                moved.push(format!("x{nth}.{old} IS DISTINCT FROM x{nth}.{new}"));
                if as_type == context::BYTES {
                    before = format!(", x{nth}.{old}");
                }
            }
            if !fields.is_empty() {
                from.push(format!("(SELECT {}) AS x{nth}", fields.join(", ")));
            }
            let moved = match &moved[..] {
                [] => "false".into(),
                [one] => format!("{current} IS NOT NULL AND {one}"),
                all => format!("{current} IS NOT NULL AND ({})", all.join(" OR ")),
            };
            let sees = may_read(&self.table, &self.columns[at].name);
            let stored = format!(
                "colcrypt.decrypt_col({current}, NULL::{}{before})",
                registered.plaintext_type
            );
            let given = format!(
                "NOT {}",
                same(&format!("($1).{name}"), &format!("($2).{name}"))
            );
            values.push(format!(
                "CASE WHEN {sees} THEN {} ELSE true END",
                same(&stored, &format!("($1).{name}"))
            ));
            values.push(format!("({given} OR {moved})"));
            let plaintext =
                format!("CASE WHEN {given} OR {sees} THEN ($2).{name} ELSE {stored} END");
            let encrypted = registered.call(&plaintext, |_, as_type| {
                let (_, new) = names_of(as_type);
                format!("x{nth}.{new}")
            });
            values.push(format!("CASE WHEN {given} OR {moved} THEN {encrypted} END"));
        }
        for name in &self.names {
            values.push(format!(
                "NOT {}",
                same(&format!("($1).{name}"), &format!("($2).{name}"))
            ));
        }
        let from = if from.is_empty() {
            String::new()
        } else {
            format!(" FROM {}", from.join(", "))
        };
        format!("SELECT {}{from}", values.join(", "))
    }
}

/// What an expression over the row as it was and as it shall be is called: a context, or a key's name.
fn names_of(as_type: &str) -> (&'static str, &'static str) {
    match as_type == context::BYTES {
        true => ("o", "n"),
        false => ("p", "q"),
    }
}

/// Whether two lists of values are the same, bit by bit: every type can be compared so.
fn same(left: &str, right: &str) -> String {
    format!(
        "(ROW({left})::pg_catalog.record OPERATOR(pg_catalog.*=) ROW({right})::pg_catalog.record)"
    )
}

/// The condition that finds the row $1, of a unique key's columns, each with its operator's schema and name; none when
/// the view does not show one of them, or there is no key.
#[must_use]
pub fn row_key(parts: &[[String; 3]], columns: &[ViewColumn], names: &[String]) -> Option<String> {
    let conditions: Option<Vec<String>> = parts
        .iter()
        .map(|[column, schema, operator]| {
            let at = columns.iter().position(|other| other.name == *column)?;
            Some(format!(
                "{} OPERATOR({}.{operator}) ($1).{}",
                columns[at].quoted(),
                quote_identifier(schema),
                names[at]
            ))
        })
        .collect();
    conditions
        .filter(|all| !all.is_empty())
        .map(|all| all.join(" AND "))
}

#[cfg(test)]
mod tests;
