//! An answer of AWS KMS, read by the vendor's SDK and then as this provider reads it, for the fuzz targets. Nothing is
//! sent: the SDK gets the answer from a connector that has it already.

use std::sync::OnceLock;

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_sdk_kms::{Client, config, primitives::Blob};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use colcrypt_core::KeyEncryptionKey;
use tokio::runtime::{Builder, Runtime};

use super::{
    arn::{self, KeyArn},
    key, key_of,
    reply::{Question, failure},
};
use crate::{KmsError, canned::Reply};

#[derive(Clone, Debug)]
struct Canned {
    status: u16,
    retry_after: String,
    body: Vec<u8>,
}

impl HttpClient for Canned {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Canned {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        let status = StatusCode::try_from(self.status).expect("a status");
        let mut response = HttpResponse::new(status, SdkBody::from(self.body.clone()));
        let value = self.retry_after.clone();
        let _ = response.headers_mut().try_append("retry-after", value);
        HttpConnectorFuture::ready(Ok(response))
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// The answer to one of two questions. Returns what is shown of a success.
///
/// # Errors
/// The failure that it is.
pub fn reply(reply: &Reply<'_>) -> Result<Vec<String>, KmsError> {
    let canned = Canned {
        status: reply.status,
        retry_after: reply.retry_after_text(),
        body: reply.body.to_vec(),
    };
    let sdk = config::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static("eu-west-1"))
        .http_client(canned)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .credentials_provider(Credentials::new("AKIDEXAMPLE", "s", None, None, "fuzzing"))
        .build();
    let client = Client::from_conf(sdk);
    let key = "arn:aws:kms:eu-west-1:111122223333:key/k";
    let question = |action| Question {
        endpoint: "AWS KMS in eu-west-1",
        action,
        key,
    };
    runtime().block_on(async {
        let mut shown = Vec::new();
        if reply.what.is_multiple_of(2) {
            let question = question("kms:Decrypt");
            let request = client.decrypt().key_id(key);
            let answer = request
                .ciphertext_blob(Blob::new([0; 8]))
                .send()
                .await
                .map_err(|error| failure(question, &error).error)
                .map_err(|error| arn::elsewhere(error, key, "eu-central-1"))?;
            if let Some(by) = answer.key_id.as_deref().and_then(KeyArn::parse) {
                let again = KeyArn::parse(&by.to_string());
                assert_eq!(again.as_ref(), Some(&by), "an ARN reads as it is written");
            }
            key_of(question, answer.plaintext, KeyEncryptionKey::from_slice)?;
        } else {
            let question = question("kms:DescribeKey");
            let answer = client
                .describe_key()
                .key_id(key)
                .send()
                .await
                .map_err(|error| failure(question, &error).error)?;
            if let Some(found) = answer.key_metadata {
                key::suits(&found)?;
                shown.push(key::properties(&found));
                key::warn(&found, &mut shown);
            }
        }
        Ok(shown)
    })
}
