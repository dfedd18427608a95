//! An answer of Vault or OpenBao, read as this provider reads it, for the fuzz targets.

use std::{sync::Arc, time::Duration};

use colcrypt_core::{KeyEncryptionKey, Secret};

use super::{
    Data, Decrypted, Encrypted, Health, Random, TokenInfo, TransitKey,
    auth::{LoginReply, LookUpReply},
    decode_key,
    reply::{About, LoginKind, Question, is_about_token, is_unexplained, parse},
    session::{Life, Session},
    wrapped_kek,
};
use crate::{KmsError, canned::Reply, clock::Moment, quote};

const LOGIN: LoginKind = LoginKind {
    name: "AppRole",
    advice: "are \"role_id\" and the secret id right?",
    asks: None,
};

/// The answer to one of eight questions. Returns what is shown of a success.
///
/// # Errors
/// The failure that it is.
pub fn reply(reply: &Reply<'_>) -> Result<Vec<String>, KmsError> {
    let (what, answer) = (reply.what, reply.answer());
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
        0 => parse::<Data<TransitKey>>(&question, &answer)?
            .data
            .warn(&mut shown),
        1 => {
            let ciphertext = parse::<Data<Encrypted>>(&question, &answer)?.data;
            shown.push(wrapped_kek(&question, ciphertext.ciphertext)?.root_key_version);
        }
        2 => {
            let decrypted = parse::<Data<Decrypted>>(&question, &answer)?.data;
            decode_key(
                &question,
                &decrypted.plaintext,
                KeyEncryptionKey::from_slice,
            )?;
        }
        3 => {
            let _ = (is_about_token(&answer), is_unexplained(&answer));
            let LoginReply { auth } = parse(&question, &answer)?;
            outlive(auth.life(Moment::now()));
        }
        4 => {
            let LookUpReply { data } = parse(&question, &answer)?;
            outlive(Life::new(
                Moment::now(),
                Duration::from_secs(data.ttl),
                data.renewable,
            ));
        }
        5 => {
            let random = parse::<Data<Random>>(&question, &answer)?.data;
            decode_key(
                &question,
                &random.random_bytes,
                KeyEncryptionKey::from_slice,
            )?;
        }
        6 => {
            let health = parse::<Health>(&question, &answer)?;
            shown.push(quote::name(&health.version).to_owned());
        }
        _ => drop(parse::<Data<TokenInfo>>(&question, &answer)?),
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
