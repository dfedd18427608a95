//! A root key file that is gone, open to others, damaged, or another one: never a loss, and well again
//! as soon as the right file is back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use colcrypt_tests::bed::{
    Bed, MOMENT, QUICK, decrypt, encrypt, keep_on, ready_keys, wait_until_failed, wait_until_ok,
};
use colcrypt_tests::problem::failed;
use postgres::Client;

/// All wrapped keys of the catalog, as one text.
fn catalog(client: &mut Client) -> String {
    let sql = "SELECT md5((SELECT string_agg(t::text, '' ORDER BY t::text) FROM colcrypt.kek_copy t) \
               || (SELECT string_agg(t::text, '' ORDER BY t::text) FROM colcrypt.key_version t))";
    client.query_one(sql, &[]).unwrap().get(0)
}

/// With the agent killed and the slab empty, every use needs the file.
fn cold(bed: &Bed) {
    bed.cluster.restart();
}

#[test]
fn another_root_key_is_refused_and_nothing_changes() {
    let bed = Bed::on_file(&QUICK);
    let path = bed.cluster.dir().join("ring.key");
    let right = bed.cluster.dir().join("right.key");
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    let before = catalog(&mut bed.cluster.client());
    fs::rename(&path, &right).unwrap();
    let other = bed.cluster.root_key("ring.key");
    assert_eq!(other, path);
    let kcv = |file: &Path| {
        let line = fs::read_to_string(file).unwrap();
        line.trim().rsplit(':').next().unwrap().to_owned()
    };
    cold(&bed);
    let mut client = bed.cluster.client();
    let said = format!(
        "wrong root key: expected check value {}, got {}",
        kcv(&right),
        kcv(&path)
    );
    bed.refused(&mut client, &value)
        .is("KC019")
        .in_detail(&said);
    failed(encrypt(&mut client, "k")).is("KC019");
    failed(client.query_one("SELECT colcrypt.rotate_key('k')", &[]))
        .is("KC019")
        .in_detail(&said);
    failed(client.query_one("SELECT colcrypt.create_key('k2', 'ring')", &[])).is("KC019");
    assert_eq!(catalog(&mut client), before);

    fs::rename(&right, &path).unwrap();
    decrypt(&mut client, &value).unwrap();
    client
        .query_one("SELECT colcrypt.rotate_key('k')", &[])
        .unwrap();
    decrypt(&mut client, &value).unwrap();
}

#[test]
fn a_key_file_that_cannot_be_used_says_why() {
    let bed = Bed::on_file(&QUICK);
    let path = bed.cluster.dir().join("ring.key");
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    let digit = "colcrypt-root-key-1:".len();
    flipped[digit] = if good[digit] == b'0' { b'1' } else { b'0' };
    let value = encrypt(&mut bed.cluster.client(), "k").unwrap();
    let aside = bed.cluster.dir().join("aside.key");

    let spoil: [(&str, &dyn Fn(), &str, &str); 7] = [
        (
            "missing",
            &|| fs::remove_file(&path).unwrap(),
            "KC016",
            "does not exist: restore it from its backup",
        ),
        (
            "open",
            &|| mode(&path, 0o644),
            "KC010",
            "has mode 0644, so others can read or change it",
        ),
        (
            "directory",
            &|| directory(&path),
            "KC010",
            "is not a regular file",
        ),
        (
            "empty",
            &|| fs::write(&path, "").unwrap(),
            "KC010",
            "not a root key file",
        ),
        (
            "truncated",
            &|| fs::write(&path, &good[..60]).unwrap(),
            "KC010",
            "not a root key file",
        ),
        (
            "damaged",
            &|| fs::write(&path, &flipped).unwrap(),
            "KC010",
            "its check value says",
        ),
        (
            "prose",
            &|| fs::write(&path, "open sesame\n").unwrap(),
            "KC010",
            "not a root key file",
        ),
    ];
    for (what, spoil, code, said) in spoil {
        fs::copy(&path, &aside).unwrap();
        let owner = fs::metadata(&path).unwrap();
        spoil();
        cold(&bed);
        let mut client = bed.cluster.client();
        bed.refused(&mut client, &value).is(code).in_detail(said);
        let problem = failed(client.execute("SELECT colcrypt.check_provider('ring')", &[]));
        problem.is(code).in_detail(said);
        let remade = "SELECT colcrypt.create_keyring('again', 'ring')";
        failed(client.execute(remade, &[])).is(code);
        if what == "missing" {
            assert!(!path.exists(), "a root key is never made by itself");
        }

        let _ = fs::remove_dir(&path);
        let _ = fs::remove_file(&path);
        fs::copy(&aside, &path).unwrap();
        mode(&path, 0o600);
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        decrypt(&mut client, &value).unwrap_or_else(|error| panic!("after {what}: {error:?}"));
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn directory(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

#[test]
fn a_file_taken_away_is_a_kill_switch_and_a_directory_gone_is_an_outage() {
    let bed = Bed::bare(&["colcrypt.soft_ttl = '200ms'", "colcrypt.hard_ttl = '1h'"]);
    let (near, far) = (
        bed.cluster.dir().join("keys"),
        bed.cluster.dir().join("unmounted"),
    );
    let path = bed.add_file_keyring("ring");
    bed.create_key("k", "ring");
    let mut warm = bed.cluster.client();
    let value = encrypt(&mut warm, "k").unwrap();
    let aside = bed.cluster.dir().join("aside.key");
    fs::rename(&path, &aside).unwrap();
    let (problem, took) = wait_until_failed("the file to be missed", MOMENT, || {
        decrypt(&mut warm, &value)
    });
    problem.is("KC016");
    assert!(took < Duration::from_millis(2500), "{took:?}");
    assert_eq!(ready_keys(&mut warm), 0);
    fs::rename(&aside, &path).unwrap();
    wait_until_ok("the file's return", MOMENT, || decrypt(&mut warm, &value));

    // The same key in a directory that goes away whole.
    fs::create_dir(&near).unwrap();
    mode(&near, 0o755);
    let mounted = near.join("root.key");
    let sql = "SELECT colcrypt.alter_provider(name, jsonb_build_object('path', $1::text)) FROM colcrypt.provider";
    fs::rename(&path, &mounted).unwrap();
    warm.execute(sql, &[&mounted.to_str().unwrap()]).unwrap();
    wait_until_ok("the key at its new place", MOMENT, || {
        decrypt(&mut warm, &value)
    });
    bed.cluster.restart();
    let mut warm = bed.cluster.client();
    decrypt(&mut warm, &value).unwrap();
    fs::rename(&near, &far).unwrap();
    keep_on(Duration::from_secs(1), || {
        decrypt(&mut warm, &value).unwrap()
    });
    bed.cluster.restart();
    bed.refused(&mut bed.cluster.client(), &value)
        .is("KC013")
        .in_detail("is its file system mounted?");
    fs::rename(&far, &near).unwrap();
    decrypt(&mut bed.cluster.client(), &value).unwrap();
}
