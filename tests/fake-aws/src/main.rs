//! AWS KMS, IAM and STS on one port of this machine, as strict as the real ones: signatures and policies
//! are checked. Access key ids that begin with `test` may do everything, unsigned: the tests use them
//! to set things up.
//!
//! It prints its port, and then one line for each request: what was asked, and the status of the answer.
//! Beyond AWS it has, for tests of faults:
//!
//! * `POST /fault?status=S&times=N`, the body of the next N answers as its body;
//! * `POST /expire?access_key_id=ID`, after which that temporary credential is expired.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use fakecloud_core::{
    auth::IamMode,
    dispatch::{DispatchConfig, dispatch},
    multi_account::MultiAccountState,
    registry::ServiceRegistry,
};
use fakecloud_iam::{
    SharedIamState, credential_resolver::IamCredentialResolver, iam_service::IamService,
    policy_evaluator::IamPolicyEvaluatorImpl, sts_service::StsService,
};
use fakecloud_kms::{KmsService, SharedKmsState, resource_policy::KmsResourcePolicyProvider};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;

const ACCOUNT: &str = "111122223333";
const REGION: &str = "eu-west-1";
const MAX_BODY: usize = 1 << 20;

type Parameters = HashMap<String, String>;

struct Fault {
    status: StatusCode,
    body: String,
    left: u32,
}

struct Server {
    registry: Arc<ServiceRegistry>,
    config: Arc<DispatchConfig>,
    /// For the one action that nobody signs: the token in it is what counts, and STS looks at that.
    unsigned: Arc<DispatchConfig>,
    iam: SharedIamState,
    fault: Mutex<Option<Fault>>,
}

#[tokio::main]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    println!("port {port}");
    let endpoint = format!("http://127.0.0.1:{port}");

    let iam: SharedIamState = Arc::new(RwLock::new(MultiAccountState::new(
        ACCOUNT, REGION, &endpoint,
    )));
    let kms: SharedKmsState = Arc::new(RwLock::new(MultiAccountState::new(
        ACCOUNT, REGION, &endpoint,
    )));
    let mut registry = ServiceRegistry::new();
    registry.register(Arc::new(IamService::new(Arc::clone(&iam))));
    registry.register(Arc::new(StsService::new(Arc::clone(&iam))));
    registry.register(Arc::new(KmsService::new(Arc::clone(&kms))));
    let config = DispatchConfig {
        verify_sigv4: true,
        iam_mode: IamMode::Strict,
        credential_resolver: Some(IamCredentialResolver::shared(Arc::clone(&iam))),
        policy_evaluator: Some(IamPolicyEvaluatorImpl::shared(Arc::clone(&iam))),
        resource_policy_provider: Some(KmsResourcePolicyProvider::shared(kms)),
        ..DispatchConfig::new(REGION, ACCOUNT)
    };
    let server = Arc::new(Server {
        registry: Arc::new(registry),
        config: Arc::new(config),
        unsigned: Arc::new(DispatchConfig::new(REGION, ACCOUNT)),
        iam,
        fault: Mutex::default(),
    });
    let router = Router::new()
        .route("/fault", post(set_fault))
        .route("/expire", post(expire))
        .fallback(aws)
        .with_state(server);
    axum::serve(
        listener,
        router.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await
    .expect("served");
}

async fn aws(
    State(server): State<Arc<Server>>,
    peer: ConnectInfo<SocketAddr>,
    query: Query<Parameters>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let asked = asked(&parts.headers, &body);
    let response = match server.next_fault() {
        Some(fault) => fault,
        None => {
            let request = Request::from_parts(parts, Body::from(body));
            let config = match asked.as_str() {
                "AssumeRoleWithWebIdentity" => &server.unsigned,
                _ => &server.config,
            };
            dispatch(
                peer,
                Extension(Arc::clone(&server.registry)),
                Extension(Arc::clone(config)),
                query,
                request,
            )
            .await
        }
    };
    println!("{asked} {}", response.status().as_u16());
    response
}

/// `TrentService.Decrypt`, or the action of a service with forms.
fn asked(headers: &HeaderMap, body: &[u8]) -> String {
    if let Some(target) = headers.get("x-amz-target") {
        return target.to_str().unwrap_or("?").to_owned();
    }
    let body = String::from_utf8_lossy(body);
    body.split('&')
        .find_map(|pair| pair.strip_prefix("Action="))
        .unwrap_or("?")
        .to_owned()
}

impl Server {
    fn next_fault(&self) -> Option<Response> {
        let mut slot = self.fault.lock();
        let fault = slot.as_mut()?;
        let json = [(CONTENT_TYPE, "application/x-amz-json-1.1")];
        let response = (fault.status, json, fault.body.clone()).into_response();
        fault.left -= 1;
        if fault.left == 0 {
            *slot = None;
        }
        Some(response)
    }
}

async fn set_fault(
    State(server): State<Arc<Server>>,
    Query(parameters): Query<Parameters>,
    body: String,
) {
    let number = |name: &str| parameters[name].parse::<u32>().expect("a number");
    let status = u16::try_from(number("status")).expect("a status");
    let left = number("times");
    *server.fault.lock() = (left > 0).then(|| Fault {
        status: StatusCode::from_u16(status).expect("a status"),
        body,
        left,
    });
}

async fn expire(State(server): State<Arc<Server>>, Query(parameters): Query<Parameters>) {
    let mut accounts = server.iam.write();
    let credential = accounts
        .get_or_create(ACCOUNT)
        .sts_temp_credentials
        .get_mut(&parameters["access_key_id"])
        .expect("a temporary credential");
    credential.expiration = chrono::Utc::now() - chrono::Duration::minutes(1);
}
