// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports fit the lines that the caller has.

use bar_report::{BarReport, Reader, RegionList, ReportOptions};
use vfio_private::PageSize;

const PASTE: &str = "\
01:00.0 Non-Volatile memory controller: Example Corp NVMe SSD
    Control: I/O- Mem+ BusMaster+
    Status: Cap+ 66MHz-
    Region 0: Memory at f7c00000 (64-bit, non-prefetchable) [size=16K]
    Region 2: Memory at 4000000000 (64-bit, prefetchable) [size=16G]
    Capabilities: [b0] MSI-X: Enable+ Count=33 Masked-
        Vector table: BAR=0 offset=00002000
        PBA: BAR=0 offset=00002800
    Kernel driver in use: nvme
";

fn report(paste: &str) -> BarReport {
    let device = Reader::new().lspci("a.txt", paste, None).unwrap();
    let bars = device.bars(&RegionList::unknown()).unwrap();
    bars.report(&ReportOptions::new(PageSize::Size4K)).unwrap()
}

#[test]
fn a_drawing_of_a_bar_of_any_size_fits() {
    for (size, words) in [
        ("1T", "1 TiB (0x10000000000)"),
        ("16T", "16 TiB (0x100000000000)"),
        ("4096P", "4 EiB (0x4000000000000000)"),
    ] {
        let report = report(&PASTE.replace("16G", size));
        for columns in [40, 80] {
            let text = report.to_text_in(columns);
            for line in text.lines() {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
        assert!(report.to_text().contains(words), "{}", report.to_text());
    }
}

#[test]
fn a_report_fits_lines_of_40_columns_and_more_and_leaves_no_word_out() {
    let report = report(PASTE);
    // Drawings have fewer cells; the words are the same.
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().map(str::to_string);
        words.filter(|word| !word.contains(['│', '░'])).collect()
    };
    let without_scales = |text: &str| -> Vec<String> {
        let lines = text.lines();
        let lines = lines.filter(|line| !line.trim_start().starts_with("0x0 "));
        words(&lines.collect::<Vec<_>>().join("\n"))
    };
    let usual = without_scales(&report.to_text());
    for columns in 40..=160 {
        let text = report.to_text_in(columns);
        for line in text.lines() {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        assert_eq!(without_scales(&text), usual, "{columns}");
    }
    assert_eq!(report.to_text_in(1), report.to_text_in(40));
    assert_eq!(report.to_text_in(80), report.to_text());
}
