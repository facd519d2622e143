// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares the layout of pages with its oracle: states, devices' mappings, and
//! the bytes that guest and host find in each page.

use kvm_slots::convert::{GuestPages, PageRange};
use kvm_slots::exit::{GuestFault, MmioHandler};

use super::PAGE;
use super::layout::{At, COUNT, Layout, at, pages_of};
use super::oracle::Oracle;

/// Exits that are not answered.
#[derive(Debug)]
pub struct UnansweredExits;

impl MmioHandler for UnansweredExits {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}

/// The value that the guest finds in a page, after its first 8 bytes.
pub fn guest_load(layout: &Layout, page: u64) -> Result<u64, GuestFault> {
    let mut data = [0; 8];
    layout
        .vm()
        .vm
        .guest_load(page * PAGE + 8, &mut data, &mut UnansweredExits)?;
    Ok(u64::from_le_bytes(data))
}

/// The host's offset of that value.
pub fn host_offset(page: u64) -> usize {
    usize::try_from(page * PAGE + 8).unwrap()
}

/// Checks that everything observable is as the oracle says.
pub fn check(layout: &Layout, oracle: &mut Oracle) {
    let all = PageRange::new(0, COUNT * PAGE).unwrap();
    let (private, accepted) = layout
        .converter
        .with_pages(|pages| {
            let private: Vec<u64> = pages.private(all).flat_map(pages_of).collect();
            let accepted: Vec<u64> = pages.accepted(all).flat_map(pages_of).collect();
            (private, accepted)
        })
        .unwrap();
    assert!(oracle.private().into_iter().eq(private));
    assert!(oracle.accepted().into_iter().eq(accepted));
    assert_eq!(layout.vm().private(), oracle.called());
    for mapper in &layout.mappers {
        assert_eq!(mapper.mapped(), oracle.mapped());
    }
    for page in 0..COUNT {
        let seen = guest_load(layout, page);
        match (oracle.guest(page), at(page)) {
            (Some(value), _) => assert_eq!(seen, Ok(*value), "page {page}"),
            (None, At::Hole) => assert_eq!(seen, Ok(u64::MAX), "page {page}"),
            // No host address: the simulated kernel's guest finds nothing there.
            (None, _) => assert!(seen.is_err(), "page {page}"),
        }
        if let Some(value) = oracle.host(page) {
            let bytes = layout.host.read(host_offset(page));
            assert_eq!(u64::from_le_bytes(bytes), *value, "page {page}");
        }
    }
}
