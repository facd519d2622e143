// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws a BAR as a row of cells: to scale, but with at least one cell for each
//! piece.

use vfio_private::{Access, Piece};

/// Returns the cell for an access.
pub(super) const fn glyph(access: Access) -> char {
    match access {
        Access::Private => '█',
        Access::Shared => '░',
        Access::Trap => '╳',
        Access::Blocked => '·',
    }
}

/// The cell for several pieces with different accesses.
pub(super) const MIXED: char = '?';

/// A drawn BAR.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drawing {
    /// The cells.
    pub(super) cells: String,
    /// The line below the cells: the offsets at which pieces begin, if there is
    /// room.
    pub(super) scale: String,
    /// Whether small pieces are drawn larger than to scale.
    pub(super) is_to_scale: bool,
}

/// Draws the pieces of a BAR of `size` bytes in `cells` cells.
pub(super) fn draw(pieces: &[Piece], size: u64, cells: u64) -> Drawing {
    if pieces.len() as u64 > cells {
        return crowded(pieces, size, cells);
    }
    let widths = widths(pieces, cells);
    let mut drawing = Drawing {
        cells: String::new(),
        scale: String::new(),
        is_to_scale: true,
    };
    let mut at = 0_u64;
    for (piece, &width) in pieces.iter().zip(&widths) {
        label(&mut drawing.scale, at, piece.offset());
        for _ in 0..width {
            drawing.cells.push(glyph(piece.access()));
        }
        at += width;
        drawing.is_to_scale &= u128::from(piece.size()) * u128::from(cells) >= u128::from(size);
    }
    label(&mut drawing.scale, at, size);
    drawing
}

/// Returns the number of cells for each piece. Each piece gets one cell. Each
/// further cell goes to the piece whose cells represent the most bytes.
fn widths(pieces: &[Piece], all: u64) -> Vec<u64> {
    let mut cells: Vec<(u64, u64)> = pieces.iter().map(|piece| (piece.size(), 1)).collect();
    let bytes_a_cell = |&(size, width): &(u64, u64)| (u128::from(size) << 32) / u128::from(width);
    for _ in pieces.len() as u64..all {
        if let Some((_, width)) = cells.iter_mut().max_by_key(|cell| bytes_a_cell(cell)) {
            *width += 1;
        }
    }
    cells.into_iter().map(|(_, width)| width).collect()
}

/// Draws more pieces than there are cells: each cell shows the pieces in it.
fn crowded(pieces: &[Piece], size: u64, width: u64) -> Drawing {
    let mut cells = String::new();
    let edge = |n: u64| {
        let edge = u128::from(size) * u128::from(n) / u128::from(width);
        u64::try_from(edge).unwrap_or(u64::MAX)
    };
    let mut next = 0;
    for cell in 0..width {
        let (start, end) = (edge(cell), edge(cell + 1));
        while pieces
            .get(next)
            .is_some_and(|piece| piece.range().last() < start)
        {
            next += 1;
        }
        let inside = pieces
            .iter()
            .skip(next)
            .take_while(|piece| piece.offset() < end);
        let mut glyphs = inside.map(|piece| glyph(piece.access()));
        let first = glyphs.next().unwrap_or(MIXED);
        let is_alike = glyphs.all(|glyph| glyph == first);
        cells.push(if is_alike { first } else { MIXED });
    }
    let mut scale = String::new();
    label(&mut scale, 0, 0);
    label(&mut scale, width, size);
    Drawing {
        cells,
        scale,
        is_to_scale: true,
    }
}

/// Writes an offset below cell `at`, unless the previous offset is in the way.
fn label(scale: &mut String, at: u64, offset: u64) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let len = scale.chars().count();
    if len == 0 || len < at {
        scale.extend(std::iter::repeat_n(' ', at.saturating_sub(len)));
        *scale += &format!("{offset:#x}");
    }
}

#[cfg(test)]
mod tests {
    use vfio_private::{
        Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region, SparseArea, classify,
    };

    use super::*;

    fn index() -> BarIndex {
        BarIndex::new(0).unwrap()
    }

    fn pieces(size: u64, table: u64, sparse: Option<Vec<SparseArea>>) -> Vec<Piece> {
        let mut region = Region::mappable();
        region.sparse = sparse;
        let bar = Bar::new(index(), BarKind::Memory, size).unwrap();
        let msix = Msix::with_vectors(8, (index(), table), (index(), table + 0x800)).unwrap();
        let input = BarInput::new(bar, &region).with_msix(Some(msix));
        classify(&input, PageSize::Size4K, Policy::new()).unwrap()
    }

    #[test]
    fn pieces_are_drawn_to_scale() {
        let drawing = draw(&pieces(0x4000, 0x2000, None), 0x4000, 64);
        let cells = ["░".repeat(32), "╳".repeat(16), "░".repeat(16)].concat();
        assert_eq!(drawing.cells, cells);
        let offsets: Vec<_> = drawing.scale.split_whitespace().collect();
        assert_eq!(offsets, ["0x0", "0x2000", "0x3000", "0x4000"]);
        assert_eq!(drawing.scale.find("0x2000"), Some(32));
        assert!(drawing.is_to_scale);
    }

    #[test]
    fn a_drawing_has_as_many_cells_as_there_is_room_for() {
        let drawing = draw(&pieces(0x4000, 0x2000, None), 0x4000, 24);
        let cells = ["░".repeat(12), "╳".repeat(6), "░".repeat(6)].concat();
        assert_eq!(drawing.cells, cells);
    }

    #[test]
    fn a_page_in_a_bar_of_any_size_is_still_seen() {
        for bit in [20, 40, 63] {
            let size = 1 << bit;
            let drawing = draw(&pieces(size, size / 2, None), size, 64);
            assert_eq!(drawing.cells.chars().count(), 64);
            assert_eq!(drawing.cells.matches('╳').count(), 1);
            assert!(!drawing.is_to_scale);
        }
    }

    #[test]
    fn more_pieces_than_cells_are_drawn_as_mixed_cells() {
        // Every other page, except in the upper half.
        let area = |page: u64| SparseArea {
            offset: page * 0x2000,
            size: 0x1000,
        };
        let size = 0x40_0000;
        let pieces = pieces(size, 0x20_0000, Some((0..256).map(area).collect()));
        assert!(pieces.len() > 64);
        let drawing = draw(&pieces, size, 64);
        let cells = ["?".repeat(32), "╳".repeat(32)].concat();
        assert_eq!(drawing.cells, cells);
    }
}
