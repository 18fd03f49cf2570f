//! `POST`, `PUT` and `DELETE` of `/config`: changes of the configuration's file, answered once they are in force.
//!
//! The file is what is changed, and not what the daemon has read of it: an id is looked up there, and whoever sends `If-Match` is
//! told if it is another one by now. Only the six keys that autossh-tunnel has can be written here, so that the API's token is no
//! way to run programs.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::context::{Context, Parameters, TunnelId, answer};
use super::refusal::Refusal;
use super::version::{ETag, Tagged};
use crate::config::Emptied;
use crate::config::desired::Desired;
use crate::config::edit::{Document, Edit, EditError, Edited};
use crate::config::store::{self, StoreError, Written};
use crate::protocol::autossh_tunnel::{Configured, Saved};
use crate::protocol::{
    BodyError, Conclusion, Confirmed, LookupError, PostedChange, PostedList, PostedTunnel, ReplaceQuery,
    position, posted, posted_list,
};

/// A write takes milliseconds. After this, somebody else has had the lock all the time, or the disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The version that a change is based on.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `wanted_versions` reads")]
struct BasedOn {
    /// `ETag` of an earlier answer, or several. Answered with 409 when the file is another one by now.
    #[param(rename = "If-Match", required = false)]
    if_match: String,
}

/// Replaces all tunnels. What the list does not mention of a tunnel is kept, and so are SOCKS proxies and commands.
#[utoipa::path(
    method(post, put),
    path = "/config",
    params(ReplaceQuery, BasedOn),
    request_body = PostedList,
    responses((status = OK, body = Saved, headers(("ETag" = inline(ETag)))))
)]
pub(super) async fn replace_all(
    State(context): State<Context>,
    Parameters(ReplaceQuery { confirm }): Parameters<ReplaceQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let wanted = posted_list(&body)?;
    let may_be_empty = confirm == Some(Confirmed::Empty);
    let replace = move |document: &Document<'_>| Ok(document.replace_all(&wanted, may_be_empty)?);
    let written = write(&context, &headers, replace).await?;
    Ok(saved(written.version, "Configuration saved"))
}

/// Adds a tunnel at the end of the file.
#[utoipa::path(
    post,
    path = "/config/new",
    params(BasedOn),
    request_body = PostedTunnel,
    responses((status = CREATED, body = Configured, headers(("ETag" = inline(ETag)))))
)]
pub(super) async fn add(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fields = posted(&body)?;
    let Written { result, version } =
        write(&context, &headers, move |document| Ok(document.add(&fields)?)).await?;
    let added = result.tunnels.last().map(Configured::from);
    Ok((StatusCode::CREATED, Tagged(version, added)).into_response())
}

/// Changes a tunnel. What is left out stays as it is.
#[utoipa::path(
    method(post, put),
    path = "/config/{id}",
    params(TunnelId, BasedOn),
    request_body = PostedChange,
    responses((status = OK, body = Configured, headers(("ETag" = inline(ETag)))))
)]
pub(super) async fn change(
    State(context): State<Context>,
    Path(TunnelId { id }): Path<TunnelId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fields = posted(&body)?;
    let (told, index) = oneshot::channel();
    let change = move |document: &Document<'_>| {
        let index = position(document.tunnels(), &id)?;
        let edited = document.change(index, &fields)?;
        // Nobody who waits for it is no failure.
        let _ = told.send(index);
        Ok(edited)
    };
    let Written { result, version } = write(&context, &headers, change).await?;
    // It was sent before the file was written.
    let changed = index.await.ok().and_then(|index| result.tunnels.get(index)).map(Configured::from);
    Ok(Tagged(version, changed).into_response())
}

/// Removes a tunnel.
#[utoipa::path(
    delete,
    path = "/config/{id}",
    params(TunnelId, BasedOn),
    responses((status = OK, body = Saved, headers(("ETag" = inline(ETag)))))
)]
pub(super) async fn remove(
    State(context): State<Context>,
    Path(TunnelId { id }): Path<TunnelId>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let remove = move |document: &Document<'_>| {
        let index = position(document.tunnels(), &id)?;
        Ok(document.apply(&[Edit::Remove(index)])?)
    };
    let written = write(&context, &headers, remove).await?;
    Ok(saved(written.version, "Tunnel deleted"))
}

/// Removes a tunnel, for clients that send no DELETE.
#[utoipa::path(
    post,
    path = "/config/{id}/delete",
    params(TunnelId, BasedOn),
    responses((status = OK, body = Saved, headers(("ETag" = inline(ETag)))))
)]
pub(super) async fn remove_by_post(
    context: State<Context>,
    id: Path<TunnelId>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    remove(context, id, headers).await
}

fn saved(version: String, message: &str) -> Response {
    Tagged(version, Saved { status: Conclusion::Success, message: message.to_owned() }).into_response()
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(transparent)]
    Emptied(#[from] Emptied),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The client is gone, or was told that it takes too long.
    #[error("given up")]
    GivenUp,
}

/// Changes the file, and has the daemon put it in force.
async fn write(
    context: &Context,
    headers: &HeaderMap,
    make: impl FnOnce(&Document<'_>) -> Result<Edited, Unwritten> + Send + 'static,
) -> Result<Written<Desired>, Refusal> {
    let snapshot = context.snapshot().await?;
    let (path, has_tunnels) = (PathBuf::from(snapshot.config_path), !snapshot.tunnels.is_empty());
    let wanted = wanted_versions(headers);
    let busy = || {
        Refusal::unavailable(
            "the configuration is being changed by somebody else, who does not come to an end: see `fuser` of backups/ \
             beside it, and ask again",
        )
    };
    let turn = timeout(PATIENCE, context.begin_write()).await.map_err(|_| busy())?;
    let (reply, written) = oneshot::channel();
    spawn_blocking(move || {
        let _turn = turn;
        let expected =
            |version: &str| wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|one| one == version));
        let result = store::update(&path, expected, |text| {
            if reply.is_closed() {
                return Err(Unwritten::GivenUp);
            }
            let document = Document::open(text, &path)?;
            if document.says_nothing() && has_tunnels {
                return Err(Emptied(path.clone()).into());
            }
            let Edited { text, desired } = make(&document)?;
            Ok((text, desired))
        });
        // Who has asked may be gone.
        let _ = reply.send(result);
    });
    let written = match timeout(PATIENCE, written).await {
        Ok(Ok(result)) => result?,
        Ok(Err(_)) => {
            let error = "the configuration could not be edited; please report this with the file's layout";
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error));
        }
        Err(_) => return Err(busy()),
    };
    let errors = match answer(Duration::ZERO, context.handle.reload(false)).await? {
        Ok(report) => report.error,
        Err(errors) => Some(errors),
    };
    let Some(errors) = errors else { return Ok(written) };
    let error = format!(
        "the change was written, but the configuration has been changed again since, and not all of it is in force: {errors}"
    );
    Err(Refusal::new(StatusCode::CONFLICT, error))
}

/// The versions of `If-Match`; `None`: any will do.
fn wanted_versions(headers: &HeaderMap) -> Option<Vec<String>> {
    let values: Vec<_> = headers.get_all(header::IF_MATCH).iter().collect();
    if values.is_empty() {
        return None;
    }
    // What is no text is no version of ours.
    let texts = values.into_iter().filter_map(|value| value.to_str().ok());
    let tags = texts.flat_map(|text| text.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let versions: Vec<String> = tags.map(|tag| tag.trim_matches('"').to_owned()).collect();
    (!versions.iter().any(|version| version == "*")).then_some(versions)
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Unwritten> for Refusal {
    fn from(error: Unwritten) -> Self {
        match error {
            Unwritten::Lookup(error) => error.into(),
            Unwritten::Edit(EditError::Refused(_) | EditError::Missing(_)) => {
                Self::bad_request(error.to_string())
            }
            Unwritten::Emptied(_)
            | Unwritten::Edit(EditError::Broken(_) | EditError::Layout { .. } | EditError::Empty(_))
            | Unwritten::Store(StoreError::Changed(_)) => Self::new(StatusCode::CONFLICT, error.to_string()),
            Unwritten::Store(StoreError::Read(_) | StoreError::Write { .. } | StoreError::NoCopy(_)) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
            Unwritten::GivenUp => Self::unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_names_versions_or_any() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, header::HeaderValue::from_static(value));
            }
            wanted_versions(&headers)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["*"]), None);
        assert_eq!(of(&["\"ab\""]), Some(vec!["ab".to_owned()]));
        assert_eq!(of(&["W/\"ab\", \"cd\"", "ef"]).unwrap(), ["ab", "cd", "ef"]);
        assert_eq!(of(&[""]).unwrap(), [""]);
    }
}
