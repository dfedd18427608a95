//! The table of findings in docs/operations.md: what `doctor` looks for, as it says of itself.

use std::fmt::Write;

use colcrypt_tests::Cluster;

const BEGIN: &str = "<!-- findings -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_table_of_findings_is_what_doctor_looks_for() {
    let cluster = Cluster::builder().start();
    let mut client = cluster.client();
    client
        .batch_execute("CREATE EXTENSION colcrypt")
        .expect("the extension");
    let rows = client
        .query(
            "SELECT finding, severity, meaning, remedy FROM colcrypt.doctor_checks()",
            &[],
        )
        .expect("the checks");
    let mut made =
        String::from("| finding | severity | means | to do |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let cell = |at: usize| row.get::<_, String>(at).replace('|', "\\|");
        writeln!(
            made,
            "| `{}` | {} | {} | {} |",
            cell(0),
            cell(1),
            cell(2),
            cell(3)
        )
        .unwrap();
    }
    let path = super::repository("docs/operations.md");
    let text = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("the table's place");
    let (kept, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).expect("the page");
    } else {
        assert!(
            kept == made,
            "the table of findings in docs/operations.md is out of date: UPDATE_DOCS=1 cargo test -p colcrypt-tests --test docs"
        );
    }
}
