// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws the map as an SVG picture: the region tree, the flat view and the
//! memslots side by side on one vertical scale, the lowest address at the top.
//!
//! The scale is not linear. Heights follow the logarithm of the size. Very
//! large ranges have a break mark. Series of similar neighbours are folded into
//! one box with their number.

mod canvas;
mod flat;
mod label;
mod legend;
mod look;
mod page;
mod row;
mod scale;
mod slots;
mod stack;
mod stretch;
mod tree;
mod words;

#[cfg(test)]
mod tests;

use crate::map::Map;

/// Draws the map as an SVG document.
pub fn document(map: &Map) -> String {
    page::Page::of(map).document()
}
