//! Events and logs, and how they end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Served, three_tunnels};
use crate::observe::recent::Speaker;
use crate::protocol::tests::{HASH, tunnel};
use crate::protocol::{Change, Snapshot};

#[tokio::test]
async fn events_are_a_snapshot_and_then_changes() {
    let served = Served::new();
    let mut events = served.follow("/events").await;
    let (name, snapshot) = events.event().await;
    assert_eq!(name, "snapshot");
    assert_eq!(snapshot, serde_json::to_value(three_tunnels()).unwrap());

    served.changes.send(Change::Tunnel(Arc::new(tunnel("database")))).unwrap();
    let (name, changed) = events.event().await;
    assert_eq!((name.as_str(), &changed["name"]), ("tunnel", &json!("database")));

    served.changes.send(Change::Removed { hash: HASH.to_owned() }).unwrap();
    assert_eq!(events.event().await, ("removed".to_owned(), json!({"hash": HASH})));
    served.changes.send(Change::Config { error: None }).unwrap();
    assert_eq!(events.event().await, ("config".to_owned(), json!({"error": null})));
}

#[tokio::test]
async fn who_falls_behind_gets_a_fresh_snapshot() {
    let served = Served::new();
    let mut events = served.follow("/events").await;
    events.event().await;
    let only_web = Snapshot { tunnels: vec![tunnel("web")], ..three_tunnels() };
    served.snapshot.send_replace(Arc::new(only_web));
    // More than the channel holds, with no chance to read in between.
    for _ in 0..10 {
        served.changes.send(Change::Config { error: None }).unwrap();
    }
    let (name, snapshot) = events.event().await;
    assert_eq!((name.as_str(), snapshot["tunnels"].as_array().unwrap().len()), ("snapshot", 1));
    served.changes.send(Change::Removed { hash: HASH.to_owned() }).unwrap();
    assert_eq!(events.event().await.0, "removed");
}

#[tokio::test]
async fn logs_have_both_forms() {
    let served = Served::new();
    let at = jiff::Timestamp::UNIX_EPOCH;
    for line in ["one", "two", "three"] {
        served.logs.push(HASH, at, Speaker::Portward, line.to_owned());
    }
    assert_eq!(
        served.get("/logs/database?lines=2").await,
        json!({
            "status": "success", "tunnel_hash": HASH, "log": "two\nthree", "lines": ["two", "three"],
            "log_id": "89abcdef",
        })
    );
    let summaries = served.get("/logs").await;
    assert_eq!(summaries.as_array().unwrap().len(), 1);
    assert_eq!(
        (&summaries[0]["hash"], &summaries[0]["filename"], &summaries[0]["size"]),
        (&json!(HASH), &json!(format!("tunnel-{HASH}.log")), &json!("4.0K"))
    );
}

#[tokio::test]
async fn a_followed_log_goes_on_under_another_name_until_its_tunnel_is_removed() {
    let served = Served::new();
    let at = jiff::Timestamp::UNIX_EPOCH;
    served.logs.push(HASH, at, Speaker::Portward, "before".to_owned());
    let mut log = served.follow("/logs/database?follow=true&lines=5").await;
    assert_eq!(log.next().await.unwrap(), ["data: before"]);
    served.logs.push("another", at, Speaker::Portward, "not ours".to_owned());
    served.logs.push(HASH, at, Speaker::Portward, "split\r\nline".to_owned());
    assert_eq!(log.next().await.unwrap(), ["data: split  line"]);
    served.logs.rehash(HASH, Some("renamed"));
    served.logs.push("renamed", at, Speaker::Portward, "after".to_owned());
    assert_eq!(log.next().await.unwrap(), ["data: after"]);
    served.logs.rehash("another", None);
    served.logs.rehash("renamed", None);
    assert_eq!(log.next().await, None);
}

#[tokio::test]
async fn shutdown_ends_streams_and_removes_the_socket() {
    let mut served = Served::new();
    let mut events = served.follow("/events").await;
    events.event().await;
    served.shutdown.take().unwrap().send(()).unwrap();
    assert_eq!(events.next().await, None);
    tokio::time::timeout(Duration::from_secs(60), &mut served.serving).await.unwrap().unwrap();
    assert!(!served.socket().exists());
}
