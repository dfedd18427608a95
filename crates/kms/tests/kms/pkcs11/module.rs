//! The library: what is none, what it answers, and what happens when it hangs.

use super::*;

#[test]
fn what_is_not_a_module_is_told_apart() {
    alone(async |hsm| {
        let agent = agent(SETTINGS).await;
        let root = softhsm(&hsm);
        let module = |path: PathBuf| with(&root, "module", json!(path));
        let text = hsm.dir().join("text.so");
        fs::write(&text, "not a library").unwrap();
        fails(
            check(&agent, &module("/no/such.so".into()), None).await,
            FailureKind::Config,
            &["/no/such.so", "cannot be loaded"],
        );
        fails(
            check(&agent, &module(text.clone()), None).await,
            FailureKind::Config,
            &["text.so", "cannot be loaded"],
        );
        fs::set_permissions(&text, Permissions::from_mode(0o666)).unwrap();
        fails(
            check(&agent, &module(text), None).await,
            FailureKind::Config,
            &["can be changed by others"],
        );
        let source = hsm.dir().join("empty.c");
        let library = hsm.dir().join("empty.so");
        fs::write(&source, "int nothing;").unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-o"])
            .arg(&library)
            .arg(&source)
            .status();
        assert!(built.unwrap().success());
        fails(
            check(&agent, &module(library), None).await,
            FailureKind::Config,
            &["not a PKCS#11 module", "C_GetFunctionList"],
        );
        let shim = module(hsm.shim());
        hsm.fault("C_Initialize 0x5");
        fails(
            check(&agent, &shim, None).await,
            FailureKind::Unavailable,
            &["does not start"],
        );
        hsm.mend();
        ok(check(&agent, &shim, None).await);
    });
}

#[test]
fn lost_sessions_are_opened_again_and_codes_are_told_apart() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let (_, dek) = whole_way(&shim(&hsm), "app").await;
        // Session handle invalid, closed, device removed, no token, no login, not initialised, device error.
        for code in [
            "0xB3", "0xB0", "0x32", "0xE0", "0x101", "0x190", "0x30", "0x82", "0x60",
        ] {
            hsm.fault(&format!("once C_DecryptInit {code}"));
            ok(cold(&dek).await);
        }
        // Without a login the key cannot be seen, which must not be taken for its deletion.
        hsm.fault("once C_FindObjectsInit logout");
        ok(cold(&dek).await);
        hsm.fault("once C_GetTokenInfo 0x5");
        ok(cold(&dek).await);
        let functions = ["C_DecryptInit", "C_FindObjectsInit", "C_Decrypt"];
        for fact in functions
            .iter()
            .flat_map(|function| facts::of("pkcs11", function))
        {
            let fault = format!("{} {}", fact.service, fact.code);
            hsm.fault(&fault);
            let failure = cold(&dek).await.expect_err(&fault);
            assert_eq!(failure.kind, kind(&fact), "{fact:?}: {failure}");
            hsm.mend();
        }
        for (fault, kind, part) in [
            // Codes that say nothing, of a key that proves to be the right one: the KEK was altered.
            ("C_Decrypt 0x5", FailureKind::Corrupt, "altered"),
            ("C_Decrypt 0x40", FailureKind::Corrupt, "altered"),
            ("C_Decrypt 0x6", FailureKind::Corrupt, "altered"),
            (
                "C_Decrypt flip",
                FailureKind::WrongRootKey,
                "expected check value",
            ),
        ] {
            hsm.fault(fault);
            let failure = cold(&dek).await.expect_err(fault);
            assert_eq!(failure.kind, kind, "{fault}: {failure}");
            assert!(failure.message.contains(part), "{fault}: {failure}");
            hsm.mend();
        }
        ok(cold(&dek).await);
        // A token out of order answers GeneralError to everything: an outage, not a damaged KEK.
        hsm.fault("C_Decrypt 0x5");
        hsm.fault("C_GetTokenInfo 0x5");
        fails(
            cold(&dek).await,
            FailureKind::Unreachable,
            &["is not present"],
        );
        hsm.mend();
        well_again(&dek).await;
    });
}

#[test]
fn a_hung_module_costs_its_callers_their_time_and_in_the_end_the_agent() {
    alone(async |hsm| {
        hsm.create_key("tok", "app", "01");
        let (root, dir) = (shim(&hsm), common::Dir::new());
        let (_, dek) = whole_way(&root, "app").await;
        colcrypt_kms::file::keygen(&dir.path("k")).unwrap();
        let file = provider("file", json!({"path": dir.path("k")}));
        let hasty = agent(Settings {
            kms_timeout_ms: 300,
            ..SETTINGS
        })
        .await;
        hsm.fault("C_Decrypt hang");
        for _ in 0..2 {
            fails(
                hasty.load(&dek).await,
                FailureKind::Timeout,
                &["no answer from PKCS#11 module", "300 ms"],
            );
        }
        ok(hasty.create_kek(&file, "").await);
        hsm.mend();
        ok(cold(&dek).await);
        let before = hsm.calls("C_DecryptInit");
        hsm.fault("C_Decrypt hang");
        for _ in 0..3 {
            fails(hasty.load(&dek).await, FailureKind::Timeout, &[]);
        }
        assert_eq!(
            hsm.calls("C_DecryptInit"),
            before + 1,
            "calls that were given up are not made"
        );
        let began = Instant::now();
        while !hasty.server.is_finished() {
            assert!(began.elapsed() < PATIENCE, "the agent ends");
            let (hasty, dek) = (Arc::clone(&hasty), dek.clone());
            // Its answer may be lost with the agent.
            let mut call = tokio::spawn(async move { hasty.load(&dek).await.map(|_| ()) });
            if tokio::time::timeout(Duration::from_millis(500), &mut call)
                .await
                .is_err()
            {
                call.abort();
                let _ = call.await;
            }
        }
        let hasty = Arc::into_inner(hasty).map(|hasty| hasty.server);
        let ended = hasty.expect("one owner").await.unwrap();
        let said = ended.unwrap_err().to_string();
        assert!(said.contains("does not come back"), "{said}");
        hsm.mend();
    });
}

/// How many threads of modules this process has.
fn module_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "pkcs11").count()
}

#[test]
fn configurations_that_name_many_modules_leave_no_thread_each() {
    alone(async |hsm| {
        let agent = agent(SETTINGS).await;
        let root = softhsm(&hsm);
        let module = |number: usize| {
            let path = hsm.dir().join(format!("{number}.so"));
            // Some are there and are no libraries.
            if number.is_multiple_of(2) {
                fs::write(&path, "not a library").unwrap();
            }
            with(&root, "module", json!(path))
        };
        for number in 0..300 {
            let provider = module(number);
            ok(agent.call(Request::ValidateProvider { provider }).await);
        }
        assert_eq!(module_threads(), 0, "validated alone");
        for number in 0..50 {
            let checked = check(&agent, &module(number), None).await;
            fails(checked, FailureKind::Config, &["cannot be loaded"]);
        }
        let began = Instant::now();
        while module_threads() > 0 {
            assert!(
                began.elapsed() < PATIENCE,
                "threads that have nothing to do"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The one that serves is kept, once.
        for _ in 0..3 {
            ok(check(&agent, &root, None).await);
        }
        assert_eq!(module_threads(), 1);
    });
}
