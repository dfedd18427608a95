//! Every SQL function of the extension that everybody may not call, and what keeps one person from doing alone with it what
//! a four-eyes keyring wants two for. The functions that decide something are taken only from a person: see `enclosure` in
//! the extension. A test walks `pg_proc` and fails for a function that is in none of these lists.

const REFUSED: &str = "it is refused for the values and keyrings of four eyes; move_keyring waits, or lifting four eyes does";

/// What holds an administrative function to four eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// On a four-eyes keyring the act waits for a second role.
    Waits,
    /// It takes part in the ceremony itself.
    Ceremony,
    /// It does not wait, and why it need not.
    Open(&'static str),
}

/// An SQL function that decides something: its name, and its gate.
pub struct Verb {
    pub name: &'static str,
    pub gate: Gate,
}

const fn waits(name: &'static str) -> Verb {
    Verb {
        name,
        gate: Gate::Waits,
    }
}

const fn ceremony(name: &'static str) -> Verb {
    Verb {
        name,
        gate: Gate::Ceremony,
    }
}

const fn open(name: &'static str, why: &'static str) -> Verb {
    Verb {
        name,
        gate: Gate::Open(why),
    }
}

const PROTECTS: &str = "it takes something away or protects, and protection never waits";
const WORK: &str = "it moves work that was ordered; to whom the values are open stays as it was";

/// The functions that decide something.
pub const VERBS: &[Verb] = &[
    waits("activate_key"),
    open(
        "add_provider",
        "no keyring stands on a provider that is new",
    ),
    waits("add_root"),
    open("alter_provider", REFUSED),
    ceremony("approve_request"),
    open("archive_key", PROTECTS),
    open("cancel_job", WORK),
    open(
        "cancel_key_destruction",
        "it brings nothing into use that was not before, and a destruction cannot be taken back later",
    ),
    open(
        "create_access_view",
        "a view decrypts with its caller's right on the key",
    ),
    waits("create_key"),
    open(
        "create_key_version",
        "a version that is pre-active does nothing, and its activation waits",
    ),
    open(
        "create_keyring",
        "it is empty, and asks for four eyes only when somebody says so",
    ),
    open("deactivate_key", PROTECTS),
    open("decrypt_column", REFUSED),
    open(
        "drop_root",
        "it takes a way into the keyring away, and only while another root key opens it",
    ),
    open(
        "encrypt_column",
        "plaintext comes under the key, and nothing comes out from under it",
    ),
    waits("grant_key"),
    open("mark_compromised", PROTECTS),
    open("mark_honeytoken", "it adds an alarm and changes no right"),
    open("move_column", REFUSED),
    waits("move_keyring"),
    open("pause_job", WORK),
    open("rebind_column", REFUSED),
    waits("recover_key"),
    open(
        "reencrypt_column",
        "values go to a newer version of the key they are under",
    ),
    open("register_column", REFUSED),
    ceremony("reject_request"),
    ceremony("require_four_eyes"),
    open("resume_job", WORK),
    waits("resume_key"),
    open("retry_job", WORK),
    open("revoke_key", PROTECTS),
    waits("rotate_key"),
    open(
        "rotate_root",
        "the root key stays the one it is; only its newest version is taken",
    ),
    waits("schedule_key_destruction"),
    open(
        "set_compression",
        "it changes how new values are laid out, not who reads them",
    ),
    open(
        "set_cryptoperiods",
        "it makes a key usable for longer to those who were granted it, and grants nobody; the audit log has it",
    ),
    open(
        "set_rotation_interval",
        "a version that the schedule makes waits for its activation like another",
    ),
    open(
        "set_usage_bound",
        "it can only be lower than what the suite allows",
    ),
    open("suspend_key", PROTECTS),
    open("take_census", "it counts values and shows none"),
    open(
        "unmark_honeytoken",
        "it takes an alarm away and opens nothing; it asks for the right to manage the key, and the audit log has it",
    ),
    open(
        "unregister_column",
        "the values stay under their key; what they are under is asked again when the column is registered or moved",
    ),
    ceremony("withdraw_request"),
];

/// Functions that PUBLIC may not call and that change nothing, or are called by the server alone.
pub const ASKS: &[&str] = &[
    "audit_append_only",
    "audit_status",
    "broker_status",
    "cache_slots",
    "catalog_changed",
    "check_provider",
    "check_roots",
    "is_in_window",
    "plaintext_left",
    "root_state",
    "rotation_time_from",
    "rotation_time_until",
    "rotation_windows",
    "rows_needing_key",
    "suite_bound",
    "unflushed_uses",
    "unflushed_versions",
    "verify_audit_log",
];

/// Whether the function behind this C symbol is one of [`VERBS`].
#[must_use]
pub const fn is_verb_symbol(symbol: &str) -> bool {
    let mut index = 0;
    while index < VERBS.len() {
        if is_symbol_of(symbol.as_bytes(), VERBS[index].name.as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

const PREFIX: &[u8] = b"colcrypt_";

const fn is_symbol_of(symbol: &[u8], name: &[u8]) -> bool {
    if symbol.len() != PREFIX.len() + name.len() {
        return false;
    }
    let mut at = 0;
    while at < symbol.len() {
        let wanted = if at < PREFIX.len() {
            PREFIX[at]
        } else {
            name[at - PREFIX.len()]
        };
        if symbol[at] != wanted {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_belongs_to_its_verb_only() {
        assert!(is_verb_symbol("colcrypt_approve_request"));
        assert!(is_verb_symbol("colcrypt_revoke_key"));
        assert!(!is_verb_symbol("colcrypt_revoke_ke"));
        assert!(!is_verb_symbol("approve_request"));
        assert!(!is_verb_symbol("colcrypt_encrypt"));
    }

    #[test]
    fn the_lists_are_in_order_and_say_why() {
        assert!(VERBS.windows(2).all(|two| two[0].name < two[1].name));
        for verb in VERBS {
            if let Gate::Open(why) = verb.gate {
                assert!(why.len() > 20, "{}", verb.name);
            }
        }
    }
}
