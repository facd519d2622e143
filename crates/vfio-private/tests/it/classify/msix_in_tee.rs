// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Reports that mark where the MSI-X structures are.

use crate::common;

use common::{Device, in_bar, index, non_tee, span, tee};
use vfio_private::Access::{Private, Shared, Trap};
use vfio_private::{
    ClassifyError, MsixPart, MsixParts, Neighbour, Policy, ReportedRange, TeeMsixPolicy,
};

const TABLE: MsixParts = MsixParts {
    table: true,
    pba: false,
};
const BOTH: MsixParts = MsixParts {
    table: true,
    pba: true,
};

fn marked(range: ReportedRange, msix: MsixParts) -> ReportedRange {
    ReportedRange { msix, ..range }
}

fn left_to_guest(device: Device) -> Device {
    device.policy(Policy::new().with_tee_msix(TeeMsixPolicy::Private))
}

/// Table and PBA in the third page of four.
fn nvme() -> Device {
    Device::with_bar(0x4000).msix(in_bar(0, 0x2000, 33 * 16), in_bar(0, 0x2800, 8))
}

/// A locked interface: all TEE, the table's page as a range of its own.
fn locked(msix: MsixParts) -> [ReportedRange; 3] {
    [
        tee(0, 0x2000),
        marked(tee(0x2000, 0x1000), msix),
        tee(0x3000, 0x1000),
    ]
}

#[test]
fn a_table_that_the_device_locked_into_tee_memory_is_refused_by_default() {
    let error = nvme().report(&locked(BOTH)).classify();
    let expected = ClassifyError::MsixLocked {
        bar: index(0),
        part: MsixPart::Table,
        structure: span(0x2000, 33 * 16),
        private: span(0x2000, 0x1000),
        page: span(0x2000, 0x1000),
        can_be_left: true,
    };
    assert_eq!(error, Err(expected));
    assert_eq!(
        expected.to_string(),
        "BAR 0: the device has locked the MSI-X table 0x2000-0x220f into the private range \
         0x2000-0x2fff: lock without LOCK_MSIX or leave the table to the guest"
    );
}

#[test]
fn a_table_that_was_locked_in_part_cannot_be_left_to_the_guest_and_the_error_does_not_say_so() {
    let error = nvme().report(&locked(TABLE)).classify().unwrap_err();
    assert!(
        error.to_string().ends_with("lock without LOCK_MSIX"),
        "{error}"
    );
    let pba = MsixParts {
        table: false,
        pba: true,
    };
    let error = nvme().report(&locked(pba)).classify();
    assert!(matches!(
        error,
        Err(ClassifyError::MsixLocked {
            part: MsixPart::Pba,
            can_be_left: false,
            ..
        })
    ));
}

#[test]
fn a_table_without_a_mark_in_tee_memory_is_not_called_locked() {
    let error = nvme().report(&locked(MsixParts::NONE)).classify();
    assert!(matches!(
        error,
        Err(ClassifyError::PrivateNotSeparable {
            neighbour: Neighbour::Msix(..),
            ..
        })
    ));
}

#[test]
fn a_structure_locked_in_open_memory_is_out_of_the_hosts_reach() {
    for (range, locks_out) in [
        (marked(non_tee(0x2000, 0x1000), BOTH), true),
        (marked(non_tee(0x2000, 0x1000), TABLE), true),
        (non_tee(0x2000, 0x1000), false),
        (marked(tee(0x2000, 0x1000), BOTH), false),
    ] {
        assert_eq!(range.locks_host_out(), locks_out, "{range:?}");
    }
}

#[test]
fn a_table_that_the_device_locked_into_tee_memory_is_private_if_it_is_left_to_the_guest() {
    let device = left_to_guest(nvme()).report(&locked(BOTH));
    assert_eq!(
        device.lines(),
        [
            "0x0-0x1fff private: TDISP report lists it as TEE memory",
            "0x2000-0x2fff private: TDISP report lists it as TEE memory; \
             holds MSI-X structures, which are left to the guest",
            "0x3000-0x3fff private: TDISP report lists it as TEE memory",
        ]
    );
}

#[test]
fn a_table_in_tee_memory_without_a_mark_is_refused_whatever_the_policy() {
    let device = left_to_guest(nvme()).report(&locked(MsixParts::NONE));
    assert!(matches!(
        device.classify(),
        Err(ClassifyError::PrivateNotSeparable { .. })
    ));
}

#[test]
fn a_pba_beside_a_marked_table_needs_a_mark_of_its_own() {
    let device = left_to_guest(nvme()).report(&locked(TABLE));
    let Err(ClassifyError::PrivateNotSeparable { neighbour, .. }) = device.classify() else {
        panic!("{:?}", device.classify());
    };
    assert_eq!(neighbour, Neighbour::Msix(MsixPart::Pba, span(0x2800, 8)));
}

#[test]
fn a_table_that_leaves_its_marked_range_is_refused() {
    let device = left_to_guest(Device::with_bar(0x4000))
        .msix(in_bar(0, 0x1ff0, 0x40), in_bar(1, 0, 8))
        .report(&[marked(tee(0x1000, 0x1000), TABLE), tee(0x2000, 0x1000)]);
    assert!(matches!(
        device.classify(),
        Err(ClassifyError::PrivateNotSeparable { .. })
    ));
}

#[test]
fn a_marked_table_in_open_memory_is_trapped_like_any_other() {
    let ranges = [
        tee(0, 0x2000),
        marked(non_tee(0x2000, 0x1000), BOTH),
        non_tee(0x3000, 0x1000),
    ];
    for device in [nvme(), left_to_guest(nvme())] {
        let shape = [
            (0, 0x2000, Private),
            (0x2000, 0x1000, Trap),
            (0x3000, 0x1000, Shared),
        ];
        assert_eq!(device.report(&ranges).shape(), shape);
    }
}

#[test]
fn a_mark_where_the_table_is_not_refuses_the_report() {
    let wrong = marked(non_tee(0x3000, 0x1000), TABLE);
    let error = nvme().report(&[wrong]).classify().unwrap_err();
    assert_eq!(
        error.to_string(),
        "BAR 0: report marks 0x3000-0x3fff to hold the MSI-X table, \
         which is at 0x2000-0x220f of BAR 0"
    );
    let without = Device::with_bar(0x4000).report(&[wrong]);
    assert_eq!(
        without.classify().unwrap_err().to_string(),
        "BAR 0: report marks 0x3000-0x3fff to hold the MSI-X table, \
         which is nowhere: the device has no MSI-X capability"
    );
}
