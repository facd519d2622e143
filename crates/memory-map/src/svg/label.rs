// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes the text of a box: as many lines as fit, each shortened to the box.

use super::canvas::{Area, Canvas, Style};
use super::look;
use super::scale::{LINE, NEXT_LINE};
use super::words::{self, Face};

/// The distance between a box and its text.
const PAD: i32 = 6;

/// The room that a sign takes.
const SIGN: i32 = 13;

/// The distance of a baseline from the upper edge of its line.
const BASELINE: i32 = 14;

/// The sign before a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// No sign.
    None,
    /// The host has no address for the memory.
    Lock,
    /// The guest cannot reach the memory.
    Warning,
    /// The line continues a warning.
    Warned,
}

/// A text for a box.
#[derive(Clone, Debug)]
pub struct Label {
    /// The name.
    pub name: String,
    /// The size, at the right end of the first line.
    pub size: String,
    /// Further lines, the most important first.
    pub lines: Vec<(Sign, String)>,
    /// The colour of the name.
    pub ink: &'static str,
}

impl Label {
    /// Returns the height of a box with `lines` lines.
    pub fn height(lines: usize) -> i32 {
        let further = i32::try_from(lines).unwrap_or(i32::MAX / NEXT_LINE).max(1) - 1;
        LINE + further * NEXT_LINE
    }

    /// Returns the room for a line with a sign, in a box `width` pixels wide.
    pub fn room(width: i32) -> i32 {
        width - 2 * PAD - SIGN
    }

    /// Writes the label into `area`.
    pub fn draw(&self, canvas: &mut Canvas, area: Area) {
        let left = area.x + PAD;
        let room = area.w - 2 * PAD;
        let y = area.y + BASELINE;
        let soft = Style::new(Face::Sans, look::SOFT);

        let size = words::width(&self.size, Face::Sans);
        let name = words::width(&self.name, Face::Mono);
        // Omit a size that leaves no room for the name.
        let sized = size > 0 && size + name.min(60) + PAD <= room;
        let name_room = if sized { room - size - PAD } else { room };
        let name = words::cut(&self.name, Face::Mono, name_room);
        canvas.text((left, y), Style::new(Face::Mono, self.ink).bold(), &name);
        if sized {
            canvas.text((left + room, y), soft.ending(), &self.size);
        }

        let further = (area.h - LINE) / NEXT_LINE;
        if further < 1 {
            // Write the first line beside the name, if there is enough room.
            let from = words::width(&name, Face::Mono) + 2 * PAD;
            if name_room - from > 70 {
                self.line(canvas, (left + from, y), name_room - from, 0);
            }
            return;
        }
        let count = usize::try_from(further).unwrap_or(0).min(self.lines.len());
        for index in 0..count {
            let down = i32::try_from(index).unwrap_or(0) + 1;
            self.line(canvas, (left, y + down * NEXT_LINE), room, index);
        }
    }

    fn line(&self, canvas: &mut Canvas, (x, y): (i32, i32), room: i32, index: usize) {
        let Some((sign, text)) = self.lines.get(index) else {
            return;
        };
        let (x, room, ink) = match sign {
            Sign::None => (x, room, look::INK),
            Sign::Lock => (x + SIGN, room - SIGN, look::PRIVATE),
            Sign::Warning | Sign::Warned => (x + SIGN, room - SIGN, look::REFUSED),
        };
        let text = words::cut(text, Face::Sans, room);
        if text.is_empty() {
            return;
        }
        match sign {
            Sign::None | Sign::Warned => {}
            Sign::Lock => canvas.lock((x - SIGN, y)),
            Sign::Warning => canvas.warning((x - SIGN, y)),
        }
        canvas.text((x, y), Style::new(Face::Sans, ink), &text);
    }
}
