// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What people give `vmm bars`: text of `lspci`, and lists of regions.

#[path = "../../../crates/vmm/tests/changed_paste/mod.rs"]
mod changed_paste;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use vfio_private::{OffsetRule, PageSize};
use vmm::bars::{Answer, BarAnswer, BarsError, Request, answer, json, text};

use changed_paste::{changed, changes, contradiction};

const NVME: &str = include_str!("../../../examples/nvme-lspci.txt");

/// Text of `lspci`, or the bytes of configuration space.
pub fn lspci(data: &[u8]) -> bool {
    let answers = assert_answer(&Memfd::of(data), None);
    if let (true, Ok(text)) = (answers, std::str::from_utf8(data)) {
        assert_changes(text);
    }
    answers
}

/// That a change to one line makes facts unknown at most. Which line it is
/// depends on the text alone.
fn assert_changes(text: &str) {
    // Ends of lines that `str::lines` does not know: several lines would be left out.
    let others = ['\x0b', '\x0c', '\u{85}', '\u{2028}', '\u{2029}'];
    if text.contains(others) || text.replace("\r\n", "\n").contains('\r') {
        return;
    }
    let before = ask(&Memfd::of(text.as_bytes()), None, PageSize::Size4K);
    // Of configuration space without a line end there is nothing to change.
    let (Ok(before), true) = (before, text.contains('\n')) else {
        return;
    };
    let sum = text.bytes().fold(0_usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    });
    let at = sum % text.lines().count();
    let line = text.lines().nth(at).unwrap_or_default();
    for change in changes() {
        let changed = changed(text, at, change);
        let Ok(after) = ask(&Memfd::of(changed.as_bytes()), None, PageSize::Size4K) else {
            continue;
        };
        let opposite = contradiction(&before, &after, line, change);
        assert_eq!(opposite, None, "line {}, {change:?}: {changed}", at + 1);
    }
}

/// A list of regions, of the disk in the examples.
pub fn regions(data: &[u8]) -> bool {
    assert_answer(&Memfd::of(NVME.as_bytes()), Some(&Memfd::of(data)))
}

/// An answer can be printed and covers its BARs; an error is one short line.
fn assert_answer(config: &Memfd, regions: Option<&Memfd>) -> bool {
    let mut answers = false;
    for page in [PageSize::Size4K, PageSize::Size64K] {
        match ask(config, regions, page) {
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

fn ask(config: &Memfd, regions: Option<&Memfd>, page: PageSize) -> Result<Answer, BarsError> {
    answer(&Request {
        device: None,
        config: Some(config.path()),
        regions: regions.map(Memfd::path),
        report: None,
        rule: OffsetRule::Relative,
        page,
        sysfs: PathBuf::from("/nowhere"),
    })
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
