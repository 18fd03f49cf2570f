use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::{Arc, Barrier};
use std::thread;

use super::*;

impl From<StoreError> for String {
    fn from(error: StoreError) -> Self {
        error.to_string()
    }
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    (directory, file)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    update(path, |_| true, |_| Ok((text.to_owned(), ()))).map(drop)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// The names in a directory.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_write_keeps_mode_and_owner_and_a_copy_that_is_no_wider() {
    let (directory, file) = written("one");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
    }
    write(&file, "two").unwrap();
    assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("two", 0o644));
    assert_eq!(names(directory.path()), ["backups", "config.yaml"]);
    let backups = directory.path().join("backups");
    let copies = copies(&file).unwrap();
    let copy = backups.join(&copies[0]);
    assert_eq!((read_copy(&file, &copies[0]).unwrap().as_str(), copies.len()), ("one", 1));
    assert_eq!((mode(&backups), mode(&copy)), (0o700, 0o600));
    for path in [&file, &backups, &copy] {
        let metadata = fs::metadata(path).unwrap();
        assert!(!is_root || (metadata.uid(), metadata.gid()) == (1234, 4321), "{}", path.display());
    }
    assert!(matches!(read_copy(&file, "../config.yaml"), Err(StoreError::NoCopy(_))));
}

#[test]
fn what_is_the_same_is_not_written() {
    let (directory, file) = written("one");
    let before = fs::metadata(&file).unwrap().ino();
    write(&file, "one").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), before);
    assert_eq!(copies(&file).unwrap(), Vec::<String>::new());
    drop(directory);
}

#[test]
fn a_link_stays_and_what_it_leads_to_is_replaced() {
    let (directory, file) = written("one");
    let link = directory.path().join("sub/link.yaml");
    fs::create_dir(directory.path().join("sub")).unwrap();
    symlink("../config.yaml", &link).unwrap();
    write(&link, "two").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    assert_eq!(names(&directory.path().join("sub")), ["link.yaml"]);
    assert_eq!(copies(&link).unwrap().len(), 1);
}

#[test]
fn the_newest_twenty_copies_are_kept_and_nothing_else_is_removed() {
    let (directory, file) = written("0");
    let backups = directory.path().join("backups");
    fs::create_dir(&backups).unwrap();
    let others =
        ["config_20261125103101.yaml", "config_old.yaml", "other_20261127T201500.000000Z.yaml", "notes"];
    for name in others {
        fs::write(backups.join(name), "x").unwrap();
    }
    for number in 1..=25 {
        write(&file, &number.to_string()).unwrap();
    }
    let kept: Vec<_> = copies(&file).unwrap().iter().map(|name| read_copy(&file, name).unwrap()).collect();
    assert_eq!(kept, (5..25).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(names(&backups).len(), COPIES + others.len());
    assert_eq!(mode(&backups), 0o700, "it was wider");
    // A clock that was set back.
    fs::write(backups.join("config_99991231T235959.999999Z.yaml"), "x").unwrap();
    write(&file, "26").unwrap();
    let kept = copies(&file).unwrap();
    assert!(kept.len() == COPIES && kept.iter().any(|name| read_copy(&file, name).unwrap() == "25"));
}

#[test]
fn nothing_is_left_of_a_write_that_fails() {
    let (directory, file) = written("one");
    let refused = update(&file, |_| true, |_| Err::<(String, ()), _>("no".to_owned())).unwrap_err();
    assert_eq!(refused, "no");
    let expected = update::<_, String>(&file, |version| version == "x", |_| Ok(("two".to_owned(), ())));
    assert!(expected.unwrap_err().contains("has changed meanwhile"));
    // Somebody who knows no lock saves it just before.
    let meanwhile = update::<_, String>(
        &file,
        |_| true,
        |_| {
            fs::write(&file, "theirs").unwrap();
            Ok(("ours".to_owned(), ()))
        },
    );
    assert!(meanwhile.unwrap_err().contains("has changed meanwhile"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    assert_eq!(names(directory.path()), ["backups", "config.yaml"]);
    assert_eq!(copies(&file).unwrap(), Vec::<String>::new());
    // What a writer that was killed has left is in nobody's way.
    fs::write(directory.path().join(".config.yaml.new"), "half").unwrap();
    write(&file, "two").unwrap();
    assert_eq!(names(directory.path()), ["backups", "config.yaml"]);
}

#[test]
fn no_update_of_many_writers_is_lost() {
    let (_directory, file) = written("0");
    let begin = Arc::new(Barrier::new(8));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (file, begin) = (file.clone(), begin.clone());
            thread::spawn(move || {
                begin.wait();
                for _ in 0..5 {
                    let increment =
                        |text: &str| Ok((text.parse::<u32>().unwrap().wrapping_add(1).to_string(), ()));
                    update::<_, String>(&file, |_| true, increment).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "40");
}

#[test]
fn a_directory_in_place_of_the_copies_is_not_followed_out_of_it() {
    let (directory, file) = written("one");
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), directory.path().join("backups")).unwrap();
    assert!(write(&file, "two").unwrap_err().contains("backups"));
    assert_eq!(names(elsewhere.path()), Vec::<String>::new());
    assert_eq!(fs::read_to_string(&file).unwrap(), "one");
}

#[test]
fn the_error_says_what_to_do() {
    let error = |errno: Errno| {
        let path = PathBuf::from("/etc/portward/config.yaml");
        StoreError::Write { operation: "replace", path, source: errno.into() }.to_string()
    };
    assert!(error(Errno::EROFS).contains("ReadWritePaths=/etc/portward"));
    assert!(error(Errno::EBUSY).contains("mount its directory instead"));
    assert!(error(Errno::EACCES).contains("sudo portward config"));
    let unread =
        update::<(), String>(Path::new("/nonexistent/c.yaml"), |_| true, |_| unreachable!()).unwrap_err();
    assert!(unread.contains("/nonexistent/c.yaml"));
}

#[test]
fn what_is_restored_may_be_gone_or_no_text() {
    let (directory, file) = written("one");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    write(&file, "two").unwrap();
    let [copy] = &copies(&file).unwrap()[..] else { panic!("one copy") };
    let put_back = || restore(&file, copy, |_| Ok::<_, String>(()));
    for harm in [
        |file: &Path| fs::remove_file(file).unwrap(),
        |file: &Path| fs::write(file, b"\xff").unwrap(),
        |file: &Path| fs::write(file, "").unwrap(),
    ] {
        harm(&file);
        assert!(copies(&file).unwrap().contains(copy), "they are listed nevertheless");
        put_back().unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("one", 0o600));
    }
    let kept = copies(&file).unwrap();
    let contents = kept.iter().map(|name| fs::read(path_of_copy(&file, name).unwrap()).unwrap());
    assert_eq!(contents.collect::<Vec<_>>(), [&b"one"[..], b"\xff", b""]);
    // What is refused changes nothing.
    fs::remove_file(&file).unwrap();
    assert_eq!(restore(&file, copy, |_| Err::<(), _>("no".to_owned())).unwrap_err(), "no");
    assert!(!file.exists());
    assert!(write(&file, "three").unwrap_err().contains("portward config restore"));
    assert_eq!(names(directory.path()), ["backups"]);
}

#[test]
fn a_write_keeps_who_else_may_read_the_file_and_takes_nobody_from_its_directory() {
    // Version 2: the owner may read and write, the user 1234 may read, the group may not, the mask allows to read, others may not.
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let list = [
        2u32.to_le_bytes().to_vec(),
        entry(0x01, 6, u32::MAX),
        entry(0x02, 4, 1234),
        entry(0x04, 0, u32::MAX),
        entry(0x10, 4, u32::MAX),
        entry(0x20, 0, u32::MAX),
    ]
    .concat();
    let attribute = |path: &Path, name: &str| {
        let mut value = [0; 100];
        let length = at::getxattr(path, name, &mut value[..]);
        length.map(|length| value[..length].to_vec())
    };
    let (directory, file) = written("one");
    if at::setxattr(&file, ACCESS_LIST, &list, XattrFlags::empty()) == Err(rustix::io::Errno::OPNOTSUPP) {
        eprintln!("the file system has no access control lists");
        return;
    }
    let _ = at::setxattr(&file, "user.note", b"mine", XattrFlags::empty());
    let note = attribute(&file, "user.note");
    write(&file, "two").unwrap();
    assert_eq!((attribute(&file, ACCESS_LIST), attribute(&file, "user.note")), (Ok(list.clone()), note));
    assert_eq!(mode(&file), 0o640);

    // What is made in the directory has a list by default.
    at::removexattr(&file, ACCESS_LIST).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    at::setxattr(directory.path(), "system.posix_acl_default", &list, XattrFlags::empty()).unwrap();
    write(&file, "three").unwrap();
    assert_eq!((attribute(&file, ACCESS_LIST), mode(&file)), (Err(rustix::io::Errno::NODATA), 0o640));
}
