// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The map as a picture: the region tree, the flat view and the memslots side
//! by side on one vertical scale, the lowest address at the top.
//!
//! The scale is honest but not linear: heights follow the logarithm of the
//! size, what is very large is torn, and series of similar neighbours are
//! folded into one box that says how many they are.

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

/// The picture as an SVG document.
pub fn document(map: &Map) -> String {
    page::Page::of(map).document()
}
