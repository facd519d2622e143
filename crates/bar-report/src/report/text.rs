// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats the report as text, in lines that fit a terminal. Only a word of the device's name, which is
//! quoted from the input, can be wider. Each character counts as one column.

use std::fmt::Write;

use vfio_private::{Access, AddrRange, Bar, BarKind, Msix, MsixPart, Piece};

use crate::report::drawing::{MIXED, draw, glyph};
use crate::report::note::Topic;
use crate::report::{BarReport, ClassifiedBar};

/// The width of a line, unless the caller has another.
const WIDTH: usize = 80;

/// In fewer columns, no table can be drawn.
const LEAST: usize = 40;

/// The columns before the first cell of a drawing.
const MARGIN: usize = 3;

/// The least columns beside the cells of a drawing, so that drawings of most BARs have the same
/// width.
const FRAME: usize = 16;

/// The most cells of a drawing.
const CELLS: usize = 64;

/// The columns that reasons need beside their piece.
const REASONS: usize = 30;

const ACCESSES: [Access; 4] = [
    Access::Private,
    Access::Shared,
    Access::Trap,
    Access::Blocked,
];

/// Explains an access to the owner of a device.
const fn meaning(access: Access) -> &'static str {
    match access {
        Access::Private => "the confidential guest alone reaches it, directly; the host cannot",
        Access::Shared => "the guest reaches it directly, by a mapping that the VMM has too",
        Access::Trap => "each access stops the guest, and the VMM carries it out: slow",
        Access::Blocked => "nobody reaches it: it is neither mapped nor emulated",
    }
}

impl BarReport {
    /// Formats the report as text: the device, its BARs as tables and drawings, and a legend. Lines
    /// have at most 80 columns, unless a word of the device's name is wider.
    pub fn to_text(&self) -> String {
        self.to_text_in(WIDTH)
    }

    /// Formats the report as text in lines of at most `columns` columns, such as a terminal's. Fewer
    /// than 40 are taken for 40.
    pub fn to_text_in(&self, columns: usize) -> String {
        let lines = Lines {
            width: columns.max(LEAST),
        };
        let mut text = lines.fill("", &self.name, 2) + "\n\n";
        for line in lines.basis(self) {
            text += &format!("{line}\n");
        }
        for bar in &self.bars {
            text += &format!("\n{}", lines.bar_text(self, bar));
        }
        if self.bars.is_empty() {
            text += match self.unsized_io.is_empty() {
                true => "\nNo BAR is known.\n",
                false => "\nNo memory BAR is known.\n",
            };
        }
        text + &lines.legend(self)
    }
}

/// Writes lines of a given width.
#[derive(Clone, Copy)]
struct Lines {
    width: usize,
}

impl Lines {
    /// Returns the facts that the report depends on, one per line, and the notes of the device.
    fn basis(self, report: &BarReport) -> Vec<String> {
        let msix = match report.msix {
            None => "none found".to_string(),
            Some(msix) => msix_text(&msix),
        };
        let mut lines = vec![self.labelled("Host pages", &report.page.to_string())];
        lines.extend(self.notes(report, Topic::Regions));
        lines.push(self.labelled("MSI-X", &msix));
        lines.extend(self.notes(report, Topic::Report));
        lines.extend(self.notes(report, Topic::Device));
        lines
    }

    /// Returns the notes of the device on a topic. The first one is labelled with the topic.
    fn notes(self, report: &BarReport, topic: Topic) -> impl Iterator<Item = String> {
        let about = report
            .notes
            .iter()
            .filter(move |note| note.bar.is_none() && note.topic == topic);
        about.enumerate().map(move |(n, note)| {
            let label = if n == 0 { topic.label() } else { "" };
            self.labelled(label, &note.text)
        })
    }

    fn labelled(self, label: &str, text: &str) -> String {
        self.fill(&format!("{label:13}"), text, 15)
    }

    /// Appends `text` to `start` and breaks lines between words where they would
    /// become wider than the width. Further lines start at column `indent`.
    fn fill(self, start: &str, text: &str, indent: usize) -> String {
        let mut out = start.to_string();
        let mut column = start.chars().count();
        for (n, word) in text.split(' ').enumerate() {
            let width = word.chars().count();
            if n > 0 && column + 1 + width > self.width {
                out += &format!("\n{:indent$}", "");
                column = indent;
            } else if n > 0 {
                out += " ";
                column += 1;
            }
            out += word;
            column += width;
        }
        out
    }

    fn bar_text(self, report: &BarReport, of: &ClassifiedBar) -> String {
        let bar = of.bar;
        let mut text = self.fill("", &heading(of), 2) + "\n";
        let drawing = draw(&of.pieces, bar.size(), self.cells(bar));
        text += &format!("  │{}│\n   {}\n", drawing.cells, drawing.scale);
        if !drawing.is_to_scale {
            let note = "(not to scale: small pieces are drawn larger)";
            text += &format!("{}\n", self.fill("   ", note, 4));
        }
        let ranges: Vec<String> = of
            .pieces
            .iter()
            .map(|p| p.range().dashed().to_string())
            .collect();
        let wide = ranges
            .iter()
            .map(String::len)
            .max()
            .unwrap_or_default()
            .max(5);
        let heads = format!("  {:wide$}  {:>8}  access   KVM  DMA  why", "bytes", "size");
        text += &format!("{}\n", self.columns(&heads));
        for (piece, range) in of.pieces.iter().zip(ranges) {
            let yes = |yes| if yes { "yes" } else { "no" };
            let columns = format!(
                "  {range:wide$}  {:>8}  {:7}  {:3}  {:3}  ",
                size(piece.size()),
                piece.access().to_string(),
                yes(piece.kvm_mappable()),
                yes(piece.dma_mappable()),
            );
            let why = piece.reasons().iter().map(|reason| reason.to_string());
            let why = why.chain(shared_page_rest(report, bar, piece));
            // Write the reasons beside the piece if there is room for words, otherwise below it.
            let (mut start, column) = match columns.len() + REASONS <= self.width {
                true => (columns.clone(), columns.len()),
                false => {
                    let _ = writeln!(text, "{}", self.columns(&columns));
                    (format!("{:6}", ""), 6)
                }
            };
            for why in why {
                let _ = writeln!(text, "{}", self.fill(&start, &why, column + 2));
                start = format!("{:column$}", "");
            }
        }
        let _ = writeln!(text, "{}", self.fill("  ", &summary(of), 4));
        for note in report.notes_of(of).filter(|note| note.bar.is_some()) {
            let label = format!("  {}: ", note.topic.label());
            let _ = writeln!(text, "{}", self.fill(&label, &note.text, 4));
        }
        text
    }

    /// Explains the cells that occur in the drawings.
    fn legend(self, report: &BarReport) -> String {
        let mut text = String::new();
        let pieces = || report.bars.iter().flat_map(|bar| &bar.pieces);
        for access in ACCESSES {
            if pieces().any(|piece| piece.access() == access) {
                let name = access.to_string();
                let start = format!("{}  {name:7}  ", glyph(access));
                text += &format!("{}\n", self.fill(&start, meaning(access), 12));
            }
        }
        let is_mixed = |bar: &ClassifiedBar| {
            draw(&bar.pieces, bar.bar.size(), self.cells(bar.bar))
                .cells
                .contains(MIXED)
        };
        if report.bars.iter().any(is_mixed) {
            text += &format!("{MIXED}           several of them in turn\n");
        }
        match text.as_str() {
            "" => text,
            _ => format!("\n{text}"),
        }
    }

    /// Returns a row of a table, or its words in several lines if it is too wide.
    fn columns(self, row: &str) -> String {
        let row = row.trim_end();
        let words: Vec<&str> = row.split_whitespace().collect();
        match row.chars().count() <= self.width {
            true => row.to_string(),
            false => self.fill("  ", &words.join(" "), 4),
        }
    }

    /// Returns the number of cells of a drawing. The last offset below it starts where the cells
    /// end.
    fn cells(self, bar: Bar) -> u64 {
        let last = format!("{:#x}", bar.size()).len();
        (self.width - FRAME.max(MARGIN + last)).min(CELLS) as u64
    }
}

fn msix_text(msix: &Msix) -> String {
    let vectors = msix.table.range.size() / 16;
    let part = |part: MsixPart| msix.place(part);
    format!(
        "{vectors} vectors; table {}, pending bits (PBA) {}",
        part(MsixPart::Table),
        part(MsixPart::Pba)
    )
}

fn heading(of: &ClassifiedBar) -> String {
    let bar = of.bar;
    let kind = match bar.kind() {
        BarKind::Memory => "memory",
        BarKind::Io => "I/O ports",
    };
    let bytes = size(bar.size());
    let mut text = format!("{}: {kind}, {bytes} ({:#x})", bar.index(), bar.size());
    if let Some(memory_type) = of.memory_type {
        text += &format!(", {memory_type}");
    }
    if of.is_enhanced {
        text += ", by Enhanced Allocation";
    }
    text
}

/// Returns the part of a page that is trapped only because MSI-X structures share the page.
fn shared_page_rest(report: &BarReport, bar: Bar, piece: &Piece) -> Option<String> {
    let msix = report.msix?;
    if piece.access() != Access::Trap {
        return None;
    }
    let places = [msix.place(MsixPart::Table), msix.place(MsixPart::Pba)];
    let inside: Vec<AddrRange> = places
        .iter()
        .filter(|place| place.bar == bar.index())
        .filter_map(|place| place.range.intersect(piece.range()))
        .collect();
    // Table and PBA do not overlap on working devices. An overlap would be counted twice.
    let own: u64 = inside.iter().filter_map(|range| range.size_u64()).sum();
    let others = piece.size().checked_sub(own).filter(|&others| others > 0)?;
    (own > 0).then(|| {
        format!(
            "({own:#x} bytes are MSI-X; the other {others:#x} come along, as they share its page)"
        )
    })
}

fn summary(of: &ClassifiedBar) -> String {
    let bytes = |access: Access| -> u64 {
        let same = of.pieces.iter().filter(|piece| piece.access() == access);
        same.map(|piece| piece.size()).sum()
    };
    let (private, shared) = (bytes(Access::Private), bytes(Access::Shared));
    let direct = private + shared;
    let mut text = match direct {
        0 => "No byte reaches the guest directly".to_string(),
        _ => format!(
            "{direct:#x} of {:#x} bytes reach the guest directly",
            of.bar.size()
        ),
    };
    if private > 0 {
        text += &format!(", {private:#x} of them for it alone");
    }
    for (access, words) in [(Access::Trap, "trapped"), (Access::Blocked, "blocked")] {
        match bytes(access) {
            0 => {}
            all if all == of.bar.size() => text += &format!("; all of them are {words}"),
            some => text += &format!("; {some:#x} are {words}"),
        }
    }
    text + "."
}

/// Formats a number of bytes in the largest unit of which it is a whole number.
fn size(bytes: u64) -> String {
    let units = [
        ("EiB", 60),
        ("PiB", 50),
        ("TiB", 40),
        ("GiB", 30),
        ("MiB", 20),
        ("KiB", 10),
    ];
    let even = |&(_, shift): &(&str, u32)| bytes >= 1 << shift && bytes % (1 << shift) == 0;
    match units.iter().find(|unit| even(unit)) {
        Some((unit, shift)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}
