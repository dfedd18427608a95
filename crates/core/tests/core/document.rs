//! docs/format.md's worked example is the golden value it says it is.

use crate::support::{golden, repository, unhex};

/// The lines of the fenced block that follows a heading or marker.
fn block_after<'a>(document: &'a str, marker: &str) -> Vec<&'a str> {
    let (_, after) = document.split_once(marker).expect("the marker");
    let mut fenced = after.split("```");
    let block = fenced.nth(1).expect("a fenced block");
    block.lines().skip(1).collect()
}

/// The bytes at the start of a line: pairs of hexadecimal digits, up to two spaces in a row.
fn bytes_of(line: &str) -> Vec<u8> {
    let hex = line.split("  ").next().unwrap_or_default();
    unhex(&hex.replace(' ', ""))
}

#[test]
fn the_worked_example_is_a_golden_value() {
    let document = std::fs::read_to_string(repository("docs/format.md")).unwrap();
    let golden = golden();
    let example = golden
        .values
        .iter()
        .find(|it| it.name == "worked example")
        .unwrap();

    let value: Vec<u8> = block_after(&document, "<!-- example: value -->")
        .into_iter()
        .flat_map(bytes_of)
        .collect();
    assert_eq!(value, example.value.0);

    let context: Vec<u8> = block_after(&document, "<!-- example: context -->")
        .into_iter()
        .flat_map(bytes_of)
        .collect();
    assert_eq!(context, example.context.0);

    let inputs = block_after(&document, "<!-- example: inputs -->");
    let input = |name: &str| {
        let line = inputs.iter().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim()
    };
    assert_eq!(unhex(input("DEK")), example.dek.0);
    assert_eq!(unhex(input("AAD")), {
        let header = example.header().encode().unwrap();
        [header.as_bytes(), &example.context.0].concat()
    });
    assert_eq!(input("plaintext"), hex::encode(&example.plaintext.0));
    let key = colcrypt_core::DataKey::from_slice(&example.dek.0).unwrap();
    let kcv = colcrypt_core::KeyCheckValue::of_data_key(&key);
    assert_eq!(input("KCV"), kcv.to_string());
}
