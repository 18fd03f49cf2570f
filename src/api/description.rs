//! `GET /openapi.json`: the API described for programs. The handlers say what they take and answer, and the router collects it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement};
use utoipa::{OpenApi as _, ToSchema as _};

use crate::protocol::{Confirmed, Refused};

/// The name of the security scheme.
const TOKEN: &str = "token";

/// What is said of the API as a whole.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "portward",
        description = "The HTTP API of the portward daemon. On its unix socket no token is needed; over TCP (`api.listen`) every \
                       request has one. A body is JSON, at most 64 KiB, whatever its Content-Type says."
    ),
    servers((url = "http://127.0.0.1:5002", description = "the address of `api.listen`")),
    components(schemas(Confirmed, Refused))
)]
struct Portward;

/// The description of the API to which the routes add themselves.
pub(super) fn base() -> OpenApi {
    Portward::openapi()
}

/// The whole description.
#[derive(Debug, Clone)]
pub(super) struct Description {
    json: Arc<str>,
    /// Each method with its paths.
    paths: Arc<str>,
}

impl Description {
    /// Completes what the routes have added by what is true of all of them.
    pub(super) fn of(mut api: OpenApi) -> Self {
        let scheme = SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_default().add_security_scheme(TOKEN, scheme);
        api.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
        let mut paths: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (path, item) in &mut api.paths.paths {
            for (method, operation) in operations(item) {
                complete(operation, method, path);
                paths.entry(method).or_default().push(path.clone());
            }
        }
        let listed = paths.iter().map(|(method, paths)| format!("{method} has {}", paths.join(", ")));
        let listed = listed.collect::<Vec<_>>().join("; ");
        // Strings and numbers are always JSON.
        let json = api.to_json().unwrap_or_default().replace("`None`", "`null`");
        Self { json: json.into(), paths: listed.into() }
    }

    /// Which paths there are, as a part of a sentence.
    pub(super) fn paths(&self) -> &str {
        &self.paths
    }
}

/// The operations of a path, with the names of their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("GET", &mut item.get),
        ("POST", &mut item.post),
        ("PUT", &mut item.put),
        ("DELETE", &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Gives an operation a name of its own, and the answer that any request may get.
fn complete(operation: &mut Operation, method: &str, path: &str) {
    let words = path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    let name = std::iter::once(method.to_lowercase()).chain(words.map(str::to_owned));
    operation.operation_id = Some(name.collect::<Vec<_>>().join("_"));
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let status = StatusCode::from_bytes(status.as_bytes()).ok();
            let reason = status.and_then(|status| status.canonical_reason());
            response.description.push_str(reason.unwrap_or_default());
        }
    }
    let refused = refused("The request is refused: `error` says why, and what to do.");
    operation.responses.responses.insert("default".to_owned(), refused.into());
}

/// An answer that refuses.
pub(super) fn refused(description: impl Into<String>) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(Refused::name()))).build();
    ResponseBuilder::new().description(description).content("application/json", body).build()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", responses((status = OK, body = Object, content_type = "application/json")))]
pub(super) async fn openapi(Extension(description): Extension<Description>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], description.json.to_string())
}
