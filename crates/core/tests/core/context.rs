//! Row contexts: what differs as SQL differs as bytes. Golden bytes are in golden.rs.

use std::collections::HashMap;

use colcrypt_core::{FormatError, context::ContextBuilder};

use crate::support::Repeatable;

type Column = (&'static str, Option<Vec<u8>>);

fn encode(columns: &[Column]) -> Vec<u8> {
    let mut context = ContextBuilder::default();
    for (type_name, value) in columns {
        context.push(type_name, value.as_deref()).unwrap();
    }
    context.finish()
}

/// Few types and short values over a small alphabet, made of the encoding's own marks: two rows that
/// collide would be met soon.
#[test]
fn different_rows_have_different_contexts() {
    let mut random = Repeatable::new("contexts");
    let names = ["a", "aa", "\u{1}", "\u{1}a\0\0"];
    let mut seen: HashMap<Vec<u8>, Vec<Column>> = HashMap::new();
    for _ in 0..100_000 {
        let columns: Vec<Column> = (0..random.below(4))
            .map(|_| {
                let name = names[random.below(names.len())];
                let length = random.below(6);
                let mut value = random.bytes(length);
                for byte in &mut value {
                    *byte = [0, 1, b'a', 0xff][usize::from(*byte % 4)];
                }
                (name, (random.below(5) > 0).then_some(value))
            })
            .collect();
        let known = seen.entry(encode(&columns)).or_insert(columns.clone());
        assert_eq!(*known, columns);
    }
    assert!(seen.len() > 10_000);
}

#[test]
fn type_names_have_1_to_255_bytes() {
    let long = "n".repeat(256);
    for (name, length) in [("", 0), (&long[..], 256)] {
        let mut context = ContextBuilder::default();
        let refused = context.push(name, None);
        assert_eq!(refused, Err(FormatError::TypeNameLength(length)));
        // A refused value leaves nothing behind.
        assert_eq!(context.finish(), [1]);
    }
    assert!(ContextBuilder::default().push(&long[1..], None).is_ok());
}
