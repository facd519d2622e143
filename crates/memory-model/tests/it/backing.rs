// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The backing of regions.

use crate::common;

use common::{file, host};
use memory_model::{GuestMemfdSides, Memory};

#[test]
fn a_guest_memfd_must_be_as_large_as_its_host_mapping() {
    let sides = GuestMemfdSides::Both;
    assert!(Memory::with_guest_memfd(host(0x1000), file(0x2000), sides).is_none());
    let memory = Memory::with_guest_memfd(host(0x2000), file(0x2000), sides).unwrap();
    let half = memory.slice(0x1000, 0x1000).unwrap();
    let (half, _) = half.guest_memfd().unwrap();
    assert_eq!((half.offset(), half.size()), (0x1000, 0x1000));
}
