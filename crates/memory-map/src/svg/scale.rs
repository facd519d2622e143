// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vertical scale, the same for all columns: how high each stretch of
//! addresses is drawn. A pure function from sizes to pixels.

use std::ops::Range;

use super::stretch::{Stretch, Stretches};

/// The height of a line of text with its box.
pub const LINE: i32 = 20;

/// How much each further line takes.
pub const NEXT_LINE: i32 = 15;

/// The height of a fold.
const FOLD: i32 = 2 * LINE + 6;

/// Larger stretches are broken: no scale shows a page beside 16 EiB.
pub const UNBROKEN: u128 = 16 << 20;

/// How much of a broken stretch its break mark takes, at its lower end.
pub const BREAK: i32 = 20;

/// A stretch with its place on paper.
#[derive(Clone, Copy, Debug)]
pub struct Band {
    /// The addresses.
    pub stretch: Stretch,
    /// Where it starts.
    pub top: i32,
    /// How high it is.
    pub height: i32,
    /// Whether it is cut short, which a mark tells.
    pub broken: bool,
}

/// Something that needs more height than its addresses give it.
#[derive(Clone, Debug)]
pub struct Need {
    /// Which stretches.
    pub span: Range<usize>,
    /// How many pixels.
    pub height: i32,
    /// Whether break marks may lie in them. Where text is, they may not.
    pub breaks: bool,
}

/// All stretches on paper.
#[derive(Debug)]
pub struct Scale {
    /// From the top down.
    pub bands: Vec<Band>,
}

impl Scale {
    /// Lays out the stretches from `top` on, so that all needs are met.
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
            scale.meet(need);
        }
        let mut y = top;
        for band in &mut scale.bands {
            band.top = y;
            y += band.height;
        }
        scale
    }

    /// The highest band grows; that in front of the first break mark, if
    /// there may be none.
    fn meet(&mut self, need: &Need) {
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

    /// From where to where bands reach.
    pub fn range(&self, span: &Range<usize>) -> (i32, i32) {
        let bands = &self.bands[span.clone()];
        let top = bands.first().map_or(0, |band| band.top);
        (top, bands.last().map_or(top, |band| band.top + band.height))
    }

    /// From the top to the first break mark, or to the end.
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

/// From a page to the largest unbroken stretch each doubling adds the same.
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
        // Nothing is to be seen there.
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
