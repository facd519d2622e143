// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What people give `vmm bars`: text of `lspci`, and lists of regions.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use vfio_private::{OffsetRule, PageSize, TeeMsixPolicy};
use vmm::bars::{BarAnswer, Request, answer, json, text};

const NVME: &str = include_str!("../../../examples/nvme-lspci.txt");

/// Text of `lspci`, or the bytes of configuration space.
pub fn lspci(data: &[u8]) -> bool {
    assert_answer(&Memfd::of(data), None)
}

/// A list of regions, of the disk in the examples.
pub fn regions(data: &[u8]) -> bool {
    assert_answer(&Memfd::of(NVME.as_bytes()), Some(&Memfd::of(data)))
}

/// An answer can be printed and covers its BARs; an error is one short line.
fn assert_answer(config: &Memfd, regions: Option<&Memfd>) -> bool {
    let mut answers = false;
    for page in [PageSize::Size4K, PageSize::Size64K] {
        let request = Request {
            device: None,
            config: Some(config.path()),
            regions: regions.map(Memfd::path),
            report: None,
            rule: OffsetRule::Relative,
        locked_msix: TeeMsixPolicy::Refuse,
            page,
            sysfs: PathBuf::from("/nowhere"),
        };
        match answer(&request) {
            Ok(answer) => {
                answers = true;
                answer.bars.iter().for_each(assert_covered);
                let pieces: usize = answer.bars.iter().map(|bar| bar.pieces.len()).sum();
                assert!(text(&answer).len() < 20_000 + 1000 * pieces);
                let listed = json(&answer);
                assert_eq!(listed.as_array().map(Vec::len), Some(answer.bars.len()));
            }
            Err(error) => {
                let words = vmm::with_causes(&error);
                assert!(words.len() < 1000, "{words}");
                assert!(!words.contains(|c: char| c.is_control()), "{words:?}");
            }
        }
    }
    answers
}

fn assert_covered(bar: &BarAnswer) {
    let size: u64 = bar.pieces.iter().map(|piece| piece.size()).sum();
    assert_eq!(size, bar.bar.size());
}

/// A file without a name, for what reads only files.
struct Memfd(File);

impl Memfd {
    fn of(bytes: &[u8]) -> Self {
        let fd: OwnedFd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory for a file");
        let mut file = File::from(fd);
        file.write_all(bytes).expect("memory for a file");
        Self(file)
    }

    /// Opening this begins at the file's start.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}
