// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws the column of the flat view.

use super::canvas::{Area, Canvas, Style};
use super::label::{Label, Sign};
use super::look::{self, Look};
use super::row::{Row, summary};
use super::scale::{Need, Scale};
use super::stretch::Placed;
use super::words::{self, Face};
use crate::rows::FlatRow;

/// Returns the heights that the boxes need in a column `width` pixels wide.
pub fn needs(flat: &[Placed<'_, FlatRow>], width: i32) -> Vec<Need> {
    let need = |placed: &Placed<'_, FlatRow>| {
        let lines = lines(placed, width);
        // A word for the access fits beside the name. Other text needs lines.
        let lines = if lines.len() > 1 { 1 + lines.len() } else { 1 };
        Need {
            span: placed.span.clone(),
            height: Label::height(lines),
            breaks: false,
        }
    };
    flat.iter().map(need).collect()
}

/// Returns the look of each stretch. Folds and holes have none.
pub fn looks(flat: &[Placed<'_, FlatRow>], stretches: usize) -> Vec<Option<Look>> {
    let mut looks = vec![None; stretches];
    for placed in flat.iter().filter(|placed| placed.rows.len() == 1) {
        looks[placed.span.clone()].fill(Some(Look::of(placed.rows[0])));
    }
    looks
}

/// Draws the column between `left` and `left + width`.
pub fn draw(
    canvas: &mut Canvas,
    flat: &[Placed<'_, FlatRow>],
    scale: &Scale,
    (left, width): (i32, i32),
) {
    // Holes come first, so that their pale borders do not cover those of their
    // neighbours.
    draw_holes(canvas, flat, scale, (left, width));
    for placed in flat {
        let [area, clear] = scale.areas(&placed.span, (left, width));
        canvas.group(&title(placed), |canvas| match *placed.rows {
            [row] => {
                canvas.filled(area, Look::of(row));
                let size = words::size(row.size());
                let lines = lines(placed, width);
                Label {
                    name: row.name(),
                    size,
                    lines,
                    ink: look::INK,
                }
                .draw(canvas, clear);
            }
            _ => fold(canvas, placed, area),
        });
    }
}

/// Draws a box for many runs. Its edge shows samples of their looks.
fn fold(canvas: &mut Canvas, placed: &Placed<'_, FlatRow>, area: Area) {
    const SAMPLES: i32 = 6;
    const STRIP: i32 = 10;
    canvas.rect(area, look::FOLD_BOX);
    let rows = placed.rows.iter().cycle();
    for (sample, row) in (0..SAMPLES).zip(rows) {
        let y = area.y + area.h * sample / SAMPLES;
        let h = area.y + area.h * (sample + 1) / SAMPLES - y;
        canvas.filled(
            Area {
                y,
                h,
                w: STRIP,
                ..area
            },
            Look::of(row),
        );
    }
    let summary = summary(&placed.rows);
    let lines = vec![(Sign::None, summary.detail)];
    let label = Label {
        name: summary.head,
        size: String::new(),
        lines,
        ink: look::INK,
    };
    label.draw(
        canvas,
        Area {
            x: area.x + STRIP,
            w: area.w - STRIP,
            ..area
        },
    );
}

/// Labels the holes with their sizes.
fn draw_holes(
    canvas: &mut Canvas,
    flat: &[Placed<'_, FlatRow>],
    scale: &Scale,
    (left, width): (i32, i32),
) {
    // A region may extend beyond the address space, where nothing is reachable.
    let end = scale
        .bands
        .partition_point(|band| band.stretch.start < 1 << 64);
    let behind = end..end;
    let mut from = 0;
    for next in flat.iter().map(|placed| &placed.span).chain([&behind]) {
        let hole = from..next.start;
        from = next.end;
        if hole.is_empty() {
            continue;
        }
        let bytes = scale.bands[hole.end - 1].stretch.end - scale.bands[hole.start].stretch.start;
        let (top, bottom) = scale.range(&hole);
        let area = Area {
            x: left,
            y: top,
            w: width,
            h: bottom - top,
        };
        canvas.rect(
            area,
            &format!(
                r#"fill="none" stroke="{}" stroke-width="0.75""#,
                look::GUIDE
            ),
        );
        let soft = Style::new(Face::Sans, look::SOFT);
        canvas.text((left + 6, top + 14), soft, "nothing");
        canvas.text(
            (left + width - 6, top + 14),
            soft.ending(),
            &words::size(bytes),
        );
    }
}

/// Returns the text about a run, except its name and size.
fn lines(placed: &Placed<'_, FlatRow>, width: i32) -> Vec<(Sign, String)> {
    let [row] = *placed.rows else {
        return Vec::new();
    };
    let look = Look::of(row);
    let mut lines = vec![(Sign::None, words_on(row))];
    if look.is_private() {
        lines.push((Sign::Lock, "no host address".into()));
    }
    if look.has_private_side() {
        lines.push((Sign::Lock, "no host address for private pages".into()));
    }
    let note = words::wrap(&row.note, Face::Sans, width - 26);
    lines.extend(
        note.into_iter()
            .enumerate()
            .map(|(index, line)| match (look, index) {
                (Look::Reserved, 0) => (Sign::Warning, line),
                (Look::Reserved, _) => (Sign::Warned, line),
                (Look::Answers { .. }, _) => (Sign::None, line),
            }),
    );
    lines
}

fn words_on(row: &FlatRow) -> String {
    let access = row.access;
    match (row.kind, row.slot) {
        ("reserved", _) => "reserved".into(),
        (kind, None) if access.reads_directly() => format!("{kind} · {access}, but in no memslot"),
        (kind, _) => format!("{kind} · {access}"),
    }
}

fn title(placed: &Placed<'_, FlatRow>) -> String {
    let [row] = *placed.rows else {
        let summary = summary(&placed.rows);
        return format!("{}\n{}", summary.head, summary.detail);
    };
    let (start, last, size) = (row.start, row.last, row.size());
    let mut title = format!(
        "{}\n{start:#x} to {last:#x}, {size:#x} bytes\n{}",
        row.name(),
        words_on(row)
    );
    if Look::of(row).is_private() {
        title += "\nno host address";
    }
    if Look::of(row).has_private_side() {
        title += "\nno host address for private pages";
    }
    if let Some(slot) = row.slot {
        title += &format!("\nslot {slot}");
    }
    if !row.note.is_empty() {
        title += &format!("\n{}", row.note);
    }
    title
}
