//! The tags of KMIP that are used here, by the specification's names.

use super::ttlv::Tag;

pub(super) const ADDITIONAL_DATA: Tag = Tag(0x42_00_FE);
pub(super) const ATTRIBUTE: Tag = Tag(0x42_00_08);
pub(super) const ATTRIBUTE_NAME: Tag = Tag(0x42_00_0A);
pub(super) const ATTRIBUTE_VALUE: Tag = Tag(0x42_00_0B);
pub(super) const ATTRIBUTES: Tag = Tag(0x42_01_25);
pub(super) const AUTHENTICATION: Tag = Tag(0x42_00_0C);
pub(super) const AUTHENTICATION_TAG: Tag = Tag(0x42_00_FF);
pub(super) const BATCH_COUNT: Tag = Tag(0x42_00_0D);
pub(super) const BATCH_ITEM: Tag = Tag(0x42_00_0F);
pub(super) const BLOCK_CIPHER_MODE: Tag = Tag(0x42_00_11);
pub(super) const CREDENTIAL: Tag = Tag(0x42_00_23);
pub(super) const CREDENTIAL_TYPE: Tag = Tag(0x42_00_24);
pub(super) const CREDENTIAL_VALUE: Tag = Tag(0x42_00_25);
pub(super) const CRYPTOGRAPHIC_ALGORITHM: Tag = Tag(0x42_00_28);
pub(super) const CRYPTOGRAPHIC_LENGTH: Tag = Tag(0x42_00_2A);
pub(super) const CRYPTOGRAPHIC_PARAMETERS: Tag = Tag(0x42_00_2B);
pub(super) const CRYPTOGRAPHIC_USAGE_MASK: Tag = Tag(0x42_00_2C);
pub(super) const DATA: Tag = Tag(0x42_00_C2);
pub(super) const DATA_LENGTH: Tag = Tag(0x42_00_C4);
pub(super) const DEACTIVATION_DATE: Tag = Tag(0x42_00_2F);
pub(super) const DESTROY_DATE: Tag = Tag(0x42_00_33);
pub(super) const EXTRACTABLE: Tag = Tag(0x42_01_22);
pub(super) const IV_COUNTER_NONCE: Tag = Tag(0x42_00_3D);
pub(super) const MAXIMUM_ITEMS: Tag = Tag(0x42_00_4F);
pub(super) const NAME: Tag = Tag(0x42_00_53);
pub(super) const NAME_TYPE: Tag = Tag(0x42_00_54);
pub(super) const NAME_VALUE: Tag = Tag(0x42_00_55);
pub(super) const OBJECT_TYPE: Tag = Tag(0x42_00_57);
pub(super) const OPERATION: Tag = Tag(0x42_00_5C);
pub(super) const PASSWORD: Tag = Tag(0x42_00_A1);
pub(super) const PROCESS_START_DATE: Tag = Tag(0x42_00_67);
pub(super) const PROTECT_STOP_DATE: Tag = Tag(0x42_00_68);
pub(super) const PROTOCOL_VERSION: Tag = Tag(0x42_00_69);
pub(super) const PROTOCOL_VERSION_MAJOR: Tag = Tag(0x42_00_6A);
pub(super) const PROTOCOL_VERSION_MINOR: Tag = Tag(0x42_00_6B);
pub(super) const QUERY_FUNCTION: Tag = Tag(0x42_00_74);
pub(super) const REQUEST_HEADER: Tag = Tag(0x42_00_77);
pub(super) const REQUEST_MESSAGE: Tag = Tag(0x42_00_78);
pub(super) const REQUEST_PAYLOAD: Tag = Tag(0x42_00_79);
pub(super) const RESPONSE_HEADER: Tag = Tag(0x42_00_7A);
pub(super) const RESPONSE_MESSAGE: Tag = Tag(0x42_00_7B);
pub(super) const RESPONSE_PAYLOAD: Tag = Tag(0x42_00_7C);
pub(super) const RESULT_MESSAGE: Tag = Tag(0x42_00_7D);
pub(super) const RESULT_REASON: Tag = Tag(0x42_00_7E);
pub(super) const RESULT_STATUS: Tag = Tag(0x42_00_7F);
pub(super) const SENSITIVE: Tag = Tag(0x42_01_20);
pub(super) const STATE: Tag = Tag(0x42_00_8D);
pub(super) const TAG_LENGTH: Tag = Tag(0x42_00_CE);
pub(super) const UNIQUE_IDENTIFIER: Tag = Tag(0x42_00_94);
pub(super) const USAGE_LIMITS: Tag = Tag(0x42_00_95);
pub(super) const USAGE_LIMITS_COUNT: Tag = Tag(0x42_00_96);
pub(super) const USERNAME: Tag = Tag(0x42_00_99);
pub(super) const VENDOR_IDENTIFICATION: Tag = Tag(0x42_00_9D);

/// How KMIP 1.4 calls the attributes that 2.0 writes by their tags.
pub(super) const ATTRIBUTE_NAMES: [(&str, Tag); 11] = [
    ("State", STATE),
    ("Cryptographic Usage Mask", CRYPTOGRAPHIC_USAGE_MASK),
    ("Cryptographic Algorithm", CRYPTOGRAPHIC_ALGORITHM),
    ("Cryptographic Length", CRYPTOGRAPHIC_LENGTH),
    ("Process Start Date", PROCESS_START_DATE),
    ("Protect Stop Date", PROTECT_STOP_DATE),
    ("Deactivation Date", DEACTIVATION_DATE),
    ("Destroy Date", DESTROY_DATE),
    ("Usage Limits", USAGE_LIMITS),
    ("Sensitive", SENSITIVE),
    ("Extractable", EXTRACTABLE),
];
