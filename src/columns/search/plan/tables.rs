//! What is known of a table that a query reads: its encrypted columns, their search indexes, and whether terms are kept
//! in all that lies in it. Kept for the session until the table, one that its rows lie in, or the key catalog changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::rc::Rc;

use colcrypt_core::{KeyId, KeyVersion, VersionId};
use colcrypt_domain::search::{TRIGGER, TRIGGER_TYPE};
use colcrypt_search::{Kind, unicode_version};
use pgrx::pg_sys;

use crate::catalog::search::{self, CompanionState, SearchIndex};
use crate::columns::registration;
use crate::columns::search::plan::decided::Why;
use crate::error::Result;
use crate::server::{heirs, relation, types, watched};
use crate::session::{self, search::Standing};
use crate::settings::{self, WithoutKey};

/// The function of the trigger that keeps terms.
const FUNCTION: &CStr = c"keep_terms";

pub struct KnownTable {
    pub columns: Vec<KnownColumn>,
    /// Why terms are not kept in all of it.
    unkept: Option<Why>,
}

pub struct KnownColumn {
    /// Its number in this table, which may be a partition.
    pub number: i16,
    pub name: String,
    /// The table that it is registered of, and its number there.
    pub root: pg_sys::Oid,
    pub number_in_root: i16,
    /// Its type with a length, as it is registered.
    declared: Option<String>,
    /// The keys that its values are under; none where rows have keys of their own.
    keys: Option<Vec<KeyId>>,
    indexes: Vec<KnownIndex>,
}

struct KnownIndex {
    index: SearchIndex,
    companions: Vec<KnownCompanion>,
}

struct KnownCompanion {
    number: i16,
    version: KeyVersion,
    state: CompanionState,
    has_been_ready: bool,
    ready_xid: Option<u64>,
}

/// A companion that a query of the role at hand may use.
#[derive(Clone, Copy)]
pub struct Usable<'a> {
    pub index: &'a SearchIndex,
    /// Its number in the table.
    pub number: i16,
    pub version: KeyVersion,
    /// Whether its key is not in use, so that a look-up says what is the matter with it.
    pub only_says_why: bool,
}

impl Usable<'_> {
    /// Whether terms of both are equal where values are.
    pub fn is_comparable(&self, other: &Usable<'_>) -> bool {
        let (one, two) = (self.index, other.index);
        // No key is asked for where terms are compared: it could not say why.
        !self.only_says_why
            && self.version == other.version
            && one.key == two.key
            && one.terms_of() == two.terms_of()
            && (one.kind, one.class, one.bits) == (two.kind, two.class, two.bits)
            && one.normalise == two.normalise
            && one.normaliser_version == two.normaliser_version
    }
}

impl KnownColumn {
    /// Whether the role at hand may decrypt all of its values. Where rows have keys of their own, nobody is asked for
    /// each.
    pub fn may_be_read(&self) -> bool {
        let mut keys = self.keys.iter().flatten();
        self.keys.is_some() && keys.all(|key| session::search::may_decrypt(*key))
    }

    /// Whether an expression makes values as long as an access view shows them: terms are of what is shown. These are
    /// the types with a length, by their names, that it makes them fit; a collation may be declared with one.
    pub fn is_as_shown(&self, lengths: &[String]) -> bool {
        let declared = self.declared.as_deref().unwrap_or_default();
        let is_declared = |length: &String| {
            let rest = declared.strip_prefix(length.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" COLLATE "))
        };
        lengths.iter().all(is_declared) && (self.length().is_none() || !lengths.is_empty())
    }

    /// The type and length that it is registered with.
    fn length(&self) -> Option<(pg_sys::Oid, i32)> {
        let declared = self.declared.as_deref().unwrap_or_default();
        types::declared_length(declared).ok().flatten()
    }

    /// The length of a column of texts, as the server has it: `varchar(40)`.
    pub fn text_length(&self) -> Option<i32> {
        let (type_oid, length) = self.length()?;
        (type_oid == pg_sys::VARCHAROID).then_some(length)
    }
}

impl KnownTable {
    pub fn column(&self, number: i16) -> Option<&KnownColumn> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// The companions of a column's index of this kind that may be used now, the best first: under the newest version.
    ///
    /// # Errors
    /// Why there is none.
    pub fn usable<'a>(
        &'a self,
        column: &'a KnownColumn,
        kind: Kind,
    ) -> std::result::Result<Vec<Usable<'a>>, Why> {
        let found = column.indexes.iter().find(|known| known.index.kind == kind);
        let known = found.ok_or(Why::NoIndex(kind))?;
        let folds = kind == Kind::Text || !known.index.normalise.is_empty();
        if folds && known.index.unicode_version != unicode_version() {
            return Err(Why::OtherUnicode);
        }
        let mut ready: Vec<&KnownCompanion> = known
            .companions
            .iter()
            .filter(|companion| companion.state == CompanionState::Ready)
            .collect();
        // One that is made for the first time has no trigger yet: that is not what is missing.
        let is_first = ready.is_empty() && !known.companions.iter().any(|it| it.has_been_ready);
        if let Some(why) = self.unkept.as_ref().filter(|_| !is_first) {
            return Err(why.clone());
        }
        if ready.is_empty() {
            return Err(Why::NotReady(kind));
        }
        ready.retain(|companion| companion.ready_xid.is_some_and(is_seen_by_all));
        if ready.is_empty() {
            return Err(Why::OlderSnapshot);
        }
        ready.sort_unstable_by_key(|companion| std::cmp::Reverse(companion.version.number()));
        by_key(&known.index, &ready)
    }
}

/// The first of some companions whose key is to be had. Only a look-up asks: none is needed where terms are compared.
///
/// # Errors
/// That there is none, unless the look-up itself is to say so.
pub fn with_key<'a>(companions: &[Usable<'a>]) -> std::result::Result<Usable<'a>, Why> {
    let errs = settings::SEARCH_WITHOUT_KEY.get() == WithoutKey::Error;
    let has_key = |it: &&Usable<'a>| {
        errs || session::search::is_in_reach(VersionId {
            key: it.index.key,
            version: it.version,
        })
    };
    let first = companions.iter().find(has_key);
    first.copied().ok_or(Why::OutOfReach)
}

/// Those of an index's companions that the role at hand may look up by now, their keys considered.
fn by_key<'a>(
    index: &'a SearchIndex,
    companions: &[&KnownCompanion],
) -> std::result::Result<Vec<Usable<'a>>, Why> {
    let errs = settings::SEARCH_WITHOUT_KEY.get() == WithoutKey::Error;
    let (mut usable, mut out_of_use) = (Vec::new(), Vec::new());
    let mut why = Why::NoRight;
    for companion in companions {
        let id = VersionId {
            key: index.key,
            version: companion.version,
        };
        let it = |only_says_why| Usable {
            index,
            number: companion.number,
            version: companion.version,
            only_says_why,
        };
        match session::search::standing(id) {
            Standing::NoRight => {}
            Standing::OutOfUse => {
                why = Why::OutOfUse;
                out_of_use.push(it(true));
            }
            Standing::May => usable.push(it(false)),
        }
    }
    if usable.is_empty() && errs {
        usable = out_of_use;
    }
    match usable.is_empty() {
        true => Err(why),
        false => Ok(usable),
    }
}

/// Whether each snapshot of this process sees what a transaction did: as the server has it for an index that broken
/// chains of updates may lead past (indcheckxmin). A transaction of the future is one of the server that this was
/// restored from.
fn is_seen_by_all(transaction: u64) -> bool {
    // SAFETY: reads a counter, and a variable of the process; a query is planned under a snapshot.
    let (next, oldest) = unsafe {
        (
            pg_sys::ReadNextFullTransactionId().value,
            u64::from(pg_sys::TransactionXmin.into_inner()),
        )
    };
    // The oldest one lies less than a round of the counter before the next.
    let round = u64::from(u32::MAX) + 1;
    let same_round = next / round * round + oldest;
    let oldest = if same_round > next {
        same_round.saturating_sub(round)
    } else {
        same_round
    };
    transaction < oldest || transaction >= next
}

struct Kept {
    epoch: u64,
    generation: u64,
    tables: HashMap<pg_sys::Oid, Rc<KnownTable>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::new(Kept {
        epoch: 0,
        generation: 0,
        tables: HashMap::new(),
    });
}

/// The table of this OID, which the statement has locked; none where it has no encrypted column.
///
/// # Errors
/// Of the key catalog.
pub fn known(
    table: pg_sys::Oid,
    ciphertext: pg_sys::Oid,
    epoch: u64,
) -> Result<Option<Rc<KnownTable>>> {
    let generation = watched::generation();
    let kept = KEPT.with_borrow_mut(|kept| {
        if (kept.epoch, kept.generation) != (epoch, generation) {
            kept.epoch = epoch;
            kept.generation = generation;
            kept.tables.clear();
        }
        kept.tables.get(&table).cloned()
    });
    if kept.is_some() {
        return Ok(kept);
    }
    let columns = heirs::columns_of_type(table, ciphertext);
    if columns.is_empty() {
        return Ok(None);
    }
    let known = Rc::new(look(table, columns)?);
    KEPT.with_borrow_mut(|kept| {
        // Whatever was looked up may have changed meanwhile.
        if (kept.epoch, kept.generation) == (epoch, watched::generation()) {
            kept.tables.insert(table, known.clone());
        }
    });
    Ok(Some(known))
}

fn look(table: pg_sys::Oid, columns: Vec<(i16, String)>) -> Result<KnownTable> {
    let mut root = table;
    let mut indexes = search::indexes_of(table)?;
    if indexes.is_empty() {
        for ancestor in heirs::ancestors(table) {
            indexes = search::indexes_of(ancestor)?;
            if !indexes.is_empty() {
                root = ancestor;
                break;
            }
        }
    }
    // Watched before it is looked at, each: what changes afterwards is heard of.
    watched::watch([table, root]);
    let below = if indexes.is_empty() {
        Vec::new()
    } else {
        heirs::with_heirs(table)
    };
    watched::watch(below.iter().copied());
    let unkept = below.into_iter().find_map(why_unkept);
    let mut all = Vec::new();
    for (number, name) in columns {
        let of_column = indexes.iter().filter(|index| index.attribute == name);
        let of_column: Vec<KnownIndex> = of_column.map(|index| in_table(table, index)).collect();
        let (declared, keys) = match of_column.is_empty() {
            true => (None, None),
            false => (
                search::declared(root, &name)?,
                registration::keys_in_use(root, &name)?,
            ),
        };
        all.push(KnownColumn {
            number,
            number_in_root: number_of(root, &name),
            name,
            root,
            declared,
            keys,
            indexes: of_column,
        });
    }
    Ok(KnownTable {
        columns: all,
        unkept,
    })
}

/// An index with its companions as they are in this table.
fn in_table(table: pg_sys::Oid, index: &SearchIndex) -> KnownIndex {
    let holds = match index.kind {
        Kind::Equality => pg_sys::BYTEAOID,
        Kind::Range | Kind::Text => pg_sys::INT8ARRAYOID,
    };
    let companions = index.companions.iter().filter_map(|companion| {
        let number = number_of(table, &companion.attribute);
        // SAFETY: a look-up in the attribute catalog.
        let type_oid = unsafe { pg_sys::get_atttype(table, number) };
        (number > 0 && type_oid == holds).then_some(KnownCompanion {
            number,
            version: companion.version,
            state: companion.state,
            has_been_ready: companion.has_been_ready,
            ready_xid: companion.ready_xid,
        })
    });
    KnownIndex {
        companions: companions.collect(),
        index: index.clone(),
    }
}

/// The number of a table's column; 0 where it has none of this name.
fn number_of(table: pg_sys::Oid, column: &str) -> i16 {
    // SAFETY: a look-up in the attribute catalog.
    CString::new(column).map_or(0, |name| unsafe {
        pg_sys::get_attnum(table, name.as_ptr())
    })
}

/// Why terms are not kept in the rows of this very table.
fn why_unkept(table: pg_sys::Oid) -> Option<Why> {
    let shown = || relation::shown(table).unwrap_or_default();
    // SAFETY: the table, or one that its rows lie in, is locked here; what is of its cache entry is there while it is
    // open.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let open = pg_sys::try_relation_open(table, lock);
        if open.is_null() {
            return None;
        }
        let it = &*(*open).rd_rel;
        let (kind, persistence) = (it.relkind as u8, it.relpersistence as u8);
        let why = match kind {
            pg_sys::RELKIND_PARTITIONED_TABLE => None,
            pg_sys::RELKIND_RELATION if persistence == pg_sys::RELPERSISTENCE_PERMANENT => {
                (!has_trigger((*open).trigdesc)).then(|| Why::NotKept(shown()))
            }
            _ => Some(Why::NotHere(shown())),
        };
        pg_sys::relation_close(open, lock);
        why
    }
}

/// Whether a table has our trigger, and it fires whoever writes.
///
/// # Safety
/// An open table's triggers, or null.
unsafe fn has_trigger(triggers: *mut pg_sys::TriggerDesc) -> bool {
    // SAFETY: the caller's promise; there are as many as it says, and a name is a C string.
    unsafe {
        let Some(all) = triggers.as_ref() else {
            return false;
        };
        (0..all.numtriggers.max(0) as usize)
            .map(|at| &*all.triggers.add(at))
            .any(|trigger| {
                CStr::from_ptr(trigger.tgname).to_bytes() == TRIGGER.as_bytes()
                    && trigger.tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS as c_char
                    && trigger.tgtype == TRIGGER_TYPE
                    && trigger.tgnattr == 0
                    && trigger.tgqual.is_null()
                    && types::is_function(trigger.tgfoid, &[FUNCTION])
            })
    }
}
