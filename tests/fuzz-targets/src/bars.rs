// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What people give `vmm bars`: text of `lspci`, and lists of regions.

#[path = "../../../crates/vmm/tests/changed_paste/mod.rs"]
mod changed_paste;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use vfio_private::{OffsetRule, PageSize, TeeMsixPolicy};
use vmm::bars::{BarAnswer, Request, answer, json, text};

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

/// Checks that a change to one line at most makes facts unknown. The text alone
/// decides which line it is.
fn assert_changes(text: &str) {
    // Ends of lines that `str::lines` does not know: several lines would be left out.
    let others = ['\x0b', '\x0c', '\u{85}', '\u{2028}', '\u{2029}'];
    if text.contains(others) || text.replace("\r\n", "\n").contains('\r') {
        return;
    }
    let before = answer(&request(&Memfd::of(text.as_bytes())));
    // Configuration space without a line end has no line to change.
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
        let Ok(after) = answer(&request(&Memfd::of(changed.as_bytes()))) else {
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

/// The bytes as a TDISP report of the same disk, with all choices.
pub fn reported(data: &[u8]) {
    let (config, report) = (Memfd::of(NVME.as_bytes()), Memfd::of(data));
    for rule in [OffsetRule::Relative, OffsetRule::Masked] {
        for locked_msix in [TeeMsixPolicy::Refuse, TeeMsixPolicy::Private] {
            assert_sound(&Request {
                report: Some(report.path()),
                rule,
                locked_msix,
                ..request(&config)
            });
        }
    }
}

fn assert_answer(config: &Memfd, regions: Option<&Memfd>) -> bool {
    let mut answers = false;
    for page in [PageSize::Size4K, PageSize::Size64K] {
        answers |= assert_sound(&Request {
            regions: regions.map(Memfd::path),
            page,
            ..request(config)
        });
    }
    answers
}

fn request(config: &Memfd) -> Request {
    Request {
        device: None,
        config: Some(config.path()),
        regions: None,
        report: None,
        rule: OffsetRule::Relative,
        locked_msix: TeeMsixPolicy::Refuse,
        page: PageSize::Size4K,
        sysfs: PathBuf::from("/nowhere"),
    }
}

/// An answer can be printed, covers its BARs and has few notes, which are in text
/// and JSON; an error is one short line.
fn assert_sound(request: &Request) -> bool {
    match answer(request) {
        Ok(answer) => {
            answer.bars.iter().for_each(assert_covered);
            let pieces: usize = answer.bars.iter().map(|bar| bar.pieces.len()).sum();
            let text = text(&answer);
            assert!(text.len() < 20_000 + 1000 * pieces);
            let listed = json(&answer);
            assert_eq!(listed.as_array().map(Vec::len), Some(answer.bars.len()));
            assert!(answer.notes.len() < 80);
            let listed = listed.to_string();
            for note in &answer.notes {
                assert!(note.text.len() < 1000, "{note}");
                assert!(!note.text.contains(|c: char| c.is_control()), "{note:?}");
                assert!(text.contains(&note.text), "{note} is not in {text}");
                let concerned = answer.bars.iter().any(|bar| note.concerns(bar.bar));
                assert_eq!(listed.contains(&note.text), concerned, "{note}");
            }
            true
        }
        Err(error) => {
            let words = vmm::with_causes(&error);
            assert!(words.len() < 1000, "{words}");
            assert!(!words.contains(|c: char| c.is_control()), "{words:?}");
            false
        }
    }
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
