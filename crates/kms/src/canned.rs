//! An answer over HTTP that no server sent, for the fuzz targets.

use std::time::Duration;

use reqwest::StatusCode;
use zeroize::Zeroizing;

use crate::http_json::Answer;

/// An answer over HTTP.
pub struct Reply<'a> {
    /// Which of the provider's questions it answers.
    pub what: u8,
    /// From 100 to 999.
    pub status: u16,
    /// Whether it says that it is JSON.
    pub json: bool,
    /// Retry-After, in seconds.
    pub retry_after: Option<u64>,
    pub body: &'a [u8],
}

impl Reply<'_> {
    /// As a client of ours receives it.
    pub(crate) fn answer(&self) -> Answer {
        Answer {
            status: StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK),
            json: self.json,
            retry_after: self.retry_after.map(Duration::from_secs),
            body: Zeroizing::new(self.body.to_vec()),
        }
    }

    /// Retry-After as a server writes it.
    pub(crate) fn retry_after_text(&self) -> String {
        self.retry_after
            .map_or_else(String::new, |seconds| seconds.to_string())
    }
}
