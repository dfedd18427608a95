//! Tests that `cargo pgrx test` runs inside a server: each in a transaction of its own, rolled back.
//! What needs several sessions, a standby or a crash is in `tests/`.

#[cfg(test)]
pub use outside::postgresql_conf_options;

#[cfg(test)]
pub fn setup(_options: Vec<&str>) {}

/// The half that runs in the test process, before the server starts.
#[cfg(test)]
mod outside {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::OnceLock;

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        static OPTIONS: OnceLock<Vec<String>> = OnceLock::new();
        let options = OPTIONS.get_or_init(|| {
            let agent = agent();
            let root_key = root_key(&agent);
            // A copy: the server's user may not reach the checkout (one in /root, for example).
            let copy = root_key.with_file_name("colcrypt");
            let _ = std::fs::remove_file(&copy);
            std::fs::copy(&agent, &copy).expect("a copy of the agent");
            vec![
                "shared_preload_libraries = 'colcrypt'".into(),
                format!("colcrypt.agent_path = '{}'", copy.display()),
                // No setting of ours: a name for the tests to ask for.
                format!("colcrypt_tests.root_key = '{}'", root_key.display()),
            ]
        });
        options.iter().map(String::as_str).collect()
    }

    /// The `colcrypt` program: the one named by COLCRYPT_TEST_AGENT, or built beside the test's own directory.
    fn agent() -> PathBuf {
        if let Some(built) = std::env::var_os("COLCRYPT_TEST_AGENT") {
            return built.into();
        }
        let own = std::env::current_exe().expect("this program's path");
        let directory = own.ancestors().nth(2).expect("target/<profile>/deps");
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build
            .args(["build", "-p", "colcrypt-cli"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if directory.ends_with("release") {
            build.arg("--release");
        }
        run(&mut build);
        directory.join("colcrypt")
    }

    /// A root key file that the server may read: as root, the server runs as user `postgres`.
    fn root_key(agent: &Path) -> PathBuf {
        let user = std::fs::metadata("/proc/self").expect("/proc").uid();
        let directory = std::env::temp_dir().join(format!("colcrypt-pgrx-{user}"));
        let file = directory.join("root.key");
        if file.exists() {
            return file;
        }
        std::fs::create_dir(&directory).expect("a new directory");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).expect("mode");
        run(Command::new(agent).arg("keygen").arg("--out").arg(&file));
        if user == 0 {
            let id = |flag| {
                let output = run(Command::new("id").args([flag, "postgres"]));
                String::from_utf8_lossy(&output)
                    .trim()
                    .parse()
                    .expect("a number")
            };
            for path in [&file, &directory] {
                chown(path, Some(id("-u")), Some(id("-g"))).expect("chown");
            }
        }
        file
    }

    fn run(command: &mut Command) -> Vec<u8> {
        let output = command.output().expect("a program to run");
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// Makes the key `k`. Names are this session's own: tests run side by side and must not wait for each other.
    fn make_key() -> String {
        let name = format!("k{}", std::process::id());
        Spi::run(&format!(
            "SET LOCAL search_path = public, colcrypt;
             SELECT add_provider('{name}', 'file', jsonb_build_object('path', current_setting('colcrypt_tests.root_key')));
             SELECT create_keyring('{name}', '{name}');
             SELECT create_key('{name}', '{name}')"
        ))
        .expect("a key");
        name
    }

    /// Asks with `$K` standing for a key of this session.
    fn ask<T: FromDatum + IntoDatum>(sql: &str) -> Option<T> {
        let name = make_key();
        Spi::get_one(&sql.replace("$K", &name)).expect("one value")
    }

    #[pg_test]
    fn text_comes_back() {
        assert_eq!(
            ask::<String>("SELECT decrypt_col(encrypt_col('żółć 🔑', '$K'))").as_deref(),
            Some("żółć 🔑")
        );
    }

    #[pg_test]
    fn types_come_back() {
        let same = ask::<bool>(
            "SELECT decrypt_col(encrypt_col(-1, '$K'), NULL::int) = -1
                AND decrypt_col(encrypt_col('{\"a\": [1]}'::jsonb, '$K'), NULL::jsonb) = '{\"a\": [1]}'
                AND decrypt_col(encrypt_col('infinity'::timestamptz, '$K'), NULL::timestamptz) = 'infinity'
                AND decrypt_col(encrypt_col(ARRAY['x', NULL], '$K'), NULL::text[]) = ARRAY['x', NULL]",
        );
        assert_eq!(same, Some(true));
    }

    #[pg_test]
    fn null_stays_null() {
        assert_eq!(
            ask::<bool>(
                "SELECT encrypt_col(NULL::text, '$K') IS NULL AND decrypt_col(NULL::ciphertext) IS NULL"
            ),
            Some(true)
        );
    }

    #[pg_test]
    fn a_text_grows_by_forty_bytes() {
        assert_eq!(
            ask::<i32>("SELECT length(encrypt_col('twelve bytes', '$K')::bytea)"),
            Some(52)
        );
    }

    #[pg_test]
    fn a_value_tells_what_it_is() {
        assert_eq!(
            ask::<bool>(
                "SELECT i.key = '$K' AND version = 1 AND suite = 'aes-256-gcm' AND type = 'date' AND has_context
                 FROM ciphertext_info(encrypt_col(current_date, '$K', row_context(1))) i"
            ),
            Some(true)
        );
    }

    #[pg_test]
    fn contexts_are_typed_and_length_prefixed() {
        assert_eq!(
            Spi::get_one::<bool>(
                "SELECT colcrypt.row_context('a', 'bc')::bytea <> colcrypt.row_context('ab', 'c')::bytea
                    AND colcrypt.row_context(42)::text = '\\x0104696e7434000000040000002a'"
            ),
            Ok(Some(true))
        );
    }

    #[pg_test(error = "a context is bound")]
    fn the_same_context_is_needed() {
        let name = make_key();
        // The message names the session's key, so the detail is what is compared.
        Spi::run(&format!(
            "DO $$
             DECLARE said text;
             BEGIN
                 PERFORM decrypt_col(encrypt_col('v', '{name}', row_context(1)));
             EXCEPTION WHEN OTHERS THEN
                 GET STACKED DIAGNOSTICS said = PG_EXCEPTION_DETAIL;
                 IF said = 'The value is bound to a context and none was given.' THEN
                     RAISE 'a context is bound';
                 END IF;
                 RAISE;
             END $$"
        ))
        .expect("an error");
    }

    #[pg_test(error = "the value holds integer, not text")]
    fn the_type_must_be_the_values() {
        ask::<String>("SELECT decrypt_col(encrypt_col(1, '$K'))");
    }

    #[pg_test(error = "the value is a ciphertext already")]
    fn nothing_is_encrypted_twice() {
        ask::<bool>("SELECT encrypt_col(encrypt_col('v', '$K'), '$K') IS NULL");
    }

    #[pg_test(error = "no key has the given name")]
    fn a_key_must_exist() {
        Spi::run("SELECT colcrypt.encrypt_col('v', 'no such key')").expect("an error");
    }

    #[pg_test(error = "key must not be null")]
    fn a_null_key_is_an_error() {
        Spi::run("SELECT colcrypt.encrypt_col('v', NULL)").expect("an error");
    }

    #[pg_test(error = "the value is not a valid ciphertext")]
    fn only_ciphertexts_are_cast() {
        Spi::run("SELECT 'plain text'::bytea::colcrypt.ciphertext").expect("an error");
    }

    #[pg_test]
    fn a_rotation_is_used_at_once_and_the_old_version_still_reads() {
        let name = make_key();
        Spi::run(&format!(
            "CREATE TEMP TABLE t AS SELECT encrypt_col('old', '{name}') AS v; SELECT rotate_key('{name}')"
        ))
        .expect("rotated");
        let right = Spi::get_one::<bool>(&format!(
            "SELECT decrypt_col(v) = 'old' AND (ciphertext_info(v)).version = 1
                AND (ciphertext_info(encrypt_col('new', '{name}'))).version = 2
                AND decrypt_col(reencrypt_col(v)) = 'old' AND (ciphertext_info(reencrypt_col(v))).version = 2 FROM t"
        ));
        assert_eq!(right, Ok(Some(true)));
    }

    #[pg_test]
    fn the_broker_and_its_agent_run() {
        assert_eq!(
            ask::<bool>(
                "SELECT decrypt_col(encrypt_col('v', '$K')) = 'v' AND broker_pid IS NOT NULL AND agent_pid IS NOT NULL
                    AND slots > 0 FROM broker_status()"
            ),
            Some(true)
        );
    }
}
