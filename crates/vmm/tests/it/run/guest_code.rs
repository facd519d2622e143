// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's code and page tables.

use vmm::guest::stub::{Stub, compile, size};
use vmm::machine::{Access, AccessKind, How};

/// The size of the guest's pages.
const WINDOW: u64 = 2 << 20;
/// How many entries a page table has.
const ENTRIES: usize = 512;

fn read(gpa: u64, size: usize) -> Access {
    let (kind, how) = (AccessKind::Read(None), How::Direct);
    Access {
        gpa,
        size,
        kind,
        private: None,
        how,
        tries: 1,
    }
}

/// Walks the stub's page tables as a processor would.
fn translate(stub: &Stub, address: u64) -> Option<u64> {
    let word = |gpa: u64| {
        let at = usize::try_from(gpa - stub.page_tables).unwrap();
        u64::from_le_bytes(stub.image[at..at + 8].try_into().unwrap())
    };
    let mut table = stub.page_tables;
    for level in [39, 30] {
        let entry = word(table + (address >> level) % ENTRIES as u64 * 8);
        table = (entry & 1 != 0).then_some(entry & !0xfff)?;
    }
    let entry = word(table + (address >> 21) % ENTRIES as u64 * 8);
    (entry & 0x81 == 0x81).then_some((entry & !(WINDOW - 1)) + address % WINDOW)
}

#[test]
fn every_access_is_at_its_guest_physical_address() {
    let accesses: Vec<_> = (0..2000)
        .map(|i| read(0x1_0000_0000 + i * 0x3f_f123, 8))
        .collect();
    let base = 0x40_0000_0000;
    let stub = compile(&accesses, base);
    for (access, entry) in accesses.iter().zip(&stub.entries) {
        let at = usize::try_from(translate(&stub, *entry).unwrap() - base).unwrap();
        assert_eq!(stub.image[at..at + 2], [0x48, 0xbf]);
        let address = u64::from_le_bytes(stub.image[at + 2..at + 10].try_into().unwrap());
        assert_eq!(translate(&stub, address), Some(access.gpa));
        // Its last byte too, also across a border of 2 MiB.
        assert_eq!(translate(&stub, address + 7), Some(access.gpa + 7));
    }
}

#[test]
fn a_stub_fits_in_the_size_that_was_asked_for() {
    for count in [0, 1, 127, 128, 129, 5000, 100_000] {
        let accesses: Vec<_> = (0..count)
            .map(|i| read(i * 2 * WINDOW + 0x1f_ffff, 2))
            .collect();
        for base in [0x1000, 0x1f_f000, 0x20_0000] {
            let stub = compile(&accesses, base << 20);
            assert!(
                stub.image.len() as u64 <= size(&accesses),
                "{count} at {base:#x}"
            );
        }
    }
}
