// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a model agrees with itself: everything that follows from something
//! else is worked out anew and compared.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use guest_ranges::{AddrRange, InvalidSet, gaps};
use smallvec::SmallVec;

use crate::model::MemoryModel;
use crate::region::{Kind, RegionId};
use crate::render::{MAX_VISITS, TooComplex, render};
use crate::space::{Space, SpaceId};
use crate::view::{FlatRange, FlatView, push};

/// How a model does not agree with itself: a mistake in this crate, not in what
/// was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The table of regions is wrong.
    #[error("entry {index} in the table of regions: {what}")]
    Entry {
        /// The index in the table.
        index: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A region is wrong, or does not agree with another.
    #[error("'{name}' ({id:?}): {what}")]
    Region {
        /// The region.
        id: RegionId,
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// There are not as many ioeventfds and coalesced ranges as is said.
    #[error("{counted} ioeventfds and coalesced ranges are there, {recorded} are said to be")]
    AttachmentCount {
        /// How many there are.
        counted: usize,
        /// How many there are said to be.
        recorded: usize,
    },
    /// Something about an address space is wrong.
    #[error("'{space}': {what}")]
    Space {
        /// The space's name.
        space: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The runs of a view are wrong, whatever they show.
    #[error("'{space}', the view's runs at {at:#x}: {what}")]
    Runs {
        /// The space's name.
        space: String,
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A view is not what the whole tree renders to.
    #[error("'{space}' shows {shown}; all of it rendered anew shows {rendered}")]
    View {
        /// The space's name.
        space: String,
        /// The first address that differs, or where a run starts that does.
        at: u64,
        /// The view's run there, in words.
        shown: String,
        /// The run that should be there, in words.
        rendered: String,
    },
    /// Nothing is known to be wrong, but the view cannot be compared: only parts
    /// of it can be rendered, as aliases of aliases multiply.
    #[error("rendering all of '{space}' took more than {limit} steps")]
    TooComplex {
        /// The space's name.
        space: String,
        /// The number of regions visited before giving up.
        limit: u64,
    },
    /// A page counts as accepted and is not private MMIO.
    #[error("'{space}': of {range}, which is accepted, {at:#x} is not private MMIO")]
    Accepted {
        /// The space's name.
        space: String,
        /// Accepted pages.
        range: AddrRange,
        /// The first of their addresses that is something else.
        at: u64,
    },
    /// A set of pages is not held as it must be.
    #[error("'{space}', its {set} pages at {at:#x}: {what}")]
    Pages {
        /// The space's name.
        space: String,
        /// Which pages: private or accepted.
        set: &'static str,
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Something that is wrong, and where: an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) at: u64,
    pub(crate) what: &'static str,
}

impl Broken {
    pub(crate) fn at(at: u64, what: &'static str) -> Self {
        Self { at, what }
    }
}

impl<H> MemoryModel<H> {
    /// Whether the model agrees with itself: a check for tests and for
    /// debugging, after any step and with nothing prepared for it.
    ///
    /// No use of the model makes it fail. It is no part of any other operation,
    /// since it spares nothing: it visits every region, renders every address
    /// space as a whole, and looks at every run and every bitmap of pages.
    ///
    /// - Ids: each names one region, and no number is given out twice.
    /// - The tree: where a region says it lies, the region there finds it, and
    ///   the other way round; the same of aliases and of roots; nothing contains
    ///   itself; what is attached is counted.
    /// - Views: the runs are sorted, do not overlap, are joined where they must
    ///   be, are found where lookups look for them, and are what the whole tree
    ///   renders to; readers see them.
    /// - Pages: accepted ones lie in private MMIO; both sets are held as they
    ///   must be.
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

    /// Regions name the spaces that they are the root of.
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

/// Whether the runs are a view's, whatever they show.
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
