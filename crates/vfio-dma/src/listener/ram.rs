// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener for VMMs without a memory model: the VMM lists its RAM.

use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_ranges::{AddrRange, PageSet, RangeSet, gaps};
use kvm_slots::convert::{Conversion, ConversionListener, ConversionListenerError, PageState};

use super::error::DmaFollowError;
use super::{pages, record};
use crate::apply::{AddressSpace, apply_dma};
use crate::limits::DmaLimits;
use crate::plan::{
    DmaChange, DmaPlan, DmaPlanError, Gaps, MOST_MAPPINGS, check_limit, in_order, plan_dma,
    plan_dma_change,
};
use crate::range::DmaRange;
use crate::refusal::DmaRefusal;
use crate::table::DmaTable;

/// Keeps what devices reach to the shared pages of a VMM's RAM.
///
/// The VMM passes its RAM to [`set_ram`](Self::set_ram), when it starts and whenever RAM is added
/// or removed, and adds the listener to the conversion engine. Pages that become private are
/// unmapped before the guest loses them, and pages that become shared are mapped afterwards. The
/// listener needs no view of guest memory. A VMM that has one uses `DmaListener` (feature
/// `memory-model`).
///
/// The cost of a conversion depends on its pages, not on the guest's memory, except after a
/// failure that could not be undone ([`needs_resync`](Self::needs_resync)).
///
/// # Example
///
/// ```
/// # #[cfg(feature = "sim")] {
/// use std::sync::Arc;
///
/// use vfio_dma::listener::RamListener;
/// use vfio_dma::{
///     AddrRange, DmaAccess, DmaLimits, DmaRange, Gaps, HostMemory, PageSet, SimIommu, SimIommuKind,
/// };
///
/// // SAFETY: a simulated IOMMU accesses nothing.
/// let ram = unsafe { HostMemory::new(0x7f00_0000_0000, 0x4000, Arc::new(())) }.unwrap();
/// let ram = DmaRange::new(0x10_0000, ram, DmaAccess::ReadWrite)?;
/// // Each page is a mapping of its own: no conversion touches another one.
/// let ram = ram.in_units_of(0x1000)?;
///
/// let iovas = AddrRange::new(0, 1 << 39).unwrap();
/// let limits = DmaLimits::new(0x1000, [iovas], Some(65535))?;
/// let iommu = SimIommu::new(SimIommuKind::Type1, limits);
/// let dma = Arc::new(RamListener::new(iommu, Gaps::Refuse)?);
/// // No page of a new guest is private. A conversion engine takes the listener:
/// // `converter.add_listener(dma.clone())`.
/// let plan = dma.set_ram([ram], &PageSet::new())?;
/// assert!(plan.left_out.is_empty());
/// assert_eq!(dma.table().len(), 4);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
///
/// If the [`AddressSpace`] does. The change is refused, and could not be undone
/// ([`needs_resync`](Self::needs_resync)).
#[derive(Debug)]
pub struct RamListener<S> {
    space: S,
    gaps: Gaps,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: DmaTable,
    limits: DmaLimits,
    /// By IOVA; no two overlap.
    ram: Vec<DmaRange>,
    /// Each page that may be private is in it: what a failed rollback leaves is at worst too much.
    private: PageSet,
    /// The mappings may differ from the shared pages of `ram`.
    needs_resync: bool,
}

impl<S: AddressSpace> RamListener<S> {
    /// A listener without RAM, whose mappings are in `space`. There are none yet.
    ///
    /// With [`Gaps::Refuse`], a conversion of a part of a mapping is refused. Choose the parts by
    /// [`DmaRange::in_units_of`]. The undo of a conversion may always have gaps.
    ///
    /// # Errors
    /// [`DmaRefusal`] if the kernel does not report what can be mapped: a container does so only
    /// after a device was opened.
    pub fn new(space: S, gaps: Gaps) -> Result<Self, DmaRefusal> {
        let state = State {
            table: DmaTable::new(),
            limits: space.limits()?,
            ram: Vec::new(),
            private: PageSet::new(),
            needs_resync: false,
        };
        Ok(Self {
            space,
            gaps,
            state: Mutex::new(state),
        })
    }

    /// Replaces the RAM, in any order, and the private pages, and maps all pages that are shared.
    /// Returns the plan that was carried out: [`DmaPlan::left_out`] has what could not be mapped.
    ///
    /// Private pages stay private when their memory is removed, as they do for KVM. No conversion
    /// may be in progress. Remove RAM here before it is removed from the memslots, and add it
    /// after it was added there.
    ///
    /// Call it with the same RAM after a conversion that could not be rolled back: pages that the
    /// engine left shared may not be mapped.
    ///
    /// # Errors
    /// [`DmaFollowError`]. The RAM and the private pages are as they were.
    pub fn set_ram(
        &self,
        ram: impl IntoIterator<Item = DmaRange>,
        private: &PageSet,
    ) -> Result<DmaPlan, DmaFollowError> {
        let ram: Vec<DmaRange> = ram.into_iter().collect();
        let ram: Vec<DmaRange> = in_order(&ram)?.into_iter().cloned().collect();
        let state = &mut *self.state();
        let target = shared(&ram, AddrRange::ALL, private)?;
        let plan = plan_dma(&state.table, &target, &state.limits, self.gaps)?;
        self.carry_out(state, &plan)?;
        state.needs_resync = false;
        (state.ram, state.private) = (ram, private.clone());
        Ok(plan)
    }

    /// Queries again what can be mapped. Call it after opening a device. Existing mappings stay:
    /// the kernel refuses a device that they conflict with.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn device_added(&self) -> Result<(), DmaRefusal> {
        let limits = self.space.limits()?;
        self.state().limits = limits;
        Ok(())
    }

    /// The address space of the mappings.
    pub fn space(&self) -> &S {
        &self.space
    }

    /// A copy of the mappings as they are now.
    pub fn table(&self) -> DmaTable {
        self.state().table.clone()
    }

    /// Whether a change could not be undone. Until the next [`set_ram`](Self::set_ram), devices may
    /// not reach some shared pages, and each conversion plans all mappings.
    pub fn needs_resync(&self) -> bool {
        self.state().needs_resync
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves `needs_resync` behind, and the table follows each mapping.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, state: &mut State, plan: &DmaPlan) -> Result<(), DmaFollowError> {
        // A panic leaves it so.
        let needed_resync = std::mem::replace(&mut state.needs_resync, true);
        let applied = apply_dma(&self.space, plan, &mut state.table);
        let applied = applied.map_err(DmaFollowError::from);
        let undone = applied
            .as_ref()
            .err()
            .is_none_or(DmaFollowError::rolled_back);
        state.needs_resync = needed_resync || !undone;
        applied.map(drop)
    }

    /// Maps or unmaps the pages of a conversion.
    fn convert(
        &self,
        change: &Conversion<'_>,
        to: PageState,
        gaps: Gaps,
    ) -> Result<(), DmaFollowError> {
        let pages = pages(change);
        let state = &mut *self.state();
        record(&mut state.private, &pages, to);
        let planned = state.plan(&pages, to, gaps);
        let converted = planned.and_then(|plan| self.carry_out(state, &plan));
        if converted.is_err() {
            record(&mut state.private, &pages, to.other());
        }
        converted
    }
}

impl State {
    /// Plans the conversion of these pages, or all mappings if they may be wrong.
    fn plan(
        &self,
        pages: &[AddrRange],
        to: PageState,
        gaps: Gaps,
    ) -> Result<DmaPlan, DmaFollowError> {
        if self.needs_resync {
            let target = shared(&self.ram, AddrRange::ALL, &self.private)?;
            return Ok(plan_dma(&self.table, &target, &self.limits, gaps)?);
        }
        let added;
        let change = match to {
            PageState::Private => DmaChange {
                removed: pages,
                added: &[],
            },
            PageState::Shared => {
                added = self.shared_around(pages)?;
                DmaChange {
                    removed: &[],
                    added: &added,
                }
            }
        };
        Ok(plan_dma_change(&self.table, &change, &self.limits, gaps)?)
    }

    /// The shared pages among these, and the others in their IOMMU pages.
    fn shared_around(&self, pages: &[AddrRange]) -> Result<Vec<DmaRange>, DmaPlanError> {
        let windows = pages.iter().map(|range| self.limits.pages_around(*range));
        let windows: RangeSet = windows.collect();
        let mut all = Vec::new();
        for window in windows.iter() {
            all.extend(shared(&self.ram, window, &self.private)?);
            check_limit(all.len() as u64, MOST_MAPPINGS)?;
        }
        Ok(all)
    }
}

/// The shared pages of `ram` in a window.
fn shared(
    ram: &[DmaRange],
    window: AddrRange,
    private: &PageSet,
) -> Result<Vec<DmaRange>, DmaPlanError> {
    let mut shared = Vec::new();
    let first = ram.partition_point(|range| range.iova().last() < window.start());
    let touched = ram[first..].iter();
    for range in touched.map_while(|range| range.within(window)) {
        for part in gaps(range.iova(), private.within(range.iova())) {
            shared.extend(range.within(part));
            check_limit(shared.len() as u64, MOST_MAPPINGS)?;
        }
    }
    Ok(shared)
}

impl<S: AddressSpace + Send + Sync> ConversionListener for RamListener<S> {
    fn name(&self) -> &str {
        "DMA mappings"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(self.convert(change, change.to, self.gaps)?)
    }

    fn rolled_back(&self, error: &ConversionListenerError) -> bool {
        let error = error.downcast_ref();
        error.is_some_and(DmaFollowError::rolled_back)
    }

    fn abort(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        // An IOMMU page that this change has completed is unmapped again as a whole.
        let undone = self.convert(change, change.to.other(), Gaps::Allow);
        if undone.is_err() {
            self.must_resync();
        }
        Ok(undone?)
    }

    fn must_resync(&self) {
        self.state().needs_resync = true;
    }
}
