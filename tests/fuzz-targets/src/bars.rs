// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The inputs of `bar-report`: text of `lspci`, and lists of regions.

use bar_report::{
    BarReport, BarReportError, ClassifiedBar, DeviceFacts, Reader, RegionList, ReportOptions,
    TdispReport, with_causes,
};
use support::changed_paste::{changed, changes, contradiction};
use vfio_private::{OffsetRule, PageSize, TeeMsixPolicy};

const NVME: &str = include_str!("../../../examples/nvme-lspci.txt");

/// Text of `lspci`, or the bytes of configuration space.
pub fn lspci(data: &[u8]) -> bool {
    let answers = assert_pages(|page| report(data, &ReportOptions::new(page)));
    if let (true, Ok(text)) = (answers, std::str::from_utf8(data)) {
        assert_changes(text);
    }
    answers
}

fn device(data: &[u8]) -> Result<DeviceFacts, BarReportError> {
    Reader::new().bytes("lspci.txt", data, None)
}

fn report(data: &[u8], options: &ReportOptions) -> Result<BarReport, BarReportError> {
    device(data)?.bars(&RegionList::unknown())?.report(options)
}

/// Checks that a change to one line can only make facts unknown. The text
/// determines the line.
fn assert_changes(text: &str) {
    // Line ends that `str::lines` does not know: several lines would be left
    // out.
    let others = ['\x0b', '\x0c', '\u{85}', '\u{2028}', '\u{2029}'];
    if text.contains(others) || text.replace("\r\n", "\n").contains('\r') {
        return;
    }
    let options = ReportOptions::new(PageSize::Size4K);
    let before = report(text.as_bytes(), &options);
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
        let Ok(after) = report(changed.as_bytes(), &options) else {
            continue;
        };
        let opposite = contradiction(&before, &after, line, change);
        assert_eq!(opposite, None, "line {}, {change:?}: {changed}", at + 1);
    }
}

/// A list of regions for the disk in the examples.
pub fn regions(data: &[u8]) -> bool {
    assert_pages(|page| {
        let device = device(NVME.as_bytes())?;
        let regions = RegionList::parse("regions.json", data)?;
        device.bars(&regions)?.report(&ReportOptions::new(page))
    })
}

/// The bytes as a TDISP report of the same disk, with all options.
pub fn reported(data: &[u8]) {
    for rule in [OffsetRule::Relative, OffsetRule::Masked] {
        for locked_msix in [TeeMsixPolicy::Refuse, TeeMsixPolicy::Private] {
            let tdisp = TdispReport::parse("report", data);
            assert_sound(tdisp.and_then(|tdisp| {
                let options = ReportOptions {
                    tdisp: Some(tdisp),
                    rule,
                    locked_msix,
                    ..ReportOptions::new(PageSize::Size4K)
                };
                report(NVME.as_bytes(), &options)
            }));
        }
    }
}

/// Whether there is a report for any page size.
fn assert_pages(report: impl Fn(PageSize) -> Result<BarReport, BarReportError>) -> bool {
    let mut answers = false;
    for page in [PageSize::Size4K, PageSize::Size64K] {
        answers |= assert_sound(report(page));
    }
    answers
}

/// A report can be printed, covers its BARs and has few notes, which are in the
/// text and in the JSON. An error is one short line.
fn assert_sound(report: Result<BarReport, BarReportError>) -> bool {
    match report {
        Ok(report) => {
            report.bars.iter().for_each(assert_covered);
            let pieces: usize = report.bars.iter().map(|bar| bar.pieces.len()).sum();
            let text = report.to_text();
            assert!(text.len() < 20_000 + 1000 * pieces);
            // Lines are broken where they reach 80 columns.
            let text = words(&text);
            let listed = report.to_json();
            let bars = report.bars.len() + report.unsized_io.len();
            assert_eq!(listed["bars"].as_array().map(Vec::len), Some(bars));
            assert!(report.notes.len() < 80);
            let listed = listed.to_string();
            for note in &report.notes {
                assert!(note.text.len() < 1000, "{note}");
                assert!(!note.text.contains(|c: char| c.is_control()), "{note:?}");
                assert!(text.contains(&words(&note.text)), "{note} is not in {text}");
                let known = report.bars.iter().map(|bar| bar.bar.index());
                let mut known = known.chain(report.unsized_io.iter().copied());
                let is_listed = note.bar.is_none_or(|bar| known.any(|other| other == bar));
                assert_eq!(listed.contains(&note.text), is_listed, "{note}");
            }
            true
        }
        Err(error) => {
            let error = with_causes(&error);
            assert!(error.len() < 1000, "{error}");
            assert!(!error.contains(|c: char| c.is_control()), "{error:?}");
            false
        }
    }
}

/// The text with one space between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_covered(bar: &ClassifiedBar) {
    let size: u64 = bar.pieces.iter().map(|piece| piece.size()).sum();
    assert_eq!(size, bar.bar.size());
}
