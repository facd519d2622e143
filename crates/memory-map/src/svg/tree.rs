// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws the column of the region tree.

use std::ops::Range;

use super::canvas::{Area, Canvas, Style};
use super::label::{Label, Sign};
use super::look::{self, Look};
use super::row::{Row, summary};
use super::scale::{Need, Scale};
use super::stack::{Sheet, Stack};
use super::words::{self, Face};

/// The length of a container's name that has room even in a small container.
const UPRIGHT: i32 = 124;

/// Returns the heights that the boxes need.
pub fn needs(stack: &Stack<'_>) -> Vec<Need> {
    let need = |sheet: &Sheet<'_>| match sheet.is_container() {
        true => {
            let name = words::width(&container_name(sheet), Face::SmallMono);
            Need {
                span: sheet.span.clone(),
                height: name.min(UPRIGHT) + 10,
                breaks: true,
            }
        }
        false => {
            let (span, room) = labelled(sheet);
            let plain =
                sheet.enabled && sheet.rows[0].note.is_empty() && sheet.rows[0].priority == 0;
            // The word for a kind fits beside the name. Other text needs lines.
            let further = if plain {
                0
            } else {
                label(sheet, room).lines.len()
            };
            Need {
                span,
                height: Label::height(1 + further),
                breaks: false,
            }
        }
    };
    stack.sheets.iter().map(need).collect()
}

/// Draws the column from `left` on. `looks` are the looks of the flat view, per
/// stretch.
pub fn draw(
    canvas: &mut Canvas,
    stack: &Stack<'_>,
    scale: &Scale,
    looks: &[Option<Look>],
    left: i32,
) {
    for sheet in &stack.sheets {
        canvas.group(&title(sheet), |canvas| match sheet.is_container() {
            true => container(canvas, sheet, scale, left),
            false => boxes(canvas, sheet, scale, looks, left),
        });
    }
}

/// Returns the left edge of a container's inside in a stretch. Break marks
/// start there, so that they do not cross the upright names.
pub fn inside(stack: &Stack<'_>, stretch: usize) -> i32 {
    let around = stack.sheets.iter().filter(|sheet| sheet.is_container());
    let around = around.filter(|sheet| sheet.span.contains(&stretch));
    around
        .map(|sheet| sheet.left + sheet.edge)
        .max()
        .unwrap_or(0)
}

fn container(canvas: &mut Canvas, sheet: &Sheet<'_>, scale: &Scale, left: i32) {
    let right = sheet
        .reach
        .iter()
        .map(|reach| reach.right)
        .max()
        .unwrap_or(0);
    let (top, bottom) = scale.range(&sheet.span);
    let area = Area {
        x: left + sheet.left,
        y: top,
        w: right.max(sheet.left + sheet.edge) - sheet.left,
        h: bottom - top,
    };
    let edge = Area {
        w: sheet.edge,
        ..area
    };
    let dash = if sheet.enabled {
        ""
    } else {
        r#" stroke-dasharray="4 3""#
    };
    canvas.rect(edge, &format!(r#"fill="{}""#, look::NEUTRAL));
    canvas.rect(
        area,
        &format!(
            r#"fill="none" stroke="{}" stroke-width="0.75"{dash}"#,
            look::EDGE
        ),
    );

    let long = container_name(sheet);
    let room = edge.h - 10;
    let text = match words::width(&long, Face::SmallMono) <= room {
        true => long,
        false => words::cut(&sheet.rows[0].name, Face::SmallMono, room),
    };
    // An edge narrower than a letter has no room for a name.
    if sheet.edge >= 14 {
        canvas.upright(
            (edge.x + sheet.edge / 2 + 4, top + 6),
            Style::new(Face::SmallMono, look::INK),
            &text,
        );
    }
}

fn container_name(sheet: &Sheet<'_>) -> String {
    let row = sheet.rows[0];
    format!("{}, {}", row.name, words::size(row.size()))
}

fn boxes(canvas: &mut Canvas, sheet: &Sheet<'_>, scale: &Scale, looks: &[Option<Look>], left: i32) {
    let (label_at, label_room) = labelled(sheet);
    for (run, reach) in sheet.runs() {
        let area = |span: &Range<usize>| {
            let (top, bottom) = scale.range(span);
            // A gap of one pixel separates an edge from the box that covers it.
            let right = if reach.seen {
                reach.right
            } else {
                reach.right - 1
            };
            Area {
                x: left + sheet.left,
                y: top,
                w: (right - sheet.left).max(1),
                h: bottom - top,
            }
        };
        match reach.seen && sheet.rows.len() == 1 {
            true => same_looks(&run, looks)
                .iter()
                .for_each(|(span, look)| canvas.filled(area(span), *look)),
            false => canvas.rect(area(&run), unseen(sheet)),
        }
        // An invisible box above must not hide the name.
        let room = reach.clear.min(reach.right) - sheet.left;
        let area = Area {
            h: scale.clear(&run),
            w: room,
            ..area(&run)
        };
        if run == label_at {
            label(sheet, label_room).draw(canvas, area);
        } else if reach.seen {
            let lines = Vec::new();
            let again = Label {
                lines,
                size: String::new(),
                ink: look::SOFT,
                ..label(sheet, label_room)
            };
            again.draw(canvas, area);
        }
    }
}

fn unseen(sheet: &Sheet<'_>) -> &'static str {
    match (sheet.enabled, sheet.rows.len()) {
        (_, 2..) => look::FOLD_BOX,
        (true, _) => look::HIDDEN_BOX,
        (false, _) => look::DISABLED_BOX,
    }
}

/// Returns neighbouring stretches of a run with the same look.
fn same_looks(run: &Range<usize>, looks: &[Option<Look>]) -> Vec<(Range<usize>, Look)> {
    let mut out: Vec<(Range<usize>, Look)> = Vec::new();
    for stretch in run.clone() {
        let Some(look) = looks[stretch] else { continue };
        match out.last_mut() {
            Some((span, same)) if *same == look && span.end == stretch => span.end = stretch + 1,
            _ => out.push((stretch..stretch + 1, look)),
        }
    }
    out
}

/// Returns the first of the runs with the most room for text, and its width.
fn labelled(sheet: &Sheet<'_>) -> (Range<usize>, i32) {
    let runs = sheet.runs().into_iter().rev();
    let widest = runs.max_by_key(|(_, reach)| reach.clear.min(reach.right));
    match widest {
        Some((span, reach)) => (span, reach.clear.min(reach.right) - sheet.left),
        None => (sheet.span.clone(), 0),
    }
}

/// Returns the text for a box `width` pixels wide.
fn label(sheet: &Sheet<'_>, width: i32) -> Label {
    let ink = if sheet.enabled { look::INK } else { look::SOFT };
    if sheet.rows.len() > 1 {
        let summary = summary(&sheet.rows);
        return Label {
            name: summary.head,
            size: String::new(),
            lines: vec![(Sign::None, summary.detail)],
            ink,
        };
    }
    let row = sheet.rows[0];
    let sign = match row.kind == "reserved" && !row.note.is_empty() {
        true => Sign::Warning,
        false => Sign::None,
    };
    let words = match sign {
        // The pattern shows the access; there is hardly room for the reason.
        Sign::Warning if sheet.enabled => row.note.clone(),
        _ => words_on(sheet).join(" · "),
    };
    Label {
        name: row.name.clone(),
        size: words::size(row.size()),
        lines: wrapped(sign, &words, Label::room(width)),
        ink,
    }
}

/// Breaks a text into lines. A narrow box has one, which is shortened; the tooltip
/// has all of it.
fn wrapped(sign: Sign, words: &str, room: i32) -> Vec<(Sign, String)> {
    const NARROW: i32 = 90;
    if room < NARROW {
        return vec![(sign, words.to_string())];
    }
    let further = match sign {
        Sign::Warning => Sign::Warned,
        sign => sign,
    };
    let signs = std::iter::once(sign).chain(std::iter::repeat(further));
    signs.zip(words::wrap(words, Face::Sans, room)).collect()
}

/// Returns the text about a region, except its name and size.
fn words_on(sheet: &Sheet<'_>) -> Vec<String> {
    let row = sheet.rows[0];
    let mut words = Vec::new();
    if !sheet.enabled {
        words.push("disabled".to_string());
    }
    words.push(row.kind.to_string());
    if row.readonly {
        words.push("read-only".into());
    }
    if !row.note.is_empty() {
        words.push(row.note.clone());
    }
    match row.priority {
        0 => {}
        i32::MAX => words.push("above all".into()),
        priority => words.push(format!("priority {priority}")),
    }
    words
}

fn title(sheet: &Sheet<'_>) -> String {
    if sheet.rows.len() > 1 {
        let summary = summary(&sheet.rows);
        return format!("{}\n{}", summary.head, summary.detail);
    }
    let row = sheet.rows[0];
    let seen = sheet.reach.iter().filter(|reach| reach.seen).count();
    let seen = match seen {
        _ if sheet.is_container() || !sheet.enabled => "",
        0 => "\nhidden",
        seen if seen < sheet.reach.len() => "\nhidden in part",
        _ => "",
    };
    let (start, last, size) = (row.start, row.last, row.size());
    format!(
        "{}\n{start:#x} to {last:#x}, {size:#x} bytes\n{}{seen}",
        row.name,
        words_on(sheet).join("\n")
    )
}
