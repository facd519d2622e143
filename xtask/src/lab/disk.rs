// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The image of the disk that the lab's machine has. Tests write to the disk in
//! a guest of a guest. Afterwards the image shows what arrived.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache;

/// The size of the image. It has holes where nothing was written.
const SIZE: u64 = 16 << 20;

/// The partitions: the first sector, and the number of sectors.
const PARTITIONS: [(u32, u32); 2] = [(0x800, 0x4000), (0x4800, 0x3800)];

/// The type of a partition for Linux.
const LINUX: u8 = 0x83;

/// A disk image, new for each machine.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
}

/// Some bytes of a disk, as the writer describes them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub length: u64,
    /// Their SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Disk {
    /// Creates an empty image with two partitions, in place of an older one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self, String> {
        let file = File::create(path).map_err(|e| cache::at(path, &e))?;
        let written = file.set_len(SIZE);
        let written = written.and_then(|()| file.write_all_at(&partition_table(), 0));
        written.map_err(|e| cache::at(path, &e))?;
        Ok(Self { path: path.into() })
    }

    /// The emulator's option for the image, as the drive `disk`.
    pub fn drive(&self) -> String {
        // A comma in the path is doubled.
        let path = self.path.display().to_string().replace(',', ",,");
        format!("if=none,id=disk,format=raw,file={path}")
    }

    /// Checks that the image has these bytes.
    ///
    /// # Errors
    /// It has others, or cannot be read.
    pub fn check(&self, written: &Written) -> Result<(), String> {
        let Written { offset, length, .. } = *written;
        let there = "in the disk's image, outside of the machine";
        let end = offset.checked_add(length);
        if length == 0 || end.is_none_or(|end| end > SIZE) {
            return Err(format!(
                "there are no {length} bytes at {offset:#x} {there}"
            ));
        }
        let size = usize::try_from(length).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; size];
        let file = File::open(&self.path);
        let read = file.and_then(|file| file.read_exact_at(&mut bytes, offset));
        read.map_err(|e| cache::at(&self.path, &e))?;
        let found = cache::hash(&bytes);
        match found == written.sha256 {
            true => Ok(()),
            false => Err(format!(
                "the {length} bytes at {offset:#x} {there}, have the SHA-256 {found}, not {}",
                written.sha256
            )),
        }
    }
}

/// The first sector: a partition table of the MBR format.
fn partition_table() -> Vec<u8> {
    /// The address of a sector by cylinder, head and sector, if there is none.
    const NO_CHS: [u8; 3] = [0xfe, 0xff, 0xff];
    let mut table = vec![0; 446];
    for (first, count) in PARTITIONS {
        table.push(0);
        table.extend(NO_CHS);
        table.push(LINUX);
        table.extend(NO_CHS);
        table.extend(first.to_le_bytes());
        table.extend(count.to_le_bytes());
    }
    table.resize(510, 0);
    table.extend([0x55, 0xaa]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The size of a sector in bytes.
    const SECTOR: u64 = 512;

    fn written(offset: u64, bytes: &[u8]) -> Written {
        Written {
            offset,
            length: bytes.len() as u64,
            sha256: cache::hash(bytes),
        }
    }

    #[test]
    fn partitions_follow_each_other_within_the_disk() {
        let mut free = 1;
        for (first, count) in PARTITIONS.map(|(first, count)| (u64::from(first), u64::from(count)))
        {
            assert!(first >= free);
            free = first + count;
        }
        assert!(free * SECTOR <= SIZE);
        assert_eq!(partition_table().len() as u64, SECTOR);
    }

    #[test]
    fn bytes_that_did_not_arrive_are_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk");
        let disk = Disk::create(&path).expect("an image");
        assert_eq!(fs::metadata(&path).expect("its size").len(), SIZE);
        let file = File::options().write(true).open(&path).expect("the image");
        file.write_all_at(b"arrived", 0x10_0000).expect("written");
        assert_eq!(disk.check(&written(0x10_0000, b"arrived")), Ok(()));
        for wrong in [
            written(0x10_0000, b"another"),
            written(0x10_0001, b"arrived"),
            written(SIZE - 1, b"arrived"),
            written(u64::MAX, b"arrived"),
            written(0x10_0000, b""),
        ] {
            let error = disk.check(&wrong).expect_err("it is not there");
            assert!(error.contains("outside of the machine"), "{error}");
        }
    }
}
