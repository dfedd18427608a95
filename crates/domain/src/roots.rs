//! The root keys of a keyring: what messages call them, which are the same, and which it cannot do without.

use colcrypt_protocol::{KekCopy, ProviderConfig};

use crate::error::{Error, Result};

/// A root key, as messages call it. Some providers have one only, without a name.
#[must_use]
pub fn name(provider: &str, root_key: &str) -> String {
    if root_key.is_empty() {
        format!("provider \"{provider}\"")
    } else {
        format!("provider \"{provider}\", root key \"{root_key}\"")
    }
}

/// The root key of a copy, as messages call it.
#[must_use]
pub fn name_of(copy: &KekCopy) -> String {
    name(&copy.provider.name, &copy.root_key)
}

/// The root keys of copies, as messages call them.
#[must_use]
pub fn names_of<'a>(copies: impl IntoIterator<Item = &'a KekCopy>) -> String {
    let names: Vec<String> = copies.into_iter().map(name_of).collect();
    names.join("; ")
}

/// Refuses a root key that a keyring has already, by this or another provider's name, but for the first `but` of its
/// copies.
///
/// # Errors
/// [`Error::RootExists`].
pub fn refuse_known(
    keyring: &str,
    copies: &[KekCopy],
    but: usize,
    provider: &ProviderConfig,
    root_key: &str,
) -> Result<()> {
    let is_it = |copy: &&KekCopy| {
        copy.root_key == root_key
            && copy.provider.kind == provider.kind
            && copy.provider.config == provider.config
    };
    match copies.iter().skip(but).find(is_it) {
        None => Ok(()),
        Some(copy) => Err(Error::RootExists {
            keyring: keyring.into(),
            root: name_of(copy),
        }),
    }
}

/// Refuses settings of a provider that are not those that were asked for: what is approved is what was asked for.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_changed(provider: &ProviderConfig, asked: &serde_json::Value) -> Result<()> {
    if provider.config == *asked {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!(
            "the settings of provider \"{}\" are not those that were asked for",
            provider.name
        ),
        hint: "They were changed since: reject the request and ask again.".into(),
    })
}

/// Refuses an escrow where a root key is wanted that opens.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_escrow(provider: &ProviderConfig) -> Result<()> {
    if !provider.is_escrow() {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!(
            "provider \"{}\" is an escrow, which opens nothing by itself",
            provider.name
        ),
        hint:
            "Let the keyring stand on another root key, and add the escrow with colcrypt.add_root."
                .into(),
    })
}

/// Refuses another escrow under the name of one that holds copies: nobody's shares would open them.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_other_escrow(escrow: &ProviderConfig, changed: &ProviderConfig) -> Result<()> {
    if escrow.config == changed.config {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        message: format!(
            "provider \"{}\" is an escrow that keyrings have a copy with, which its own shares open and no others",
            escrow.name
        ),
        hint: "Add the other escrow by a name of its own, add it to the keyrings with colcrypt.add_root, and drop this one with colcrypt.drop_root.".into(),
    })
}

/// A root key that is to be dropped from a keyring.
#[derive(Clone, Copy, Debug)]
pub struct Removal<'a> {
    /// The keyring's name, for messages.
    pub keyring: &'a str,
    pub provider: &'a str,
    pub root_key: &'a str,
}

impl Removal<'_> {
    /// The place of its copy, and the copies that stay.
    ///
    /// # Errors
    /// [`Error::UnknownRoot`].
    pub fn divide(&self, copies: &[KekCopy]) -> Result<(usize, Vec<KekCopy>)> {
        let is_it =
            |copy: &KekCopy| copy.provider.name == self.provider && copy.root_key == self.root_key;
        let kept: Vec<KekCopy> = copies.iter().filter(|copy| !is_it(copy)).cloned().collect();
        let Some(dropped) = copies.iter().position(is_it) else {
            return Err(Error::UnknownRoot {
                keyring: self.keyring.into(),
                root: self.name(),
                roots: names_of(&kept),
            });
        };
        Ok((dropped, kept))
    }

    /// Of the copies that stay, those that a root key opens: the first, which is preferred, and the others.
    ///
    /// # Errors
    /// [`Error::RootNeeded`] when there is none.
    pub fn openers(&self, kept: Vec<KekCopy>) -> Result<(KekCopy, Vec<KekCopy>)> {
        let why = if kept.is_empty() {
            "It has no other."
        } else {
            "It has an escrow besides, which opens nothing by itself."
        };
        let mut openers = kept.into_iter().filter(|copy| !copy.provider.is_escrow());
        let preferred = openers.next().ok_or_else(|| self.needed(why.into()))?;
        Ok((preferred, openers.collect()))
    }

    /// Refuses it unless one of those that stay opens the keyring now. `problems` are what those said that do not.
    ///
    /// # Errors
    /// [`Error::RootNeeded`].
    pub fn refuse_needed(&self, asked: usize, problems: &[String]) -> Result<()> {
        if problems.len() < asked {
            return Ok(());
        }
        Err(self.needed(problems.join("; ")))
    }

    #[must_use]
    pub fn name(&self) -> String {
        name(self.provider, self.root_key)
    }

    fn needed(&self, why: String) -> Error {
        Error::RootNeeded {
            keyring: self.keyring.into(),
            root: self.name(),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn provider(name: &str, address: &str) -> ProviderConfig {
        ProviderConfig {
            name: name.into(),
            kind: "vault-transit".into(),
            config: json!({ "address": address }),
        }
    }

    fn copy(name: &str, address: &str, root_key: &str) -> KekCopy {
        KekCopy {
            provider: provider(name, address),
            root_key: root_key.into(),
            root_key_version: "1".into(),
            wrapped: vec![1],
        }
    }

    #[test]
    fn a_root_key_without_a_name_is_its_providers() {
        assert_eq!(name("p", ""), "provider \"p\"");
        let copies = [copy("p", "a", "k"), copy("q", "b", "")];
        assert_eq!(
            names_of(&copies),
            "provider \"p\", root key \"k\"; provider \"q\""
        );
    }

    #[test]
    fn the_same_root_key_by_another_name_is_the_same() {
        let copies = [copy("p", "a", "k"), copy("q", "b", "k")];
        for (but, address, root_key, known) in [
            (0, "a", "k", true),
            (0, "b", "k", true),
            (0, "c", "k", false),
            (0, "a", "other", false),
            (1, "a", "k", false),
            (1, "b", "k", true),
        ] {
            let refused = refuse_known("r", &copies, but, &provider("new name", address), root_key);
            assert_eq!(refused.is_err(), known, "{but} {address} {root_key}");
        }
    }

    #[test]
    fn what_is_approved_is_what_was_asked_for() {
        assert!(refuse_changed(&provider("p", "a"), &json!({ "address": "a" })).is_ok());
        assert!(refuse_changed(&provider("p", "b"), &json!({ "address": "a" })).is_err());
    }

    #[test]
    fn the_last_way_in_stays() {
        let it = Removal {
            keyring: "r",
            provider: "p",
            root_key: "k",
        };
        let (first, second) = (copy("p", "a", "k"), copy("q", "b", "k"));
        let openers = |copies: &[KekCopy]| it.openers(it.divide(copies)?.1);
        assert!(matches!(
            openers(std::slice::from_ref(&first)),
            Err(Error::RootNeeded { .. })
        ));
        let mut escrow = copy("e", "", "");
        escrow.provider.kind = "escrow".into();
        assert!(matches!(
            openers(&[first.clone(), escrow.clone()]),
            Err(Error::RootNeeded { .. })
        ));
        assert_eq!(
            openers(&[escrow, first.clone(), second.clone()]).expect("one opens"),
            (second.clone(), vec![])
        );
        assert!(matches!(
            it.divide(std::slice::from_ref(&second)),
            Err(Error::UnknownRoot { .. })
        ));
        let found = it.divide(&[second.clone(), first]).expect("two");
        assert_eq!(found, (1, vec![second]));
    }

    proptest! {
        #[test]
        fn one_that_answers_is_enough_and_none_is_not(asked in 1_usize..5, silent in 0_usize..5) {
            let silent = silent.min(asked);
            let it = Removal { keyring: "r", provider: "p", root_key: "k" };
            let problems = vec!["no answer".to_string(); silent];
            prop_assert_eq!(it.refuse_needed(asked, &problems).is_ok(), silent < asked);
        }
    }
}
