// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The record of an address space's mappings, which holds the owners of their memory.

use std::collections::BTreeMap;

use guest_ranges::AddrRange;
use vfio_dma::{DmaRange, DmaRefusal};

/// The mappings of an address space, by IOVA, with the owners of their memory.
///
/// Every mapping of the kernel has an entry with exactly its IOVAs. An entry can be stale: an iommufd
/// that fails to unmap several mappings has unmapped the first ones, and does not say which. A stale
/// entry holds an owner for longer than necessary. It is removed once an answer of the kernel proves
/// that its mapping is gone.
///
/// Methods return removed entries, because the drop of an owner may run any code: drop them after the
/// lock of the record is released.
#[derive(Debug, Default)]
pub(in crate::device) struct Mapped {
    by_start: BTreeMap<u64, DmaRange>,
}

impl Mapped {
    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Records a mapping that the kernel has just made. Returns the entry that it replaces.
    #[must_use = "it holds an owner"]
    pub(super) fn insert(&mut self, range: DmaRange) -> Option<DmaRange> {
        // The replaced entry is stale: the kernel makes no mapping where there is one.
        self.by_start.insert(range.iova().start(), range)
    }

    /// Follows the kernel's answer to unmapping `iova`. Returns the entries of mappings that are gone.
    #[must_use = "they hold owners"]
    pub(super) fn forget(
        &mut self,
        iova: AddrRange,
        answer: Result<u64, DmaRefusal>,
    ) -> Vec<DmaRange> {
        match answer {
            // The kernel splits no mapping, so those that start in the range end in it.
            Ok(_) => {
                let inside = self.by_start.range(iova.start()..=iova.last());
                let starts: Vec<u64> = inside.map(|(start, _)| *start).collect();
                let entries = starts.iter().map(|start| self.by_start.remove(start));
                entries.flatten().collect()
            }
            // An iommufd could have unmapped a mapping of exactly this range, because mappings do not
            // overlap. So an entry for it is stale. All others may be of the mapping that would have
            // to be split.
            Err(refusal) if refusal.is_not_mapped() => {
                let entry = self.by_start.get(&iova.start());
                match entry.is_some_and(|range| range.iova() == iova) {
                    true => self.by_start.remove(&iova.start()).into_iter().collect(),
                    false => Vec::new(),
                }
            }
            Err(_) => Vec::new(),
        }
    }

    /// All entries, by IOVA.
    pub(super) fn into_ranges(self) -> impl Iterator<Item = DmaRange> {
        self.by_start.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, VecDeque};
    use std::fs::File;
    use std::sync::{Arc, Weak};

    use guest_ranges::{FileSlice, HostMemory};
    use vfio_dma::{AddressSpace, DmaAccess, DmaLimits, DmaMemory, SimIommu, SimIommuKind};

    const MIB: u64 = 1 << 20;
    const EINVAL: DmaRefusal = DmaRefusal::Errno(libc::EINVAL);
    const ENOENT: DmaRefusal = DmaRefusal::Errno(libc::ENOENT);

    /// The IOVAs from `start` MiB to `end` MiB.
    fn iova(start: u64, end: u64) -> AddrRange {
        AddrRange::from_bounds(start * MIB, end * MIB - 1).unwrap()
    }

    /// A mapping that was made.
    struct Made {
        /// Where devices get, a different address for each mapping.
        first_byte: DmaMemory,
        iova: AddrRange,
        owner: Weak<Arc<File>>,
    }

    impl Made {
        fn is_held(&self) -> bool {
            self.owner.strong_count() > 0
        }
    }

    /// The record beside a simulated kernel, which holds no owners, as a real one holds none.
    struct Space {
        kernel: SimIommu,
        mapped: Mapped,
        count: u64,
        file: Arc<File>,
    }

    impl Space {
        fn new(kind: SimIommuKind) -> Self {
            let limits = DmaLimits::new(MIB, [AddrRange::ALL], None).unwrap();
            Self {
                kernel: SimIommu::new(kind, limits),
                mapped: Mapped::default(),
                count: 0,
                file: Arc::new(File::open("/dev/null").unwrap()),
            }
        }

        fn map(&mut self, iova: AddrRange) -> Result<Made, DmaRefusal> {
            let size = iova.size_u64().unwrap();
            let range =
                |memory: DmaMemory| DmaRange::new(iova.start(), memory, DmaAccess::ReadWrite);
            // Without the owner, so that only the record keeps the file open.
            let all = HostMemory::placeholder(1 << 40).unwrap();
            self.count += 1;
            let memory = all.slice(self.count << 32, size).unwrap();
            let first_byte = memory.slice(0, 1).unwrap().into();
            self.kernel.map(&range(memory.into()).unwrap())?;

            let file = Arc::new(self.file.clone());
            let owner = Arc::downgrade(&file);
            let file = FileSlice::new(file, 0, size).unwrap();
            drop(self.mapped.insert(range(file.into()).unwrap()));
            Ok(Made {
                first_byte,
                iova,
                owner,
            })
        }

        fn unmap(&mut self, iova: AddrRange) -> Result<u64, DmaRefusal> {
            let answer = self.kernel.unmap(iova);
            drop(self.mapped.forget(iova, answer));
            answer
        }

        /// Whether devices reach the memory.
        fn reaches(&self, made: &Made) -> bool {
            self.kernel.reach(made.iova.start(), true).as_ref() == Some(&made.first_byte)
        }
    }

    #[test]
    fn a_mapping_that_would_have_to_be_split_keeps_its_owner() {
        let mut space = Space::new(SimIommuKind::Iommufd);
        let first = space.map(iova(0, 2)).unwrap();
        let second = space.map(iova(2, 4)).unwrap();
        // The first mapping is unmapped, and its entry is stale.
        assert_eq!(space.unmap(iova(0, 3)), Err(ENOENT));
        assert!(!space.reaches(&first) && space.reaches(&second));
        assert!(first.is_held() && second.is_held());
        assert_eq!(space.unmap(iova(2, 4)), Ok(2 * MIB));
        assert!(!second.is_held());

        let over_the_end = space.map(iova(1, 3)).unwrap();
        assert_eq!(space.unmap(iova(0, 2)), Err(ENOENT));
        assert!(space.reaches(&over_the_end));
        assert!(over_the_end.owner.upgrade().is_some());
        assert!(!first.is_held(), "its range was not mapped");
        assert_eq!(space.unmap(iova(0, 4)), Ok(2 * MIB));
        assert!(!over_the_end.is_held());
    }

    #[test]
    fn a_new_mapping_replaces_a_stale_entry_at_its_iova() {
        let mut space = Space::new(SimIommuKind::Iommufd);
        let stale = space.map(iova(0, 2)).unwrap();
        space.map(iova(2, 4)).unwrap();
        assert_eq!(space.unmap(iova(0, 3)), Err(ENOENT));
        let new = space.map(iova(0, 1)).unwrap();
        assert!(new.is_held() && !stale.is_held());
        assert_eq!(space.mapped.len(), 2);
        // Not the range of the new mapping, although it starts there.
        assert_eq!(space.unmap(iova(0, 3)), Err(ENOENT));
        assert!(!space.reaches(&new) && new.is_held());
        assert_eq!(space.unmap(iova(0, 1)), Err(ENOENT));
        assert!(!new.is_held());
    }

    #[test]
    fn a_container_that_refuses_has_unmapped_nothing() {
        let mut space = Space::new(SimIommuKind::Type1);
        let made = [iova(0, 2), iova(2, 4)].map(|iova| space.map(iova).unwrap());
        assert_eq!(space.unmap(iova(0, 3)), Err(EINVAL));
        assert!(
            made.iter()
                .all(|made| made.is_held() && space.reaches(made))
        );
        assert_eq!(space.unmap(iova(0, 4)), Ok(4 * MIB));
        assert!(!made.iter().any(Made::is_held));
        // It unmaps nothing, and does not fail.
        assert_eq!(space.unmap(iova(0, 4)), Ok(0));
    }

    /// Makes every sequence of calls for four MiB, until no further state is reached.
    #[test]
    fn an_owner_is_held_for_as_long_as_the_kernel_has_its_mapping() {
        let ranges = (0..4).flat_map(|start| (start + 1..=4).map(move |end| iova(start, end)));
        let calls: Vec<(bool, AddrRange)> = ranges.flat_map(|r| [(true, r), (false, r)]).collect();
        let mut seen = BTreeSet::new();
        let mut left = VecDeque::from([Vec::new()]);
        while let Some(before) = left.pop_front() {
            for call in &calls {
                let mut sequence = before.clone();
                sequence.push(*call);
                let mut space = Space::new(SimIommuKind::Iommufd);
                let mut all = Vec::new();
                for (maps, iova) in &sequence {
                    match maps {
                        true => all.extend(space.map(*iova)),
                        false => _ = space.unmap(*iova),
                    }
                }
                let live: Vec<&Made> = all.iter().filter(|made| space.reaches(made)).collect();
                assert_eq!(live.len(), space.kernel.mappings());
                assert!(live.iter().all(|made| made.is_held()), "{sequence:?}");
                let live: Vec<AddrRange> = live.iter().map(|made| made.iova).collect();
                let entries = space.mapped.by_start.values().map(DmaRange::iova);
                if !seen.insert((live, entries.collect::<Vec<_>>())) {
                    continue;
                }
                left.push_back(sequence);
                // As an `Iommu` is dropped: ENOENT is the answer only for what is not mapped.
                for range in space.mapped.into_ranges() {
                    let answer = space.kernel.unmap(range.iova());
                    assert!(matches!(answer, Ok(_) | Err(ENOENT)));
                }
                assert_eq!(space.kernel.mappings(), 0);
            }
        }
        let has_stale = |(live, entries): &(Vec<_>, Vec<_>)| live.len() < entries.len();
        assert!(seen.iter().any(has_stale));
    }
}
