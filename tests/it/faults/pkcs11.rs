//! A keyring on an HSM: the whole way, the kill switch, a library that crashes and one that hangs.

use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use colcrypt_tests::bed::{
    AT_ONCE, Bed, MOMENT, decrypt, encrypt, keep_on, ready_keys, wait_until_failed, wait_until_ok,
};
use colcrypt_tests::problem::Problem;
use colcrypt_tests::problem::failed;
use colcrypt_tests::process;
use colcrypt_tests::softhsm::SoftHsm;
use colcrypt_tests::{Cluster, wait_for};

const KEY: [u8; 32] = [0x5a; 32];

/// A cluster whose keyring `ring` is wrapped by key `app` of a token of SoftHSM's.
struct HsmBed {
    bed: Bed,
    hsm: SoftHsm,
}

impl HsmBed {
    fn new(conf: &[&str], module: impl Fn(&SoftHsm) -> std::path::PathBuf) -> Self {
        let hsm = SoftHsm::start_for_server();
        hsm.create_token("tok");
        hsm.import_key(&["tok"], "app", "01", &KEY);
        let config = hsm.config(&module(&hsm), "tok");
        let (name, value) = hsm.environment();
        let mut builder = Cluster::builder().env(name, value).conf(AT_ONCE);
        for line in conf {
            builder = builder.conf(*line);
        }
        let bed = Bed::on(builder);
        bed.hide(&SoftHsm::pin("tok"));
        bed.hide(&hex::encode(KEY));
        let mut client = bed.cluster.client();
        client
            .execute(
                "SELECT colcrypt.add_provider('hsm', 'pkcs11', $1::text::jsonb)",
                &[&config.to_string()],
            )
            .unwrap();
        client
            .batch_execute(
                "SELECT colcrypt.check_provider('hsm', 'app'); \
                 SELECT colcrypt.create_keyring('ring', 'hsm', 'app')",
            )
            .unwrap();
        bed.create_key("k", "ring");
        Self { bed, hsm }
    }

    fn agent(&self) -> i32 {
        let mut pid = None;
        wait_for("the agent", MOMENT, || {
            pid = self.cluster.agent_pid();
            pid.is_some()
        });
        pid.expect("found")
    }
}

impl Deref for HsmBed {
    type Target = Bed;
    fn deref(&self) -> &Bed {
        &self.bed
    }
}

fn softhsm(_: &SoftHsm) -> std::path::PathBuf {
    SoftHsm::module()
}

#[test]
fn the_whole_way_and_the_kill_switch() {
    let bed = HsmBed::new(
        &[
            "colcrypt.soft_ttl = '300ms'",
            "colcrypt.hard_ttl = '1h'",
            "log_min_messages = debug2",
        ],
        softhsm,
    );
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    let version: String = client
        .query_one("SELECT root_key_version FROM colcrypt.kek_copy", &[])
        .unwrap()
        .get(0);
    assert!(version.starts_with("aes-gcm:"), "{version}");
    bed.cluster.restart();
    let mut client = bed.cluster.client();
    decrypt(&mut client, &value).unwrap();
    let pids = bed.pids();

    // Taken out is an outage, and back is back.
    bed.hsm.remove_token("tok");
    keep_on(Duration::from_millis(1500), || {
        decrypt(&mut client, &value).unwrap();
    });
    bed.hsm.put_back_token("tok");
    keep_on(Duration::from_secs(4), || {
        decrypt(&mut client, &value).unwrap();
    });

    // Deleted is a refusal.
    bed.hsm.delete_key("tok", "app");
    let (problem, _) = wait_until_failed("the key to be missed", MOMENT, || {
        decrypt(&mut client, &value)
    });
    problem
        .is("KC016")
        .in_detail("token \"tok\": has no AES or RSA key of label \"app\"");
    bed.is_clean(&problem);
    assert_eq!(ready_keys(&mut client), 0);
    bed.hsm.create_key("tok", "app", "01");
    wait_until_failed("the other key to be seen", MOMENT, || {
        match decrypt(&mut client, &value) {
            Err(error) if Problem::of(&error).code == "KC019" => Err(error),
            _ => Ok(()),
        }
    })
    .0
    .is("KC019")
    .in_detail("wrong root key: expected check value");
    bed.hsm.delete_key("tok", "app");
    bed.hsm.import_key(&["tok"], "app", "01", &KEY);
    wait_until_ok("the key's return", MOMENT, || decrypt(&mut client, &value));
    assert_eq!(bed.pids(), pids, "nothing was restarted");

    // A wrong PIN is a refusal, too, and the right one serves again.
    let _ = bed.hsm.pin_file("tok.pin", "pin-wrong-0815");
    bed.hide("pin-wrong-0815");
    let (problem, _) = wait_until_failed("the PIN to be refused", MOMENT, || {
        decrypt(&mut client, &value)
    });
    problem.is("KC015").in_detail("the PIN of PIN file");
    let _ = bed.hsm.pin_file("tok.pin", &SoftHsm::pin("tok"));
    wait_until_ok("the right PIN", MOMENT, || decrypt(&mut client, &value));
}

#[test]
fn a_library_that_crashes_costs_one_agent() {
    let bed = HsmBed::new(
        &["colcrypt.soft_ttl = '1h'", "colcrypt.kms_timeout = '2s'"],
        SoftHsm::shim,
    );
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    let (pids, agent) = (bed.pids(), bed.agent());
    let mut check = || {
        client
            .execute("SELECT colcrypt.check_provider('hsm', 'app')", &[])
            .map(|_| ())
    };
    // Once: the next agent does what this one left undone, and the caller notices nothing.
    bed.hsm.fault("once C_Encrypt crash");
    check().unwrap();
    assert_ne!(bed.agent(), agent);
    assert!(!process::is_alive(agent));
    // Always: an error for whoever needs the token, and no harm to who does not.
    bed.hsm.fault("C_Encrypt crash");
    let problem = failed(check());
    problem.is("KC023");
    bed.is_clean(&problem);
    decrypt(&mut bed.cluster.client(), &value).unwrap();
    bed.hsm.mend();
    wait_until_ok("another agent", MOMENT, check);
    assert_eq!(bed.pids(), pids, "the server noticed nothing");
    decrypt(&mut client, &value).unwrap();
}

#[test]
fn a_library_that_hangs_is_an_outage_and_ends_with_its_agent() {
    let bed = HsmBed::new(
        &[
            "colcrypt.soft_ttl = '300ms'",
            "colcrypt.hard_ttl = '1h'",
            "colcrypt.kms_timeout = '500ms'",
            "colcrypt.kms_retries = 0",
        ],
        SoftHsm::shim,
    );
    let mut client = bed.cluster.client();
    let value = encrypt(&mut client, "k").unwrap();
    let (pids, agent) = (bed.pids(), bed.agent());
    bed.hsm.fault("C_Decrypt hang");
    let problem = failed(client.execute("SELECT colcrypt.check_provider('hsm', 'app')", &[]));
    problem
        .is("KC012")
        .in_detail("no answer from PKCS#11 module");
    // The next agent comes by itself, and finds the library as it is.
    wait_for("the agent to give up", Duration::from_secs(30), || {
        decrypt(&mut client, &value).unwrap();
        !process::is_alive(agent)
    });
    bed.hsm.mend();
    wait_until_ok("another agent", MOMENT, || {
        decrypt(&mut client, &value).and_then(|()| {
            client
                .execute("SELECT colcrypt.check_provider('hsm', 'app')", &[])
                .map(|_| ())
        })
    });
    assert!(bed.cluster.log().contains("does not come back from a call"));
    assert_eq!(bed.pids(), pids, "the server noticed nothing");
}

#[test]
fn a_module_that_others_can_change_is_not_loaded() {
    let bed = HsmBed::new(&[], SoftHsm::shim);
    let shim = bed.hsm.dir().join("shim.so");
    let loose = bed.hsm.dir().join("loose.so");
    std::fs::copy(&shim, &loose).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&loose, 0o777);
    let mut client = bed.cluster.client();
    let sql = "SELECT colcrypt.alter_provider('hsm', config || jsonb_build_object('module', $1::text)) \
               FROM colcrypt.provider";
    failed(client.execute(sql, &[&loose.to_str().unwrap()]))
        .is("KC010")
        .in_detail("can be changed by others");
}
