//! Four eyes as tests set them up: two roles that manage keys, and what they ask of each other.

use postgres::Client;

use crate::db::{Db, Sql, db, role};

/// The functions that managers of keys are given.
pub const OFFICE: &str = "grant_key(text, text, text[]), colcrypt.revoke_key(text, text, text[]), \
    colcrypt.require_four_eyes(text, boolean, interval), colcrypt.approve_request(bigint, text), \
    colcrypt.reject_request(bigint, text), colcrypt.withdraw_request(bigint)";

/// A database whose keyring asks for four eyes, and roles that may manage its key.
pub struct Managers {
    pub db: Db,
    pub alice: String,
    pub bob: String,
}

pub fn two_managers() -> Managers {
    let mut db = db();
    let [alice, bob] = [0; 2].map(|_| manager(&mut db.client));
    db.client.run("SELECT require_four_eyes('ring')");
    Managers { db, alice, bob }
}

/// A role that may administer, and manage the key `k`.
pub fn manager(client: &mut Client) -> String {
    let name = officer(client);
    client.run(&format!(
        "SELECT grant_key('k', '{name}', '{{manage}}'), grant_keyring('ring', '{name}', '{{create,manage}}')"
    ));
    name
}

/// A role that may administer, but no key.
pub fn officer(client: &mut Client) -> String {
    let name = role(client);
    client.run(&format!(
        "GRANT EXECUTE ON FUNCTION colcrypt.{OFFICE} TO {name}; GRANT SELECT ON approval_requests TO {name}"
    ));
    name
}

impl Managers {
    pub fn require_four_eyes(&mut self) {
        self.db.client.run("SELECT require_four_eyes('ring')");
    }

    /// How many requests wait.
    pub fn requests(&mut self) -> u32 {
        let sql = "SELECT count(*) FROM approval_requests WHERE outcome = 'pending'";
        self.db.client.one(sql).parse().unwrap()
    }

    pub fn alice(&self) -> Client {
        self.db.connect_as(&self.alice)
    }

    pub fn bob(&self) -> Client {
        self.db.connect_as(&self.bob)
    }

    /// A third manager, whose right was asked for and approved in due form.
    pub fn carol(&mut self) -> String {
        let name = officer(&mut self.db.client);
        let request = ask(&mut self.alice(), &name, "manage");
        approve(&mut self.bob(), request);
        name
    }

    /// Whether the role has the privilege on `k`.
    pub fn has(&mut self, role: &str, privilege: &str) -> bool {
        self.db.client.yes(&format!(
            "SELECT coalesce(bool_or(can_{privilege}), false) FROM key_grant WHERE grantee = '{role}'::regrole"
        ))
    }

    pub fn outcome(&mut self, request: i64) -> String {
        self.db.client.one(&format!(
            "SELECT outcome FROM approval_requests WHERE request_id = {request}"
        ))
    }
}

/// Asks for a privilege for a role, and gives the request's number.
pub fn ask(client: &mut Client, role: &str, privilege: &str) -> i64 {
    request_number(&client.one(&format!(
        "SELECT grant_key('k', '{role}', '{{{privilege}}}')"
    )))
}

pub fn request_number(answer: &str) -> i64 {
    answer
        .strip_prefix("waiting for approval ")
        .unwrap_or_else(|| panic!("{answer}"))
        .parse()
        .unwrap()
}

pub fn approve(client: &mut Client, request: i64) {
    let sql = format!("SELECT approve_request({request}, 'looked at it')");
    assert_eq!(client.one(&sql), "granted");
}

/// A database with keyring `ring` and its key `k`, keyring `open` and its key `free`, and roles that may manage all of
/// them, use both keys and call every function. Nothing asks for four eyes yet.
pub fn office() -> Managers {
    let mut db = db();
    let [alice, bob] = [0; 2].map(|_| role(&mut db.client));
    db.client.run(
        "SELECT create_keyring('open', 'local'), create_key('free', 'open'); GRANT CREATE ON SCHEMA public TO PUBLIC",
    );
    for name in [&alice, &bob] {
        db.client.run(&format!(
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA colcrypt TO {name}; GRANT pg_monitor TO {name};
             SELECT grant_keyring(r, '{name}', '{{create,manage}}') FROM unnest('{{ring,open}}'::text[]) r;
             SELECT grant_key(k, '{name}', '{{encrypt,decrypt,manage}}') FROM unnest('{{k,free}}'::text[]) k"
        ));
    }
    Managers { db, alice, bob }
}
