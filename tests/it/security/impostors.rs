//! Databases that the extension is not in: whoever may create a schema there may call it colcrypt, and put things of
//! our names into it. The library is loaded all the same, and lends them nothing.

use colcrypt_tests::of_columns::said;

use crate::common::{Sql, cluster, unique};

/// A database without the extension, its owner, who is nobody else, and his connection.
fn without_the_extension() -> (String, String, postgres::Client) {
    let (database, owner) = (unique("bare"), unique("owner"));
    cluster()
        .client()
        .run(&format!("CREATE ROLE {owner} LOGIN"));
    cluster()
        .client()
        .run(&format!("CREATE DATABASE {database} OWNER {owner}"));
    let mut client = cluster()
        .config()
        .user(&owner)
        .dbname(&database)
        .connect(postgres::NoTls)
        .expect("the owner's connection");
    client.run(
        "CREATE SCHEMA colcrypt;
         CREATE TABLE public.ran (by name);
         CREATE FUNCTION public.evil() RETURNS int VOLATILE LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.ran VALUES (current_user); RETURN 1; END $$",
    );
    (database, owner, client)
}

/// Nothing ran but with the owner's rights.
fn lends_nothing(owner: &str, client: &mut postgres::Client) {
    let sql = format!("SELECT count(*) FROM public.ran WHERE by <> '{owner}'");
    assert_eq!(client.number(&sql), 0);
}

#[test]
fn a_renaming_believes_no_table_of_registrations_but_the_extensions() {
    let (_, owner, mut client) = without_the_extension();
    client.run(
        "CREATE VIEW colcrypt.protected_column AS
             SELECT 'pg_class'::regclass AS relation, 'a'::name AS attribute, 'a'::text AS context, NULL::text AS becomes,
                    1 AS rotation WHERE public.evil() = 1;
         CREATE TABLE public.z (a int); ALTER TABLE public.z RENAME a TO b; ALTER TABLE public.z ALTER b TYPE bigint;
         ALTER TABLE public.z RENAME TO y; CREATE SCHEMA s; ALTER SCHEMA s RENAME TO r",
    );
    lends_nothing(&owner, &mut client);
    // A table of the owner's, with the names that ours have, is as little.
    client.run(
        "DROP VIEW colcrypt.protected_column;
         CREATE TABLE colcrypt.protected_column (relation regclass, attribute name, context text, becomes text, rotation int);
         CREATE TABLE colcrypt.job (relation regclass, attribute name, phase text, finished_at timestamptz, last_error text, job_id int);
         CREATE FUNCTION public.fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.evil(); RETURN NEW; END $$;
         CREATE TRIGGER fires BEFORE INSERT OR UPDATE OR DELETE ON colcrypt.protected_column FOR EACH ROW EXECUTE FUNCTION public.fires();
         INSERT INTO colcrypt.protected_column VALUES ('public.y', 'b', NULL, NULL, 1); DELETE FROM public.ran;
         ALTER TABLE public.y RENAME b TO c",
    );
    assert_eq!(client.number("SELECT count(*) FROM public.ran"), 0);
}

#[test]
fn a_view_is_not_written_as_ours_for_a_triggers_name() {
    let (_, owner, mut client) = without_the_extension();
    client.run(
        "CREATE VIEW colcrypt.protected_column AS
             SELECT 'pg_class'::regclass AS relation, 'a'::name AS attribute, 'a'::text AS context, 1 AS key_id WHERE public.evil() = 1;
         CREATE FUNCTION colcrypt.write_access_view() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TABLE public.t (a int);
         CREATE VIEW public.v WITH (security_invoker = true) AS SELECT a FROM public.t;
         CREATE TRIGGER w INSTEAD OF INSERT OR UPDATE OR DELETE ON public.v FOR EACH ROW EXECUTE FUNCTION colcrypt.write_access_view()",
    );
    client.run("INSERT INTO public.v VALUES (1); UPDATE public.v SET a = 2; DELETE FROM public.v");
    assert_eq!(client.number("SELECT count(*) FROM public.ran"), 0);
    lends_nothing(&owner, &mut client);
}

#[test]
fn a_types_former_name_goes_into_no_table_of_others() {
    let (database, owner, mut client) = without_the_extension();
    client.run(
        "CREATE TABLE colcrypt.former_type_name (name text, type text, more text, most text, PRIMARY KEY (name, type));
         CREATE TYPE public.mood AS ENUM ('good')",
    );
    assert_eq!(
        said(
            cluster(),
            &database,
            "ALTER TYPE public.mood RENAME TO temper"
        ),
        ""
    );
    client.run("ALTER TYPE public.temper RENAME TO mood; CREATE SCHEMA s; ALTER TYPE public.mood SET SCHEMA s; ALTER SCHEMA s RENAME TO r");
    assert_eq!(
        client.number("SELECT count(*) FROM colcrypt.former_type_name"),
        0
    );
    lends_nothing(&owner, &mut client);
}

/// The owner of the schema could take it away from under the extension.
#[test]
fn the_extension_moves_into_no_schema_of_a_role_that_is_no_superuser() {
    let (database, owner, _client) = without_the_extension();
    let mut superuser = cluster().client_db(&database);
    superuser
        .fails("42501", "CREATE EXTENSION colcrypt")
        .says("belongs to a role that is no superuser");
    superuser.run(&format!(
        "REASSIGN OWNED BY {owner} TO postgres; CREATE EXTENSION colcrypt"
    ));
}
