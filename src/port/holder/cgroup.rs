//! Where a socket or a process belongs: its cgroup, and the unit or the container in the cgroup's path.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Where systemd mounts cgroup v2.
const USUAL_ROOT: &str = "/sys/fs/cgroup";
/// Hexadecimal digits of a container's id.
const CONTAINER_ID: usize = 64;

/// The tree of cgroups, version 2, which tests bring themselves.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// `None` for this machine's.
    root: Option<PathBuf>,
}

impl Cgroups {
    /// That of this machine.
    pub(super) fn system() -> Self {
        Self { root: None }
    }

    /// The paths of the cgroups `ids`, as far as they still exist. The id of a cgroup is the inode number of its directory.
    /// Reads the tree once, until all are found.
    pub(super) fn paths(&self, ids: &BTreeSet<u64>) -> HashMap<u64, String> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return found;
        }
        let root = self.root.clone().unwrap_or_else(mounted);
        if let Ok(top) = fs::metadata(&root)
            && ids.contains(&top.ino())
        {
            found.insert(top.ino(), "/".to_owned());
        }
        let mut unread = vec![root.clone()];
        while let Some(directory) = unread.pop()
            && found.len() < ids.len()
        {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if ids.contains(&entry.ino()) {
                    found.insert(entry.ino(), name(&root, &entry.path()));
                }
                unread.push(entry.path());
            }
        }
        found
    }

    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: Some(root.to_owned()) }
    }
}

/// Where this machine has cgroup v2. With cgroup v1 in use as well, that is not the usual place.
fn mounted() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    PathBuf::from(root_in(&mounts).unwrap_or(USUAL_ROOT))
}

fn name(root: &Path, directory: &Path) -> String {
    let below = directory.strip_prefix(root).unwrap_or(directory);
    format!("/{}", below.to_string_lossy())
}

/// The place of cgroup v2 in the text of a mounts file.
pub(crate) fn root_in(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        fields.next().filter(|kind| *kind == "cgroup2").map(|_| place)
    })
}

/// The path in the text of a process's cgroup file: `0::/system.slice/nginx.service` on cgroup v2, and a line with
/// `name=systemd` on v1. If both are mounted, one of them may be unused and show the root.
pub(crate) fn path_in(cgroups: &str) -> Option<&str> {
    let path = |hierarchy: &str| {
        cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (controllers == hierarchy).then_some(path)
        })
    };
    let paths = [path(""), path("name=systemd")];
    let tells = |path: &&&str| **path != "/";
    paths.iter().flatten().find(tells).or_else(|| paths.iter().flatten().next()).copied()
}

/// The innermost unit in a path.
pub(crate) fn unit_in(path: &str) -> Option<&str> {
    path.rsplit('/').find(|name| is_unit(name))
}

fn is_unit(name: &str) -> bool {
    [".service", ".scope", ".socket"]
        .iter()
        .any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty()))
}

/// A group of units.
fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some()
}

/// A unit as the service manager of this machine, or of a user, knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'p> {
    /// Whose unit it is.
    pub(crate) manager: Manager,
    /// The outermost unit: those inside are those of a container, or of a manager in it, and `systemctl` here would take
    /// their names for units of this machine.
    pub(crate) unit: &'p str,
    /// Whether there are such units inside.
    pub(crate) is_nested: bool,
}

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    /// pid 1.
    System,
    /// The one of this user.
    User(u32),
}

/// The unit that a path belongs to; `None` where no service manager of this machine has made the cgroup.
pub(crate) fn place_in(path: &str) -> Option<Place<'_>> {
    let mut manager = Manager::System;
    let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        if is_slice(name) {
            continue;
        }
        let user = name.strip_prefix("user@").and_then(|name| name.strip_suffix(".service")?.parse().ok());
        if let (Manager::System, Some(uid), Some(_)) = (manager, user, names.peek()) {
            manager = Manager::User(uid);
            continue;
        }
        let is_nested = names.any(|name| is_unit(name) || is_slice(name));
        return is_unit(name).then_some(Place { manager, unit: name, is_nested });
    }
    None
}

/// The id of the innermost container in a path: `/docker/ID`, `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`,
/// `crio-ID`, or `/kubepods/.../ID`.
pub(crate) fn container_in(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|name| {
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
        // conmon is podman's and CRI-O's own process, outside the container.
        let is_id = id.len() == CONTAINER_ID && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        (is_id && !runtime.ends_with("conmon")).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const ID: &str = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";

    #[test]
    fn the_innermost_unit_is_the_unit() {
        let unit_of = |cgroups| path_in(cgroups).and_then(unit_in);
        let nested = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox.scope/sub\n";
        assert_eq!(unit_of(nested), Some("app-firefox.scope"));
        let v1 = "12:cpu,cpuacct:/x.service\n1:name=systemd:/system.slice/cron.service\n";
        assert_eq!(unit_of(v1), Some("cron.service"));
        assert_eq!(unit_of("1:name=systemd:/\n0::/system.slice/a.service\n"), Some("a.service"));
        assert_eq!(unit_of("1:name=systemd:/system.slice/a.service\n0::/\n"), Some("a.service"));
        assert_eq!(unit_of("0::/\n"), None);
        assert_eq!(unit_of("0::/user.slice\n"), None);
        assert_eq!(unit_of("0::/.service\n"), None);
        assert_eq!(unit_of("nonsense"), None);
    }

    #[test]
    fn a_unit_is_that_of_the_manager_of_this_machine_or_of_a_user() {
        let place = |path| place_in(path).map(|place| (place.manager, place.unit, place.is_nested));
        let system = |unit, is_nested| Some((Manager::System, unit, is_nested));
        for (path, expected) in [
            ("/system.slice/nginx.service", system("nginx.service", false)),
            ("/system.slice/system-ftp.slice/ftp@1.service/worker", system("ftp@1.service", false)),
            ("/system.slice/web.socket", system("web.socket", false)),
            ("/init.scope", system("init.scope", false)),
            ("/user.slice/user-1000.slice/session-3.scope", system("session-3.scope", false)),
            ("/user.slice/user-1000.slice/user@1000.service", system("user@1000.service", false)),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                Some((Manager::User(1000), "init.scope", false)),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
                Some((Manager::User(1000), "web.service", false)),
            ),
            // nginx.service in there is not the one of this machine.
            (
                "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
                system("systemd-nspawn@web.service", true),
            ),
            ("/lxc.payload.web/system.slice/nginx.service", None),
            ("/../../system.slice/nginx.service", None),
            ("/docker/4fa6", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(place(path), expected, "{path}");
        }
    }

    #[test]
    fn a_container_is_known_by_its_path() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods/besteffort/pod9f/{ID}"),
            format!("/kubepods/besteffort/pod9f/crio-{ID}"),
        ] {
            assert_eq!(container_in(&path), Some(ID), "{path}");
        }
        for path in [
            "/system.slice/nginx.service".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/docker/{}", &ID[1..]),
            format!("/docker/{}", ID.replace('4', "g")),
        ] {
            assert_eq!(container_in(&path), None, "{path}");
        }
    }

    #[test]
    fn the_id_of_a_cgroup_is_the_inode_of_its_directory() {
        let root = TempDir::new().unwrap();
        let nested = root.path().join("system.slice/nginx.service");
        fs::create_dir_all(&nested).unwrap();
        fs::create_dir_all(root.path().join("user.slice/a/b")).unwrap();
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let ids = [root.path(), &nested].map(|path| fs::metadata(path).unwrap().ino());
        let missing = ids.iter().sum();
        let paths = Cgroups::at(root.path()).paths(&BTreeSet::from([ids[0], ids[1], missing]));
        let expected = [(ids[0], "/".to_owned()), (ids[1], "/system.slice/nginx.service".to_owned())];
        assert_eq!(paths, HashMap::from(expected));
    }

    #[test]
    fn a_tree_that_cannot_be_read_tells_nothing() {
        assert_eq!(Cgroups::at(Path::new("/nonexistent")).paths(&BTreeSet::from([1])), HashMap::new());
    }

    #[test]
    fn cgroup_v2_is_found_wherever_it_is_mounted() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(root_in(hybrid), Some("/sys/fs/cgroup/unified"));
        assert_eq!(root_in("tmpfs /tmp tmpfs rw 0 0\n"), None);
    }
}
