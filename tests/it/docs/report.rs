//! docs/report.md: the role and the command work as written.

use colcrypt_tests::process::run;

#[test]
fn an_auditors_role_and_report_are_made_as_written() {
    let (cluster, _client) = super::pages::prepared();
    let mut app = cluster.create_database("app");
    app.batch_execute("CREATE EXTENSION colcrypt")
        .expect("the extension");
    let text = std::fs::read_to_string(super::repository("docs/report.md")).expect("the page");
    for block in super::blocks(&text, "sql") {
        app.batch_execute(&block).expect(&block);
    }
    let commands = super::blocks(&text, "sh");
    let [command] = &commands[..] else {
        panic!("one command")
    };
    let psql = cluster.command("colcrypt");
    let programs = std::path::Path::new(psql.get_program()).parent().unwrap();
    let directory = cluster.dir().join("report");
    run(cluster.server_user().command("mkdir").arg(&directory));
    let mut shell = cluster.server_user().command("bash");
    shell
        .args(["-euc", command])
        .envs(
            psql.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .current_dir(&directory);
    run(&mut shell);
    let page = std::fs::read_to_string(directory.join("report.html")).expect("the report");
    assert!(
        page.contains("2026-07-01 00:00:00 to 2026-10-01 00:00:00"),
        "{page}"
    );
    assert!(page.contains("Nothing: the role could read all"));
}
