//! An answer of Cloud KMS, read as this provider reads it, for the fuzz targets.

use std::time::Duration;

use colcrypt_core::KeyEncryptionKey;
use reqwest::StatusCode;
use zeroize::Zeroizing;

use super::{
    Decrypted, Encrypted, Random,
    key::CryptoKey,
    key_of,
    name::{KeyName, VersionName},
    reply::{self, About, Login, Question},
    verify,
};
use crate::{KmsError, http_json::Answer};

/// The answer to one of four questions. Returns what is shown of a success.
///
/// # Errors
/// The failure that it is.
pub fn reply(
    what: u8,
    status: u16,
    json: bool,
    retry_after: Option<u64>,
    body: &[u8],
) -> Result<Vec<String>, KmsError> {
    let answer = Answer {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
        json,
        retry_after: retry_after.map(Duration::from_secs),
        body: Zeroizing::new(body.to_vec()),
    };
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
        return Err(reply::failure(question, &answer, login).error);
    }
    let mut shown = Vec::new();
    match what % 4 {
        0 => {
            let key: CryptoKey = reply::parse(question, &answer)?;
            key.suits()?;
            shown.push(key.properties());
            key.warn(&mut shown);
        }
        1 => {
            let encrypted: Encrypted = reply::parse(question, &answer)?;
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
            let decrypted: Decrypted = reply::parse(question, &answer)?;
            key_of(
                question,
                &decrypted.plaintext,
                &decrypted.plaintext_crc32c,
                KeyEncryptionKey::from_slice,
            )?;
        }
        _ => {
            let random: Random = reply::parse(question, &answer)?;
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
