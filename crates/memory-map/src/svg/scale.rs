// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vertical scale of all columns: the height of each stretch of addresses.
//! It depends only on the sizes.

use std::ops::Range;

use super::canvas::Area;
use super::stretch::{Stretch, Stretches};

/// The height of a box with one line of text.
pub const LINE: i32 = 20;

/// The height of each further line.
pub const NEXT_LINE: i32 = 15;

/// The height of a fold.
const FOLD: i32 = 2 * LINE + 6;

/// Stretches larger than this are drawn with a break: no scale shows both a
/// page and 16 EiB.
pub const UNBROKEN: u128 = 16 << 20;

/// The height of the break mark at the lower end of a broken stretch.
pub const BREAK: i32 = 20;

/// A stretch with its position.
#[derive(Clone, Copy, Debug)]
pub struct Band {
    /// The addresses.
    pub stretch: Stretch,
    /// The upper edge.
    pub top: i32,
    /// The height.
    pub height: i32,
    /// Whether a break mark shortens the stretch.
    pub broken: bool,
}

/// A box that needs more height than its addresses have.
#[derive(Clone, Debug)]
pub struct Need {
    /// The stretches that the box covers.
    pub span: Range<usize>,
    /// The minimum height in pixels.
    pub height: i32,
    /// Whether break marks may cross the stretches. They must not cross text.
    pub breaks: bool,
}

/// The positions of all stretches.
#[derive(Debug)]
pub struct Scale {
    /// From the top down.
    pub bands: Vec<Band>,
}

impl Scale {
    /// Lays out the stretches from `top` on, so that the scale meets all needs.
    pub fn new(stretches: &Stretches, needs: &[Need], top: i32) -> Self {
        let band = |&stretch: &Stretch| Band {
            stretch,
            top,
            height: height(stretch),
            broken: is_broken(stretch),
        };
        let mut scale = Self {
            bands: stretches.0.iter().map(band).collect(),
        };
        for need in needs {
            scale.grow_for(need);
        }
        let mut y = top;
        for band in &mut scale.bands {
            band.top = y;
            y += band.height;
        }
        scale
    }

    /// Grows the highest band. If no break mark may cross the box, grows the
    /// highest band before the first break mark.
    fn grow_for(&mut self, need: &Need) {
        let bands = &mut self.bands[need.span.clone()];
        let broken = bands.iter().position(|band| band.broken && !need.breaks);
        let bands = &mut bands[..broken.map_or(need.span.len(), |broken| broken + 1)];
        let there: i32 = match need.breaks {
            true => bands.iter().map(|band| band.height).sum(),
            false => bands.iter().map(clear).sum(),
        };
        if let Some(highest) = bands.iter_mut().max_by_key(|band| band.height) {
            highest.height += (need.height - there).max(0);
        }
    }

    /// Returns the upper and lower edge of a span.
    pub fn range(&self, span: &Range<usize>) -> (i32, i32) {
        let bands = &self.bands[span.clone()];
        let top = bands.first().map_or(0, |band| band.top);
        (top, bands.last().map_or(top, |band| band.top + band.height))
    }

    /// Returns the area of a span in the column between `left` and `left + width`,
    /// and the part of it above the first break mark.
    pub fn areas(&self, span: &Range<usize>, (left, width): (i32, i32)) -> [Area; 2] {
        let (top, bottom) = self.range(span);
        let area = Area {
            x: left,
            y: top,
            w: width,
            h: bottom - top,
        };
        let clear = Area {
            h: self.clear(span),
            ..area
        };
        [area, clear]
    }

    /// Returns the height from the upper edge of a span to its first break
    /// mark, or to its end.
    pub fn clear(&self, span: &Range<usize>) -> i32 {
        let (top, bottom) = self.range(span);
        let broken = self.bands[span.clone()].iter().find(|band| band.broken);
        broken.map_or(bottom - top, |band| band.top + clear(band) - top)
    }
}

fn clear(band: &Band) -> i32 {
    match band.broken {
        true => band.height - BREAK,
        false => band.height,
    }
}

fn is_broken(stretch: Stretch) -> bool {
    !stretch.folded && stretch.end - stretch.start > UNBROKEN
}

/// The height grows by the same amount for each doubling, from a page to the
/// largest unbroken stretch.
fn height(stretch: Stretch) -> i32 {
    const PER_DOUBLING: i32 = 3;
    if stretch.folded {
        return FOLD;
    }
    let size = (stretch.end - stretch.start).min(UNBROKEN);
    let doublings = (size >> 12)
        .checked_ilog2()
        .and_then(|n| i32::try_from(n).ok());
    let grown = LINE + PER_DOUBLING * doublings.unwrap_or(0);
    match (stretch.empty, is_broken(stretch)) {
        // There is nothing to see in a hole.
        (true, false) => grown.min(LINE + 8),
        (true, true) => LINE + BREAK,
        (false, false) => grown,
        (false, true) => grown + BREAK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(sizes: &[u128]) -> Stretches {
        let mut start = 0;
        let mut out = Vec::new();
        for size in sizes {
            out.push(Stretch {
                start,
                end: start + size,
                folded: false,
                empty: false,
            });
            start += size;
        }
        Stretches(out)
    }

    fn need(span: Range<usize>, height: i32) -> Need {
        Need {
            span,
            height,
            breaks: false,
        }
    }

    #[test]
    fn larger_stretches_are_higher_until_they_break() {
        let sizes = [1, 0x1000, 0x1_0000, 0x10_0000, UNBROKEN, 1 << 30, 1 << 63];
        let scale = Scale::new(&stretches(&sizes), &[], 0);
        let heights: Vec<i32> = scale.bands.iter().map(|band| band.height).collect();
        assert!(heights.is_sorted());
        assert_eq!(heights[5], heights[6]);
        let broken: Vec<bool> = scale.bands.iter().map(|band| band.broken).collect();
        assert_eq!(broken, [false, false, false, false, false, true, true]);
    }

    #[test]
    fn an_enormous_hole_does_not_make_a_tall_picture() {
        let mut all = stretches(&[0x1000, 1 << 63, 0x1000]);
        all.0[1].empty = true;
        let scale = Scale::new(&all, &[], 0);
        assert_eq!(scale.range(&(0..3)), (0, 2 * LINE + LINE + BREAK));
    }

    #[test]
    fn needs_are_met_above_the_first_break() {
        let all = stretches(&[0x1000, 1 << 30, 1 << 30]);
        let needs = [need(0..3, 300), need(0..1, 50)];
        let scale = Scale::new(&all, &needs, 10);
        assert!(scale.clear(&(0..3)) >= 300);
        assert!(scale.clear(&(0..1)) >= 50);
        assert_eq!(scale.bands[0].top, 10);
    }

    #[test]
    fn bands_follow_each_other_and_each_has_room_for_a_line() {
        let scale = Scale::new(&stretches(&[1, 2, 0x1234, 1 << 40, 7]), &[], 0);
        assert!(scale.bands.iter().all(|band| band.height >= LINE));
        assert!(
            scale
                .bands
                .windows(2)
                .all(|b| b[0].top + b[0].height == b[1].top)
        );
    }
}
