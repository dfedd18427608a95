//! What the properties of a KMS key mean to colcrypt: whether it serves, and what to know about it.

use std::fmt::Write;

use aws_sdk_kms::types::{
    EncryptionAlgorithmSpec, ExpirationModelType, KeyManagerType, KeyMetadata, KeyState,
    KeyUsageType, MultiRegionKeyType, OriginType,
};
use colcrypt_protocol::FailureKind;

use crate::{KmsError, quote};

/// Whether the key is one to wrap KEKs with, and may be used now.
pub(crate) fn suits(key: &KeyMetadata) -> Result<(), KmsError> {
    let arn = quote::name(key.arn().unwrap_or_else(|| key.key_id()));
    let symmetric = key
        .encryption_algorithms()
        .contains(&EncryptionAlgorithmSpec::SymmetricDefault);
    if key.key_usage() != Some(&KeyUsageType::EncryptDecrypt) || !symmetric {
        return Err(KmsError::config(format!(
            "the root key {arn} is not for wrapping keys: create a symmetric key for encryption (SYMMETRIC_DEFAULT)"
        )));
    }
    let disabled = |why: String| Err(KmsError::new(FailureKind::KeyDisabled, why));
    match key.key_state() {
        None | Some(KeyState::Enabled) => Ok(()),
        Some(KeyState::Disabled) => disabled(format!(
            "the root key {arn} is disabled: enable it in AWS KMS"
        )),
        Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
            let when = key
                .deletion_date()
                .map_or_else(String::new, |date| format!(" on {date}"));
            disabled(format!(
                "the root key {arn} is to be deleted{when}, and all that it protects with it: cancel that in AWS KMS"
            ))
        }
        Some(KeyState::PendingImport) => disabled(format!(
            "the root key {arn} has no key material: import it again"
        )),
        Some(other) => Err(KmsError::new(
            FailureKind::Unavailable,
            format!(
                "the root key {arn} cannot be used now: its state is {}",
                quote::name(other.as_str())
            ),
        )),
    }
}

pub(crate) fn properties(key: &KeyMetadata) -> String {
    let mut text = "the key is enabled".to_owned();
    // AWS replaces the material under the same ARN, so this alone shows that it did.
    if let Some(material) = key.current_key_material_id() {
        let _ = write!(text, ", key material {}", quote::name(material));
    }
    if let Some(regions) = key.multi_region_configuration() {
        let primary = regions
            .primary_key()
            .and_then(|primary| primary.region())
            .map_or("?", quote::name);
        text.push_str(", multi-region");
        if regions.multi_region_key_type() == Some(&MultiRegionKeyType::Replica) {
            let _ = write!(text, " (a replica; the primary is in {primary})");
        } else {
            let replicas = regions.replica_keys().iter();
            let replicas: Vec<_> = replicas
                .filter_map(|replica| replica.region().map(quote::name))
                .collect();
            let _ = match replicas.as_slice() {
                [] => write!(text, " (the primary, without replicas)"),
                replicas => write!(text, " (the primary; replicas in {})", replicas.join(", ")),
            };
        }
    }
    text
}

pub(crate) fn warn(key: &KeyMetadata, warnings: &mut Vec<String>) {
    if key.expiration_model() == Some(&ExpirationModelType::KeyMaterialExpires) {
        let when = key
            .valid_to()
            .map_or_else(|| "when it expires".to_owned(), |date| format!("on {date}"));
        warnings.push(format!(
            "AWS destroys the imported key material by itself {when}: all that it protects is unreadable from then \
             until it is imported again"
        ));
    } else if key.origin() == Some(&OriginType::External) {
        warnings.push(
            "the key material was imported: AWS cannot restore it, so keep your copy safe"
                .to_owned(),
        );
    }
    if key.custom_key_store_id().is_some() {
        warnings.push(
            "the key lives in a custom key store: while that is disconnected, nothing can be unwrapped"
                .to_owned(),
        );
    }
    if key.key_manager() == Some(&KeyManagerType::Aws) {
        warnings.push(
            "the key is managed by AWS, so its policy cannot be changed: use a customer managed key".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_kms::primitives::DateTime;

    fn key() -> aws_sdk_kms::types::builders::KeyMetadataBuilder {
        KeyMetadata::builder()
            .key_id("k")
            .arn("arn:aws:kms:eu-west-1:111122223333:key/k")
            .key_usage(KeyUsageType::EncryptDecrypt)
            .encryption_algorithms(EncryptionAlgorithmSpec::SymmetricDefault)
            .key_state(KeyState::Enabled)
    }

    #[test]
    fn keys_that_do_not_serve_are_told_apart() {
        suits(&key().build().unwrap()).unwrap();
        let signing = key().key_usage(KeyUsageType::SignVerify);
        let pending = key()
            .key_state(KeyState::PendingDeletion)
            .deletion_date(DateTime::from_secs(1_800_000_000));
        for (key, kind, part) in [
            (signing, FailureKind::Config, "SYMMETRIC_DEFAULT"),
            (pending, FailureKind::KeyDisabled, "on 2027-01-15"),
            (
                key().key_state(KeyState::Disabled),
                FailureKind::KeyDisabled,
                "enable it",
            ),
            (
                key().key_state(KeyState::PendingImport),
                FailureKind::KeyDisabled,
                "import",
            ),
            (
                key().key_state(KeyState::Unavailable),
                FailureKind::Unavailable,
                "now",
            ),
        ] {
            let error = suits(&key.build().unwrap()).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn the_material_of_the_key_is_shown() {
        let material = "123456789012345678901234567890123456789012345678901234567890abcd";
        let rotated = key().current_key_material_id(material).build().unwrap();
        assert!(properties(&rotated).contains(&format!("key material {material}")));
        assert_eq!(properties(&key().build().unwrap()), "the key is enabled");
    }

    #[test]
    fn what_aws_would_destroy_by_itself_is_told() {
        let mut warnings = Vec::new();
        warn(&key().build().unwrap(), &mut warnings);
        assert!(warnings.is_empty(), "{warnings:?}");
        let expiring = key()
            .origin(OriginType::External)
            .expiration_model(ExpirationModelType::KeyMaterialExpires)
            .valid_to(DateTime::from_secs(1_800_000_000));
        warn(&expiring.build().unwrap(), &mut warnings);
        let imported = key()
            .origin(OriginType::External)
            .expiration_model(ExpirationModelType::KeyMaterialDoesNotExpire);
        warn(&imported.build().unwrap(), &mut warnings);
        let stored = key()
            .custom_key_store_id("cks-1")
            .key_manager(KeyManagerType::Aws);
        warn(&stored.build().unwrap(), &mut warnings);
        let told = warnings.join("\n");
        for part in [
            "by itself on 2027-01-15",
            "was imported",
            "custom key store",
            "managed by AWS",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(warnings.len(), 4);
    }
}
