//! Names of AWS KMS keys: what a root key may be called, and the key ARN that is kept of it.

use std::fmt;

use colcrypt_protocol::FailureKind;

use crate::KmsError;

/// AWS's own limit.
const LONGEST: usize = 2048;
/// How the ids of multi-region keys begin: the same key has the same id in each of its regions.
const MULTI_REGION: &str = "mrk-";

/// The ARN of one key in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyArn {
    partition: String,
    region: String,
    account: String,
    id: String,
}

impl KeyArn {
    /// `None` for anything else than `arn:partition:kms:region:account:key/id`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next().filter(|part| is_plain(part));
        let (arn, partition, service, region, account) =
            (next()?, next()?, next()?, next()?, next()?);
        let id = parts.next()?.strip_prefix("key/")?;
        let sound = arn == "arn" && service == "kms" && is_plain(id) && parts.next().is_none();
        sound.then(|| Self {
            partition: partition.to_owned(),
            region: region.to_owned(),
            account: account.to_owned(),
            id: id.to_owned(),
        })
    }

    /// This key as the region knows it.
    ///
    /// # Errors
    /// [`FailureKind::Config`] for a key that lives in another region and in no second one.
    pub(crate) fn within(mut self, region: &str) -> Result<Self, KmsError> {
        if self.region != region && !self.id.starts_with(MULTI_REGION) {
            return Err(KmsError::config(format!(
                "the root key lives in {}, but the provider's \"region\" is {region}, and it is not a multi-region \
                 key",
                self.region
            )));
        }
        region.clone_into(&mut self.region);
        Ok(self)
    }

    /// Whether both are one key, in whatever region.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        self.id == other.id && self.account == other.account
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            region,
            account,
            id,
        } = self;
        write!(f, "arn:{partition}:kms:{region}:{account}:key/{id}")
    }
}

fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The root key as it goes into a request: a key id, an alias, or the ARN of either.
///
/// # Errors
/// [`FailureKind::Config`] for what cannot be one, or lives in another region.
pub(crate) fn root_key(name: &str, region: &str) -> Result<String, KmsError> {
    if name.is_empty() {
        return Err(KmsError::config(
            "give the id, ARN or alias of the KMS key as the root key",
        ));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'/' | b'_' | b'-');
    if name.len() > LONGEST || !name.bytes().all(allowed) {
        return Err(KmsError::config(
            "a KMS key is named by its id, its ARN, or an alias such as \"alias/colcrypt\"",
        ));
    }
    if let Some(arn) = KeyArn::parse(name) {
        return arn.within(region).map(|arn| arn.to_string());
    }
    if let Some(home) = name
        .strip_prefix("arn:")
        .and_then(|rest| rest.split(':').nth(2))
        && home != region
    {
        return Err(KmsError::config(format!(
            "the alias lives in {home}, but the provider's \"region\" is {region}"
        )));
    }
    Ok(name.to_owned())
}

/// The key that wrapped a KEK, as kept in the catalog.
///
/// # Errors
/// [`FailureKind::Corrupt`] for what is no key ARN, or as [`KeyArn::within`].
pub(crate) fn kept(arn: &str, region: &str) -> Result<KeyArn, KmsError> {
    KeyArn::parse(arn)
        .ok_or_else(|| {
            KmsError::new(
                FailureKind::Corrupt,
                "what is kept as the root key's version is not the ARN of a KMS key: it was altered",
            )
        })?
        .within(region)
}

/// Makes an error of configuration when a multi-region key has no replica in the region that was asked: that it is
/// not there is then no refusal.
pub(crate) fn elsewhere(error: KmsError, kept: &str, region: &str) -> KmsError {
    let home = KeyArn::parse(kept).map(|arn| arn.region);
    match home {
        Some(home) if error.kind == FailureKind::KeyNotFound && home != region => {
            KmsError::config(format!(
                "the root key lives in {home} and has no replica in {region}, the provider's \"region\": replicate it \
                 there, or move the keyring ({})",
                error.message
            ))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    const MRK: &str =
        "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";

    #[test]
    fn only_key_arns_are_key_arns() {
        for good in [KEY, MRK] {
            assert_eq!(KeyArn::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-west-1:111122223333:alias/app",
            "arn:aws:s3:eu-west-1:111122223333:key/a",
            "arn:aws:kms::111122223333:key/a",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:111122223333:key/a/b",
            "arn:aws:kms:eu-west-1:111122223333:key/a:b",
            "arn:aws:kms:eu-west-1.evil.example:111122223333:key/a",
        ] {
            assert_eq!(KeyArn::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_of_another_region_must_be_multi_region() {
        let moved = kept(MRK, "cn-northwest-1").unwrap();
        assert!(
            moved
                .to_string()
                .starts_with("arn:aws-cn:kms:cn-northwest-1:")
        );
        assert!(moved.is_same_key(&KeyArn::parse(MRK).unwrap()));
        assert_eq!(kept(KEY, "eu-west-1").unwrap().to_string(), KEY);
        for error in [
            kept(KEY, "us-east-1").unwrap_err(),
            root_key(KEY, "us-east-1").unwrap_err(),
            root_key("arn:aws:kms:eu-west-1:111122223333:alias/app", "us-east-1").unwrap_err(),
        ] {
            assert_eq!(error.kind, FailureKind::Config);
            assert!(error.message.contains("eu-west-1") && error.message.contains("us-east-1"));
        }
        assert_eq!(
            kept("v1", "eu-west-1").unwrap_err().kind,
            FailureKind::Corrupt
        );
    }

    #[test]
    fn root_keys_are_ids_arns_and_aliases() {
        for good in [
            KEY,
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/app_1/x",
            "arn:aws:kms:eu-west-1:111122223333:alias/app",
        ] {
            assert_eq!(root_key(good, "eu-west-1").unwrap(), good);
        }
        for bad in ["", "a b", "alias/é", "alias/a\n", "{\"KeyId\"}"] {
            assert_eq!(
                root_key(bad, "eu-west-1").unwrap_err().kind,
                FailureKind::Config
            );
        }
    }
}
