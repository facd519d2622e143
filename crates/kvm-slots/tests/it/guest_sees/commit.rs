// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks the observations of a commit.

use memory_model::FlatView;

use super::observer::{Access, Found, Point, Reached, thing, things};
use crate::common::PAGE;

/// A commit and its observations.
pub struct Commit<'a> {
    pub old: &'a FlatView<u64>,
    /// The new state, by page.
    pub target: &'a [u64],
    /// The state after the commit: the old or the new one.
    pub new: &'a FlatView<u64>,
    pub points: &'a [Point],
    pub looks_up: LooksUp,
}

/// When a vCPU thread looks its exit up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LooksUp {
    /// At any time.
    Late,
    /// Before anyone holds the vCPUs.
    BeforeAHold,
}

impl Commit<'_> {
    /// vCPUs that are held run again only when readers see the new view.
    pub fn holds_until_published(&self) {
        let mut after_hold = self.points.iter().skip_while(|point| !point.held);
        let new = things(self.new);
        assert!(after_hold.all(|point| point.held || point.published == new));
    }

    /// Looks at an access in all interleavings; returns how many there are.
    pub fn check(&self, page: u64, access: Access) -> Result<usize, String> {
        let at = usize::try_from(page).unwrap();
        let (before, after) = (thing(self.old, page), thing(self.new, page));
        let may = [before, self.target[at], after];
        let last = self.points.len() - 1;
        let mut checked = 0;
        for (start, point) in self.points.iter().enumerate() {
            if point.held {
                continue;
            }
            match point.reached[at][access as usize] {
                Reached::Memory(stamp) => {
                    checked += 1;
                    let right = match start {
                        0 => [before].contains(&stamp),
                        _ if start == last => [after].contains(&stamp),
                        _ => may.contains(&stamp),
                    };
                    if !right {
                        return Err(format!("{stamp:#x} at {start} of {last}, not {may:x?}"));
                    }
                }
                Reached::Exit if access == Access::Fetch => {
                    checked += 1;
                    // It cannot be emulated, so it must not be needed.
                    let stays = self.is_direct(self.old, page) && self.is_direct(self.new, page);
                    if stays {
                        return Err(format!("no instruction at {start} of {last}"));
                    }
                }
                Reached::Exit => {
                    let hold = (start..=last).find(|&point| self.points[point].held);
                    for lookup in start..=last {
                        if self.looks_up == LooksUp::BeforeAHold
                            && hold.is_some_and(|hold| lookup >= hold)
                        {
                            break;
                        }
                        checked += 1;
                        let found = self.points[lookup].found[at][access as usize];
                        let Found::Answer(stamp) = found else {
                            return Err(format!("no answer from {start}, {lookup} of {last}"));
                        };
                        let right = match (start, lookup) {
                            (0, 0) => stamp == before,
                            _ if start == last => stamp == after,
                            _ => may.contains(&stamp),
                        };
                        if !right {
                            let when = format!("{start}, {lookup} of {last}");
                            return Err(format!("{stamp:#x} at {when}, not {may:x?}"));
                        }
                    }
                }
            }
        }
        Ok(checked)
    }

    pub fn is_direct(&self, view: &FlatView<u64>, page: u64) -> bool {
        let run = view.find(page * PAGE);
        run.is_some_and(|run| run.access().reads_directly())
    }
}
