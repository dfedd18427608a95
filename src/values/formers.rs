//! Contexts as they may have been when a value was bound to them: before types were renamed or moved, or labels of
//! enums were renamed.

use std::cell::RefCell;

use colcrypt_core::context::Typed;
use colcrypt_core::record;
use pgrx::pg_sys;
use zeroize::Zeroizing;

use crate::catalog::{enum_labels, type_names};
use crate::error::Result;
use crate::server::types;
use crate::values::shape::shape_of;

/// So many ways to call what is in a context are tried.
const MOST: usize = 64;

/// A label of an enum, and the one that it had.
type Label = (u32, Vec<u8>);

/// The context with any of the names that its types had, and any of the labels that its values had.
///
/// # Errors
/// Of the catalog scans.
pub fn of(context: &[u8]) -> Result<Vec<Vec<u8>>> {
    let Some(typed) = Typed::parse(context) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for name in typed.type_names() {
        if let Some(text) = qualified(name) {
            names.push((name, type_names::formers(text)?));
        }
    }
    let namings = choices(&names);
    let labels = labels_in(&typed)?;
    let labellings = choices(&labels);
    let mut formers = Vec::new();
    for naming in &namings {
        for labelling in &labellings {
            let is_as_now = naming.is_empty() && labelling.is_empty();
            if !is_as_now && formers.len() < MOST {
                formers.push(called(&typed, naming, labelling)?);
            }
        }
    }
    Ok(formers)
}

/// The name, where it is none of the server's own types, whose names have no schema and which keep them.
fn qualified(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name)
        .ok()
        .filter(|name| name.contains('.'))
}

/// All ways to take for each thing what it is now, which is not written down, or one of what it was.
fn choices<T>(things: &[(T, Vec<String>)]) -> Vec<Vec<(&T, &str)>> {
    let mut choices = vec![Vec::new()];
    for (thing, formers) in things {
        let mut more = Vec::new();
        for choice in &choices {
            for former in formers {
                let mut choice: Vec<(&T, &str)> = choice.clone();
                choice.push((thing, former.as_str()));
                more.push(choice);
            }
        }
        choices.extend(more);
        choices.truncate(MOST);
    }
    choices
}

/// The labels in a context that were called otherwise, each once.
fn labels_in(typed: &Typed<'_>) -> Result<Vec<(Label, Vec<String>)>> {
    let seen = RefCell::new(Vec::<Label>::new());
    for (name, value) in typed.values() {
        let see = |of, label: &[u8]| {
            let label = (of, label.to_vec());
            let mut seen = seen.borrow_mut();
            if !seen.contains(&label) {
                seen.push(label);
            }
            None
        };
        relabelled(name, value, &see)?;
    }
    let mut labels = Vec::new();
    for label in seen.into_inner() {
        if let Ok(text) = std::str::from_utf8(&label.1) {
            let formers = enum_labels::formers(label.0.into(), text)?;
            if !formers.is_empty() {
                labels.push((label, formers));
            }
        }
    }
    Ok(labels)
}

fn relabelled(
    name: &[u8],
    value: Option<&[u8]>,
    label_of: &impl Fn(u32, &[u8]) -> Option<Vec<u8>>,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let (Some(value), Some(name)) = (value, qualified(name)) else {
        return Ok(None);
    };
    let of = types::named(name).unwrap_or(pg_sys::Oid::INVALID);
    if of == pg_sys::Oid::INVALID {
        return Ok(None);
    }
    Ok(record::relabelled(value, of.to_u32(), &shape_of, label_of)?)
}

fn called(
    typed: &Typed<'_>,
    naming: &[(&&[u8], &str)],
    labelling: &[(&Label, &str)],
) -> Result<Vec<u8>> {
    let values = typed.values();
    let label_of = |of: u32, label: &[u8]| {
        let found = labelling
            .iter()
            .find(|((enumeration, now), _)| *enumeration == of && now == label);
        found.map(|(_, former)| former.as_bytes().to_vec())
    };
    let mut changed = Vec::new();
    for &(name, value) in &values {
        changed.push(if labelling.is_empty() {
            None
        } else {
            relabelled(name, value, &label_of)?
        });
    }
    let called = values
        .iter()
        .zip(&changed)
        .map(|(&(name, value), changed)| {
            let former = naming.iter().find(|(of, _)| **of == name);
            (
                former.map_or(name, |(_, former)| former.as_bytes()),
                changed.as_ref().map(|bytes| bytes.as_slice()).or(value),
            )
        });
    Ok(typed.of_values(called)?)
}
