//! An answer of Cloud KMS, read as this provider reads it, for the fuzz targets.

use colcrypt_core::KeyEncryptionKey;

use super::{
    Decrypted, Encrypted, Random,
    key::CryptoKey,
    key_of,
    name::{KeyName, VersionName},
    reply::{About, Login, Question, failure, parse},
    verify,
};
use crate::{KmsError, canned::Reply};

/// The answer to one of four questions. Returns what is shown of a success.
///
/// # Errors
/// The failure that it is.
pub fn reply(reply: &Reply<'_>) -> Result<Vec<String>, KmsError> {
    let (what, answer) = (reply.what, reply.answer());
    let question = Question {
        endpoint: "Google Cloud KMS",
        permission: "cloudkms.cryptoKeyVersions.useToDecrypt",
        resource: "projects/p-1/locations/l/keyRings/r/cryptoKeys/k",
        about: [About::Key, About::Ciphertext, About::Location][usize::from(what) % 3],
    };
    let login = Login {
        clock_differs: what & 0x40 != 0,
        is_self_signed: what & 0x80 != 0,
    };
    if !answer.status.is_success() || !answer.json {
        return Err(failure(question, &answer, login).error);
    }
    let mut shown = Vec::new();
    match what % 4 {
        0 => {
            let key: CryptoKey = parse(question, &answer)?;
            key.suits()?;
            shown.push(key.properties());
            key.warn(&mut shown);
        }
        1 => {
            let encrypted: Encrypted = parse(question, &answer)?;
            let ciphertext = encrypted.ciphertext.as_bytes();
            verify(question, ciphertext, &encrypted.ciphertext_crc32c)?;
            if let Some(version) = VersionName::parse(&encrypted.name) {
                let again = KeyName::of_root_key(&version.key().to_string());
                assert_eq!(
                    again.as_ref(),
                    Ok(version.key()),
                    "a name reads as it is written"
                );
                shown.push(version.key().to_string());
            }
        }
        2 => {
            let decrypted: Decrypted = parse(question, &answer)?;
            key_of(
                question,
                &decrypted.plaintext,
                &decrypted.plaintext_crc32c,
                KeyEncryptionKey::from_slice,
            )?;
        }
        _ => {
            let random: Random = parse(question, &answer)?;
            key_of(
                question,
                &random.data,
                &random.data_crc32c,
                KeyEncryptionKey::from_slice,
            )?;
        }
    }
    Ok(shown)
}
