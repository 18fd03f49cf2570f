use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;

/// A directory of its own with `etc/config.yaml` in it, watched.
struct Watched {
    root: tempfile::TempDir,
    watch: ConfigWatch,
}

impl Watched {
    /// The file holds "first".
    fn file() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/config.yaml"), "first").unwrap();
        Self::over(root)
    }

    fn over(root: tempfile::TempDir) -> Self {
        let mut watch = ConfigWatch::new(&Watcher::default(), &root.path().join("etc/config.yaml"));
        if let Ok(content) = watch.read_now() {
            assert_eq!(content, "first");
        }
        Self { root, watch }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn write(&self, below: &str, content: &str) {
        fs::write(self.path(below), content).unwrap();
    }

    /// The next report. The deadline only keeps a broken test from hanging.
    async fn next(&mut self) -> Result<String, ReadError> {
        tokio::time::timeout(Duration::from_secs(20), self.watch.changed())
            .await
            .expect("no report within 20 s")
    }

    async fn reports(&mut self, content: &str) {
        assert_eq!(self.next().await.unwrap(), content);
    }

    async fn reports_unreadable(&mut self) {
        let error = self.next().await.unwrap_err();
        assert!(matches!(error, ReadError::Unreadable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_write_in_place_is_reported() {
    let mut watched = Watched::file();
    watched.write("etc/config.yaml", "second");
    watched.reports("second").await;
    watched.write("etc/config.yaml", "third");
    watched.reports("third").await;
}

#[tokio::test]
async fn a_file_renamed_over_it_is_reported() {
    let mut watched = Watched::file();
    for content in ["second", "third"] {
        watched.write("etc/config.yaml~", content);
        fs::rename(watched.path("etc/config.yaml~"), watched.path("etc/config.yaml")).unwrap();
        watched.reports(content).await;
    }
}

#[tokio::test]
async fn a_deleted_file_is_unreadable_until_it_is_there_again() {
    let mut watched = Watched::file();
    fs::remove_file(watched.path("etc/config.yaml")).unwrap();
    watched.reports_unreadable().await;
    watched.write("etc/config.yaml", "first");
    watched.reports("first").await;
}

#[tokio::test]
async fn deleting_and_creating_at_once_is_one_change() {
    let mut watched = Watched::file();
    fs::remove_file(watched.path("etc/config.yaml")).unwrap();
    watched.write("etc/config.yaml", "second");
    watched.reports("second").await;
}

#[tokio::test]
async fn a_swap_as_kubernetes_does_it_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    fs::create_dir_all(etc.join("..1")).unwrap();
    fs::write(etc.join("..1/config.yaml"), "first").unwrap();
    symlink("..1", etc.join("..data")).unwrap();
    symlink("..data/config.yaml", etc.join("config.yaml")).unwrap();
    let mut watched = Watched::over(root);
    for (number, content) in [(2, "second"), (3, "third")] {
        let version = format!("..{number}");
        fs::create_dir(etc.join(&version)).unwrap();
        fs::write(etc.join(&version).join("config.yaml"), content).unwrap();
        symlink(&version, etc.join("..data_tmp")).unwrap();
        fs::rename(etc.join("..data_tmp"), etc.join("..data")).unwrap();
        fs::remove_dir_all(etc.join(format!("..{}", number - 1))).unwrap();
        watched.reports(content).await;
    }
}

#[tokio::test]
async fn a_write_behind_links_in_other_directories_is_reported() {
    let root = tempfile::tempdir().unwrap();
    for directory in ["etc", "middle", "real"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    fs::write(root.path().join("real/portward.yaml"), "first").unwrap();
    symlink("../real/portward.yaml", root.path().join("middle/link.yaml")).unwrap();
    symlink(root.path().join("middle/link.yaml"), root.path().join("etc/config.yaml")).unwrap();
    let mut watched = Watched::over(root);
    watched.write("real/portward.yaml", "second");
    watched.reports("second").await;
    watched.write("real/other.yaml", "third");
    symlink("../real/other.yaml", watched.path("middle/new")).unwrap();
    fs::rename(watched.path("middle/new"), watched.path("middle/link.yaml")).unwrap();
    watched.reports("third").await;
    watched.write("real/other.yaml", "fourth");
    watched.reports("fourth").await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_followed() {
    let mut watched = Watched::file();
    for (old, content) in [("old1", "second"), ("old2", "third")] {
        fs::create_dir(watched.path("new")).unwrap();
        watched.write("new/config.yaml", content);
        fs::rename(watched.path("etc"), watched.path(old)).unwrap();
        fs::rename(watched.path("new"), watched.path("etc")).unwrap();
        watched.reports(content).await;
    }
    watched.write("etc/config.yaml", "fourth");
    watched.reports("fourth").await;
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_is_followed() {
    let mut watched = Watched::file();
    for content in ["second", "third", "fourth"] {
        fs::remove_dir_all(watched.path("etc")).unwrap();
        fs::create_dir(watched.path("etc")).unwrap();
        watched.write("etc/config.yaml", content);
        watched.reports(content).await;
        watched.write("etc/config.yaml", "again");
        watched.reports("again").await;
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_yet_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let mut watched = Watched::over(root);
    fs::create_dir(watched.path("etc")).unwrap();
    watched.write("etc/config.yaml", "second");
    watched.reports("second").await;
}

#[tokio::test(start_paused = true)]
async fn the_same_content_saved_again_is_not_reported() {
    let mut watched = Watched::file();
    watched.write("etc/config.yaml", "first");
    watched.watch.window = Some(Window::opened(Instant::now()));
    // The clock is paused: it leaps to the end of the window, and then to the end of this wait.
    let unchanged = tokio::time::timeout(Duration::from_secs(2), watched.watch.changed()).await;
    assert!(unchanged.is_err(), "{unchanged:?}");
}

#[tokio::test]
async fn a_change_is_not_lost_when_the_wait_for_it_is_dropped() {
    let mut watched = Watched::file();
    watched.write("etc/config.yaml", "second");
    for _ in 0..20 {
        // Dropped after its first polls, as `select!` does it when another branch is ready.
        tokio::select! {
            biased;
            report = watched.watch.changed() => panic!("within no time: {report:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    watched.reports("second").await;
}

#[tokio::test]
async fn what_was_read_by_order_is_not_reported_again() {
    let mut watched = Watched::file();
    watched.write("etc/config.yaml", "second");
    assert_eq!(watched.watch.read_now().unwrap(), "second");
    watched.write("etc/config.yaml", "third");
    watched.reports("third").await;
}

#[tokio::test]
async fn a_file_that_never_rests_is_read_nevertheless() {
    let mut watched = Watched::file();
    let path = watched.path("etc/config.yaml");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::task::spawn_blocking(move || {
        let mut number = 0;
        while matches!(stopped.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
            number += 1;
            fs::write(&path, format!("number {number}")).unwrap();
        }
    });
    watched.next().await.unwrap();
    stop.send(()).unwrap();
    writer.await.unwrap();
}
