// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A cache of downloads and builds. A name identifies the content, so an
//! existing entry is valid and needs no network.
//!
//! Entries are made under a temporary name and renamed when they are complete.
//! An interrupted run leaves its files in `unfinished/`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The name of the cache's folder.
const NAME: &str = "private-mmio-lab";

/// The file that a run locks while it changes the cache.
const LOCK: &str = "lock";

/// The file that runs lock together while they need entries of the cache.
const HOLD: &str = "in-use";

/// The cache's folder, and a lock on it for as long as this lives.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens the cache, and waits until no other process uses it.
    ///
    /// # Errors
    /// It cannot be created, or there is no place for it.
    pub fn open() -> Result<Self, String> {
        Self::at(&place()?)
    }

    /// Opens the cache in this folder.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn at(root: &Path) -> Result<Self, String> {
        make_folder(root)?;
        let used = format!("uses {}", root.display());
        Ok(Self {
            root: root.to_path_buf(),
            _lock: lock(&root.join(LOCK), &used)?,
        })
    }

    /// Keeps the cache's entries from being removed by [`Cache::clear`] and
    /// [`Cache::remove_unused`], for as long as the result lives.
    ///
    /// # Errors
    /// The file for it cannot be created.
    pub fn hold(&self) -> Result<File, String> {
        let path = self.root.join(HOLD);
        let file = File::create(&path).map_err(|e| at(&path, &e))?;
        file.lock_shared().map_err(|e| at(&path, &e))?;
        Ok(file)
    }

    /// Checks that no run holds the cache.
    ///
    /// # Errors
    /// One does.
    fn is_free(&self) -> Result<(), String> {
        let path = self.root.join(HOLD);
        let file = File::create(&path).map_err(|e| at(&path, &e))?;
        file.try_lock()
            .map_err(|_| "another run uses the cache: try again when it has ended".into())
    }

    /// Removes the entries of these folders that are not in use.
    ///
    /// # Errors
    /// Another run holds the cache, or an entry cannot be removed.
    pub fn remove_unused(&self, folders: &[&str], used: &[PathBuf]) -> Result<(), String> {
        self.is_free()?;
        for folder in folders {
            for path in files(&self.folder(folder)?) {
                if !used.contains(&path) {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Removes everything but the files by which other runs wait for this one.
    ///
    /// # Errors
    /// Another run holds the cache, or an entry cannot be removed.
    pub fn clear(&self) -> Result<(), String> {
        self.is_free()?;
        for path in files(&self.root) {
            let is_lock = [LOCK, HOLD].iter().any(|name| path.ends_with(name));
            if !is_lock {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// A folder of the cache, created if it does not exist.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.root.join(name);
        make_folder(&folder)?;
        Ok(folder)
    }

    /// A new folder for an entry, to be passed to `finish`.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn scratch(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.folder("unfinished")?.join(name);
        remove(&folder)?;
        make_folder(&folder)?;
        Ok(folder)
    }

    /// Renames a complete entry to its place. An existing entry stays, because
    /// it is the same.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn finish(&self, made: &Path, place: &Path) -> Result<(), String> {
        if place.exists() {
            return remove(made);
        }
        fs::rename(made, place).map_err(|e| at(place, &e))
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Locks a file, which is created if it does not exist. Waits for another run that
/// has locked it, and reports that. `doing` says what that run does.
///
/// # Errors
/// The file cannot be created or locked.
pub fn lock(path: &Path, doing: &str) -> Result<File, String> {
    let lock = File::create(path).map_err(|e| at(path, &e))?;
    if lock.try_lock().is_err() {
        eprintln!("xtask: waiting for another run that {doing}");
        lock.lock().map_err(|e| at(path, &e))?;
    }
    Ok(lock)
}

/// The path of the cache.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn place() -> Result<PathBuf, String> {
    Ok(caches()?.join(NAME))
}

/// The folder for all programs' caches.
///
/// # Errors
/// As for [`place`].
pub fn caches() -> Result<PathBuf, String> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let home = || absolute("HOME").map(|home| home.join(".cache"));
    let caches = absolute("XDG_CACHE_HOME").or_else(home);
    caches.ok_or("no place for a cache: neither XDG_CACHE_HOME nor HOME is set".into())
}

/// Writes a file completely or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::write(&new, content).map_err(|e| at(&new, &e))?;
    fs::rename(&new, path).map_err(|e| at(path, &e))
}

/// Removes a file or a folder, if it exists.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), String> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, &error)),
        _ => Ok(()),
    }
}

/// Creates a folder and its parents.
///
/// # Errors
/// It cannot be created.
pub fn make_folder(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| at(path, &e))
}

/// The total size of the files below a path.
pub fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn hash_of_file(path: &Path) -> Result<String, String> {
    let mut file = File::open(path).map_err(|e| at(path, &e))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block).map_err(|e| at(path, &e))? {
            0 => return Ok(hex(hasher)),
            read => hasher.update(&block[..read]),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// The SHA-256 of some parts and their lengths, in hexadecimal: the name of an
/// entry that is made from them.
pub fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex(hasher)
}

fn hex(hasher: Sha256) -> String {
    let bytes = hasher.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error with its path.
pub fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The entries of a folder, sorted by name. Empty if it does not exist.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_entry_does_not_exist_and_is_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path()).expect("a cache");
        let scratch = cache.scratch("kernel").expect("a scratch folder");
        fs::write(scratch.join("half"), "ha").expect("written");
        // The run is interrupted here. The next one starts from nothing.
        let scratch = cache.scratch("kernel").expect("a scratch folder");
        assert!(!scratch.join("half").exists());
        fs::write(scratch.join("whole"), "whole").expect("written");
        let place = cache.folder("kernels").expect("a folder").join("k");
        assert!(!place.exists());
        cache.finish(&scratch, &place).expect("renamed");
        assert_eq!(
            fs::read_to_string(place.join("whole")).ok().as_deref(),
            Some("whole")
        );
        assert_eq!(size(&place), 5);
    }

    #[test]
    fn a_cache_is_cleared_only_if_no_run_holds_it_and_keeps_its_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(folder.path()).expect("a cache");
        let kernel = cache.folder("kernels").expect("a folder").join("k");
        fs::write(&kernel, "").expect("written");
        let holds = [cache.hold(), cache.hold()].map(|hold| hold.expect("held"));
        assert!(
            cache
                .clear()
                .is_err_and(|error| error.contains("another run"))
        );
        assert!(cache.remove_unused(&["kernels"], &[]).is_err());
        assert!(kernel.exists());
        drop(holds);
        let used = std::slice::from_ref(&kernel);
        assert_eq!(cache.remove_unused(&["kernels"], used), Ok(()));
        assert!(kernel.exists());
        assert_eq!(cache.clear(), Ok(()));
        assert!(!kernel.exists());
        // Other runs still wait for the same file.
        let other = File::open(folder.path().join(LOCK)).expect("the lock");
        assert!(other.try_lock().is_err());
    }

    #[test]
    fn a_locked_file_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lab-7.3.lock");
        let first = lock(&path, "runs it").expect("locked");
        let (to, from) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let second = lock(&path, "runs it");
                to.send(second.is_ok()).expect("heard");
            });
            let waits = from.recv_timeout(std::time::Duration::from_millis(200));
            assert!(waits.is_err(), "it is locked");
            drop(first);
            assert_eq!(from.recv(), Ok(true));
        });
    }

    #[test]
    fn the_key_of_parts_differs_from_that_of_their_concatenation() {
        let one: [&[u8]; 2] = [b"ab", b"c"];
        let other: [&[u8]; 2] = [b"a", b"bc"];
        assert_ne!(key(one), key(other));
        assert_eq!(key(one), key(one));
    }

    #[test]
    fn the_hash_of_a_file_is_its_sha256() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("abc");
        write(&file, b"abc").expect("written");
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_of_file(&file).as_deref(), Ok(known));
    }
}
