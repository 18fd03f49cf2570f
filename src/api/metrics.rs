//! `GET /metrics`, as OpenMetrics, or as the older text format to whoever asks for that alone.

use std::fmt::Write;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::IntoResponse;

use super::context::{Context, answer};
use super::refusal::Refusal;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics as OpenMetrics text, or in Prometheus' older text format if only `text/plain` is accepted.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = OK, content((String = "application/openmetrics-text"), (String = "text/plain"))))
)]
pub(super) async fn metrics(
    State(context): State<Context>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refusal> {
    let text = answer(Duration::ZERO, context.handle.metrics()).await?;
    Ok(if wants_older(&headers) {
        ([(CONTENT_TYPE, PROMETHEUS)], older(&text))
    } else {
        ([(CONTENT_TYPE, OPENMETRICS)], text)
    })
}

fn wants_older(headers: &HeaderMap) -> bool {
    let accepted = |kind| {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| HeaderValue::to_str(value).ok());
        values.into_iter().any(|value| value.contains(kind))
    };
    accepted("text/plain") && !accepted("application/openmetrics-text")
}

/// The same in Prometheus' text format 0.0.4. It has no units, and describes a counter under the name that its values have.
fn older(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let Some((name, rest)) = described.and_then(|described| described.split_once(' ')) else {
            if !line.starts_with('#') {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{line}");
            }
            continue;
        };
        let is_counter = format!("# TYPE {name} counter");
        let total =
            if line == is_counter || lines.peek() == Some(&is_counter.as_str()) { "_total" } else { "" };
        let _ = writeln!(text, "{}{name}{total} {rest}", &line[.."# HELP ".len()]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_as_their_values_are_named() {
        let openmetrics = "# HELP a A.\n# TYPE a counter\n# UNIT a seconds\na_total{b=\"# HELP\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\n# EOF\n";
        insta::assert_snapshot!(older(openmetrics), @r##"
        # HELP a_total A.
        # TYPE a_total counter
        a_total{b="# HELP"} 1
        # HELP c C.
        # TYPE c gauge
        c 1
        "##);
    }

    #[test]
    fn only_who_asks_for_the_older_format_alone_is_given_it() {
        for (accept, older) in [
            ("", false),
            ("*/*", false),
            ("text/plain", true),
            ("text/plain;version=0.0.4", true),
            ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_older(&headers), older, "{accept}");
        }
    }
}
