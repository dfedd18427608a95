//! The one place that says what the user reads of each error: SQLSTATE, message, detail and hint.
//! `docs/errors.md` is the same table in prose; a test compares the two.
//!
//! Class `KC` is colcrypt's own (the standard leaves classes I–Z to implementations).

use colcrypt_core::KeyState;
use colcrypt_core::state::Verb;

use crate::error::parts::{changed, kms_report, of_here};
use crate::error::report::Report;
use crate::error::{Error, KeyringPrivilege, LONGEST_ARGUMENT, Privilege};
use crate::quote::quote_literal;

impl Error {
    pub fn report(&self) -> Report {
        let (sqlstate, message, detail, hint) = match self {
            Self::NotPreloaded => (
                "55000",
                "colcrypt is not loaded at server start".into(),
                None,
                Some("Add colcrypt to shared_preload_libraries in postgresql.conf (shared_preload_libraries = 'colcrypt') and restart the server.".into()),
            ),
            Self::NullArgument(what) => (
                "22004",
                format!("{what} must not be null"),
                None,
                None,
            ),
            Self::UnknownKey(name) => (
                "42704",
                format!("key \"{name}\" does not exist"),
                None,
                Some("See the view colcrypt.key_status for existing keys, or make one with colcrypt.create_key.".into()),
            ),
            Self::NoKeyNamedSo => (
                "42704",
                "no key has the given name".into(),
                None,
                Some("The arguments are the value, then the key's name. See the view colcrypt.key_status for existing keys.".into()),
            ),
            Self::KeyWiped { key, version } => (
                "KC020",
                format!("version {version} of key \"{key}\" was wiped from memory while it was in use"),
                None,
                Some("Try again; where it stays so, see the server log and colcrypt.broker_status().".into()),
            ),
            Self::NoWatch { why } => (
                "KC024",
                "this process cannot watch over its keys, and so uses none".into(),
                Some(why.clone()),
                Some("Each process that uses keys needs one timer and one real-time signal: raise the server's limit of pending signals (LimitSIGPENDING in its systemd unit, ulimit -i).".into()),
            ),
            Self::UnknownKeyId(id) => (
                "42704",
                format!("the value was encrypted with key id {id}, which is not in this database's key catalog"),
                None,
                Some("The value comes from another database, or the key catalog was not restored with the data: restore the tables of schema colcrypt from the same dump. Or the key was destroyed and then dropped (drop_key in the audit log): then the value is lost.".into()),
            ),
            Self::UnknownKeyVersion { key, version } => (
                "42704",
                format!("key \"{key}\" has no version {version}"),
                None,
                Some("The key catalog is older than the value. On a follower, bring the primary's here (import_catalog); else restore the tables of schema colcrypt from a newer backup.".into()),
            ),
            Self::UnknownObject { what, name } => (
                "42704",
                format!("{what} \"{name}\" does not exist"),
                None,
                None,
            ),
            Self::Duplicate { what, name } => (
                "42710",
                format!("{what} \"{name}\" already exists"),
                None,
                None,
            ),
            Self::Needed {
                what,
                name,
                by,
                hint,
            } => (
                "2BP01",
                format!("{what} \"{name}\" is needed"),
                Some(format!("By {by}.")),
                Some(hint.clone()),
            ),
            Self::InvalidParameter { message, hint } => {
                ("22023", message.clone(), None, Some(hint.clone()))
            }
            Self::KeyDenied {
                key,
                role,
                privilege,
            } => (
                "42501",
                match privilege {
                    Privilege::Manage => format!("permission denied to manage key \"{key}\""),
                    _ => format!("permission denied to {} with key \"{key}\"", privilege.name()),
                },
                None,
                Some(format!(
                    "An administrator can allow it: SELECT colcrypt.grant_key({}, {}, '{{{}}}').",
                    quote_literal(key),
                    quote_literal(role),
                    privilege.name()
                )),
            ),
            Self::KeyringDenied {
                keyring,
                role,
                privilege,
            } => (
                "42501",
                match privilege {
                    KeyringPrivilege::Manage => format!("permission denied to manage keyring \"{keyring}\""),
                    KeyringPrivilege::Create => format!("permission denied to create keys in keyring \"{keyring}\""),
                },
                None,
                Some(format!(
                    "An administrator can allow it: SELECT colcrypt.grant_keyring({}, {}, '{{{}}}').",
                    quote_literal(keyring),
                    quote_literal(role),
                    privilege.name()
                )),
            ),
            Self::KeyState { key, version, state: KeyState::Destroyed, by, at, .. } => (
                "KC030",
                format!("version {version} of key \"{key}\" was destroyed on {at}, as ordered by {by}"),
                Some("Values under it cannot be decrypted by anybody any more.".into()),
                Some("Where a value is still needed, restore it together with the tables of schema colcrypt from a backup made before.".into()),
            ),
            Self::KeyState { key, version, state, by, at, privilege } => (
                "KC001",
                format!("cannot {} with version {version} of key \"{key}\": it is {}", privilege.name(), state.in_words()),
                Some(changed(*state, by, at)),
                Some(match state {
                    KeyState::PreActive if *privilege == Privilege::Decrypt => "An administrator can activate it with colcrypt.activate_key. To have one decrypt before: colcrypt.prepare_key_version. A follower has it from its primary.".into(),
                    KeyState::PreActive => "An administrator can activate it with colcrypt.activate_key.".into(),
                    KeyState::Suspended => "An administrator can bring it back with colcrypt.resume_key.".into(),
                    KeyState::Archived => "An administrator can bring it back with colcrypt.recover_key.".into(),
                    KeyState::DestructionScheduled if *privilege == Privilege::Encrypt => "An administrator can bring it back to decrypt with colcrypt.cancel_key_destruction, and give the key a version to encrypt with by colcrypt.rotate_key.".into(),
                    KeyState::DestructionScheduled => "An administrator can bring it back with colcrypt.cancel_key_destruction.".into(),
                    _ => "An administrator can make a new version with colcrypt.rotate_key.".to_string(),
                }),
            ),
            Self::RowsNeedVersion { key, version, holders } => (
                "KC031",
                format!("rows still need version {version} of key \"{key}\""),
                Some(holders.clone()),
                Some("Move registered columns with colcrypt.reencrypt_column, others with UPDATE … SET column = colcrypt.reencrypt_col(column); colcrypt.rows_needing_key lists what is left. To lose them with it on purpose: rows => 'shred'.".into()),
            ),
            Self::NodesNeedVersion { key, version, nodes } => (
                "KC051",
                format!("other servers need version {version} of key \"{key}\", or have not said that they do not"),
                Some(nodes.clone()),
                Some("Move the rows there; then bring this catalog there and its report here (colcrypt nodes sync). A server that is gone: colcrypt.drop_node. To lose its rows on purpose: rows => 'shred'.".into()),
            ),
            Self::RowsOutOfReach { relation, why } => (
                "KC036",
                format!("rows of table {relation} are out of reach: {why}"),
                None,
                Some("Nothing that would have to look at all rows is done or called done. Detach the table, or bring its rows into one of this server's.".into()),
            ),
            Self::ReasonMissing(verb) => (
                "KC032",
                format!("a reason is needed to {verb} a key"),
                None,
                Some(format!("Say why, for the record: colcrypt.{}(…, reason => '…').", verb.name())),
            ),
            Self::TransitionRefused { key, version, by, at, refused } => (
                "KC033",
                format!("cannot {} version {version} of key \"{key}\": it {}", refused.verb, refused.standing()),
                Some(changed(refused.state, by, at)),
                Some(match (refused.state, refused.verb) {
                    (KeyState::Active | KeyState::Suspended, Verb::ScheduleDestruction | Verb::Archive) =>
                        "Deactivate it first, with colcrypt.deactivate_key or by a rotation.".into(),
                    (KeyState::Deactivated, Verb::Activate) =>
                        "What was put out of use never encrypts again: make a new version with colcrypt.rotate_key.".into(),
                    _ => "See the view colcrypt.key_status and the table of states in the manual.".to_string(),
                }),
            ),
            Self::NothingToDo { key, verb, versions } => (
                "KC033",
                format!("there is no version of key \"{key}\" to {verb}"),
                Some(versions.clone()),
                None,
            ),
            Self::KeySuspended { key, version, by, at } => (
                "KC033",
                format!("cannot rotate key \"{key}\": its current version {version} is suspended"),
                Some(changed(KeyState::Suspended, by, at)),
                Some("Resume the key first. To go on encrypting while the version stays suspended, activate a new one: SELECT colcrypt.activate_key(key, colcrypt.create_key_version(key)).".into()),
            ),
            Self::WindowTooShort { asked, floor } => (
                "KC034",
                format!("a key cannot be destroyed as soon as after {asked}"),
                Some(format!("colcrypt.destruction_window_floor is {floor}.")),
                Some("Ask for a longer time, in which a mistake can still be undone.".into()),
            ),
            Self::Malformed(error) => (
                "KC002",
                "the value is not a valid ciphertext".into(),
                Some(error.to_string()),
                Some("The value was truncated or altered, or never came from encrypt_col.".into()),
            ),
            Self::MalformedText => (
                "22P02",
                "invalid input syntax for type ciphertext".into(),
                Some("A ciphertext is written as \\x and hexadecimal digits.".into()),
                None,
            ),
            Self::Authentication { key, version, has_context, context_given, here } => (
                "KC003",
                format!("the value does not authenticate under version {version} of key \"{key}\""),
                Some(match (has_context, context_given) {
                    (true, false) => "The value is bound to a context and none was given.".into(),
                    (false, true) => "A context was given, but the value is not bound to one.".into(),
                    (true, true) => format!("Either the context is not the one it was encrypted with, or the value was altered or moved from another row, or it was written under a version {version} that this database does not have.{}", of_here(*version, here.as_ref())),
                    (false, false) => format!("The value was altered, or it was written under a version {version} that this database does not have.{}", of_here(*version, here.as_ref())),
                }),
                Some(format!(
                    "{}Was it written on another branch, after a point-in-time recovery or by a server that parted from this one? Then its version is another key of the same number: compare kcv in colcrypt.key_version there with the check value here, and see \"Branches\" in docs/operations.md. Otherwise restore it from a backup.",
                    if *has_context { "Pass the same context as to encrypt_col: decrypt_col(value, colcrypt.row_context(…)). " } else { "" }
                )),
            ),
            Self::WrongType { stored, asked, is_known } => (
                "42804",
                format!("the value holds {stored}, not {asked}"),
                None,
                Some(if *is_known {
                    format!("Ask for its own type: decrypt_col(value, NULL::{stored}).")
                } else {
                    "No type is called so now. If it was renamed or moved before colcrypt 0.2.0, a superuser says what it became: INSERT INTO colcrypt.former_type_name VALUES ('the name above', 'the name now').".into()
                }),
            ),
            Self::WitnessNotNull => (
                "22023",
                "the second argument of decrypt_col names the wanted type and must be null".into(),
                None,
                Some("Write decrypt_col(value, NULL::date). A context is made by colcrypt.row_context(…), or given as the third argument.".into()),
            ),
            Self::AlreadyEncrypted => (
                "42804",
                "the value is a ciphertext already".into(),
                None,
                Some("To move it to the key's current version use colcrypt.reencrypt_col; to move it to another key decrypt it first.".into()),
            ),
            Self::NoBinaryIo(type_name) => (
                "42883",
                format!("type {type_name} cannot be encrypted: it has no binary input and output functions"),
                None,
                Some("Cast the value to text.".into()),
            ),
            Self::UntypedParameter { number } => (
                "42P18",
                format!("could not determine data type of parameter ${number} of a context"),
                Some("A context is made of values of any type, and the driver leaves the type to the server.".into()),
                Some(format!("Cast it to the type of the column that it stands for: ${number}::bigint, for example.")),
            ),
            Self::UntypedNull => (
                "42P18",
                "could not determine data type of a NULL in a context".into(),
                Some("A context is made of values of any type. Under a NULL of none the value would open for no row.".into()),
                Some("For a key that the server makes, draw it in the same statement: WITH new AS (SELECT nextval(…) AS id) INSERT … SELECT …, or insert through an access view. Where NULL is meant, cast it: NULL::bigint.".into()),
            ),
            Self::PlaintextInvalid { type_name } => (
                "22P03",
                format!("the decrypted value is not valid for type {type_name} on this server"),
                Some("The value authenticated; the type or the database's encoding has changed since it was encrypted.".into()),
                Some("Restore the type's old definition (enum labels, domain checks, attributes) and try again.".into()),
            ),
            Self::IntegerOutOfRange { type_name } => (
                "22003",
                format!("the decrypted value is out of range for type {type_name}"),
                None,
                Some("Ask for a wider type: decrypt_col(value, NULL::bigint).".into()),
            ),
            Self::ValueTooLarge { bytes } => (
                "54000",
                format!("the value is too large to encrypt: {bytes} bytes"),
                Some("A ciphertext, like any value, is limited to 1 GB, and is at most 300 bytes longer than its plaintext.".into()),
                Some("Split the value, or store it as a large object encrypted by the application.".into()),
            ),
            Self::ArgumentTooLong { name, bytes } => (
                "54000",
                format!("the argument {name} is too long: {bytes} bytes"),
                Some(format!("Names, reasons, settings and expressions have at most {LONGEST_ARGUMENT} bytes.")),
                None,
            ),
            Self::OutOfMemory { bytes } => (
                "53200",
                "out of memory".into(),
                Some(format!("There is no memory for {bytes} bytes.")),
                Some("A value takes several times its length while it is encrypted or decrypted. Split it, or give the server more memory.".into()),
            ),
            Self::Kms { keyring, failure } => return kms_report(keyring.as_deref(), failure),
            Self::Search(error) => return error.report(),
            Self::SlabFull { slots } => (
                "KC021",
                "the key slab is full of keys that are being loaded".into(),
                Some(format!("All {slots} slots are waiting for a provider.")),
                Some("Raise colcrypt.slab_keys and restart, or find out why the provider is slow: SELECT * FROM colcrypt.cache_status.".into()),
            ),
            Self::QueueFull => (
                "KC022",
                "too many sessions are waiting for the key broker".into(),
                None,
                Some("The provider is slow or down: see the server log and colcrypt.broker_status().".into()),
            ),
            Self::KeyWaitTimeout { waited_ms, broker_running } => (
                "KC020",
                format!("no key after waiting {waited_ms} ms for the key broker"),
                Some(if *broker_running {
                    "The broker runs, but its agent or the provider did not answer.".into()
                } else {
                    "The broker is not running.".into()
                }),
                Some("See the server log and colcrypt.broker_status(); the wait is colcrypt.key_wait_timeout.".into()),
            ),
            Self::RootExists { keyring, root } => (
                "42710",
                format!("keyring \"{keyring}\" has this root key already: {root}"),
                None,
                Some("A second root key survives the loss of the first only if it is another one, at another place.".into()),
            ),
            Self::UnknownRoot { keyring, root, roots } => (
                "42704",
                format!("keyring \"{keyring}\" has no such root key: {root}"),
                Some(format!("It has: {roots}.")),
                None,
            ),
            Self::RootNeeded { keyring, root, why } => (
                "KC049",
                format!("keyring \"{keyring}\" cannot do without this root key: {root}"),
                Some(why.clone()),
                Some("Add another with colcrypt.add_root, or see colcrypt.check_roots for what the others answer.".into()),
            ),
            Self::Follower { why } => (
                "KC050",
                "this server follows another, which alone makes and changes keys".into(),
                Some(format!("Here {why}.")),
                Some("Do it on the primary; see docs/cluster.md for how keys come from there, and for how a follower becomes the primary.".into()),
            ),
            Self::CatalogCorrupt(what) => (
                "XX001",
                format!("the key catalog is damaged: {what}"),
                None,
                Some("Restore the tables of schema colcrypt from a backup.".into()),
            ),
            Self::CatalogOfOtherRelease(missing) => (
                "55000",
                "the extension in this database is of another release than the library that the server has loaded".into(),
                Some(format!("Its catalog has no {missing}.")),
                Some("Restart the server if its files are newer than that; then run ALTER EXTENSION colcrypt UPDATE in this database.".into()),
            ),
            Self::UsageLimit { key, version, total, limit, bound } => (
                "KC038",
                format!("version {version} of key \"{key}\" has encrypted as many values as it may"),
                Some(format!("{total} are used or reserved, the limit is {limit}, and its bound {bound}.")),
                Some(format!("Rotate it: SELECT colcrypt.rotate_key({}). The worker does so by itself before: see colcrypt.rotation_schedule for what hindered it.", quote_literal(key))),
            ),
            Self::SearchLimit { key, role, most, per } => (
                "KC052",
                format!("role \"{role}\" has looked up by key \"{key}\" as often as it may"),
                Some(format!("A role may look up {most} values by it in {per}, and each term that is made counts.")),
                Some("Wait until the first of them are that long ago. Who may manage the key sets the limit, with colcrypt.set_search_limit; colcrypt.search_usage has who looks up how often.".into()),
            ),
            Self::PeriodOver { key, version, privilege: Privilege::Encrypt, end } => (
                "KC039",
                format!("the originator-usage period of version {version} of key \"{key}\" is over"),
                Some(format!("It ended at {end}.")),
                Some(format!("Rotate it: SELECT colcrypt.rotate_key({}). The worker does so by itself before: see colcrypt.rotation_schedule for what hindered it.", quote_literal(key))),
            ),
            Self::PeriodOver { key, version, end, .. } => (
                "KC040",
                format!("the recipient-usage period of version {version} of key \"{key}\" is over"),
                Some(format!("It ended at {end}.")),
                Some("Move the value to the current version with colcrypt.reencrypt_col, or lengthen the period with colcrypt.set_cryptoperiods.".into()),
            ),
            Self::UsageUnrecorded { key, why } => (
                "KC041",
                format!("the use of key \"{key}\" cannot be counted"),
                Some(why.detail().into()),
                Some(why.hint().into()),
            ),
            Self::NotTableOwner { table } => (
                "42501",
                format!("must be owner of table {table}"),
                None,
                Some("The context expression of a registered column runs with the rights of the table's owner.".into()),
            ),
            Self::AuditAppendOnly => (
                "KC035",
                "the audit log is only ever added to".into(),
                None,
                Some("Old records stay, since each one vouches for the one before it.".into()),
            ),
            Self::JobState { job, phase, hint } => (
                "55000",
                format!("job {job} is in phase {phase:?}"),
                None,
                Some(hint.clone()),
            ),
            Self::Column { message, hint } => ("42809", message.clone(), None, Some(hint.clone())),
            Self::TemporaryTable { table } => (
                "42809",
                format!("table {table} is temporary"),
                Some("Only its own session reaches it: no job could move its values, and it is gone with the session, also from dumps.".into()),
                Some("Register columns of permanent tables. Values of a temporary one need no registration: encrypt_col and decrypt_col do without.".into()),
            ),
            Self::RowKey { message, hint } => ("KC043", message.clone(), None, Some(hint.clone())),
            Self::NoRowKey { table } => (
                "KC042",
                format!("cannot update or delete through the access view: table {table} has no key to find its rows by"),
                Some("A primary key is needed, or a unique index that is neither partial nor deferrable, on columns that are NOT NULL; and no table may inherit from it.".into()),
                Some("Add a primary key, or update the table itself.".into()),
            ),
            Self::RowChanged { table } => (
                "40001",
                format!("could not write through the access view of {table}: the row has changed since it was read"),
                Some("Another transaction, or this statement before, has changed it.".into()),
                Some("Try the transaction again.".into()),
            ),
            Self::ColumnChanged { column } => (
                "40001",
                format!("column {column} was changed before its rows could be read"),
                None,
                Some("Try the transaction again.".into()),
            ),
            Self::OtherRelation => (
                "40001",
                "another relation has taken the table's name in this moment".into(),
                Some("The table, or its schema, was renamed while the statement was prepared.".into()),
                Some("Try the transaction again.".into()),
            ),
            Self::GeneratedColumn { column } => (
                "428C9",
                format!("cannot give column {column} a value: the table generates it"),
                None,
                Some("Leave the column out.".into()),
            ),
            Self::ComesLoose { column, by } => (
                "KC065",
                format!("a value of column {column} would come loose from its row"),
                Some(format!("Column {by} changes, which it is bound to: nobody could read it then.")),
                Some("Write through the access view, which binds the value anew; or set the value, too, encrypted with its new context; or have values follow: colcrypt.follow_context.".into()),
            ),
            Self::NotOfColumn {
                column,
                key,
                type_name,
                is_bound,
                why,
            } => (
                "KC065",
                format!("this is no value of column {column}, which is enforced"),
                Some(why.clone()),
                Some(format!(
                    "It takes what encrypt_col makes of {type_name} with key \"{key}\"{}, or write through its access view.",
                    match is_bound {
                        Some(true) => " and the column's context",
                        Some(false) => " and no context",
                        None => "",
                    }
                )),
            ),
            Self::ViewIsSilent => (
                "55000",
                "an access view is not written to while session_replication_role is \"replica\"".into(),
                Some("Its trigger does not fire then, and the rows would be lost.".into()),
                Some("Write ciphertexts to the table itself, whose own trigger for search terms fires always; or reset the setting.".into()),
            ),
            Self::NotAccessView { name } => (
                "42809",
                format!("{name} exists and is not an access view of this table"),
                None,
                Some("Choose another name for the view.".into()),
            ),
            Self::MigrationBlocked { column, blocks } => (
                "KC060",
                format!("column {column} cannot be migrated in place"),
                Some(blocks.clone()),
                Some("Change or drop first what stands in the way; dry_run => true lists everything that hangs on the column.".into()),
            ),
            Self::LossesNotAccepted { column, losses } => (
                "KC061",
                format!("with the old column {column}, something would be lost"),
                Some(losses.clone()),
                Some("See the whole list with dry_run => true; if it may be lost, say accept_losses => true.".into()),
            ),
            Self::MigrationUnderWay { table, job, phase } => (
                "55000",
                format!("job {job} is migrating a column of {table}: it is in phase {phase:?}"),
                None,
                Some("One column after the other: wait for it, or end it with colcrypt.cancel_job.".into()),
            ),
            Self::OutOfStep { why } => (
                "KC062",
                "rows do not stay in step with the column that is to take its place".into(),
                Some(why.clone()),
                Some("The migration changes nothing more until that is mended; colcrypt.cancel_job takes it back.".into()),
            ),
            Self::OtherKey { key } => (
                "KC063",
                format!("the value is not under the column's key \"{key}\""),
                None,
                Some("Encrypt it again under the column's key, or delete it.".into()),
            ),
            Self::Unplaced { column, values } => (
                "KC064",
                format!("{values} values of column {column} are not bound to their place"),
                Some("Nothing tells whether they were written here: a value of another table under the same key, bound to the same row key or to nothing, would be taken along.".into()),
                Some("Bind new values with place_context; if whoever could write this column is to be trusted with the key's other values, say accept_unplaced => true.".into()),
            ),
            Self::ValueUnplaced => (
                "KC064",
                "the value is not bound to its place, and the order does not accept such values".into(),
                None,
                Some("Find out where it comes from; accept_unplaced => true takes it along.".into()),
            ),
            Self::Enclosed { function, why } => (
                "KC044",
                format!("{function} is not taken from here: {why}"),
                Some("A decision is a person's own: every statement around the call must be a CALL, a DO, or a SELECT that reads no other role's table or view.".into()),
                Some(format!("Call colcrypt.{function} in a statement of its own.")),
            ),
            Self::OwnRequest { request, requested_by } => (
                "KC045",
                format!("approval request {request} is this role's own"),
                Some(format!("It was made by {requested_by}.")),
                Some("Four eyes: another role that may manage the key decides, logged in and acting under none of the roles that made the request. To take it back use colcrypt.withdraw_request.".into()),
            ),
            Self::NotOwnRequest { request } => (
                "42501",
                format!("approval request {request} was made by another role"),
                None,
                Some("To refuse another role's request use colcrypt.reject_request.".into()),
            ),
            Self::RequestExpired { request } => (
                "KC046",
                format!("approval request {request} has expired"),
                None,
                Some("Make it again; how long it then waits is the keyring's approval_window, see colcrypt.require_four_eyes.".into()),
            ),
            Self::RequestDecided { request, outcome } => (
                "KC047",
                format!("approval request {request} is decided: it was {outcome}"),
                None,
                Some("See the view colcrypt.approval_requests.".into()),
            ),
            Self::RequestVoid { request, why } => (
                "KC048",
                format!("approval request {request} cannot be approved any more"),
                Some(why.clone()),
                Some("Reject it, and have what is wanted now asked for again.".into()),
            ),
            Self::Random => (
                "58030",
                "the operating system's random generator failed".into(),
                None,
                None,
            ),
            Self::Spi(message) => ("XX000", message.clone(), None, None),
        };
        Report {
            sqlstate,
            message,
            detail,
            hint,
        }
    }
}
