// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A simulated address space (feature `sim`) that follows the kernel's rules, in the order of its checks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_ranges::AddrRange;

use crate::apply::AddressSpace;
use crate::limits::DmaLimits;
use crate::range::{DmaAccess, DmaMemory, DmaRange};
use crate::refusal::{DmaRefusal, DmaUnsupported};

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

/// Which kernel interface is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SimIommuKind {
    /// A container: `vfio_dma_do_map` and `vfio_dma_do_unmap` in drivers/vfio/vfio_iommu_type1.c,
    /// version 2.
    Type1,
    /// An iommufd: `iopt_check_iova` and `iopt_unmap_iova_range` in
    /// drivers/iommu/iommufd/io_pagetable.c.
    Iommufd,
}

/// An IOMMU without hardware. It maps no memory, and knows where each IOVA leads.
#[derive(Debug)]
pub struct SimIommu {
    kind: SimIommuKind,
    limits: DmaLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mappings: BTreeMap<u64, DmaRange>,
    calls: u64,
    /// The errno of calls that fail, by number of the call.
    failures: BTreeMap<u64, i32>,
}

impl SimIommu {
    /// An empty address space with these limits.
    pub fn new(kind: SimIommuKind, limits: DmaLimits) -> Self {
        Self {
            kind,
            limits,
            state: Mutex::default(),
        }
    }

    /// Makes a future call of `map` or `unmap` fail before it has an effect. The next call has
    /// number 0.
    pub fn fail(&self, call: u64, errno: i32) {
        let state = &mut *self.state();
        state.failures.insert(state.calls + call, errno);
    }

    /// Cancels the failures that [`fail`](Self::fail) has set up and that have not happened yet.
    pub fn fail_no_more(&self) {
        self.state().failures.clear();
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The number of mappings.
    pub fn mappings(&self) -> usize {
        self.state().mappings.len()
    }

    /// The byte that a device's access to an IOVA reaches; `None` if the IOMMU stops it.
    pub fn reach(&self, iova: u64, writes: bool) -> Option<DmaMemory> {
        let state = self.state();
        let (_, mapping) = state.mappings.range(..=iova).next_back()?;
        let byte = AddrRange::new(iova, 1)?;
        let at = mapping.within(byte)?;
        (!writes || at.access() == DmaAccess::ReadWrite).then(|| at.memory().clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_aligned(&self, number: u64) -> bool {
        number % self.limits.page_size() == 0
    }

    fn is_allowed(&self, iova: AddrRange) -> bool {
        self.limits.mappable(iova) == [iova]
    }
}

impl State {
    /// Counts a call, and fails it if that was requested.
    fn begin(&mut self) -> Result<(), DmaRefusal> {
        let call = self.calls;
        self.calls += 1;
        match self.failures.remove(&call) {
            Some(errno) => Err(DmaRefusal::Errno(errno)),
            None => Ok(()),
        }
    }

    fn touching(&self, range: AddrRange) -> Vec<DmaRange> {
        let below = self.mappings.range(..range.start()).next_back();
        let inside = self.mappings.range(range.start()..=range.last());
        let all = below.into_iter().chain(inside);
        let all = all.map(|(_, mapping)| mapping.clone());
        all.filter(|mapping| mapping.iova().overlaps(range))
            .collect()
    }
}

impl AddressSpace for SimIommu {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        let state = &mut *self.state();
        state.begin()?;
        let (iova, memory) = (range.iova(), range.memory());
        if memory.is_file() && self.kind == SimIommuKind::Type1 {
            return Err(DmaUnsupported::FileInContainer.into());
        }
        let sizes = [iova.start(), range.size(), memory.position()];
        if !sizes.into_iter().all(|number| self.is_aligned(number)) {
            return Err(DmaRefusal::Errno(EINVAL));
        }
        let is_mapped = !state.touching(iova).is_empty();
        let count = u64::try_from(state.mappings.len()).unwrap_or(u64::MAX);
        let is_full = self.limits.mappings().is_some_and(|limit| count >= limit);
        let checks = match self.kind {
            SimIommuKind::Type1 => [
                (is_mapped, EEXIST),
                (is_full, ENOSPC),
                (!self.is_allowed(iova), EINVAL),
            ],
            SimIommuKind::Iommufd => [
                (!self.is_allowed(iova), EINVAL),
                (is_mapped, EEXIST),
                (false, ENOSPC),
            ],
        };
        if let Some((_, errno)) = checks.into_iter().find(|(fails, _)| *fails) {
            return Err(DmaRefusal::Errno(errno));
        }
        state.mappings.insert(iova.start(), range.clone());
        Ok(())
    }

    fn unmap(&self, iova: AddrRange) -> Result<u64, DmaRefusal> {
        let state = &mut *self.state();
        state.begin()?;
        let touched = state.touching(iova);
        let is_cut = |mapping: &DmaRange| !iova.covers(mapping.iova());
        if self.kind == SimIommuKind::Type1 {
            let is_aligned =
                self.is_aligned(iova.start()) && self.is_aligned(iova.last().wrapping_add(1));
            // Nothing goes where a mapping would have to be split.
            if !is_aligned || touched.iter().any(is_cut) {
                return Err(DmaRefusal::Errno(EINVAL));
            }
        }
        let mut unmapped = 0;
        for mapping in touched {
            // Those below are gone by now.
            if is_cut(&mapping) {
                return Err(DmaRefusal::Errno(ENOENT));
            }
            state.mappings.remove(&mapping.iova().start());
            unmapped += mapping.size();
        }
        match (self.kind, unmapped) {
            (SimIommuKind::Iommufd, 0) => Err(DmaRefusal::Errno(ENOENT)),
            _ => Ok(unmapped),
        }
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        Ok(self.limits.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::sync::Arc;

    use guest_ranges::{FileSlice, HostMemory};

    const PAGE: u64 = 0x1000;
    const KINDS: [SimIommuKind; 2] = [SimIommuKind::Type1, SimIommuKind::Iommufd];

    fn span(page: u64, pages: u64) -> AddrRange {
        AddrRange::new(page * PAGE, u128::from(pages * PAGE)).unwrap()
    }

    /// Room for two mappings below page 16, but not in page 8.
    fn iommu(kind: SimIommuKind) -> SimIommu {
        let allowed = [span(0, 8), span(9, 7)];
        SimIommu::new(kind, DmaLimits::new(PAGE, allowed, Some(2)).unwrap())
    }

    fn host(iova: AddrRange) -> DmaRange {
        let memory = HostMemory::placeholder(u64::try_from(iova.size()).unwrap()).unwrap();
        DmaRange::new(iova.start(), memory, DmaAccess::ReadWrite).unwrap()
    }

    fn errno<T>(result: Result<T, DmaRefusal>) -> Option<i32> {
        result.err().and_then(DmaRefusal::errno)
    }

    #[test]
    fn mappings_are_not_split_and_an_iommufd_stumbles_over_the_second() {
        for kind in KINDS {
            let iommu = iommu(kind);
            iommu.map(&host(span(0, 2))).unwrap();
            iommu.map(&host(span(2, 2))).unwrap();
            let (refused, left) = match kind {
                SimIommuKind::Type1 => (EINVAL, 2),
                SimIommuKind::Iommufd => (ENOENT, 1),
            };
            assert_eq!(errno(iommu.unmap(span(1, 1))), Some(refused));
            assert_eq!(iommu.mappings(), 2);
            assert_eq!(errno(iommu.unmap(span(0, 3))), Some(refused));
            assert_eq!(iommu.mappings(), left);
            assert_eq!(iommu.unmap(span(0, 16)), Ok(left as u64 * 2 * PAGE));
            let nothing = iommu.unmap(span(0, 16));
            assert_eq!(
                errno(nothing),
                (kind == SimIommuKind::Iommufd).then_some(ENOENT)
            );
        }
    }

    #[test]
    fn what_is_mapped_or_out_of_reach_is_refused_and_a_container_counts() {
        for kind in KINDS {
            let iommu = iommu(kind);
            iommu.map(&host(span(0, 2))).unwrap();
            assert_eq!(errno(iommu.map(&host(span(1, 2)))), Some(EEXIST));
            assert_eq!(errno(iommu.map(&host(span(7, 2)))), Some(EINVAL));
            assert_eq!(errno(iommu.map(&host(span(16, 1)))), Some(EINVAL));
            let half = AddrRange::new(0x800, PAGE.into()).unwrap();
            assert_eq!(errno(iommu.map(&host(half))), Some(EINVAL));
            iommu.map(&host(span(4, 1))).unwrap();
            let third = iommu.map(&host(span(5, 1)));
            assert_eq!(
                errno(third),
                (kind == SimIommuKind::Type1).then_some(ENOSPC)
            );
        }
    }

    #[test]
    fn devices_reach_what_is_mapped_as_it_is_mapped() {
        let iommu = iommu(SimIommuKind::Iommufd);
        let file = Arc::new(File::open("/dev/null").unwrap());
        let file = FileSlice::new(file, 0x5000, 2 * PAGE).unwrap();
        let read_only = DmaRange::new(PAGE, file.clone(), DmaAccess::Read);
        iommu.map(&read_only.unwrap()).unwrap();
        let byte = file.slice(0x1004, 1).map(DmaMemory::File);
        assert_eq!(iommu.reach(0x2004, false), byte);
        assert_eq!(iommu.reach(0x2004, true), None);
        assert_eq!(iommu.reach(0x3000, false), None);
        iommu.fail(1, 5);
        iommu.unmap(span(1, 2)).unwrap();
        assert_eq!(errno(iommu.map(&host(span(1, 1)))), Some(5));
        assert_eq!((iommu.calls(), iommu.mappings()), (3, 0));
    }
}
