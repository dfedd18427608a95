//! A server's own words in our messages: cut short, and without what might be an echo of a secret.

/// Longest quotation of a server's own words.
const QUOTED: usize = 200;
/// A longer run of letters and digits is not a word.
const LONGEST_WORD: usize = 20;
/// Shorter than a key in base64.
#[cfg(any(feature = "aws-kms", feature = "azure-keyvault"))]
const LONGEST_CODE: usize = 40;

/// Whether a run of the characters of tokens, ids and base64 may be shown. Paths may, though a slash is such a
/// character: they are words in lower case between slashes, and base64 of the length of a secret never is.
fn is_harmless(run: &str) -> bool {
    let words = run.split('/').all(|word| word.len() <= LONGEST_WORD);
    let path = !run.contains(|c: char| c.is_ascii_uppercase() || matches!(c, '+' | '='));
    words && (path || run.len() <= LONGEST_WORD)
}

/// A server's words without control characters and without what might be an echo of a secret.
pub(crate) fn presentable(text: &str) -> String {
    let of_secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-');
    let mut out = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        if is_harmless(run) {
            out.push_str(run);
        } else {
            out.push('…');
        }
        run.clear();
    };
    for c in text.chars() {
        if of_secret(c) {
            run.push(c);
        } else {
            flush(&mut run, &mut out);
            out.push(if c.is_control() { ' ' } else { c });
        }
    }
    flush(&mut run, &mut out);
    match out.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", out[..end].trim()),
        None => out.trim().to_owned(),
    }
}

/// Longest name of a thing at a server.
#[cfg(any(feature = "aws-kms", feature = "gcp-kms", feature = "vault-transit"))]
const LONGEST_NAME: usize = 256;

/// What a server calls a key, a version or a place, where it looks like a name: of letters, digits and what joins them.
#[cfg(any(feature = "aws-kms", feature = "gcp-kms", feature = "vault-transit"))]
pub(crate) fn name(name: &str) -> &str {
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':' | b'+');
    let sound = !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(allowed);
    if sound { name } else { "…" }
}

/// An error's code, or nothing. Codes are long single words, which elsewhere in a server's answer may be
/// secrets.
#[cfg(any(feature = "aws-kms", feature = "azure-keyvault"))]
pub(crate) fn code(code: &str) -> &str {
    let sound = code.len() <= LONGEST_CODE && code.bytes().all(|b| b.is_ascii_alphabetic());
    if sound { code } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control character in the name of a key version was shown as it came. Found by fuzzing.
    #[cfg(any(feature = "aws-kms", feature = "gcp-kms", feature = "vault-transit"))]
    #[test]
    fn names_are_shown_where_they_look_like_names() {
        for sound in [
            "projects/p-1/locations/l/keyRings/r_1/cryptoKeys/k/cryptoKeyVersions/3",
            "arn:aws:kms:eu-west-1:111122223333:key/k",
            "1.15.0-beta1+ent.hsm",
        ] {
            assert_eq!(name(sound), sound);
        }
        for other in ["", "k\u{7f}ns/3", "a b", "k\n", "é", &"a".repeat(257)] {
            assert_eq!(name(other), "…", "{other:?}");
        }
    }

    #[test]
    fn echoes_of_secrets_are_not_quoted() {
        let key = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";
        let text = format!(
            "1 error occurred:\n\t* bad plaintext {key} for 70dfd0f0-7d18-adf4-c87e-f8086cf8dc9a\n"
        );
        assert_eq!(
            presentable(&text),
            "1 error occurred:  * bad plaintext … for …"
        );
        // Base64 has slashes, too: no piece between them may be shown.
        for key in [
            "q83vAS/FZ4mrze8B/0VniavN7wEj/WeJq83vASNFZ4k=",
            "AAAA/BBBB/cccc/dddd/eeee/ffff/gggg/hhhh/NbK=",
        ] {
            assert_eq!(presentable(&format!("bad \"{key}\"")), "bad \"…\"");
        }
        assert_eq!(
            presentable("no handler for route \"transit/keys/app-root\""),
            "no handler for route \"transit/keys/app-root\""
        );
        assert!(presentable(&"word ".repeat(1000)).chars().count() <= QUOTED + 1);
        assert_eq!(presentable("permission denied"), "permission denied");
    }
}
