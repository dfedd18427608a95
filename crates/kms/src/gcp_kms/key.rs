//! What the properties of a Cloud KMS key mean to colcrypt: whether it serves, and what to know about it.

use colcrypt_protocol::FailureKind;
use serde::Deserialize;

use crate::{KmsError, provider, quote};

const DAY: f64 = 24.0 * 3600.0;
/// Google's default is 30 days; keys of before 2025 have one day.
const SHORT_RESTORE: f64 = 7.0 * DAY;

/// <https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CryptoKey {
    name: String,
    purpose: String,
    primary: Option<CryptoKeyVersion>,
    rotation_period: Option<String>,
    next_rotation_time: Option<String>,
    destroy_scheduled_duration: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CryptoKeyVersion {
    name: String,
    state: String,
    #[serde(default)]
    protection_level: String,
    destroy_time: Option<String>,
}

impl CryptoKey {
    /// # Errors
    /// Why it cannot wrap KEKs, or not now.
    pub(crate) fn suits(&self) -> Result<(), KmsError> {
        let name = quote::name(&self.name);
        if self.purpose != "ENCRYPT_DECRYPT" {
            return Err(KmsError::config(format!(
                "the root key {name} is not for wrapping keys: create one with --purpose=encryption"
            )));
        }
        let disabled = |why: String| Err(KmsError::new(FailureKind::KeyDisabled, why));
        let Some(primary) = &self.primary else {
            return disabled(format!(
                "the root key {name} has no primary version: set an enabled one"
            ));
        };
        let version = quote::name(&primary.name);
        match primary.state.as_str() {
            "ENABLED" => Ok(()),
            "DISABLED" => disabled(format!(
                "the primary version of the root key is disabled ({version}): enable it in Cloud KMS"
            )),
            "DESTROY_SCHEDULED" => {
                let when = primary.destroy_time.as_deref().map(day).unwrap_or_default();
                disabled(format!(
                    "the primary version of the root key is to be destroyed{when} ({version}), and all that it \
                     protects with it: restore it in Cloud KMS"
                ))
            }
            "DESTROYED" => disabled(format!(
                "the primary version of the root key is destroyed ({version}): make a new primary version for new \
                 keyrings, what was wrapped by the old one is lost"
            )),
            _ => Err(KmsError::new(
                FailureKind::Unavailable,
                format!("the primary version of the root key cannot be used now ({version})"),
            )),
        }
    }

    /// In a few words.
    pub(crate) fn properties(&self) -> String {
        let level = self
            .primary
            .as_ref()
            .map_or("", |primary| primary.protection_level.as_str());
        let protection = match level {
            "HSM" | "HSM_SINGLE_TENANT" => "in an HSM",
            "SOFTWARE" => "in software",
            "EXTERNAL" | "EXTERNAL_VPC" => "at an external key manager",
            _ => "at a protection level that is not known here",
        };
        let rotation = match self.rotation_period.as_deref().and_then(seconds) {
            Some(period) => format!("a new version every {} days", (period / DAY).round()),
            None => "no rotation by Google".to_owned(),
        };
        format!("the key is enabled, {protection}, {rotation}")
    }

    pub(crate) fn warn(&self, warnings: &mut Vec<String>) {
        if self.rotation_period.is_some() {
            let next = self
                .next_rotation_time
                .as_deref()
                .map(|time| format!(", the next{}", day(time)))
                .unwrap_or_default();
            warnings.push(format!(
                "Google makes new versions of the key by itself{next}: an old one must stay enabled until rotate_root \
                 has moved every keyring off it"
            ));
        } else {
            warnings.push(provider::not_rotated(
                "Google",
                "gcloud kms keys update --rotation-period --next-rotation-time",
            ));
        }
        if let Some(primary) = &self.primary
            && primary.protection_level.starts_with("EXTERNAL")
        {
            warnings.push(
                "the key lives at an external key manager: while that is away, nothing can be unwrapped"
                    .to_owned(),
            );
        }
        if let Some(span) = self.destroy_scheduled_duration.as_deref().and_then(seconds)
            && span < SHORT_RESTORE
        {
            warnings.push(format!(
                "a version that is to be destroyed can be restored for {:.1} days only: create the key with a longer \
                 --destroy-scheduled-duration",
                span / DAY
            ));
        }
    }
}

/// ` on 2027-01-15` of a timestamp in RFC 3339.
fn day(time: &str) -> String {
    let plain = |b: u8| b.is_ascii_digit() || b == b'-';
    time.get(..10)
        .filter(|day| day.bytes().all(plain))
        .map_or_else(String::new, |day| format!(" on {day}"))
}

/// A duration in the form of protobuf's JSON: `86400s`.
fn seconds(text: &str) -> Option<f64> {
    text.strip_suffix('s')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(change: serde_json::Value) -> CryptoKey {
        let name = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
        let mut key = json!({
            "name": name, "purpose": "ENCRYPT_DECRYPT", "destroyScheduledDuration": "2592000s",
            "primary": {"name": format!("{name}/cryptoKeyVersions/3"), "state": "ENABLED", "protectionLevel": "HSM"},
        });
        for (name, value) in change.as_object().unwrap() {
            key[name] = value.clone();
        }
        serde_json::from_value(key).unwrap()
    }

    fn primary(state: &str) -> serde_json::Value {
        json!({"primary": {"name": "k/3", "state": state, "destroyTime": "2027-01-15T08:00:00Z"}})
    }

    #[test]
    fn keys_that_do_not_serve_are_told_apart() {
        key(json!({})).suits().unwrap();
        for (change, kind, part) in [
            (
                json!({"purpose": "ASYMMETRIC_SIGN", "primary": null}),
                FailureKind::Config,
                "--purpose=encryption",
            ),
            (
                json!({"primary": null}),
                FailureKind::KeyDisabled,
                "no primary",
            ),
            (
                primary("DISABLED"),
                FailureKind::KeyDisabled,
                "is disabled (k/3)",
            ),
            (
                primary("DESTROY_SCHEDULED"),
                FailureKind::KeyDisabled,
                "on 2027-01-15",
            ),
            (
                primary("DESTROYED"),
                FailureKind::KeyDisabled,
                "is destroyed",
            ),
            (
                primary("PENDING_GENERATION"),
                FailureKind::Unavailable,
                "now",
            ),
        ] {
            let error = key(change).suits().unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn what_google_does_by_itself_is_told() {
        let told = |change| {
            let mut warnings = Vec::new();
            key(change).warn(&mut warnings);
            warnings
        };
        let without = told(json!({}));
        assert!(
            without.len() == 1 && without[0].starts_with("no automatic rotation"),
            "{without:?}"
        );
        assert_eq!(
            key(json!({})).properties(),
            "the key is enabled, in an HSM, no rotation by Google"
        );
        let rotating =
            json!({"rotationPeriod": "7776000s", "nextRotationTime": "2027-01-15T08:00:00Z"});
        assert!(
            key(rotating.clone())
                .properties()
                .contains("a new version every 90 days")
        );
        for (change, part) in [
            (rotating, "the next on 2027-01-15"),
            (
                json!({"primary": {"name": "k/3", "state": "ENABLED", "protectionLevel": "EXTERNAL_VPC"}}),
                "external key manager",
            ),
            (
                json!({"destroyScheduledDuration": "86400s"}),
                "for 1.0 days only",
            ),
        ] {
            let is_rotating = change.get("rotationPeriod").is_some();
            let told = told(change);
            assert!(told.iter().any(|said| said.contains(part)), "{told:?}");
            assert_eq!(told.len(), if is_rotating { 1 } else { 2 }, "{told:?}");
        }
    }
}
