// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The values of an exit, which a hostile guest chooses.

use crate::common;

use common::PAGE;
use kvm_slots::PageSize;
use kvm_slots::push::{BadRequest, Response, ValidateExit, ValidateRequest};
use proptest::prelude::*;

/// A number for the kind of exit. Drafts differ.
const KIND: u64 = 1234;

const EXIT: ValidateExit = ValidateExit {
    flags: 0,
    nr: KIND,
    vdev_id: u64::MAX,
    gpa_base: 4 * PAGE,
    gpa_top: 6 * PAGE,
    pa_base: 9 * PAGE,
};

fn parse(exit: ValidateExit) -> Result<ValidateRequest, BadRequest> {
    ValidateRequest::from_exit(&exit, KIND, PageSize::Size4K)
}

#[test]
fn a_request_has_the_values_of_its_exit() {
    let request = parse(EXIT).unwrap();
    assert_eq!(request.vdev_id(), u64::MAX);
    let range = (request.gpa(), request.size(), request.end());
    assert_eq!(range, (4 * PAGE, 2 * PAGE, 6 * PAGE));
    assert_eq!(request.pa(), 9 * PAGE);
}

#[test]
fn each_bad_value_has_its_error_and_the_first_one_is_reported() {
    let top = PAGE.wrapping_neg();
    let mut exit = ValidateExit {
        flags: 8,
        nr: KIND + 1,
        vdev_id: 0,
        gpa_base: 6 * PAGE + 1,
        gpa_top: 6 * PAGE + 2,
        pa_base: top + 3,
    };
    assert_eq!(parse(exit), Err(BadRequest::UnknownKind(KIND + 1)));
    exit.nr = KIND;
    assert_eq!(parse(exit), Err(BadRequest::Flags(8)));
    exit.flags = 0;
    assert_eq!(parse(exit), Err(BadRequest::Unaligned(6 * PAGE + 1)));
    exit.gpa_base -= 1;
    assert_eq!(parse(exit), Err(BadRequest::Unaligned(6 * PAGE + 2)));
    exit.gpa_top -= 2;
    assert_eq!(parse(exit), Err(BadRequest::Unaligned(top + 3)));
    exit.pa_base -= 3;
    let (base, end) = (exit.gpa_base, exit.gpa_top);
    assert_eq!(parse(exit), Err(BadRequest::Empty { base, top: end }));
    exit.gpa_base += PAGE;
    let base = exit.gpa_base;
    assert_eq!(parse(exit), Err(BadRequest::Empty { base, top: end }));
    exit.gpa_top += 2 * PAGE;
    let (pa, size) = (top, PAGE);
    assert_eq!(parse(exit), Err(BadRequest::Wraps { pa, size }));
    exit.pa_base -= PAGE;
    assert!(parse(exit).is_ok());
}

#[test]
fn alignment_is_to_the_platforms_page() {
    let page = PageSize::Size16K;
    let result = ValidateRequest::from_exit(&EXIT, KIND, page);
    assert_eq!(result, Err(BadRequest::Unaligned(6 * PAGE)));
    let exit = ValidateExit {
        gpa_top: 8 * PAGE,
        ..EXIT
    };
    let result = ValidateRequest::from_exit(&exit, KIND, page);
    assert_eq!(result, Err(BadRequest::Unaligned(9 * PAGE)));
}

#[test]
fn only_zero_accepts() {
    assert_eq!(Response::Accept.to_field(), 0);
    assert_ne!(Response::Reject.to_field(), 0);
}

/// Values near the limits, and any other.
fn hostile() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => (0_u64..8).prop_map(|n| n * PAGE),
        3 => (1_u64..8).prop_map(|n| (n * PAGE).wrapping_neg()),
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

proptest! {
    #[test]
    fn any_values_are_parsed_exactly_if_they_are_good(
        flags in prop_oneof![4 => Just(0), 1 => hostile()],
        nr in prop_oneof![4 => Just(KIND), 1 => hostile()],
        values in [hostile(), hostile(), hostile(), hostile()],
    ) {
        let [vdev_id, gpa_base, gpa_top, pa_base] = values;
        let exit = ValidateExit { flags, nr, vdev_id, gpa_base, gpa_top, pa_base };
        let size = i128::from(gpa_top) - i128::from(gpa_base);
        let aligned = [gpa_base, gpa_top, pa_base].iter().all(|n| n % PAGE == 0);
        let fits = i128::from(pa_base) + size <= i128::from(u64::MAX);
        let good = nr == KIND && flags == 0 && aligned && size > 0 && fits;
        prop_assert_eq!(parse(exit).is_ok(), good);
    }
}
