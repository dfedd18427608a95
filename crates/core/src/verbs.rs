//! Every SQL function of the extension that everybody may not call, and what keeps one person from doing alone with it
//! what a four-eyes keyring wants two for. The functions that decide something are taken only from a person: see
//! `enclosure` in the extension. A test walks `pg_proc` and fails for a function that is in none of these lists.

/// What holds an administrative function to four eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// On a four-eyes keyring the act waits for a second role: the call leaves a request and changes nothing else.
    Waits,
    /// The same where it loosens what holds; what tightens is done at once.
    WaitsToLoosen,
    /// On a four-eyes keyring it makes a version that is of no use, and leaves a request to activate it.
    WaitsToActivate,
    /// It is refused where it would take values out from under a key of a four-eyes keyring.
    Refused,
    /// It takes part in the approval itself.
    Approval,
    /// It does not wait, and why it need not.
    Open(&'static str),
}

/// On which of several servers with the same keys something is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It changes keys, which only the primary does.
    Primary,
    /// It changes who may use a key, or what raises an alarm: not on a follower that has that from its primary, but on
    /// one that has keys by a subscription, which brings neither.
    Rights,
    /// It is about each server's own tables, jobs and records.
    Anywhere,
}

/// An SQL function that decides something: its name, its gate, and on which of several servers.
pub struct Verb {
    pub name: &'static str,
    pub gate: Gate,
    pub place: Place,
}

impl Verb {
    const fn local(self) -> Self {
        Self {
            place: Place::Anywhere,
            ..self
        }
    }

    const fn of_rights(self) -> Self {
        Self {
            place: Place::Rights,
            ..self
        }
    }
}

const fn gated(name: &'static str, gate: Gate) -> Verb {
    Verb {
        name,
        gate,
        place: Place::Primary,
    }
}

const fn waits(name: &'static str) -> Verb {
    gated(name, Gate::Waits)
}

const fn refused(name: &'static str) -> Verb {
    gated(name, Gate::Refused)
}

const fn approval(name: &'static str) -> Verb {
    gated(name, Gate::Approval)
}

const fn open(name: &'static str, why: &'static str) -> Verb {
    gated(name, Gate::Open(why))
}

const PROTECTS: &str = "it takes something away or protects, and protection never waits";
const SHOWN: &str = "it records what shares have signed, and opens nothing";
const WORK: &str = "it moves work that was ordered; to whom the values are open stays as it was";

/// The functions that decide something.
pub const VERBS: &[Verb] = &[
    open(
        "acknowledge_node",
        "what another server reports holds up a destruction; none is done by it that was not ordered",
    ),
    waits("activate_key"),
    open(
        "add_provider",
        "no keyring stands on a provider that is new",
    ),
    waits("add_root"),
    waits("alter_provider").local(),
    approval("approve_request").local(),
    open("archive_key", PROTECTS),
    open("cancel_job", WORK).local(),
    open(
        "cancel_key_destruction",
        "it brings nothing into use that was not before, and a destruction cannot be taken back later",
    ),
    open(
        "create_access_view",
        "a view decrypts with its caller's right on the key",
    ).local(),
    gated("create_key", Gate::WaitsToActivate),
    open(
        "create_key_version",
        "a version that is pre-active does nothing, and its activation waits",
    ),
    open(
        "create_keyring",
        "it is empty, and asks for four eyes only when somebody says so",
    ),
    gated("create_keys", Gate::WaitsToActivate),
    open(
        "create_search_domain",
        "no column is in a domain that is new, and who may search by its key waits for a second role",
    ),
    open(
        "create_search_index",
        "terms are under a search key, and who may search by it waits for a second role where the column's keyring asks for one",
    ).local(),
    open("deactivate_key", PROTECTS),
    refused("decrypt_column").local(),
    open(
        "drop_key",
        "every version is destroyed by then, which waited for a second role",
    ),
    open("drop_keyring", "no key is under it, or it is refused"),
    open(
        "drop_node",
        "a destruction that waited for that server was ordered, by two where they are asked for",
    ),
    open("drop_provider", "no keyring stands on it, or it is refused"),
    gated("drop_root", Gate::WaitsToLoosen),
    open("drop_search_domain", "no search index is in it, or it is refused"),
    open(
        "drop_search_index",
        "terms go, and with them what they tell; the values stay as they are",
    ).local(),
    open(
        "encrypt_column",
        "plaintext comes under the key, and nothing comes out from under it",
    ).local(),
    open(
        "follow_context",
        "values are bound anew by whoever may decrypt and encrypt them, with his own right, and by nobody else",
    ).local(),
    waits("grant_key").of_rights(),
    waits("grant_keyring").of_rights(),
    open(
        "import_catalog",
        "a follower has no keys of its own: what comes was decided on the primary, by two where they are asked for",
    )
    .local(),
    open("mark_compromised", PROTECTS),
    open("mark_honeytoken", "it adds an alarm and changes no right").of_rights(),
    open("mark_kek_compromised", PROTECTS),
    refused("move_column").local(),
    waits("move_keyring"),
    open("pause_job", WORK).local(),
    open(
        "prepare_key_version",
        "a version that is prepared encrypts nothing, and its activation waits",
    ),
    refused("rebind_column").local(),
    open("record_drill", SHOWN).local(),
    open("record_escrow_check", SHOWN).local(),
    waits("recover_key"),
    open(
        "reencrypt_column",
        "values go to a newer version of the key they are under",
    ).local(),
    refused("register_column").local(),
    gated("register_escrow", Gate::WaitsToLoosen),
    open(
        "register_node",
        "destructions wait for one server more, and nothing is opened",
    ),
    approval("reject_request").local(),
    approval("require_four_eyes"),
    refused("resume_job").local(),
    waits("resume_key"),
    waits("retire_escrow"),
    refused("retry_job").local(),
    open("revoke_key", PROTECTS).of_rights(),
    open("revoke_keyring", PROTECTS).of_rights(),
    open(
        "rotate_kek",
        "the root keys stay those they are, and the new key encryption key opens nothing that the old one did not",
    ),
    gated("rotate_key", Gate::WaitsToActivate),
    open(
        "rotate_root",
        "the root key stays the one it is; only its newest version is taken",
    ),
    waits("schedule_key_destruction"),
    open(
        "search_leakage",
        "it counts terms, with no key, and shows none",
    )
    .local(),
    gated("set_compression", Gate::WaitsToLoosen),
    gated("set_cryptoperiods", Gate::WaitsToLoosen),
    open(
        "set_custodian",
        "it says where a share is kept, and changes no right",
    ).local(),
    gated("set_kek_cryptoperiod", Gate::WaitsToLoosen),
    open(
        "set_root_interval",
        "the root keys stay those they are; only how often their newest versions are taken by itself is said",
    ),
    open(
        "set_rotation_interval",
        "a version that the schedule makes waits for its activation like another",
    ),
    gated("set_search_limit", Gate::WaitsToLoosen),
    gated("set_usage_bound", Gate::WaitsToLoosen),
    open("suspend_key", PROTECTS),
    open("take_census", "it counts values and shows none").local(),
    open(
        "unmark_honeytoken",
        "it takes an alarm away and opens nothing; it asks for the right to manage the key, and the audit log has it",
    ).of_rights(),
    open(
        "unregister_column",
        "the values stay under their key; what they are under is asked again when the column is registered or moved",
    ).local(),
    open(
        "verify_column",
        "it opens values for nobody: what comes out is which of them do not open",
    ).local(),
    approval("withdraw_request").local(),
];

/// Functions that everybody may call. None changes a key, a right or a rule: what they do to values, the grants on the
/// key decide.
pub const EVERYBODYS: &[&str] = &[
    "batch_value",
    "check_encrypted_columns",
    "ciphertext",
    "ciphertext_in",
    "ciphertext_info",
    "ciphertext_is_stale",
    "ciphertext_key",
    "ciphertext_out",
    "ciphertext_recv",
    "ciphertext_send",
    "ciphertext_version",
    "context_in",
    "context_out",
    "context_recv",
    "context_send",
    "decrypt_col",
    "decrypts_to",
    "decrypts_to_in_place",
    "either_context",
    "encrypt_col",
    "encrypt_for_row",
    "explain_search",
    "follows",
    "has_key_privilege",
    "is_in_batch",
    "is_settled",
    "keep_in_step",
    "keep_terms",
    "may_read_column",
    "on_terms",
    "pattern_terms",
    "place_context",
    "range_terms",
    "recheck",
    "reencrypt_col",
    "row_context",
    "search_term",
    "search_terms",
    "terms_contain",
    "terms_overlap",
    "try_decrypt_col",
    "write_access_view",
];

/// Functions that PUBLIC may not call and that change nothing, are called by the server alone, or do what the caller's
/// own rights on the tables allow.
pub const ASKS: &[&str] = &[
    "ask_provider",
    "audit_append_only",
    "audit_status",
    "broker_status",
    "cache_slots",
    "catalog_changed",
    "catalog_content",
    "catalog_digests",
    "changed_by_hand",
    "check_provider",
    "check_roots",
    "clock_ahead",
    "doctor",
    "doctor_checks",
    "export_catalog",
    "is_in_window",
    "metric_names",
    "node_report",
    "on_terms_support",
    "plaintext_left",
    "plan_search_index",
    "recheck_support",
    "restore_grant",
    "restore_grants",
    "root_state",
    "rotation_time_from",
    "rotation_time_until",
    "rotation_windows",
    "rows_needing_key",
    "sample_columns",
    "search_told",
    "server_facts",
    "suite_bound",
    "unflushed_uses",
    "unflushed_versions",
    "unserved_searches",
    "verify_audit_log",
    "verify_keys",
];

/// Whether a function of this name is one of [`VERBS`]. Its C symbol is `colcrypt_` and the name.
#[must_use]
pub const fn is_verb(name: &str) -> bool {
    let mut index = 0;
    while index < VERBS.len() {
        if is_same(name.as_bytes(), VERBS[index].name.as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

/// On which of several servers a function decides; anywhere where it is none of [`VERBS`].
#[must_use]
pub const fn place_of(name: &str) -> Place {
    let mut index = 0;
    while index < VERBS.len() {
        if is_same(name.as_bytes(), VERBS[index].name.as_bytes()) {
            return VERBS[index].place;
        }
        index += 1;
    }
    Place::Anywhere
}

/// `==` of slices is not for constants yet.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
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
    fn a_verb_is_known_by_its_whole_name() {
        assert!(is_verb("approve_request"));
        assert!(is_verb("revoke_key"));
        assert!(!is_verb("revoke_ke"));
        assert!(!is_verb("revoke_keys"));
        assert!(!is_verb("encrypt_col"));
    }

    #[test]
    fn what_changes_keys_is_for_the_primary() {
        for name in ["create_key", "suspend_key", "rotate_kek"] {
            assert_eq!(place_of(name), Place::Primary, "{name}");
        }
        for name in ["revoke_key", "mark_honeytoken"] {
            assert_eq!(place_of(name), Place::Rights, "{name}");
        }
        for name in ["register_column", "pause_job", "encrypt_col", "no_verb"] {
            assert_eq!(place_of(name), Place::Anywhere, "{name}");
        }
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
