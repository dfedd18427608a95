//! The commands of docs/cluster.md, over two servers.

use colcrypt_tests::db::Sql;
use colcrypt_tests::of_fleet::Fleet;

#[test]
fn one_command_for_all_servers_works_as_written() {
    let text = std::fs::read_to_string(super::repository("docs/cluster.md")).expect("the page");
    let mut fleet = Fleet::new(1);
    fleet
        .primary()
        .run("CREATE ROLE analyst; SELECT grant_key('k', 'analyst', '{decrypt}')");
    fleet.client(1).run("CREATE ROLE analyst");
    let commands: Vec<String> = super::blocks(&text, "sh")
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| line.starts_with("colcrypt nodes "))
        .map(|line| line.replace("nodes.toml", &fleet.file.display().to_string()))
        .collect();
    assert!(commands.len() >= 7, "the page has lost its commands");
    for command in commands {
        let server = &fleet.nodes[0].server;
        let program = server.installation().bindir().join("colcrypt");
        let command = command.replacen("colcrypt", &program.display().to_string(), 1);
        let output = server
            .server_user()
            .command("sh")
            .args(["-c", &command])
            .output()
            .expect("a shell");
        // The servers of tests have no fsync, which the doctor finds critical.
        let wanted = if command.contains(" doctor ") { 2 } else { 0 };
        assert_eq!(output.status.code(), Some(wanted), "{command}: {output:?}");
    }
    for at in [0, 1] {
        assert!(
            fleet
                .client(at)
                .yes("SELECT NOT has_key_privilege('analyst', 'k', 'decrypt')")
        );
    }
}
