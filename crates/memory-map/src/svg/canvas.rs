// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes SVG elements. They have their colours as attributes. A style sheet in the
//! document's head only replaces colours, for the dark form. There are no scripts or
//! external fonts, so viewers differ in nothing else.

use std::fmt::{self, Write};

use super::look::{self, Look};
use super::words::{self, Face};

/// A rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The left edge.
    pub x: i32,
    /// The upper edge.
    pub y: i32,
    /// The width.
    pub w: i32,
    /// The height.
    pub h: i32,
}

/// The style of a text, and which end of it is at its position.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// The typeface.
    pub face: Face,
    /// The colour.
    pub ink: &'static str,
    /// `start` or `end`.
    pub anchor: &'static str,
    /// Whether the text is bold.
    pub bold: bool,
}

impl Style {
    /// A text that starts at its position.
    pub const fn new(face: Face, ink: &'static str) -> Self {
        Self {
            face,
            ink,
            anchor: "start",
            bold: false,
        }
    }

    /// The same style for a text that ends at its position.
    pub const fn ending(self) -> Self {
        Self {
            anchor: "end",
            ..self
        }
    }

    /// The same style in bold.
    pub const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }
}

/// The width of the hatched strip of memory that has a private side.
const STRIP: i32 = 14;

/// The elements so far.
#[derive(Debug, Default)]
pub struct Canvas {
    /// The elements as text.
    pub body: String,
    /// The position of each text, for tests.
    #[cfg(test)]
    pub texts: Vec<(Area, String)>,
}

impl Canvas {
    /// Adds an element.
    pub fn add(&mut self, element: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    /// Draws a group. Viewers show `title` as its tooltip.
    pub fn group(&mut self, title: &str, draw: impl FnOnce(&mut Self)) {
        self.add(format_args!("<g><title>{}</title>", words::escape(title)));
        draw(self);
        self.add(format_args!("</g>"));
    }

    /// Draws a rectangle with the attributes in `paint`.
    pub fn rect(&mut self, area: Area, paint: &str) {
        let Area { x, y, w, h } = area;
        self.add(format_args!(
            r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" {paint}/>"#
        ));
    }

    /// Draws a box in the look of a run of the flat view.
    pub fn filled(&mut self, area: Area, look: Look) {
        self.rect(area, &format!(r#"fill="{}""#, look.fill()));
        if let Some(pattern) = look.pattern() {
            // Only a strip of memory that has a private side, at its right end.
            let strip = Area {
                x: area.x + (area.w - STRIP).max(0),
                w: area.w.min(STRIP),
                ..area
            };
            let hatched = if look.has_private_side() { strip } else { area };
            self.rect(hatched, &format!(r#"fill="{pattern}""#));
        }
        let border = match look.is_private() {
            true => format!(
                r#"fill="none" stroke="{}" stroke-width="1.5""#,
                look::PRIVATE
            ),
            false => format!(r#"fill="none" stroke="{}" stroke-width="0.75""#, look::EDGE),
        };
        self.rect(area, &border);
    }

    /// Draws a line with the attributes in `paint`.
    pub fn line(&mut self, from: (i32, i32), to: (i32, i32), paint: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<path d="M{x1} {y1}L{x2} {y2}" fill="none" {paint}/>"#
        ));
    }

    /// Writes a text on the line at `at`.
    pub fn text(&mut self, at: (i32, i32), style: Style, text: &str) {
        self.write(at, style, text, "");
        self.note_text(at, style, text, false);
    }

    /// Writes a text upwards, ending at `at`.
    pub fn upright(&mut self, at: (i32, i32), style: Style, text: &str) {
        let turn = format!(r#" transform="rotate(-90 {} {})""#, at.0, at.1);
        self.write(at, style.ending(), text, &turn);
        self.note_text(at, style.ending(), text, true);
    }

    fn write(&mut self, (x, y): (i32, i32), style: Style, text: &str, more: &str) {
        if text.is_empty() {
            return;
        }
        const MONO: &str = "ui-monospace,Menlo,Consolas,monospace";
        const SANS: &str = "Helvetica,Arial,sans-serif";
        let (family, size) = match style.face {
            Face::Mono => (MONO, 12),
            Face::SmallMono => (MONO, 11),
            Face::Sans => (SANS, 11),
            Face::Head => (SANS, 13),
            Face::Title => (SANS, 19),
        };
        let Style { ink, anchor, .. } = style;
        let weight = match style.bold {
            true => r#" font-weight="600""#,
            false => "",
        };
        let text = words::escape(text);
        self.add(format_args!(
            r#"<text x="{x}" y="{y}" font-family="{family}" font-size="{size}" fill="{ink}" text-anchor="{anchor}"{weight}{more}>{text}</text>"#
        ));
    }

    #[cfg(test)]
    fn note_text(&mut self, (x, y): (i32, i32), style: Style, text: &str, upright: bool) {
        let long = words::width(text, style.face);
        let (before, above) = match style.anchor {
            "end" => (long, 9),
            _ => (0, 9),
        };
        let area = match upright {
            false => Area {
                x: x - before,
                y: y - above,
                w: long,
                h: 12,
            },
            true => Area {
                x: x - above,
                y,
                w: 12,
                h: long,
            },
        };
        if !text.is_empty() {
            self.texts.push((area, text.to_string()));
        }
    }

    #[cfg(not(test))]
    fn note_text(&mut self, _: (i32, i32), _: Style, _: &str, _: bool) {}

    /// Draws a small lock whose lower left corner is at `at`.
    pub fn lock(&mut self, (x, y): (i32, i32)) {
        let ink = look::PRIVATE;
        self.rect(
            Area {
                x,
                y: y - 6,
                w: 9,
                h: 6,
            },
            &format!(r#"rx="1" fill="{ink}""#),
        );
        let (left, top) = (x + 2, y - 6);
        self.add(format_args!(
            r#"<path d="M{left} {top}v-1.5a2.5 2.5 0 0 1 5 0v1.5" fill="none" stroke="{ink}" stroke-width="1.4"/>"#
        ));
    }

    /// Draws a small warning sign whose lower left corner is at `at`.
    pub fn warning(&mut self, (x, y): (i32, i32)) {
        let ink = look::REFUSED;
        self.add(format_args!(
            r#"<path d="M{x} {y}l5 -9l5 9z" fill="{ink}"/>"#
        ));
        let (x, y) = (x + 5, y - 6);
        self.add(format_args!(
            r#"<path d="M{x} {y}v3m0 1v1" stroke="{}" stroke-width="1.2" fill="none"/>"#,
            look::PAPER
        ));
    }

    /// Draws a zig-zag break around `y` between `left` and `right`.
    pub fn zigzag(&mut self, (left, right): (i32, i32), y: i32) {
        const TOOTH: i32 = 6;
        let teeth = (right - left) / TOOTH;
        if teeth < 1 {
            return;
        }
        let mut path = String::new();
        for tooth in 0..=teeth {
            let x = match tooth == teeth {
                true => right,
                false => left + tooth * TOOTH,
            };
            let y = y + if tooth % 2 == 0 { 2 } else { -2 };
            let command = if tooth == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{x} {y}");
        }
        // A pale band between two lines makes the box look torn.
        let soft = look::EDGE;
        self.add(format_args!(
            r#"<path d="{path}" fill="none" stroke="{soft}" stroke-width="6"/>"#
        ));
        self.add(format_args!(
            r#"<path d="{path}" fill="none" stroke="{}" stroke-width="4.4"/>"#,
            look::PAPER
        ));
    }
}
