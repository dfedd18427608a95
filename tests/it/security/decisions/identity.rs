//! A person is the role that logged in: nothing that a session turns itself into makes a second one.

use colcrypt_tests::of_traps::trap;

use crate::common::Sql;

#[test]
fn a_requester_is_no_second_person_by_another_role() {
    let mut trap = trap();
    let (mallory, group, request) = (trap.mallory.clone(), trap.group.clone(), trap.request);
    let definer = |owner: &str| {
        format!(
            "CREATE FUNCTION public.as_{owner}() RETURNS text LANGUAGE sql SECURITY DEFINER AS
                 'SELECT colcrypt.approve_request({request})';
             ALTER FUNCTION public.as_{owner}() OWNER TO {owner}"
        )
    };
    trap.db.client.run(&definer(&group));
    trap.db.client.run(&definer("postgres"));
    let mut theirs = trap.db.connect_as(&mallory);
    theirs.fails("KC045", &format!("SELECT approve_request({request})"));
    theirs.fails("KC045", &format!("SELECT as_{group}()"));
    theirs.fails("KC045", "SELECT as_postgres()");
    theirs.run(&format!("SET ROLE {group}"));
    theirs.fails("KC045", &format!("SELECT approve_request({request})"));
    theirs.fails("KC045", &format!("DO 'BEGIN PERFORM as_{group}(); END'"));
    theirs.fails("KC045", "SELECT as_postgres()");
    // A superuser's session is his, whatever it calls itself.
    let mut admin = trap.db.connect();
    let own = admin
        .one(&format!(
            "SELECT grant_key('k', '{mallory}', '{{encrypt}}')"
        ))
        .trim_start_matches("waiting for approval ")
        .to_string();
    admin.run(&format!("SET SESSION AUTHORIZATION {mallory}"));
    admin.fails("KC045", &format!("SELECT approve_request({own})"));
    admin.run(&format!("SET ROLE {group}"));
    admin.fails("KC045", &format!("SELECT approve_request({own})"));
    admin.run("RESET SESSION AUTHORIZATION");
    // And what he was asked for in his own name he may approve as himself.
    assert_eq!(
        admin.one(&format!("SELECT approve_request({request})")),
        "granted"
    );
}
