// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consistency check of a model: recomputes all derived data and compares it.

pub(crate) mod invalid;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use guest_ranges::{AddrRange, InvalidSet, gaps};
use smallvec::SmallVec;

use crate::ids::SpaceId;
use crate::model::MemoryModel;
use crate::region::Kind;
use crate::render::{MAX_VISITS, TooComplex, render};
use crate::space::Space;
use crate::validate::invalid::{Broken, Invalid};
use crate::view::FlatView;
use crate::view::flat_range::{FlatRange, push};

impl<H> MemoryModel<H> {
    /// Checks the model for consistency, for tests and debugging. It can be called at
    /// any time.
    ///
    /// No use of the model makes the check fail. No other operation calls it, because
    /// it is slow: it visits every region, renders every address space as a whole, and
    /// checks every run and every bitmap of pages.
    ///
    /// - Ids: each is the id of one region, and none is assigned twice.
    /// - The tree: parents and children, aliases and targets, and roots and spaces
    ///   refer to each other. No region contains itself. Attachments are counted.
    /// - Views: the runs are sorted and joined, do not overlap, are found by lookups,
    ///   and are what the whole tree renders to. Readers see them.
    /// - Pages: accepted pages lie in private MMIO, and both sets are well formed.
    ///
    /// # Errors
    /// [`Invalid`]: the first thing that is wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.tree.check()?;
        self.check_roots()?;
        for space in self.spaces.iter() {
            self.check_space(space)?;
        }
        Ok(())
    }

    /// Checks that regions refer only to spaces that they are the root of.
    fn check_roots(&self) -> Result<(), Invalid> {
        for (id, node) in self.tree.nodes() {
            let is_root = |space: &SpaceId| self.spaces.get(*space).is_ok_and(|s| s.root == id);
            if !node.spaces.iter().all(is_root) {
                let what = "it is the root of a space that has another, or of none";
                return Err(self.tree.wrong(id, what));
            }
        }
        Ok(())
    }

    fn check_space(&self, space: &Space<H>) -> Result<(), Invalid> {
        let wrong = |what| {
            let space = space.name.clone();
            Err(Invalid::Space { space, what })
        };
        let Ok(root) = self.tree.node(space.root) else {
            return wrong("its root is no region");
        };
        if root
            .spaces
            .iter()
            .filter(|named| **named == space.id)
            .count()
            != 1
        {
            return wrong("its root does not know it, or more than once");
        }
        if !Arc::ptr_eq(&space.reader.snapshot(), &space.view) {
            return wrong("readers see another view");
        }
        check_runs(space)?;
        self.check_view(space)?;
        check_pages(space)
    }

    /// Compares a view with a rendering of everything.
    fn check_view(&self, space: &Space<H>) -> Result<(), Invalid> {
        let mut expected: SmallVec<[FlatRange<H>; 2]> = SmallVec::new();
        let rendered = render(&self.tree, space.root, AddrRange::ALL, |run| {
            push(&mut expected, run);
        });
        if let Err(TooComplex) = rendered {
            let space = space.name.clone();
            let limit = MAX_VISITS;
            return Err(Invalid::TooComplex { space, limit });
        }
        let mut shown = space.view.ranges();
        let mut expected = expected.iter();
        loop {
            let (a, b) = match (shown.next(), expected.next()) {
                (None, None) => return Ok(()),
                two => two,
            };
            let region = |run: &FlatRange<H>| Arc::as_ptr(&run.region);
            if a != b || a.map(region) != b.map(region) {
                let starts = [a, b].into_iter().flatten().map(|run| run.range.start());
                return Err(Invalid::View {
                    space: space.name.clone(),
                    at: starts.min().unwrap_or(0),
                    shown: in_words(a),
                    rendered: in_words(b),
                });
            }
        }
    }
}

fn in_words<H>(run: Option<&FlatRange<H>>) -> String {
    let Some(run) = run else {
        return "nothing more".to_string();
    };
    let (name, id) = (run.region.name(), run.id);
    let (range, offset, how) = (run.range, run.offset, run.attributes);
    format!("'{name}' ({id:?}) + {offset:#x} at {range}, {how:?}")
}

/// Checks that the runs form a valid view, whatever they show.
fn check_runs<H>(space: &Space<H>) -> Result<(), Invalid> {
    let view: &FlatView<H> = &space.view;
    let wrong = |Broken { at, what }| {
        let space = space.name.clone();
        Invalid::Runs { space, at, what }
    };
    view.runs().check().map_err(wrong)?;
    let mut before: Option<&FlatRange<H>> = None;
    for run in view.ranges() {
        let at = run.range.start();
        if before.is_some_and(|before| before.continues_into(run)) {
            let what = "a run continues the one before it, and is not joined with it";
            return Err(wrong(Broken::at(at, what)));
        }
        let own = AddrRange::new(0, run.region.size());
        let shown = AddrRange::new(run.offset, run.range.size());
        if !own.zip(shown).is_some_and(|(own, shown)| own.covers(shown)) {
            return Err(wrong(Broken::at(at, "a run is not inside its region")));
        }
        for address in [at, run.range.last()] {
            if !view.find(address).is_some_and(|found| found == run) {
                return Err(wrong(Broken::at(address, "a lookup does not find it")));
            }
        }
        before = Some(run);
    }
    Ok(())
}

fn check_pages<H>(space: &Space<H>) -> Result<(), Invalid> {
    for (set, pages) in [("private", &space.private), ("accepted", &space.accepted)] {
        pages.check().map_err(|InvalidSet { at, what, .. }| {
            let space = space.name.clone();
            Invalid::Pages {
                space,
                set,
                at,
                what,
            }
        })?;
    }
    for range in space.accepted.iter() {
        let is_private = |run: &&FlatRange<H>| {
            let kind = run.region.kind();
            matches!(kind, Kind::PrivateMmio(_))
        };
        let private = space.view.intersecting(range).filter(is_private);
        if let Some(gap) = gaps(range, private.map(FlatRange::range)).next() {
            return Err(Invalid::Accepted {
                space: space.name.clone(),
                range,
                at: gap.start(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
