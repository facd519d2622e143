// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a listener that refused says, and what it has left.

use std::error::Error as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use kvm_slots::convert::{ConvertError, FailedStep};
use memory_model::CommitError;
use vfio_dma::listener::{DmaListener, DmaPolicy, Peers};
use vfio_dma::{AddressSpace, DmaAccess, DmaLimits, DmaRange, DmaRefusal, SimIommu, SimIommuKind};

use super::KINDS;
use crate::support::machine::{APART, BAR, Machine, PLAIN};
use crate::support::{PAGE, pages};

#[test]
fn a_refused_transaction_names_the_dma_mappings_and_leaves_nothing_to_settle() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.iommu.fail(0, 12);
        let error = m.place(PLAIN, 0, 0).unwrap_err();
        assert!(error.to_string().contains("DMA mappings"), "{error}");
        assert!(!m.dma.needs_resync());
        m.check();
    }
}

#[test]
fn a_refused_conversion_names_the_dma_mappings_and_leaves_nothing_to_settle() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.place(APART, 16 * PAGE, 0).unwrap();
        m.iommu.fail(0, 12);
        let Err(ConvertError::Failed(failure)) = m.convert(pages(16, 1), true) else {
            panic!("it was converted");
        };
        assert!(matches!(
            &failure.cause,
            FailedStep::Listener { name, .. } if name == "DMA mappings"
        ));
        assert!(failure.not_undone.is_empty(), "{failure}");
        assert!(!m.dma.needs_resync());
        m.check();
    }
}

#[test]
fn an_abort_that_fails_says_which_mapping_did_not_come_back() {
    for kind in KINDS {
        let mut m = Machine::new(kind, DmaPolicy::default(), None);
        m.place(PLAIN, 0, 0).unwrap();
        m.refuser.0.store(true, Ordering::Relaxed);
        // Unmapped and mapped elsewhere. The undo has the same two steps, and its last one fails.
        m.iommu.fail(3, 12);
        let error = m.place(PLAIN, 56 * PAGE, 0).unwrap_err();
        let CommitError::Refused { not_undone, .. } = &error else {
            panic!("{error}");
        };
        let [not_undone] = not_undone.as_slice() else {
            panic!("{not_undone:?}");
        };
        assert!(not_undone.to_string().contains("DMA mappings"));
        let why = not_undone.source().unwrap().to_string();
        let step = "could not be undone: MAP 0x0-0xbfff";
        assert!(
            why.starts_with(step) && why.contains("(os error 12)"),
            "{why}"
        );
    }
}

#[test]
fn choices_can_be_printed() {
    let peers: [(Peers<()>, &str); 3] = [
        (Peers::Nothing, "Nothing"),
        (Peers::HostAddress, "HostAddress"),
        (Peers::Files(Arc::new(|_| None)), "Files"),
    ];
    for (peers, text) in peers {
        assert_eq!(format!("{peers:?}"), text);
    }
}

/// An address space that each device narrows.
struct Narrowing {
    iommu: SimIommu,
    limits: Mutex<DmaLimits>,
}

impl AddressSpace for Narrowing {
    fn map(&self, range: &DmaRange) -> Result<(), DmaRefusal> {
        self.iommu.map(range)
    }

    fn unmap(&self, iova: memory_model::AddrRange) -> Result<u64, DmaRefusal> {
        self.iommu.unmap(iova)
    }

    fn limits(&self) -> Result<DmaLimits, DmaRefusal> {
        Ok(self.limits.lock().unwrap().clone())
    }
}

#[test]
fn what_a_new_device_cannot_reach_is_left_out_from_then_on() {
    let limits = |end| DmaLimits::new(PAGE, [pages(0, end)], None).unwrap();
    let space = Narrowing {
        iommu: SimIommu::new(SimIommuKind::Iommufd, limits(64)),
        limits: Mutex::new(limits(64)),
    };
    let mut m = Machine::new(SimIommuKind::Iommufd, DmaPolicy::default(), None);
    let dma = DmaListener::new(space, m.model.reader(m.space), DmaPolicy::default());
    let dma = Arc::new(dma.unwrap());
    m.model.add_listener(m.space, 0, dma.clone()).unwrap();
    m.place(PLAIN, 16 * PAGE, 0).unwrap();
    assert!(dma.space().iommu.reach(20 * PAGE, true).is_some());

    *dma.space().limits.lock().unwrap() = limits(20);
    dma.device_added().unwrap();
    m.place(BAR, 40 * PAGE, 0).unwrap();
    m.place(PLAIN, 15 * PAGE, 0).unwrap();
    let reached = |page| dma.space().iommu.reach(page * PAGE, true).is_some();
    assert!(reached(19) && !reached(20));
    assert!(
        dma.table()
            .mappings()
            .all(|m| m.access() == DmaAccess::ReadWrite)
    );
}
