// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A picture of what devices reach, by page, and a kernel that has nothing else.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::sync::Arc;

use guest_ranges::{AddrRange, Owner};
use vfio_dma::{AddressSpace, DmaAccess, DmaLimits, DmaMemory, DmaRange, DmaRefusal, DmaTable};

use super::{PAGE, When};

pub(crate) const PAGES: u64 = 24;
/// The unit that ranges are drawn in.
pub(crate) const CELL: u64 = 1024;

thread_local! {
    pub(crate) static OWNERS: [Arc<String>; 2] = [Arc::new("one".into()), Arc::new("other".into())];
}

/// What a device sees of a page, and which mapping may hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The host address of IOVA 0, were the mapping that long.
    base: u64,
    writes: bool,
    owner: *const (),
    unit: Option<u64>,
}

impl Seen {
    pub(crate) fn of(range: &DmaRange) -> Self {
        let DmaMemory::Host(memory) = range.memory() else {
            panic!("no file is drawn");
        };
        Self {
            base: memory.address().wrapping_sub(range.iova().start()),
            writes: range.access() == DmaAccess::ReadWrite,
            owner: address_of(memory.owner()),
            unit: range.unit().map(|unit| unit.max(PAGE)),
        }
    }

    /// Without the unit, which a device does not see.
    fn same(&self, other: &Self) -> bool {
        (self.base, self.writes, self.owner) == (other.base, other.writes, other.owner)
    }
}

fn address_of(owner: &Owner) -> *const () {
    Arc::as_ptr(owner).cast()
}

/// What is wanted of each page. A page that stays keeps its unit.
#[derive(Clone, Debug)]
pub(crate) struct Cells(Vec<Option<Seen>>);

impl Default for Cells {
    fn default() -> Self {
        let pages = usize::try_from(PAGES).unwrap();
        Self(vec![None; pages])
    }
}

impl Cells {
    pub(crate) fn at(&self, page: u64) -> Option<(u64, bool, *const ())> {
        let seen = self.0[usize::try_from(page).unwrap()].as_ref()?;
        Some((seen.base, seen.writes, seen.owner))
    }

    /// Every page that the cells touch shows nothing.
    pub(crate) fn clear(&mut self, (start, size): (u64, u64)) {
        let per_page = PAGE / CELL;
        for page in start / per_page..(start + size).div_ceil(per_page) {
            self.0[usize::try_from(page).unwrap()] = None;
        }
    }

    pub(crate) fn paint(&mut self, cells: (u64, u64), seen: impl Fn(u64) -> Option<Seen>) {
        for page in 0..PAGES {
            if self.is_whole(page, cells) {
                self.0[usize::try_from(page).unwrap()] = seen(page);
            }
        }
    }

    pub(crate) fn is_whole(&self, page: u64, (start, size): (u64, u64)) -> bool {
        page * PAGE / CELL >= start && (page + 1) * PAGE / CELL <= start + size
    }

    /// Whether one mapping can hold a page and the next one.
    pub(crate) fn continues(&self, page: u64) -> bool {
        let page = usize::try_from(page).unwrap();
        match (&self.0[page], &self.0[page + 1]) {
            (Some(a), Some(b)) => {
                let unit = a.unit.map(|unit| (page as u64 + 1) * PAGE % unit == 0);
                a == b && unit != Some(true)
            }
            _ => false,
        }
    }

    /// What was mapped before and stays is in the units that it was mapped in.
    pub(crate) fn keep_units(&mut self, table: &DmaTable) {
        for range in table.mappings() {
            for page in pages(range.iova()) {
                self.0[usize::try_from(page).unwrap()] = Some(Seen::of(range));
            }
        }
    }

    pub(crate) fn picture(&self) -> Vec<Option<(u64, bool, *const ())>> {
        (0..PAGES).map(|page| self.at(page)).collect()
    }
}

/// For each page the mapping that it is in, by number, and what is seen through it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pages: std::collections::BTreeMap<u64, (usize, Seen)>,
    next: usize,
    /// After so many calls one fails.
    fails_in: Option<usize>,
    /// The number of calls before one panics, and whether that one is carried out.
    panics_in: Option<(usize, When)>,
    /// Whether it is an error to unmap what is not mapped, as for an iommufd.
    is_strict: bool,
}

impl Kernel {
    /// The pages of each mapping.
    pub(crate) fn mappings(&self) -> Vec<Vec<u64>> {
        let mut mappings: Vec<(usize, Vec<u64>)> = Vec::new();
        for (page, (number, _)) in &self.pages {
            match mappings.last_mut() {
                Some((last, pages)) if last == number => pages.push(*page),
                _ => mappings.push((*number, vec![*page])),
            }
        }
        mappings.into_iter().map(|(_, pages)| pages).collect()
    }

    pub(crate) fn picture(&self) -> Vec<Option<(u64, bool, *const ())>> {
        let seen = |page| self.pages.get(&page).map(|(_, seen)| seen);
        let see = |page| seen(page).map(|seen| (seen.base, seen.writes, seen.owner));
        (0..PAGES).map(see).collect()
    }

    /// Asserts that the table has all that is mapped, and that its certain mappings are mapped.
    pub(crate) fn is_within(&self, table: &DmaTable) {
        for (page, (_, seen)) in &self.pages {
            let mapping = table.find(page * PAGE).expect("it is held by the table");
            assert!(Seen::of(mapping).same(seen));
        }
        let uncertain: Vec<&DmaRange> = table.uncertain().collect();
        for mapping in table.mappings() {
            let mut of_it = pages(mapping.iova());
            let is_mapped = of_it.all(|page| self.pages.contains_key(&page));
            assert!(is_mapped || uncertain.contains(&mapping), "{mapping}");
        }
    }

    pub(crate) fn is_as_in(&self, table: &DmaTable) {
        let pages = |range: &DmaRange| pages(range.iova()).collect::<Vec<u64>>();
        let of_table: Vec<Vec<u64>> = table.mappings().map(pages).collect();
        assert_eq!(self.mappings(), of_table);
        for range in table.mappings() {
            let seen = Seen::of(range);
            assert!(
                pages(range)
                    .iter()
                    .all(|page| self.pages[page].1.same(&seen))
            );
        }
    }

    fn begin(&mut self) -> Result<(), DmaRefusal> {
        match self.fails_in {
            Some(0) => {
                self.fails_in = None;
                return Err(DmaRefusal::Errno(5));
            }
            Some(calls) => self.fails_in = Some(calls - 1),
            None => {}
        }
        self.panics(When::Before);
        Ok(())
    }

    fn ends(&mut self) {
        self.panics(When::After);
        if let Some((calls, _)) = &mut self.panics_in {
            *calls -= 1;
        }
    }

    fn panics(&mut self, now: When) {
        if self.panics_in == Some((0, now)) {
            self.panics_in = None;
            // Without the message of a panic.
            resume_unwind(Box::new(now));
        }
    }
}

fn pages(iova: AddrRange) -> impl Iterator<Item = u64> {
    let end = iova.last() + 1;
    assert!(iova.start() % PAGE == 0 && end % PAGE == 0, "{iova}");
    iova.start() / PAGE..end / PAGE
}

/// A kernel that can be called.
#[derive(Debug, Default)]
pub(crate) struct Callable(RefCell<Kernel>);

impl Callable {
    pub(crate) fn of(kernel: Kernel) -> Self {
        Self(RefCell::new(kernel))
    }

    /// An address space that refuses to unmap what is not mapped, or does not.
    pub(crate) fn with_strict_unmap(is_strict: bool) -> Self {
        Self::of(Kernel {
            is_strict,
            ..Kernel::default()
        })
    }

    pub(crate) fn borrow(&self) -> std::cell::Ref<'_, Kernel> {
        self.0.borrow()
    }

    pub(crate) fn picture(&self) -> Vec<Option<(u64, bool, *const ())>> {
        self.borrow().picture()
    }

    pub(crate) fn fails_in(&self, calls: Option<usize>) {
        self.0.borrow_mut().fails_in = calls;
    }

    pub(crate) fn panics_in(&self, calls: Option<(usize, When)>) {
        self.0.borrow_mut().panics_in = calls;
    }
}

impl AddressSpace for Callable {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let kernel = &mut *self.0.borrow_mut();
        kernel.begin()?;
        kernel.next += 1;
        let mut taken = pages(range.iova());
        if taken.any(|page| kernel.pages.contains_key(&page)) {
            // After an undo that failed.
            kernel.ends();
            return Err(DmaRefusal::Errno(17));
        }
        for page in pages(range.iova()) {
            kernel.pages.insert(page, (kernel.next, Seen::of(range)));
        }
        kernel.ends();
        Ok(())
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        let kernel = &mut *self.0.borrow_mut();
        // A call fails, and those that look what is left of it do not.
        kernel.begin()?;
        let gone: Vec<u64> = pages(iova).collect();
        for mapping in kernel.mappings() {
            let inside = mapping.iter().filter(|page| gone.contains(page)).count();
            assert!(
                inside == 0 || inside == mapping.len(),
                "{iova} cuts {mapping:?}"
            );
        }
        let removed = gone.iter().filter_map(|page| kernel.pages.remove(page));
        let removed = removed.count() as u64 * PAGE;
        kernel.ends();
        match (kernel.is_strict, removed) {
            (true, 0) => Err(DmaRefusal::Errno(2)),
            _ => Ok(removed),
        }
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        Err(DmaRefusal::Errno(25))
    }
}
