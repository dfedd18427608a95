//! Ciphertexts that this process made in the client's current statement, by their tags: of these a trigger may make
//! search terms though the role that writes may not decrypt. It has seen the plaintext, or had it encrypted.
//!
//! A tag is 16 bytes that nobody without the key can aim at: who brings another value under the same tag brings one
//! that does not open. Nothing is kept where no column has a search index, and never more than two generations of
//! values: of a statement that makes more before it writes the first, the earliest are forgotten, and count as brought
//! from elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use colcrypt_core::memory;
use pgrx::pg_sys;

use crate::catalog::search;
use crate::error::{Error, Result};
use crate::server::varlena::Varlena;
use crate::server::{clock, roles};

/// Bytes of a value's tag, in every suite.
pub const TAG: usize = 16;

pub type Tag = [u8; TAG];

/// Values in a generation, and bytes of their contexts.
const MOST: usize = 1 << 18;
const MOST_BYTES: usize = 8 << 20;

/// How a ciphertext came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// From a plaintext, by this role and bound to this context.
    Encrypted { role: pg_sys::Oid, context: Vec<u8> },
    /// From another ciphertext, whose plaintext it has.
    Again { from: Tag },
}

#[derive(Clone, Copy)]
enum Entry {
    /// The context's place among the bytes of its generation.
    Encrypted {
        role: pg_sys::Oid,
        at: u32,
        length: u32,
    },
    Again(Tag),
}

/// Tags are as good as random.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (at % 8 * 8);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Generation {
    entries: HashMap<Tag, Entry, BuildHasherDefault<AsItIs>>,
    contexts: Vec<u8>,
}

impl Generation {
    fn find(&self, tag: &Tag) -> Option<Made> {
        Some(match *self.entries.get(tag)? {
            Entry::Again(from) => Made::Again { from },
            Entry::Encrypted { role, at, length } => Made::Encrypted {
                role,
                context: self.contexts[at as usize..][..length as usize].to_vec(),
            },
        })
    }
}

#[derive(Default)]
struct OfStatement {
    /// When the statement began.
    statement: i64,
    young: Generation,
    old: Generation,
}

impl OfStatement {
    /// Begins anew where another statement is under way, and makes room.
    fn take_in(&mut self) {
        let statement = clock::statement_start();
        if self.statement != statement {
            *self = Self {
                statement,
                ..Self::default()
            };
        } else if self.young.entries.len() >= MOST || self.young.contexts.len() >= MOST_BYTES {
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn keep_encrypted(&mut self, tag: Tag, role: pg_sys::Oid, context: &[u8]) -> Result<()> {
        self.take_in();
        let contexts = &mut self.young.contexts;
        memory::reserve_amortised(contexts, context.len())?;
        let at = contexts.len() as u32;
        contexts.extend_from_slice(context);
        let length = context.len() as u32;
        self.keep(tag, Entry::Encrypted { role, at, length })
    }

    fn keep(&mut self, tag: Tag, entry: Entry) -> Result<()> {
        let entries = &mut self.young.entries;
        if entries.try_reserve(1).is_err() {
            let bytes = entries.len() * size_of::<(Tag, Entry)>();
            return Err(Error::OutOfMemory { bytes });
        }
        entries.insert(tag, entry);
        Ok(())
    }

    fn find(&self, tag: &Tag) -> Option<Made> {
        if self.statement != clock::statement_start() {
            return None;
        }
        self.young.find(tag).or_else(|| self.old.find(tag))
    }
}

thread_local! {
    static MADE: RefCell<OfStatement> = RefCell::default();
}

/// Whether what is made is to be kept: some column has a search index.
///
/// # Errors
/// Of the catalog.
pub fn is_kept() -> Result<bool> {
    search::are_any()
}

/// A whole value's tag.
pub fn tag_of(value: &[u8]) -> Option<Tag> {
    value.last_chunk().copied()
}

/// Keeps a value that was just made of a plaintext, by the current role.
///
/// # Safety
/// The value is a ciphertext.
///
/// # Errors
/// For want of memory.
#[cold]
#[inline(never)]
pub unsafe fn keep(value: pg_sys::Datum, context: &[u8]) -> Result<()> {
    // SAFETY: the caller vouches for a varlena.
    let value = unsafe { Varlena::from_datum(value) };
    let Some(tag) = tag_of(value.bytes()) else {
        return Ok(());
    };
    MADE.with_borrow_mut(|all| all.keep_encrypted(tag, roles::current_user(), context))
}

/// Keeps a value that was just made of another with its plaintext, and is bound to this context.
///
/// # Safety
/// The new value is a ciphertext.
///
/// # Errors
/// Of the catalog; for want of memory.
pub unsafe fn keep_again(from: &[u8], value: pg_sys::Datum, context: &[u8]) -> Result<()> {
    if !is_kept()? {
        return Ok(());
    }
    // SAFETY: the caller vouches for a varlena.
    let value = unsafe { Varlena::from_datum(value) };
    let (Some(from), Some(tag)) = (tag_of(from), tag_of(value.bytes())) else {
        return Ok(());
    };
    MADE.with_borrow_mut(|all| {
        let made = all.find(&from);
        if let Some(Made::Encrypted { role, .. }) = made {
            return all.keep_encrypted(tag, role, context);
        }
        let first = match made {
            Some(Made::Again { from: first }) => first,
            _ => from,
        };
        all.take_in();
        all.keep(tag, Entry::Again(first))
    })
}

/// How a ciphertext came to be; none of one that this statement did not make.
pub fn made(tag: &Tag) -> Option<Made> {
    MADE.with_borrow(|all| all.find(tag))
}
