//! Files that a configuration was made from, and whether they are still the same.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::upstream::sha256;

/// A file that is younger than this may change again without showing it: file systems stamp changes by a clock that
/// ticks every few milliseconds, some every two seconds.
const YOUNG: Duration = Duration::from_secs(2);

/// The files that a configuration was made from: the file itself and all that it names.
///
/// Each is noted before it is read, so that no change after that is overlooked. They are looked at rather than watched:
/// a symbolic link somewhere in a path that leads elsewhere (as Kubernetes swaps ConfigMaps and Secrets), a file moved
/// over another, and file systems that tell nobody of changes all look the same from here.
#[derive(Clone, Debug, Default)]
pub struct Files {
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
}

/// By what a change of a file is seen without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Also moves when somebody sets `modified`.
    changed: (i64, i64),
    /// The file was young when it was looked at.
    young: bool,
}

impl Files {
    /// Notes a file, or a directory, that is about to be read. It may be missing.
    pub fn note(&mut self, path: &Path) {
        if !self.stamps.contains_key(path) {
            self.stamps.insert(path.to_owned(), stamp(path));
        }
    }

    /// Adds those that are not there yet.
    pub(super) fn add(&mut self, other: &Self) {
        for (path, stamp) in &other.stamps {
            self.stamps.entry(path.clone()).or_insert(*stamp);
        }
    }

    /// The same files as they are now.
    pub(super) fn look(&self) -> Self {
        Self { stamps: self.stamps.keys().map(|path| (path.clone(), stamp(path))).collect() }
    }

    /// Whether any may have changed since: `later` is what [`Files::look`] has found.
    pub(super) fn differ(&self, later: &Self) -> bool {
        let young = |stamp: &Option<Stamp>| stamp.is_some_and(|stamp| stamp.young);
        let old = |stamp: &Option<Stamp>| stamp.map(|stamp| Stamp { young: false, ..stamp });
        self.stamps.iter().any(|(path, stamp)| {
            let now = later.stamps.get(path).unwrap_or(&None);
            young(stamp) || old(stamp) != old(now)
        })
    }

    /// Whether none has changed between two looks, young as they may be.
    pub(super) fn rest(&self, later: &Self) -> bool {
        let plain = |files: &Self| -> Vec<_> {
            files.stamps.values().map(|stamp| stamp.map(|stamp| Stamp { young: false, ..stamp })).collect()
        };
        plain(self) == plain(later)
    }

    /// A hash of all contents: the same in instances with the same configuration, wherever their files lie.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digests: Vec<[u8; 32]> = self
            .stamps
            .keys()
            .map(|path| match fs::read(path) {
                Ok(content) => sha256([&content[..]]),
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => [1; 32],
                Err(_) => [0; 32],
            })
            .collect();
        digests.sort_unstable();
        sha256(digests.iter().map(<[u8; 32]>::as_slice))
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let age = file.modified().ok().map(|modified| SystemTime::now().duration_since(modified));
    Some(Stamp {
        device: file.dev(),
        inode: file.ino(),
        size: file.size(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
        // A file from the future is as old as any other.
        young: matches!(age, Some(Ok(age)) if age < YOUNG),
    })
}
