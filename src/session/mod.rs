//! What one process knows: resolved keys, checked privileges, expanded ciphers.
//!
//! Three ages of knowledge:
//!
//! * A [`Cipher`] is good while its slab slot keeps its generation (one atomic read). The watch (`watch`) zeroes it
//!   within half a second of the end of that, whatever the process is doing.
//! * A [`Permit`] says that a role may use a key version now. It is good for one client statement, and in a long one
//!   until the watch's next tick: then, pending invalidations are taken in, so a rotation, a suspension or a revoked
//!   grant shows at the next statement. Where they bring no change of the catalog, all that can have changed otherwise
//!   is asked (role, cryptoperiod, key wiped or expired) and the permit is renewed.
//! * The catalog part (names, versions, grants) is forgotten whenever any key catalog changes.

mod knowledge;
pub mod made;
pub mod ordered;
mod place;
pub mod search;
mod watch;

use std::cell::RefCell;
use std::collections::HashMap;

use colcrypt_core::compression::Method;
use colcrypt_core::nonce::NoncePool;
use colcrypt_core::slab_index::SlotKey;
use colcrypt_core::suite::Purpose;
use colcrypt_core::{DataCipher, KeyId, KeyVersion, Suite, VersionId, wipe_dead_stack};
use colcrypt_search::SearchKey;
use knowledge::Knowledge;
use pgrx::pg_sys;
use place::{Cipher, Identity, fill};

use crate::audit::honeytoken::{self, Tag, tag_of};
use crate::broker::client;
use crate::catalog::epoch;
use crate::catalog::read::{self, Key, KeyVersionRow};
use crate::error::{Branch, Error, Privilege, Result};
use crate::server::hidden::{self, Hold};
use crate::server::{clock, key_clock, process, roles};
use crate::slab::table::{self, Found};
use crate::usage::{self, Counter};

/// Ciphers a process keeps; beyond that the oldest place is used again.
const CIPHERS: usize = 4096;

/// Leave to use a cipher, for the rest of the statement.
#[derive(Clone, Copy)]
pub struct Permit {
    place: &'static Cipher,
    serial: u64,
    statement: i64,
    user: pg_sys::Oid,
    epoch: u64,
    /// The end of the version's cryptoperiod for this use: a statement that begins later is refused.
    until: Option<i64>,
    privilege: Privilege,
    pub key: KeyId,
    pub version: KeyVersion,
    pub suite: Suite,
    /// What is done to a plaintext before encryption.
    pub compression: Option<Method>,
    /// Where its uses are counted.
    pub counter: &'static Counter,
    /// Whether any value of the key is a honeytoken.
    pub guarded: bool,
}

impl Permit {
    /// Whether it is still good: same statement, same role, no catalog change seen, key not wiped.
    #[inline(always)]
    pub fn is_good(&self) -> bool {
        self.statement == clock::statement_start()
            && self.user == roles::current_user()
            && self.epoch == epoch::current()
            && self.place.is_live(self.serial)
            && !watch::is_due()
    }

    /// A permit of an earlier statement, for this one; none when anything that it rests on has changed.
    fn renewed(&self, epoch: u64) -> Option<Self> {
        let statement = clock::statement_start();
        let good = self.user == roles::current_user()
            && self.epoch == epoch
            && self.until.is_none_or(|end| statement < end)
            && self.place.serves(self.serial);
        good.then_some(Self { statement, ..*self })
    }

    /// Uses the cipher. Only right after [`is_good`](Self::is_good) or after it was given out. Where it was wiped in
    /// that moment, the key is asked for once more.
    ///
    /// # Errors
    /// What is in the way of the key then.
    #[inline(always)]
    pub fn with<R>(&self, mut body: impl FnMut(&DataCipher) -> R) -> Result<R> {
        let (mut place, mut serial) = (self.place, self.serial);
        let mut is_first = true;
        // A loop, so that there is one place where the body is, and it can be part of its caller.
        loop {
            if let Some(done) = place.using(serial, &mut body) {
                return Ok(done);
            }
            (place, serial) = self.once_more(is_first)?;
            is_first = false;
        }
    }

    /// As [`with`](Self::with), of a search key.
    ///
    /// # Errors
    /// What is in the way of the key then.
    pub fn with_terms<R>(&self, mut body: impl FnMut(&SearchKey) -> R) -> Result<R> {
        let (mut place, mut serial) = (self.place, self.serial);
        let mut is_first = true;
        loop {
            if let Some(done) = place.searching(serial, &mut body) {
                return Ok(done);
            }
            (place, serial) = self.once_more(is_first)?;
            is_first = false;
        }
    }

    /// The cipher as it is now; an error for one that was wiped twice.
    #[cold]
    #[inline(never)]
    fn once_more(&self, is_first: bool) -> Result<(&'static Cipher, u64)> {
        let epoch = refresh();
        let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(self.key))?;
        if !is_first {
            return Err(Error::KeyWiped {
                key: key.name,
                version: self.version,
            });
        }
        let again = unchecked(epoch, &key, self.version, self.privilege)?;
        Ok((again.place, again.serial))
    }
}

#[derive(Default)]
struct Session {
    epoch: u64,
    catalog: Knowledge,
    /// Which of the values that were met are marked.
    met: HashMap<(KeyId, Tag), bool>,
    /// Permits that were given out, for a query that meets many keys and for the next statement.
    encrypting: HashMap<String, Permit>,
    decrypting: Given,
    searching: Given,
    /// Of these no role was asked for a right.
    ordered: Given,
    terms: Given,
    places: Vec<&'static Cipher>,
    by_version: HashMap<Identity, usize>,
    next_place: usize,
}

/// Permits by key version. The one that was asked for last is mostly the next one, too, and is not looked up.
#[derive(Default)]
struct Given {
    all: HashMap<VersionId, Permit>,
    last: Option<(VersionId, Permit)>,
}

impl Given {
    /// What was given out before, if it still holds.
    fn renew(&mut self, id: VersionId, epoch: u64) -> Option<Permit> {
        if let Some((of, permit)) = &mut self.last
            && *of == id
        {
            return renew(Some(permit), epoch);
        }
        let permit = renew(self.all.get_mut(&id), epoch)?;
        self.last = Some((id, permit));
        Some(permit)
    }

    fn insert(&mut self, id: VersionId, permit: Permit) {
        if self.all.len() >= CIPHERS {
            self.all.clear();
        }
        self.all.insert(id, permit);
        self.last = Some((id, permit));
    }

    fn clear(&mut self) {
        self.all.clear();
        self.last = None;
    }
}

thread_local! {
    static SESSION: RefCell<Session> = RefCell::new(Session::default());
    static NONCES: RefCell<NoncePool> = const { RefCell::new(NoncePool::new()) };
}

/// Fills `out`, as long as a suite's nonce, with one that nobody else has.
///
/// # Errors
/// When the system has no random bytes.
#[inline(always)]
pub fn draw_nonce(out: &mut [u8]) -> Result<()> {
    let drawn = NONCES.with_borrow_mut(|pool| {
        let nonce = pool.draw(process::my_pid(), out.len());
        nonce.map(|nonce| out.copy_from_slice(nonce))
    });
    Ok(drawn?)
}

/// The version that values are encrypted with now.
///
/// # Errors
/// Unknown key, no privilege, a state that does not encrypt, or no key to be had.
pub fn permit_encrypt(key_name: &str) -> Result<Permit> {
    let epoch = refresh();
    let given =
        SESSION.with_borrow_mut(|session| renew(session.encrypting.get_mut(key_name), epoch));
    if let Some(permit) = given {
        return Ok(permit);
    }
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_name(key_name))?;
    let permit = with_current(key, |key| {
        permit(epoch, key, key.current, Privilege::Encrypt)
    })?;
    SESSION.with_borrow_mut(|session| {
        if session.encrypting.len() >= CIPHERS {
            session.encrypting.clear();
        }
        session.catalog.tell(VersionId {
            key: permit.key,
            version: permit.version,
        });
        session.encrypting.insert(key_name.into(), permit);
    });
    Ok(permit)
}

/// What was given out before, if it still holds.
fn renew(given: Option<&mut Permit>, epoch: u64) -> Option<Permit> {
    let given = given?;
    if !given.is_good() {
        *given = given.renewed(epoch)?;
    }
    Some(*given)
}

/// Uses the key's current version. A key and its versions are read one after the other: a rotation that commits in
/// between makes the version that was current one that encrypts no more.
fn with_current<R>(mut key: Key, mut body: impl FnMut(&Key) -> Result<R>) -> Result<R> {
    loop {
        let outcome = body(&key);
        if !matches!(outcome, Err(Error::KeyState { .. })) {
            return outcome;
        }
        let now = read::key_by_id(key.id)?;
        if now.current == key.current {
            return outcome;
        }
        key = now;
    }
}

/// The version that a value was encrypted with.
///
/// # Errors
/// As [`permit_encrypt`].
pub fn permit_decrypt(id: VersionId) -> Result<Permit> {
    let epoch = refresh();
    let given = SESSION.with_borrow_mut(|session| session.decrypting.renew(id, epoch));
    if let Some(permit) = given {
        return Ok(permit);
    }
    let key = SESSION.with_borrow_mut(|session| {
        session.catalog.look(id);
        session.catalog.key_by_id(id.key)
    })?;
    let permit = permit(epoch, &key, id.version, Privilege::Decrypt)?;
    SESSION.with_borrow_mut(|session| {
        session.catalog.tell(id);
        session.decrypting.insert(id, permit);
    });
    Ok(permit)
}

/// The two versions of a re-encryption: the value's own for reading, the key's current for writing.
/// It needs the right to encrypt only, since no plaintext comes out.
///
/// # Errors
/// As [`permit_encrypt`].
pub fn permit_reencrypt(id: VersionId) -> Result<(Permit, Permit)> {
    let epoch = refresh();
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    SESSION.with_borrow_mut(|session| session.catalog.check(&key, Privilege::Encrypt))?;
    let read = |key| unchecked(epoch, key, id.version, Privilege::Decrypt);
    let from = read(&key)?;
    let to = with_current(key.clone(), |key| {
        unchecked(epoch, key, key.current, Privilege::Encrypt)
    })?;
    // Where all places are taken, the one may have been filled anew for the other.
    let from = if from.is_good() { from } else { read(&key)? };
    Ok((from, to))
}

/// The two versions of a value that is bound to something else: as [`permit_reencrypt`], but it takes both rights,
/// since who sees the row it is bound to then reads it there.
///
/// # Errors
/// As [`permit_encrypt`].
pub fn permit_rebind(id: VersionId) -> Result<(Permit, Permit)> {
    let epoch = refresh();
    let key = SESSION.with_borrow_mut(|session| session.catalog.key_by_id(id.key))?;
    let read = |key| permit(epoch, key, id.version, Privilege::Decrypt);
    let from = read(&key)?;
    let to = with_current(key.clone(), |key| {
        permit(epoch, key, key.current, Privilege::Encrypt)
    })?;
    // As above.
    let from = if from.is_good() { from } else { read(&key)? };
    Ok((from, to))
}

/// The key's name, for messages.
pub fn key_name(id: KeyId) -> String {
    SESSION
        .with_borrow_mut(|session| session.catalog.key_by_id(id))
        .map_or_else(|_| id.to_string(), |key| key.name)
}

/// What tells a version of this server's from another one's of the same number, for messages.
pub fn branch(id: VersionId) -> Option<Branch> {
    let row = SESSION.with_borrow_mut(|session| {
        let key = session.catalog.key_by_id(id.key)?;
        session.catalog.version(&key, id.version)
    });
    row.ok().map(|row| Branch {
        check_value: row.kcv.to_string(),
        made_at: clock::timestamp(row.created_at),
    })
}

fn permit(epoch: u64, key: &Key, version: KeyVersion, privilege: Privilege) -> Result<Permit> {
    SESSION.with_borrow_mut(|session| session.catalog.check(key, privilege))?;
    if privilege == Privilege::Encrypt {
        return unchecked(epoch, key, version, privilege);
    }
    // Re-encryption is not asked this: it is the way out.
    let row = SESSION.with_borrow_mut(|session| session.catalog.version(key, version))?;
    let until = by_wall_clock(row.decrypts_until);
    within(until, key, version, privilege)?;
    let permit = unchecked(epoch, key, version, privilege)?;
    Ok(Permit { until, ..permit })
}

fn unchecked(epoch: u64, key: &Key, version: KeyVersion, privilege: Privilege) -> Result<Permit> {
    let row = SESSION.with_borrow_mut(|session| session.catalog.version(key, version))?;
    check_state(key, &row, privilege)?;
    let until = match privilege {
        Privilege::Encrypt => by_wall_clock(row.encrypts_until),
        Privilege::Decrypt | Privilege::Search | Privilege::Manage => None,
    };
    within(until, key, version, privilege)?;
    let guarded = privilege == Privilege::Decrypt
        && SESSION.with_borrow_mut(|session| session.catalog.has_honeytokens(key.id))?;
    let user = roles::current_user();
    // Before there is a cipher: what one leaves in registers is wiped where there is a counter.
    let counter = usage::counter(key, row.id, user);
    let place = cipher(key, &row, privilege)?;
    Ok(Permit {
        place,
        serial: place.serial.get(),
        statement: clock::statement_start(),
        user,
        epoch,
        until,
        privilege,
        key: key.id,
        version,
        suite: key.suite,
        compression: key.compression,
        counter,
        guarded,
    })
}

fn check_state(key: &Key, row: &KeyVersionRow, privilege: Privilege) -> Result<()> {
    match privilege {
        Privilege::Encrypt | Privilege::Decrypt => key.require(Purpose::Values)?,
        Privilege::Search => key.require(Purpose::Search)?,
        Privilege::Manage => {}
    }
    let allowed = match privilege {
        Privilege::Encrypt => row.state.may_encrypt(),
        // Terms of rows that are there are asked for under the version that made them, which may have been relieved.
        Privilege::Decrypt | Privilege::Search => row.may_decrypt(),
        // Managing a key uses none of its versions.
        Privilege::Manage => false,
    };
    if allowed {
        return Ok(());
    }
    if !row.may_decrypt() {
        // On a standby nobody else tells the slab.
        table::forget(crate::slab::control()?, &[slot_key(row)]);
    }
    Err(Error::KeyState {
        key: key.name.clone(),
        version: row.id.version,
        state: row.state,
        by: row.changed_by.clone(),
        at: clock::timestamp(row.changed_at),
        privilege,
    })
}

/// How the slab knows a version.
pub fn slot_key(row: &KeyVersionRow) -> SlotKey {
    SlotKey {
        key: row.id.key.0,
        database: process::my_database().to_u32(),
        version: row.id.version.number(),
        kcv: row.kcv.0,
    }
}

/// A cryptoperiod's end, told by the keys' clock, as the wall clock is set now.
fn by_wall_clock(end: Option<i64>) -> Option<i64> {
    Some(end?.saturating_add(key_clock::ahead_of(clock::statement_start())))
}

/// Refuses what a cryptoperiod has ended, as of the statement's start.
fn within(end: Option<i64>, key: &Key, version: KeyVersion, privilege: Privilege) -> Result<()> {
    match end {
        Some(end) if clock::statement_start() >= end => Err(Error::PeriodOver {
            key: key.name.clone(),
            version,
            privilege,
            end: clock::timestamp(end),
        }),
        _ => Ok(()),
    }
}

/// Whether any value of a key is a honeytoken, as [`Permit::guarded`] says it.
pub fn is_guarded(key: KeyId) -> bool {
    // Rather looked for in vain.
    SESSION
        .with_borrow_mut(|session| session.catalog.has_honeytokens(key))
        .unwrap_or(true)
}

/// Whether a value of a guarded key is a honeytoken. Right after its permit was found good. Asked of the table, since
/// what a marked value is re-encrypted to is marked without a word to anybody; what is known of a tag stays so until
/// the catalog changes, as nobody met a value before it was made.
pub fn is_honeytoken(key: KeyId, tag: &[u8]) -> bool {
    let Some(tag) = tag_of(tag) else { return false };
    let met = SESSION.with_borrow(|session| session.met.get(&(key, tag)).copied());
    if let Some(marked) = met {
        return marked;
    }
    let Ok(marked) = honeytoken::is_marked(key, &tag) else {
        // Rather an alarm too many.
        return true;
    };
    SESSION.with_borrow_mut(|session| {
        if session.met.len() >= CIPHERS {
            session.met.clear();
        }
        session.met.insert((key, tag), marked);
    });
    marked
}

/// A live cipher for the version: ours if it still is, else from the slab, else through the broker.
fn cipher(key: &Key, row: &KeyVersionRow, privilege: Privilege) -> Result<&'static Cipher> {
    let kept = SESSION.with_borrow(|session| {
        session
            .by_version
            .get(&(row.id, row.kcv))
            .map(|&place| session.places[place])
    });
    if let Some(place) = kept
        && place.serves(place.serial.get())
    {
        return Ok(place);
    }
    let wanted = slot_key(row);
    let found = match table::find(crate::slab::control()?, wanted) {
        ready @ Found::Ready { .. } => ready,
        Found::Loading { .. } | Found::Missing => {
            let keyring = read::keyring_by_id(key.keyring)?;
            client::load(wanted, &keyring.name, || {
                // It may have been wiped because it was suspended or destroyed in the middle of this
                // statement: what this process remembers of it must not bring it back.
                let row = read::key_version(key, row.id.version)?;
                check_state(key, &row, privilege)?;
                read::load_request(key, &keyring, &row)
            })?
        }
    };
    let Found::Ready {
        key: data_key,
        meta,
        generation,
        hard_expiry_ms,
    } = found
    else {
        unreachable!("client::load gives a ready key or an error");
    };
    watch::start()?;
    let place = SESSION.with_borrow_mut(|session| session.place_for((row.id, row.kcv)));
    let hold = Hold::new(&place.memory);
    fill(place, key.suite, &data_key);
    drop(data_key);
    wipe_dead_stack::<16384>();
    hidden::wipe_registers();
    place.version.set(Some((row.id, row.kcv)));
    place.meta.set(Some(meta));
    place.generation.set(generation);
    place.hard_expiry_ms.set(hard_expiry_ms);
    place.serial.set(place.serial.get() + 1);
    drop(hold);
    // Again: it may have found nothing to watch in between, and ended.
    watch::start()?;
    Ok(place)
}

impl Session {
    /// A cleared place for the version's cipher.
    fn place_for(&mut self, id: Identity) -> &'static Cipher {
        let at = match self.by_version.get(&id) {
            Some(&at) => at,
            None if self.places.len() < CIPHERS => {
                let place: &'static Cipher = hidden::leak(Cipher::new());
                watch::add(place);
                self.places.push(place);
                self.places.len() - 1
            }
            None => {
                self.next_place = (self.next_place + 1) % CIPHERS;
                self.next_place
            }
        };
        let place = self.places[at];
        if let Some(former) = place.version.get() {
            self.by_version.remove(&former);
        }
        place.clear();
        self.by_version.insert(id, at);
        place
    }

    /// Drops ciphers whose key was wiped, so that they do not linger in this process.
    fn sweep(&mut self) {
        let places = &self.places;
        self.by_version.retain(|_, &mut at| {
            let place = places[at];
            let live = place.is_live(place.serial.get());
            if !live {
                place.clear();
            }
            live
        });
    }
}

/// Takes in what other sessions committed; forgets what is out of date. Gives the epoch that holds.
fn refresh() -> u64 {
    let due = watch::take_due();
    if due {
        // A copy of this process in a cloned machine has the same block: it must not be an old one.
        NONCES.with(|pool| match pool.try_borrow_mut() {
            Ok(mut pool) => pool.forget(),
            Err(_) => watch::put_off(),
        });
    }
    let epoch = epoch::refresh(due);
    let changed = SESSION.with_borrow(|session| session.epoch != epoch);
    if changed {
        epoch::learn_marker();
        SESSION.with_borrow_mut(|session| {
            session.epoch = epoch;
            session.catalog.begin();
            session.met.clear();
            session.encrypting.clear();
            session.decrypting.clear();
            session.searching.clear();
            session.ordered.clear();
            session.terms.clear();
            session.sweep();
        });
    }
    epoch
}
