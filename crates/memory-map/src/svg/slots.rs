// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws the column of the memslots.

use super::canvas::Canvas;
use super::label::{Label, Sign};
use super::look::{self, Look};
use super::row::{Row, summary};
use super::scale::{Need, Scale};
use super::stretch::Placed;
use super::words::{self, Face};
use crate::rows::SlotRow;

/// Returns the heights that the boxes need in a column `width` pixels wide.
pub fn needs(slots: &[Placed<'_, SlotRow>], width: i32) -> Vec<Need> {
    let need = |placed: &Placed<'_, SlotRow>| Need {
        span: placed.span.clone(),
        height: Label::height(1 + label(placed, width).lines.len()),
        breaks: false,
    };
    slots.iter().map(need).collect()
}

/// Draws the column between `left` and `left + width`. A slot has the look of
/// the run that it makes direct.
pub fn draw(
    canvas: &mut Canvas,
    slots: &[Placed<'_, SlotRow>],
    scale: &Scale,
    looks: &[Option<Look>],
    (left, width): (i32, i32),
) {
    for placed in slots {
        let [area, clear] = scale.areas(&placed.span, (left, width));
        canvas.group(&title(placed), |canvas| {
            match looks[placed.span.start] {
                Some(look) if placed.rows.len() == 1 => canvas.filled(area, look),
                _ => canvas.rect(area, look::FOLD_BOX),
            }
            label(placed, width).draw(canvas, clear);
        });
    }
}

fn label(placed: &Placed<'_, SlotRow>, width: i32) -> Label {
    let ink = look::INK;
    let [row] = *placed.rows else {
        let summary = summary(&placed.rows);
        let lines = vec![(Sign::None, summary.detail)];
        return Label {
            name: summary.head,
            size: String::new(),
            lines,
            ink,
        };
    };
    let mut lines = Vec::new();
    if !row.host_mapped {
        lines.push((Sign::Lock, "no host address".to_string()));
    }
    let behind = row.behind.iter().map(String::as_str);
    let words = row.flags.iter().copied().chain(behind);
    lines.extend(
        join_words(words, width - 12)
            .iter()
            .flat_map(|line| words::wrap(line, Face::Sans, width - 12))
            .map(|line| (Sign::None, line)),
    );
    Label {
        name: row.name(),
        size: words::size(row.size()),
        lines,
        ink,
    }
}

/// Joins words with dots, and breaks lines that are too wide.
fn join_words<'a>(words: impl Iterator<Item = &'a str>, room: i32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        let longer = lines.last().map(|line| format!("{line} · {word}"));
        match longer.filter(|longer| words::width(longer, Face::Sans) <= room) {
            Some(longer) => {
                lines.pop();
                lines.push(longer);
            }
            None => lines.push(word.to_string()),
        }
    }
    lines
}

fn title(placed: &Placed<'_, SlotRow>) -> String {
    let [row] = *placed.rows else {
        let summary = summary(&placed.rows);
        return format!("{}\n{}", summary.head, summary.detail);
    };
    let flags = match row.flags.is_empty() {
        true => "no flags".to_string(),
        false => row.flags.join("|"),
    };
    let (start, last, size) = (row.start(), row.end() - 1, row.size);
    format!(
        "{}\n{start:#x} to {last:#x}, {size:#x} bytes\n{flags}\n{}",
        row.name(),
        row.behind.join(", ")
    )
}
