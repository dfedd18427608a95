//! Requests to Cloud KMS's REST API: one address, tokens that are fetched anew once when they are refused.
//!
//! What cannot be wiped here: hyper's and rustls' own buffers, through which every request and reply
//! passes, and the token in the request's header. They are freed at once, in a process without core dumps or swap.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::{
    Client, Method, Response,
    header::{CONTENT_TYPE, DATE, HeaderMap},
};
use zeroize::Zeroizing;

use crate::{
    KmsError,
    config::AbsolutePath,
    gcp_kms::{
        credentials::Identity,
        reply::{self, Failed, Login, Question},
    },
    http_address::HttpAddress,
    http_client,
    http_json::{self, Answer},
    http_proxy::ProxySetting,
};

const ADDRESS: &str = "https://cloudkms.googleapis.com";
/// A token that the agent signs itself is dated back by so much.
const CLOCKS_AGREE: Duration = Duration::from_secs(10);

pub(crate) struct GcpHttp {
    client: Client,
    base: String,
    identity: Identity,
}

impl GcpHttp {
    pub(crate) fn new(
        endpoint: Option<&HttpAddress>,
        ca_file: Option<&AbsolutePath>,
        proxy: Option<&ProxySetting>,
        identity: Identity,
    ) -> Result<Self, KmsError> {
        Ok(Self {
            client: http_client::new(ca_file, proxy)?,
            base: endpoint.map_or_else(|| ADDRESS.to_owned(), ToString::to_string),
            identity,
        })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) async fn get(&self, question: Question<'_>) -> Result<Answer, KmsError> {
        self.ask(question, Method::GET, "", None).await
    }

    pub(crate) async fn post(
        &self,
        question: Question<'_>,
        verb: &str,
        json: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, KmsError> {
        self.ask(question, Method::POST, verb, Some(json)).await
    }

    /// Sends a request with the current token, and once more with a new one if that token is refused.
    async fn ask(
        &self,
        question: Question<'_>,
        method: Method,
        verb: &str,
        json: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer, KmsError> {
        let url = format!("{}/v1/{}{verb}", self.base, question.resource);
        let body = json.map(Bytes::from_owner);
        let who = self.identity.headers().await?;
        let failed = match self
            .send(question, &method, &url, body.clone(), &who)
            .await?
        {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        if !failed.blames_token {
            return Err(failed.error);
        }
        self.identity.forget(&who).await;
        let who = self.identity.headers().await?;
        self.send(question, &method, &url, body, &who)
            .await?
            .map_err(|failed| failed.error)
    }

    async fn send(
        &self,
        question: Question<'_>,
        method: &Method,
        url: &str,
        body: Option<Bytes>,
        who: &HeaderMap,
    ) -> Result<Result<Answer, Failed>, KmsError> {
        let mut request = self
            .client
            .request(method.clone(), url)
            .headers(who.clone());
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let sent = SystemTime::now();
        let response = request
            .send()
            .await
            .map_err(|error| http_client::unreachable(&self.base, error))?;
        let clock_differs =
            date(&response).is_some_and(|date| !agree(date, sent, SystemTime::now()));
        let answer = http_json::receive(&self.base, response).await?;
        if !answer.status.is_success() {
            let login = Login {
                clock_differs,
                is_self_signed: self.identity.is_self_signed(),
            };
            return Ok(Err(reply::failure(question, &answer, login)));
        }
        if !answer.json {
            return Err(reply::bad_reply(question, "success, but not JSON"));
        }
        Ok(Ok(answer))
    }
}

fn date(response: &Response) -> Option<SystemTime> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(date).ok()
}

/// Whether an answer of this date was sent between these moments, with some tolerance.
fn agree(date: SystemTime, sent: SystemTime, received: SystemTime) -> bool {
    date + CLOCKS_AGREE >= sent && date <= received + CLOCKS_AGREE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_seconds() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        for (date, fits) in [
            (now, true),
            (now - 9 * second, true),
            (now + 12 * second, true),
            (now - 60 * second, false),
            (now + 60 * second, false),
        ] {
            assert_eq!(agree(date, now, now + 3 * second), fits);
        }
    }
}
