//! An answer of Vault or OpenBao, read as this provider reads it, for the fuzz targets.

use std::{sync::Arc, time::Duration};

use colcrypt_core::{KeyEncryptionKey, Secret};
use reqwest::StatusCode;
use zeroize::Zeroizing;

use super::{
    Data, Decrypted, Encrypted, Health, Random, TokenInfo, TransitKey,
    auth::{LoginReply, LookUpReply},
    decode_key,
    reply::{self, About, LoginKind, Question},
    session::{Life, Session},
    wrapped_kek,
};
use crate::{KmsError, clock::Moment, http_json::Answer, quote};

const LOGIN: LoginKind = LoginKind {
    name: "AppRole",
    advice: "are \"role_id\" and the secret id right?",
    asks: None,
};

/// The answer to one of eight questions. Returns what is shown of a success.
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
    let about = match what % 8 {
        0..=2 => About::Key,
        3 => About::Login(LOGIN),
        _ => About::Other,
    };
    let question = Question {
        address: "http://127.0.0.1:8200",
        path: "transit/keys/app-root",
        capability: "update",
        about,
    };
    let mut shown = Vec::new();
    match what % 8 {
        0 => reply::parse::<Data<TransitKey>>(&question, &answer)?
            .data
            .warn(&mut shown),
        1 => {
            let ciphertext = reply::parse::<Data<Encrypted>>(&question, &answer)?.data;
            shown.push(wrapped_kek(&question, ciphertext.ciphertext)?.root_key_version);
        }
        2 => {
            let decrypted = reply::parse::<Data<Decrypted>>(&question, &answer)?.data;
            decode_key(
                &question,
                &decrypted.plaintext,
                KeyEncryptionKey::from_slice,
            )?;
        }
        3 => {
            let _ = (
                reply::is_about_token(&answer),
                reply::is_unexplained(&answer),
            );
            let LoginReply { auth } = reply::parse(&question, &answer)?;
            outlive(auth.life(Moment::now()));
        }
        4 => {
            let LookUpReply { data } = reply::parse(&question, &answer)?;
            outlive(Life::new(
                Moment::now(),
                Duration::from_secs(data.ttl),
                data.renewable,
            ));
        }
        5 => {
            let random = reply::parse::<Data<Random>>(&question, &answer)?.data;
            decode_key(
                &question,
                &random.random_bytes,
                KeyEncryptionKey::from_slice,
            )?;
        }
        6 => {
            let health = reply::parse::<Health>(&question, &answer)?;
            shown.push(quote::name(&health.version).to_owned());
        }
        _ => drop(reply::parse::<Data<TokenInfo>>(&question, &answer)?),
    }
    Ok(shown)
}

/// Whatever is reckoned from how long a token is good.
fn outlive(life: Life) {
    let mut session = Session::new(Arc::new(Secret::new(Vec::new())), life);
    let _ = (session.is_over(), session.ends_later(), session.take_care());
    session.prolong(life);
    let _ = session.take_care();
}
