//! What services answer as JSON. serde takes a list for a struct, too, field by field, and so a page of somebody in
//! between for an answer: where an object is expected, nothing else is one.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A whole body that is an object. It may hold a key: no part of it is copied but what is asked for.
///
/// # Errors
/// Of the parser; its message may quote the body.
pub(crate) fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<T> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => serde_json::from_slice(body),
        _ => Err(serde_json::Error::custom("no object")),
    }
}

/// An object within an answer that holds no secret.
#[derive(Debug)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        let value = serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Inner {
        code: u16,
    }

    #[derive(Deserialize)]
    struct Outer {
        error: Object<Inner>,
    }

    #[test]
    fn nothing_but_an_object_is_one() {
        let sound = object::<Outer>(b" \n{\"error\": {\"code\": 403}}").unwrap();
        assert_eq!(sound.error.0.code, 403);
        for body in [
            r#"[{"code": 403}]"#,
            r#"{"error": [403]}"#,
            r#""error""#,
            "[[403]]",
            "",
        ] {
            assert!(object::<Outer>(body.as_bytes()).is_err(), "{body}");
        }
        // Which serde alone would take.
        assert!(serde_json::from_str::<Inner>("[403]").is_ok());
    }
}
