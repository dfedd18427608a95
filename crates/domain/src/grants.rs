//! Grants on keys and keyrings: who is meant by a name, and what by a list of privileges.

use crate::error::{Error, KeyringPrivilege, Privilege, Result};

/// To whom something is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantee<'a> {
    Everybody,
    Role(&'a str),
}

/// Who is meant by a name. As in GRANT the word PUBLIC, in any case, is everybody; but a role may be called that, in
/// quotes, and then the word alone would give to everybody what was meant for one. So while there is such a role only
/// "public" in double quotes is a role's name, and the bare word is refused.
///
/// # Errors
/// For a role that there is not, and a word with two meanings.
pub fn grantee(name: &str, is_role: impl Fn(&str) -> bool) -> Result<Grantee<'_>> {
    if name.eq_ignore_ascii_case("public") {
        if is_role(name) {
            return Err(Error::InvalidParameter {
                message: format!("{name} is everybody, and there is a role of that name"),
                hint: format!(
                    "For the role say '\"{name}\"'; for everybody write the word in another case."
                ),
            });
        }
        return Ok(Grantee::Everybody);
    }
    let quoted = name
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .filter(|inner| inner.eq_ignore_ascii_case("public"));
    let role = quoted.unwrap_or(name);
    if is_role(role) {
        return Ok(Grantee::Role(role));
    }
    Err(Error::UnknownObject {
        what: "role",
        name: name.into(),
    })
}

impl Grantee<'_> {
    /// As [`grantee`] takes it.
    #[must_use]
    pub fn written(self) -> String {
        match self {
            Self::Everybody => "PUBLIC".into(),
            Self::Role(name) if name.eq_ignore_ascii_case("public") => format!("\"{name}\""),
            Self::Role(name) => name.into(),
        }
    }
}

/// The privilege on a key with this name.
///
/// # Errors
/// [`Error::InvalidParameter`] for none.
pub fn privilege_named(name: &str) -> Result<Privilege> {
    Privilege::ALL
        .into_iter()
        .find(|privilege| privilege.name() == name)
        .ok_or_else(|| unknown(name, "Privileges are encrypt, decrypt, search and manage."))
}

/// The privileges on a key with these names. A null is none.
///
/// # Errors
/// As [`privilege_named`].
pub fn privileges_named(names: &[Option<String>]) -> Result<Vec<Privilege>> {
    let names = names.iter().map(|name| name.as_deref().unwrap_or("null"));
    names.map(privilege_named).collect()
}

/// The privileges on a keyring with these names. A null is none.
///
/// # Errors
/// [`Error::InvalidParameter`] for a name that is none.
pub fn keyring_privileges_named(names: &[Option<String>]) -> Result<Vec<KeyringPrivilege>> {
    let named = |name: &str| {
        [KeyringPrivilege::Create, KeyringPrivilege::Manage]
            .into_iter()
            .find(|privilege| privilege.name() == name)
            .ok_or_else(|| unknown(name, "Privileges on a keyring are create and manage."))
    };
    let names = names.iter().map(|name| name.as_deref().unwrap_or("null"));
    names.map(named).collect()
}

/// Refuses everybody as manager, which is nobody's intention. `what` is the key or the keyring.
///
/// # Errors
/// [`Error::InvalidParameter`].
pub fn refuse_public_manager(
    is_everybody: bool,
    manages: bool,
    what: &str,
    name: &str,
) -> Result<()> {
    if is_everybody && manages {
        return Err(Error::InvalidParameter {
            message: format!("PUBLIC cannot manage {what} \"{name}\""),
            hint: format!("Grant manage to the roles that administer the {what}."),
        });
    }
    Ok(())
}

fn unknown(name: &str, hint: &str) -> Error {
    Error::InvalidParameter {
        message: format!("unknown privilege {name:?}"),
        hint: hint.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(of: &[&str]) -> Vec<Option<String>> {
        of.iter().map(|&name| Some(name.into())).collect()
    }

    #[test]
    fn the_word_public_is_everybody_unless_a_role_has_it() {
        let none = |_: &str| false;
        let public = |name: &str| name == "public";
        assert_eq!(grantee("Public", none).unwrap(), Grantee::Everybody);
        assert_eq!(grantee("PUBLIC", public).unwrap(), Grantee::Everybody);
        assert!(matches!(
            grantee("public", public),
            Err(Error::InvalidParameter { .. })
        ));
        assert_eq!(
            grantee("\"public\"", public).unwrap(),
            Grantee::Role("public")
        );
        assert!(matches!(
            grantee("\"public\"", none),
            Err(Error::UnknownObject { .. })
        ));
    }

    #[test]
    fn other_quotes_are_part_of_the_name() {
        assert_eq!(
            grantee("\"amy\"", |name| name == "\"amy\"").unwrap(),
            Grantee::Role("\"amy\"")
        );
        assert!(grantee("\"amy\"", |name| name == "amy").is_err());
    }

    #[test]
    fn privileges_are_those_that_there_are() {
        let all = privileges_named(&names(&["encrypt", "decrypt", "manage"])).unwrap();
        assert_eq!(
            all,
            [Privilege::Encrypt, Privilege::Decrypt, Privilege::Manage]
        );
        assert!(privileges_named(&names(&["create"])).is_err());
        assert!(privileges_named(&[None]).is_err());
        let both = keyring_privileges_named(&names(&["manage", "create"])).unwrap();
        assert_eq!(both, [KeyringPrivilege::Manage, KeyringPrivilege::Create]);
        assert!(keyring_privileges_named(&names(&["encrypt"])).is_err());
    }

    #[test]
    fn everybody_manages_nothing() {
        for (everybody, manages, refused) in [
            (true, true, true),
            (true, false, false),
            (false, true, false),
        ] {
            assert_eq!(
                refuse_public_manager(everybody, manages, "key", "k").is_err(),
                refused
            );
        }
    }

    proptest! {
        /// What waits for approval keeps the name, and is approved for the one who was meant.
        #[test]
        fn a_grantee_is_read_back_as_it_is_written(name in "(?i)public|\\PC{1,20}") {
            let written = Grantee::Role(&name).written();
            prop_assert_eq!(grantee(&written, |other| other == name).unwrap(), Grantee::Role(&name));
            let everybody = Grantee::Everybody.written();
            prop_assert_eq!(grantee(&everybody, |_| false).unwrap(), Grantee::Everybody);
        }
    }
}
