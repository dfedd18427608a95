//! Bodies of JSON to and from providers' servers, wiped after use.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{KmsError, http_client};

/// Far larger than any request of ours.
const MAX_REQUEST: usize = 32 * 1024;

/// What came back from a server that speaks JSON.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) json: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// # Errors
/// As [`http_client::body`].
pub(crate) async fn receive(address: &str, response: Response) -> Result<Answer, KmsError> {
    let status = response.status();
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let json = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let retry_after = header(RETRY_AFTER)
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    let body = http_client::body(address, response).await?;
    Ok(Answer {
        status,
        json,
        retry_after,
        body,
    })
}

/// A JSON body that is wiped after use.
pub(crate) fn json<T: Serialize>(body: &T) -> Zeroizing<Vec<u8>> {
    // Of full size at once, so that the vector does not grow and leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_REQUEST));
    serde_json::to_writer(&mut *bytes, body).expect("strings serialise");
    bytes
}
