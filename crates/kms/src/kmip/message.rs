//! KMIP's messages: the few operations that are asked of a server, and what it answers.
//!
//! KMIP 1.4 and 2.0 differ for us in how attributes are written, and in nothing else.

use zeroize::Zeroizing;

use super::{
    login::Login,
    tag,
    ttlv::{Header, Item, Malformed, Value},
};

const USERNAME_AND_PASSWORD: u32 = 1;
const SYMMETRIC_KEY: u32 = 2;
const UNINTERPRETED_TEXT: u32 = 1;
pub(super) const AES: u32 = 3;
const GCM: u32 = 9;
/// Bytes of an AES-GCM tag.
pub(super) const TAG_LEN: usize = 16;
const QUERY_OPERATIONS: u32 = 1;
const QUERY_SERVER_INFORMATION: u32 = 3;
/// More objects of one name than that make no difference.
const LOCATE_AT_MOST: i32 = 2;
const SUCCESS: u32 = 0;
const FAILED: u32 = 1;

/// A version of the protocol that can be spoken here. Additional data came with 1.4, so earlier ones
/// have no way to wrap a KEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1_4,
    V2_0,
}

impl Version {
    pub(super) fn number(self) -> (i32, i32) {
        match self {
            Self::V1_4 => (1, 4),
            Self::V2_0 => (2, 0),
        }
    }

    /// The best of those a server speaks.
    pub(super) fn best(spoken: &[(i32, i32)]) -> Option<Self> {
        [Self::V2_0, Self::V1_4]
            .into_iter()
            .find(|version| spoken.contains(&version.number()))
    }

    fn item<'a>(self) -> Item<'a> {
        let (major, minor) = self.number();
        let parts = vec![
            Item::new(tag::PROTOCOL_VERSION_MAJOR, Value::Integer(major)),
            Item::new(tag::PROTOCOL_VERSION_MINOR, Value::Integer(minor)),
        ];
        Item::structure(tag::PROTOCOL_VERSION, parts)
    }
}

fn version_number(item: &Item<'_>) -> Option<(i32, i32)> {
    let major = item.integer(tag::PROTOCOL_VERSION_MAJOR)?;
    Some((major, item.integer(tag::PROTOCOL_VERSION_MINOR)?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Locate = 0x08,
    GetAttributes = 0x0B,
    Query = 0x18,
    DiscoverVersions = 0x1E,
    Encrypt = 0x1F,
    Decrypt = 0x20,
    RngRetrieve = 0x25,
}

impl Operation {
    /// As the specification calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Locate => "Locate",
            Self::GetAttributes => "Get Attributes",
            Self::Query => "Query",
            Self::DiscoverVersions => "Discover Versions",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::RngRetrieve => "RNG Retrieve",
        }
    }
}

fn authentication(login: &Login) -> Item<'_> {
    let value = vec![
        Item::new(tag::USERNAME, Value::Text(&login.username)),
        Item::new(tag::PASSWORD, Value::Text(login.password())),
    ];
    let credential = vec![
        Item::new(
            tag::CREDENTIAL_TYPE,
            Value::Enumeration(USERNAME_AND_PASSWORD),
        ),
        Item::structure(tag::CREDENTIAL_VALUE, value),
    ];
    let credential = vec![Item::structure(tag::CREDENTIAL, credential)];
    Item::structure(tag::AUTHENTICATION, credential)
}

/// What is asked.
pub(super) enum Request<'a> {
    DiscoverVersions,
    Query,
    /// Symmetric keys of this name.
    Locate {
        name: &'a str,
    },
    GetAttributes {
        id: &'a str,
    },
    Encrypt {
        id: &'a str,
        nonce: &'a [u8],
        aad: &'a [u8],
        plain: &'a [u8],
    },
    Decrypt {
        id: &'a str,
        nonce: &'a [u8],
        aad: &'a [u8],
        sealed: &'a [u8],
        tag: &'a [u8],
    },
    RngRetrieve {
        length: i32,
    },
}

impl<'a> Request<'a> {
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::DiscoverVersions => Operation::DiscoverVersions,
            Self::Query => Operation::Query,
            Self::Locate { .. } => Operation::Locate,
            Self::GetAttributes { .. } => Operation::GetAttributes,
            Self::Encrypt { .. } => Operation::Encrypt,
            Self::Decrypt { .. } => Operation::Decrypt,
            Self::RngRetrieve { .. } => Operation::RngRetrieve,
        }
    }

    pub(super) fn encode(&self, version: Version, login: Option<&Login>) -> Zeroizing<Vec<u8>> {
        let mut header = vec![version.item()];
        header.extend(login.map(authentication));
        header.push(Item::new(tag::BATCH_COUNT, Value::Integer(1)));
        let operation = Value::Enumeration(self.operation() as u32);
        let batch_item = vec![
            Item::new(tag::OPERATION, operation),
            Item::structure(tag::REQUEST_PAYLOAD, self.payload(version)),
        ];
        let message = vec![
            Item::structure(tag::REQUEST_HEADER, header),
            Item::structure(tag::BATCH_ITEM, batch_item),
        ];
        Item::structure(tag::REQUEST_MESSAGE, message).encode()
    }

    fn payload(&self, version: Version) -> Vec<Item<'a>> {
        let id = |id| Item::new(tag::UNIQUE_IDENTIFIER, Value::Text(id));
        let bytes = |tag, bytes| Item::new(tag, Value::Bytes(bytes));
        match self {
            // Without a list of ours it tells all of its own, which is worth knowing if none fits.
            Self::DiscoverVersions => Vec::new(),
            Self::Query => [QUERY_OPERATIONS, QUERY_SERVER_INFORMATION]
                .map(|what| Item::new(tag::QUERY_FUNCTION, Value::Enumeration(what)))
                .into(),
            Self::Locate { name } => {
                let most = Item::new(tag::MAXIMUM_ITEMS, Value::Integer(LOCATE_AT_MOST));
                let mut payload = vec![most];
                payload.extend(named(version, name));
                payload
            }
            // Without a list of attributes, all are meant.
            Self::GetAttributes { id: key } => vec![id(key)],
            Self::Encrypt {
                id: key,
                nonce,
                aad,
                plain,
            } => vec![
                id(key),
                gcm(),
                bytes(tag::DATA, plain),
                bytes(tag::IV_COUNTER_NONCE, nonce),
                bytes(tag::ADDITIONAL_DATA, aad),
            ],
            Self::Decrypt {
                id: key,
                nonce,
                aad,
                sealed,
                tag: authentication,
            } => vec![
                id(key),
                gcm(),
                bytes(tag::DATA, sealed),
                bytes(tag::IV_COUNTER_NONCE, nonce),
                bytes(tag::ADDITIONAL_DATA, aad),
                bytes(tag::AUTHENTICATION_TAG, authentication),
            ],
            Self::RngRetrieve { length } => {
                vec![Item::new(tag::DATA_LENGTH, Value::Integer(*length))]
            }
        }
    }
}

/// AES-GCM. The key's own parameters, if it has any, could be another mode.
fn gcm<'a>() -> Item<'a> {
    let parameters = vec![
        Item::new(tag::BLOCK_CIPHER_MODE, Value::Enumeration(GCM)),
        Item::new(tag::CRYPTOGRAPHIC_ALGORITHM, Value::Enumeration(AES)),
        Item::new(tag::TAG_LENGTH, Value::Integer(TAG_LEN as i32)),
    ];
    Item::structure(tag::CRYPTOGRAPHIC_PARAMETERS, parameters)
}

fn named(version: Version, name: &str) -> Vec<Item<'_>> {
    let name = Value::Structure(vec![
        Item::new(tag::NAME_VALUE, Value::Text(name)),
        Item::new(tag::NAME_TYPE, Value::Enumeration(UNINTERPRETED_TEXT)),
    ]);
    let kind = Value::Enumeration(SYMMETRIC_KEY);
    match version {
        Version::V1_4 => [("Name", name), ("Object Type", kind)]
            .map(|(name, value)| {
                let parts = vec![
                    Item::new(tag::ATTRIBUTE_NAME, Value::Text(name)),
                    Item::new(tag::ATTRIBUTE_VALUE, value),
                ];
                Item::structure(tag::ATTRIBUTE, parts)
            })
            .into(),
        Version::V2_0 => vec![Item::structure(
            tag::ATTRIBUTES,
            vec![
                Item::new(tag::NAME, name),
                Item::new(tag::OBJECT_TYPE, kind),
            ],
        )],
    }
}

/// Why there is no payload.
pub(super) enum Unserved<'a> {
    /// The server says so, by one of its reasons and perhaps in words.
    Failed {
        reason: Option<u32>,
        message: Option<&'a str>,
    },
    /// What came is not an answer to this request; says what it is.
    Nonsense(&'static str),
}

impl From<Malformed> for Unserved<'_> {
    fn from(Malformed: Malformed) -> Self {
        Self::Nonsense("malformed TTLV")
    }
}

/// How many bytes follow what a response begins with.
pub(super) fn rest_of_response(header: &[u8]) -> Result<usize, Unserved<'static>> {
    let (header, _) = Header::read(header)?;
    if header.tag == tag::RESPONSE_MESSAGE && header.is_structure() {
        Ok(header.padded_len())
    } else {
        Err(Unserved::Nonsense("something else than a KMIP response"))
    }
}

/// The payload of the answer to the one operation that was asked.
pub(super) fn payload<'a>(
    bytes: &'a [u8],
    version: Version,
    operation: Operation,
) -> Result<Item<'a>, Unserved<'a>> {
    use Unserved::Nonsense;
    let message = Item::decode(bytes)?;
    let header = message
        .inner(tag::RESPONSE_HEADER)
        .ok_or(Nonsense("a response without header"))?;
    let mut items = message.all(tag::BATCH_ITEM);
    let (Some(item), None, Some(1)) =
        (items.next(), items.next(), header.integer(tag::BATCH_COUNT))
    else {
        return Err(Nonsense("another number of answers than one"));
    };
    match item.enumeration(tag::RESULT_STATUS) {
        Some(SUCCESS) => {}
        // Before it knows the operation, or the version, a server names neither or its own.
        Some(FAILED) => {
            return Err(Unserved::Failed {
                reason: item.enumeration(tag::RESULT_REASON),
                message: item.text(tag::RESULT_MESSAGE),
            });
        }
        _ => return Err(Nonsense("neither success nor failure")),
    }
    if item.enumeration(tag::OPERATION) != Some(operation as u32) {
        return Err(Nonsense("the answer to another operation"));
    }
    let spoken = header.inner(tag::PROTOCOL_VERSION).and_then(version_number);
    if spoken != Some(version.number()) {
        return Err(Nonsense("another version of KMIP than it was asked in"));
    }
    item.inner(tag::RESPONSE_PAYLOAD)
        .cloned()
        .ok_or(Nonsense("success without content"))
}

pub(super) fn versions(payload: &Item<'_>) -> Option<Vec<(i32, i32)>> {
    payload
        .all(tag::PROTOCOL_VERSION)
        .map(version_number)
        .collect()
}

/// What a server says of itself.
pub(super) struct ServerInformation {
    pub(super) vendor: Option<String>,
    pub(super) has_generator: bool,
}

pub(super) fn server_information(payload: &Item<'_>) -> Option<ServerInformation> {
    let generator = Value::Enumeration(Operation::RngRetrieve as u32);
    Some(ServerInformation {
        vendor: payload.text(tag::VENDOR_IDENTIFICATION).map(str::to_owned),
        has_generator: payload
            .all(tag::OPERATION)
            .any(|operation| operation.value == generator),
    })
}

/// Unique identifiers. Numbers and placeholders, which 2.0 knows in their place, are not asked for.
pub(super) fn located(payload: &Item<'_>) -> Option<Vec<String>> {
    payload
        .all(tag::UNIQUE_IDENTIFIER)
        .map(|item| match item.value {
            Value::Text(id) => Some(id.to_owned()),
            _ => None,
        })
        .collect()
}

/// What AES-GCM made.
pub(super) struct Encrypted {
    /// The server's own, where it did not take ours.
    pub(super) nonce: Option<Vec<u8>>,
    pub(super) sealed: Vec<u8>,
    pub(super) tag: Vec<u8>,
}

pub(super) fn encrypted(payload: &Item<'_>, id: &str) -> Option<Encrypted> {
    of_key(payload, id)?;
    Some(Encrypted {
        nonce: payload.bytes(tag::IV_COUNTER_NONCE).map(<[u8]>::to_vec),
        sealed: payload.bytes(tag::DATA)?.to_vec(),
        tag: payload.bytes(tag::AUTHENTICATION_TAG)?.to_vec(),
    })
}

/// Borrowed from the wiped reply.
pub(super) fn decrypted<'a>(payload: &Item<'a>, id: &str) -> Option<&'a [u8]> {
    of_key(payload, id)?;
    payload.bytes(tag::DATA)
}

pub(super) fn random<'a>(payload: &Item<'a>) -> Option<&'a [u8]> {
    payload.bytes(tag::DATA)
}

/// Whether the answer is about this key.
pub(super) fn of_key(payload: &Item<'_>, id: &str) -> Option<()> {
    (payload.text(tag::UNIQUE_IDENTIFIER)? == id).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(version: (i32, i32), count: i32, items: Vec<Item<'_>>) -> Zeroizing<Vec<u8>> {
        let header = vec![
            Item::structure(
                tag::PROTOCOL_VERSION,
                vec![
                    Item::new(tag::PROTOCOL_VERSION_MAJOR, Value::Integer(version.0)),
                    Item::new(tag::PROTOCOL_VERSION_MINOR, Value::Integer(version.1)),
                ],
            ),
            Item::new(tag::BATCH_COUNT, Value::Integer(count)),
        ];
        let mut message = vec![Item::structure(tag::RESPONSE_HEADER, header)];
        message.extend(items);
        Item::structure(tag::RESPONSE_MESSAGE, message).encode()
    }

    fn answer(operation: u32, status: u32, more: Vec<Item<'_>>) -> Item<'_> {
        let mut parts = vec![
            Item::new(tag::OPERATION, Value::Enumeration(operation)),
            Item::new(tag::RESULT_STATUS, Value::Enumeration(status)),
        ];
        parts.extend(more);
        Item::structure(tag::BATCH_ITEM, parts)
    }

    fn content(items: Vec<Item<'_>>) -> Vec<Item<'_>> {
        vec![Item::structure(tag::RESPONSE_PAYLOAD, items)]
    }

    fn read(bytes: &[u8]) -> Result<(), String> {
        match payload(bytes, Version::V2_0, Operation::Decrypt) {
            Ok(_) => Ok(()),
            Err(Unserved::Nonsense(what)) => Err(what.to_owned()),
            Err(Unserved::Failed { reason, message }) => Err(format!("{reason:?} {message:?}")),
        }
    }

    #[test]
    fn only_the_answer_to_what_was_asked_is_one() {
        let good = || answer(0x20, 0, content(vec![]));
        assert_eq!(read(&response((2, 0), 1, vec![good()])), Ok(()));
        let failed = vec![
            Item::new(tag::RESULT_REASON, Value::Enumeration(0x0C)),
            Item::new(tag::RESULT_MESSAGE, Value::Text("no")),
        ];
        for (bytes, what) in [
            (response((2, 0), 2, vec![good(), good()]), "another number"),
            (response((2, 0), 2, vec![good()]), "another number"),
            (response((2, 0), 1, vec![]), "another number"),
            (response((1, 4), 1, vec![good()]), "another version"),
            (
                response((2, 0), 1, vec![answer(0x1F, 0, content(vec![]))]),
                "another operation",
            ),
            (
                response((2, 0), 1, vec![answer(0x20, 0, vec![])]),
                "without content",
            ),
            (
                response((2, 0), 1, vec![answer(0x20, 2, content(vec![]))]),
                "neither success",
            ),
            (
                response((1, 0), 1, vec![answer(0x20, 1, failed)]),
                "Some(12) Some(\"no\")",
            ),
            (Zeroizing::new(vec![0; 24]), "malformed"),
            (
                Item::structure(tag::RESPONSE_MESSAGE, vec![]).encode(),
                "without header",
            ),
        ] {
            let said = read(&bytes).unwrap_err();
            assert!(said.contains(what), "{what}: {said}");
        }
    }

    #[test]
    fn a_response_is_known_by_its_first_bytes() {
        let good = response((2, 0), 1, vec![]);
        assert_eq!(rest_of_response(&good[..8]).ok(), Some(good.len() - 8));
        assert!(rest_of_response(&good[..7]).is_err());
        assert!(rest_of_response(b"HTTP/1.1").is_err());
        assert!(rest_of_response(&Item::structure(tag::REQUEST_MESSAGE, vec![]).encode()).is_err());
    }

    #[test]
    fn the_newest_version_is_spoken() {
        assert_eq!(
            Version::best(&[(2, 1), (2, 0), (1, 4)]),
            Some(Version::V2_0)
        );
        assert_eq!(Version::best(&[(1, 4), (1, 2)]), Some(Version::V1_4));
        assert_eq!(Version::best(&[(1, 2), (1, 0)]), None);
    }
}
