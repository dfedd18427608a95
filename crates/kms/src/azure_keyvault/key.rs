//! What the properties of an Azure key mean to colcrypt: whether it serves, and what to know about it.

use std::fmt::Write;

use azure_core::time::{Duration, OffsetDateTime};
use azure_security_keyvault_keys::models::{
    DeletionRecoveryLevel, Key, KeyRotationPolicy, KeyRotationPolicyAction, KeyType,
};
use colcrypt_protocol::FailureKind;

use crate::{
    KmsError,
    azure_keyvault::name::{Algorithm, KeyVersion},
    provider,
    quote::presentable,
};

/// An end this near is told.
const SOON: Duration = Duration::days(30);

/// The newest version of a key.
pub(crate) struct Newest {
    pub(crate) version: KeyVersion,
    pub(crate) algorithm: Algorithm,
}

/// # Errors
/// For a key of a kind that wraps nothing, or an answer without what it must have.
pub(crate) fn newest(name: &str, key: &Key) -> Result<Newest, KmsError> {
    let strange = || {
        KmsError::new(
            FailureKind::BadReply,
            "the vault answered get without the id and the kind of the key",
        )
    };
    let jwk = key.key.as_ref().ok_or_else(strange)?;
    let version = jwk
        .kid
        .as_deref()
        .and_then(KeyVersion::parse)
        .filter(|version| version.name == name)
        .ok_or_else(strange)?;
    let algorithm = match jwk.kty.as_ref().ok_or_else(strange)? {
        KeyType::Rsa | KeyType::RsaHsm => Algorithm::RsaOaep256,
        KeyType::Oct | KeyType::OctHsm => Algorithm::A256Kw,
        _ => {
            return Err(KmsError::config(format!(
                "the root key {name} is not for wrapping keys: create an RSA key, or a 256-bit oct-HSM key on a \
                 Managed HSM"
            )));
        }
    };
    Ok(Newest { version, algorithm })
}

/// Whether the key may wrap and unwrap now.
///
/// # Errors
/// Why not.
pub(crate) fn suits(name: &str, key: &Key) -> Result<(), KmsError> {
    let refused =
        |kind, why: String| Err(KmsError::new(kind, format!("the root key {name} {why}")));
    let operations = key.key.as_ref().and_then(|jwk| jwk.key_ops.as_ref());
    if let Some(allowed) = operations {
        for needed in ["wrapKey", "unwrapKey"] {
            if !allowed.iter().any(|operation| operation == needed) {
                return Err(KmsError::config(format!(
                    "the root key {name} does not permit the operation {needed}: add it to its key operations"
                )));
            }
        }
    }
    let Some(attributes) = &key.attributes else {
        return Ok(());
    };
    let now = OffsetDateTime::now_utc();
    if attributes.enabled == Some(false) {
        return refused(
            FailureKind::KeyDisabled,
            "is disabled: enable its newest version in Azure".to_owned(),
        );
    }
    if let Some(start) = attributes.not_before.filter(|start| *start > now) {
        return refused(
            FailureKind::Config,
            format!("is not valid before {}", start.date()),
        );
    }
    if let Some(end) = attributes.expires.filter(|end| *end <= now) {
        return refused(
            FailureKind::Config,
            format!(
                "has expired on {}: what it wrapped still unwraps, but it wraps nothing more; make a new version, or \
                 move the end",
                end.date()
            ),
        );
    }
    Ok(())
}

pub(crate) fn properties(newest: &Newest, key: &Key) -> String {
    let kind = match key.key.as_ref().and_then(|jwk| jwk.kty.as_ref()) {
        Some(KeyType::Rsa) => "RSA",
        Some(KeyType::RsaHsm) => "RSA-HSM",
        _ => "oct-HSM",
    };
    format!(
        "the key is enabled, {kind}, wraps with {}",
        newest.algorithm.name()
    )
}

/// What Azure makes of versions by itself, in words for the server and for warnings.
pub(crate) fn rotation(
    policy: &KeyRotationPolicy,
    server: &mut String,
    warnings: &mut Vec<String>,
) {
    let rotates = policy.lifetime_actions.iter().flatten().find(|action| {
        let action = action.action.as_ref();
        action.and_then(|action| action.type_prop.as_ref())
            == Some(&KeyRotationPolicyAction::Rotate)
    });
    let when = rotates
        .and_then(|rotates| rotates.trigger.as_ref())
        .and_then(|trigger| {
            let after = trigger.time_after_create.as_deref();
            let before = trigger.time_before_expiry.as_deref();
            after
                .map(|time| format!("{} after its creation", presentable(time)))
                .or_else(|| before.map(|time| format!("{} before its end", presentable(time))))
        });
    let _ = match (rotates, when) {
        (Some(_), Some(when)) => write!(server, ", a new version by Azure {when}"),
        (Some(_), None) => write!(server, ", new versions by Azure"),
        (None, _) => {
            warnings.push(provider::not_rotated(
                "Azure",
                "az keyvault key rotation-policy update",
            ));
            write!(server, ", no rotation by Azure")
        }
    };
    let end = policy
        .attributes
        .as_ref()
        .and_then(|all| all.expiry_time.as_deref());
    if let Some(end) = end {
        warnings.push(format!(
            "the rotation policy lets each new version expire after {}: it wraps nothing from then on, so call \
             rotate_root after each rotation",
            presentable(end)
        ));
    }
}

pub(crate) fn warn(key: &Key, warnings: &mut Vec<String>) {
    let Some(attributes) = &key.attributes else {
        return;
    };
    let near = OffsetDateTime::now_utc() + SOON;
    if let Some(end) = attributes.expires.filter(|end| *end <= near) {
        warnings.push(format!(
            "the key's newest version expires on {}: it wraps nothing from then on, so make a new version or move the \
             end",
            end.date()
        ));
    }
    match &attributes.recovery_level {
        Some(DeletionRecoveryLevel::Purgeable) => warnings.push(
            "the vault has no soft delete: who deletes the key destroys all that it protects at once".to_owned(),
        ),
        Some(
            DeletionRecoveryLevel::RecoverablePurgeable
            | DeletionRecoveryLevel::CustomizedRecoverablePurgeable,
        ) => warnings.push(
            "purge protection is off: who may purge can destroy the key, and all that it protects, for good".to_owned(),
        ),
        _ => {}
    }
    if attributes.exportable == Some(true) {
        warnings
            .push("the key may be exported: it can leave Azure by secure key release".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn key(kty: &str, attributes: Value) -> Key {
        serde_json::from_value(json!({
            "key": {"kid": "https://a.vault.azure.net/keys/root/0123", "kty": kty, "key_ops": ["wrapKey", "unwrapKey"]},
            "attributes": attributes,
        }))
        .unwrap()
    }

    #[test]
    fn the_kind_of_key_chooses_the_algorithm() {
        for (kty, algorithm) in [
            ("RSA", Algorithm::RsaOaep256),
            ("RSA-HSM", Algorithm::RsaOaep256),
            ("oct-HSM", Algorithm::A256Kw),
        ] {
            let newest = newest("root", &key(kty, json!({}))).ok().unwrap();
            assert_eq!(newest.algorithm, algorithm);
        }
        let refused = |name, kty| newest(name, &key(kty, json!({}))).err().unwrap().kind;
        assert_eq!(refused("root", "EC"), FailureKind::Config);
        assert_eq!(refused("other", "RSA"), FailureKind::BadReply);
    }

    #[test]
    fn keys_that_do_not_serve_are_told_apart() {
        suits(
            "root",
            &key(
                "RSA",
                json!({"enabled": true, "nbf": 1, "exp": 4_000_000_000_i64}),
            ),
        )
        .unwrap();
        for (attributes, kind, part) in [
            (
                json!({"enabled": false}),
                FailureKind::KeyDisabled,
                "disabled",
            ),
            (
                json!({"enabled": true, "exp": 1_700_000_000}),
                FailureKind::Config,
                "expired on 2023-11-14",
            ),
            (
                json!({"enabled": true, "nbf": 4_000_000_000_i64}),
                FailureKind::Config,
                "not valid before 2096-10-02",
            ),
        ] {
            let error = suits("root", &key("RSA", attributes)).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
        let mut signing = key("RSA", json!({}));
        signing.key.as_mut().unwrap().key_ops = Some(vec!["sign".to_owned(), "wrapKey".to_owned()]);
        let error = suits("root", &signing).unwrap_err();
        assert_eq!(error.kind, FailureKind::Config);
        assert!(error.message.contains("operation unwrapKey"), "{error}");
    }

    #[test]
    fn what_azure_would_end_by_itself_is_told() {
        let told = |attributes| {
            let mut warnings = Vec::new();
            warn(&key("RSA", attributes), &mut warnings);
            warnings
        };
        assert!(told(json!({"exp": 4_000_000_000_i64, "recoveryLevel": "Recoverable"})).is_empty());
        let soon = (OffsetDateTime::now_utc() + Duration::days(5)).unix_timestamp();
        for (attributes, part) in [
            (json!({"exp": soon}), "expires on"),
            (json!({"recoveryLevel": "Purgeable"}), "no soft delete"),
            (
                json!({"recoveryLevel": "CustomizedRecoverable+Purgeable"}),
                "purge protection",
            ),
            (
                json!({"recoveryLevel": "Recoverable+Purgeable"}),
                "purge protection",
            ),
            (json!({"exportable": true}), "exported"),
        ] {
            let warnings = told(attributes);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(part), "{warnings:?}");
        }
    }

    #[test]
    fn rotation_is_told() {
        let of = |policy: Value| {
            let (mut server, mut warnings) = (String::new(), Vec::new());
            rotation(
                &serde_json::from_value(policy).unwrap(),
                &mut server,
                &mut warnings,
            );
            (server, warnings.len())
        };
        let notify = json!({"trigger": {"timeBeforeExpiry": "P30D"}, "action": {"type": "Notify"}});
        assert_eq!(
            of(json!({"lifetimeActions": [notify]})),
            (", no rotation by Azure".to_owned(), 1)
        );
        let rotate = json!({"trigger": {"timeAfterCreate": "P90D"}, "action": {"type": "Rotate"}});
        assert_eq!(
            of(json!({"lifetimeActions": [notify, rotate], "attributes": {"expiryTime": "P1Y"}})),
            (
                ", a new version by Azure P90D after its creation".to_owned(),
                1
            )
        );
    }
}
