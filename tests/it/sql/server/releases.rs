//! An installation that was updated from an earlier release is the same as a fresh one, object by object.

use postgres::Client;

use crate::common::{Sql, cluster, root_key, unique};

/// Everything that the extension's schema is made of, one line each. Names instead of OIDs, and columns by name: their
/// order and numbers may differ after ALTER TABLE.
const SCHEMA: &str = "
    SELECT format('function %s returns %s: %s', p.oid::regprocedure, pg_get_function_result(p.oid), pg_get_functiondef(p.oid))
        || format(' acl %s', acl) || format(' comment %L', obj_description(p.oid, 'pg_proc'))
    FROM pg_proc p, LATERAL (SELECT string_agg(a::text, ',' ORDER BY a::text COLLATE \"C\") FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a) x(acl)
    WHERE pronamespace = 'colcrypt'::regnamespace AND prokind <> 'a'
    UNION ALL
    SELECT format('relation %s kind %s options %s acl %s rls %s comment %L', c.oid::regclass, c.relkind, c.reloptions, acl,
                  c.relrowsecurity, obj_description(c.oid, 'pg_class'))
    FROM pg_class c, LATERAL (SELECT string_agg(a::text, ',' ORDER BY a::text COLLATE \"C\") FROM unnest(c.relacl) a) x(acl)
    WHERE relnamespace = 'colcrypt'::regnamespace AND relkind <> 'i'
    UNION ALL
    SELECT format('column %s.%s type %s not null %s default %s identity %s generated %s collation %s comment %L', c.oid::regclass,
                  a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
                  a.attidentity, a.attgenerated, a.attcollation::regcollation, col_description(c.oid, a.attnum))
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE relnamespace = 'colcrypt'::regnamespace AND relkind <> 'i' AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT format('constraint %s on %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'colcrypt'::regnamespace AND contype <> 't'
    UNION ALL
    SELECT format('index: %s', pg_get_indexdef(i.oid)) FROM pg_class i
    WHERE relnamespace = 'colcrypt'::regnamespace AND relkind = 'i'
    UNION ALL
    SELECT format('trigger: %s enabled %s', pg_get_triggerdef(t.oid), tgenabled) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
    WHERE relnamespace = 'colcrypt'::regnamespace AND NOT tgisinternal
    UNION ALL
    SELECT format('view %s: %s', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c
    WHERE relnamespace = 'colcrypt'::regnamespace AND relkind = 'v'
    UNION ALL
    SELECT format('type %s storage %s length %s comment %L', t.oid::regtype, typstorage, typlen, obj_description(t.oid, 'pg_type'))
    FROM pg_type t WHERE typnamespace = 'colcrypt'::regnamespace AND typrelid = 0
    UNION ALL
    SELECT format('cast %s to %s: %s %s %s', castsource::regtype, casttarget::regtype, castfunc::regprocedure, castcontext, castmethod)
    FROM pg_cast WHERE castsource::regtype::text LIKE 'colcrypt.%' OR casttarget::regtype::text LIKE 'colcrypt.%'
    UNION ALL
    SELECT format('member: %s', pg_describe_object(classid, objid, objsubid)) FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'colcrypt')
    UNION ALL
    SELECT format('dumped: %s %s', r::regclass, condition) FROM pg_extension, unnest(extconfig, extcondition) u(r, condition)
    WHERE extname = 'colcrypt'
    UNION ALL
    SELECT format('schema acl %s', acl) FROM pg_namespace,
        LATERAL (SELECT string_agg(a::text, ',' ORDER BY a::text COLLATE \"C\") FROM unnest(nspacl) a) x(acl)
    WHERE nspname = 'colcrypt'";

fn schema(client: &mut Client) -> Vec<String> {
    let mut lines: Vec<String> = client
        .rows(SCHEMA)
        .into_iter()
        .map(|row| row.into_iter().next().flatten().unwrap_or_default())
        .collect();
    lines.sort();
    lines
}

fn database(version: Option<&str>) -> Client {
    let name = unique("release");
    let mut client = cluster().create_database(&name);
    match version {
        Some(version) => client.run(&format!("CREATE EXTENSION colcrypt VERSION '{version}'")),
        None => client.run("CREATE EXTENSION colcrypt"),
    }
    client
}

#[test]
fn an_update_from_each_release_makes_what_a_fresh_installation_is() {
    let fresh = schema(&mut database(None));
    assert!(fresh.len() > 500, "{} lines", fresh.len());
    let releases = cluster().client().rows(
        "SELECT version FROM pg_available_extension_versions v JOIN pg_available_extensions e USING (name)
         WHERE name = 'colcrypt' AND version <> e.default_version AND version !~ 'test'",
    );
    assert!(!releases.is_empty(), "no earlier release is installed");
    for release in releases {
        let release = release[0].clone().unwrap();
        let mut client = database(Some(&release));
        client.run("ALTER EXTENSION colcrypt UPDATE");
        let updated = schema(&mut client);
        let missing: Vec<_> = fresh
            .iter()
            .filter(|line| !updated.contains(line))
            .collect();
        let surplus: Vec<_> = updated
            .iter()
            .filter(|line| !fresh.contains(line))
            .collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "updated from {release}: what sql/*.sql makes, sql/colcrypt--{release}--*.sql must make of it\nmissing: {missing:#?}\nsurplus: {surplus:#?}"
        );
    }
}

#[test]
fn a_catalog_of_another_release_is_named_as_one() {
    let mut client = database(Some("0.1.0"));
    client.run(&format!(
        "SELECT colcrypt.add_provider('local', 'file', jsonb_build_object('path', '{}'))",
        root_key(cluster()).display()
    ));
    client
        .fails("55000", "SELECT colcrypt.create_keyring('ring', 'local')")
        .says("is of another release than the library");
    client.run(
        "ALTER EXTENSION colcrypt UPDATE;
         SELECT colcrypt.create_keyring('ring', 'local'); SELECT colcrypt.create_key('k', 'ring')",
    );
    assert_eq!(
        client.one("SELECT colcrypt.decrypt_col(colcrypt.encrypt_col('value', 'k'))"),
        "value"
    );
}
