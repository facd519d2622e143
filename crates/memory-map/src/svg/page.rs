// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lays out the whole page: heading, legend, the three columns and the
//! connecting lines.

use super::canvas::{Area, Canvas, Style};
use super::look::{self, Look};
use super::row::Row;
use super::scale::{BREAK, Scale};
use super::stack::Stack;
use super::stretch::{Placed, Stretches};
use super::words::{self, Face};
use super::{flat, legend, slots, tree};
use crate::map::Map;
use crate::rows::{FlatRow, SlotRow, TreeRow};

const MARGIN: i32 = 24;
const GAP: i32 = 30;
const TREE: i32 = 360;
const FLAT: i32 = 320;
const SLOTS: i32 = 250;

/// The indentation of an unplaced region, for each ancestor up to the deepest one
/// that is counted.
const INDENT: i32 = 15;
const DEEPEST: i32 = 20;

/// The most unplaced regions that are listed.
const UNPLACED: usize = 12;

/// The layout of a map.
#[derive(Debug)]
pub struct Page<'a> {
    map: &'a Map,
    stretches: Stretches,
    flat: Vec<Placed<'a, FlatRow>>,
    slots: Vec<Placed<'a, SlotRow>>,
    stack: Stack<'a>,
}

/// The left edges and widths of the columns.
#[derive(Clone, Copy, Debug)]
struct Columns {
    axis: i32,
    tree: i32,
    flat: i32,
    slots: i32,
    right: i32,
}

impl<'a> Page<'a> {
    /// Lays out the map.
    pub fn of(map: &'a Map) -> Self {
        let stretches = Stretches::of(map);
        let flat = stretches.place(&map.flat);
        let slots = stretches.place(&map.slots);
        let stack = Stack::of(map, &stretches, &flat, TREE);
        Self {
            map,
            stretches,
            flat,
            slots,
            stack,
        }
    }

    /// Draws the document.
    pub fn document(&self) -> String {
        let (canvas, width, height) = self.draw();
        let title = words::escape(&format!("Guest memory of {}", self.map.machine));
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" "#,
                r#"viewBox="0 0 {w} {h}" role="img">"#,
                "\n<title>{title}</title>\n{definitions}",
                r##"<rect x="0" y="0" width="{w}" height="{h}" fill="{paper}"/>"##,
                "\n{body}</svg>\n",
            ),
            w = width,
            h = height,
            title = title,
            definitions = look::dark_style() + look::DEFINITIONS,
            paper = look::PAPER,
            body = canvas.body,
        )
    }

    /// Returns the elements, and the width and height of the page.
    pub fn draw(&self) -> (Canvas, i32, i32) {
        let columns = self.columns();
        let mut canvas = Canvas::default();
        let y = self.heading(&mut canvas, columns);
        let y = legend::draw(&mut canvas, (MARGIN, columns.right), y);
        let y = column_heads(&mut canvas, columns, y + 26);

        let scale = self.scale(y);
        let looks = flat::looks(&self.flat, self.stretches.0.len());
        self.axis(&mut canvas, &scale, columns);
        self.connections(&mut canvas, &scale, &looks, columns);
        tree::draw(&mut canvas, &self.stack, &scale, &looks, columns.tree);
        flat::draw(&mut canvas, &self.flat, &scale, (columns.flat, FLAT));
        slots::draw(
            &mut canvas,
            &self.slots,
            &scale,
            &looks,
            (columns.slots, SLOTS),
        );
        self.breaks(&mut canvas, &scale, columns);

        let (_, bottom) = scale.range(&(0..scale.bands.len()));
        let bottom = self.unplaced_list(&mut canvas, columns, bottom.max(y) + 30);
        (canvas, columns.right + MARGIN, bottom + MARGIN)
    }

    /// Returns a scale on which all three columns are readable.
    pub fn scale(&self, top: i32) -> Scale {
        let mut needs = flat::needs(&self.flat, FLAT);
        needs.extend(slots::needs(&self.slots, SLOTS));
        needs.extend(tree::needs(&self.stack));
        // Small spans first: the space that they add also serves the large
        // ones.
        needs.sort_by_key(|need| need.span.len());
        Scale::new(&self.stretches, &needs, top)
    }

    fn columns(&self) -> Columns {
        let borders = self.stretches.0.iter().map(|stretch| stretch.start);
        let widths = borders.map(|border| words::width(&words::address(border), Face::SmallMono));
        let axis = MARGIN + widths.max().unwrap_or(0).max(60) + 10;
        let tree = axis + 12;
        let flat = tree + TREE + GAP;
        let slots = flat + FLAT + GAP;
        Columns {
            axis,
            tree,
            flat,
            slots,
            right: slots + SLOTS,
        }
    }

    fn heading(&self, canvas: &mut Canvas, columns: Columns) -> i32 {
        let room = columns.right - MARGIN;
        let title = words::cut(
            &format!("Guest memory of {}", self.map.machine),
            Face::Title,
            room,
        );
        canvas.text(
            (MARGIN, 40),
            Style::new(Face::Title, look::INK).bold(),
            &title,
        );
        let counts = [
            count(self.map.tree.len(), "region"),
            count(self.map.flat.len(), "flat range"),
            count(self.map.slots.len(), "memslot"),
        ];
        let mut words = counts.join(", ");
        let folded: usize = self
            .flat
            .iter()
            .map(|placed| placed.rows.len())
            .filter(|n| *n > 1)
            .sum();
        if folded > 0 {
            words += &format!("; {folded} of the flat ranges are folded");
        }
        words +=
            ". Guest-physical addresses grow downwards; heights follow the logarithm of the size.";
        canvas.text((MARGIN, 60), Style::new(Face::Sans, look::SOFT), &words);
        78
    }

    /// Draws the addresses, and guide lines from them through the columns.
    fn axis(&self, canvas: &mut Canvas, scale: &Scale, columns: Columns) {
        let last = scale
            .bands
            .last()
            .map(|band| (band.stretch.end, band.top + band.height));
        let borders = scale
            .bands
            .iter()
            .map(|band| (band.stretch.start, band.top))
            .chain(last);
        let style = Style::new(Face::SmallMono, look::SOFT).ending();
        for (address, y) in borders {
            canvas.text((columns.axis - 6, y + 4), style, &words::address(address));
            let guide = format!(r#"stroke="{}" stroke-width="0.75""#, look::GUIDE);
            canvas.line((columns.axis - 3, y), (columns.right, y), &guide);
        }
    }

    /// Connects each run of the flat view with its region, and each memslot
    /// with the run that it makes direct.
    fn connections(
        &self,
        canvas: &mut Canvas,
        scale: &Scale,
        looks: &[Option<Look>],
        columns: Columns,
    ) {
        let gap = |x, (top, bottom): (i32, i32)| Area {
            x,
            y: top,
            w: GAP,
            h: bottom - top,
        };
        let paint = |stretch: usize| {
            let fill = looks[stretch].map_or(look::NEUTRAL, Look::fill);
            format!(r#"fill="{fill}" fill-opacity="0.4""#)
        };
        for placed in &self.flat {
            canvas.rect(
                gap(columns.tree + TREE, scale.range(&placed.span)),
                &paint(placed.span.start),
            );
        }
        for placed in &self.slots {
            canvas.rect(
                gap(columns.flat + FLAT, scale.range(&placed.span)),
                &paint(placed.span.start),
            );
        }
    }

    /// Draws a break through stretches that are too large, at the same height
    /// in all columns.
    fn breaks(&self, canvas: &mut Canvas, scale: &Scale, columns: Columns) {
        for (index, band) in scale
            .bands
            .iter()
            .enumerate()
            .filter(|(_, band)| band.broken)
        {
            let y = band.top + band.height - BREAK / 2;
            let left = columns.tree + tree::inside(&self.stack, index);
            let in_slot = self.slots.iter().any(|placed| placed.span.contains(&index));
            let right = match in_slot {
                true => columns.right,
                false => columns.flat + FLAT,
            };
            canvas.zigzag((left, right), y);
        }
    }

    /// Lists regions without a place on the scale.
    fn unplaced_list(&self, canvas: &mut Canvas, columns: Columns, top: i32) -> i32 {
        let room = columns.right - columns.tree;
        let mut y = top;
        let mut line_from = |indent: i32, style: Style, text: &str| {
            canvas.text((columns.tree + indent, y), style, text);
            y += 17;
        };
        let mut line = |style, text: &str| line_from(0, style, text);
        let plain = Style::new(Face::Sans, look::SOFT);
        if self.stack.left_out > 0 {
            let regions = count(self.stack.left_out, "more region");
            line(
                plain,
                &format!("{regions}, hidden in the same places as others, not drawn."),
            );
        }
        let unplaced = self.map.unplaced();
        if !unplaced.is_empty() {
            line(
                Style::new(Face::Head, look::INK).bold(),
                "Not in the address space, only shown by aliases",
            );
        }
        for row in unplaced.iter().take(UNPLACED) {
            let depth = i32::try_from(row.depth).unwrap_or(DEEPEST).min(DEEPEST);
            let mut indent = depth * INDENT;
            let style = Style::new(Face::Mono, look::INK);
            // Further lines are indented more.
            let narrowest = room - (DEEPEST + 2) * INDENT;
            for words in words::wrap(&unplaced_words(row), style.face, narrowest) {
                line_from(indent, style, &words);
                indent = (depth + 2) * INDENT;
            }
        }
        if unplaced.len() > UNPLACED {
            line_from(0, plain, &format!("and {} more", unplaced.len() - UNPLACED));
        }
        y - 17
    }
}

fn unplaced_words(row: &TreeRow) -> String {
    let note = match row.note.is_empty() {
        true => String::new(),
        false => format!(", {}", row.note),
    };
    format!(
        "{}: {}, {}{note}",
        row.name,
        row.kind,
        words::size(row.size())
    )
}

fn column_heads(canvas: &mut Canvas, columns: Columns, top: i32) -> i32 {
    let heads = [
        (columns.tree, "Region tree", "further right lies on top"),
        (columns.flat, "Flat view", "what the guest reaches"),
        (columns.slots, "Memslots", "what KVM is told"),
    ];
    for (x, head, words) in heads {
        let style = Style::new(Face::Head, look::INK).bold();
        canvas.text((x, top), style, head);
        let x = x + words::width(head, Face::Head) + 12;
        canvas.text((x, top), Style::new(Face::Sans, look::SOFT), words);
    }
    top + 18
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}
