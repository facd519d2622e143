// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's code and page tables, for every architecture on any host.

mod aarch64;
mod x86_64;

use vmm::guest::poke::Poke;
use vmm::guest::stub::{GuestCode, Stub, compile, size};
use vmm::guest::windows::PageTableFormat;
use vmm::machine::{Access, AccessKind, How};

/// A machine code, and a processor for it that is as simple as possible.
trait Processor {
    /// The machine code.
    type Code: GuestCode;

    /// The machine code.
    fn code(&self) -> Self::Code;

    /// Walks the stub's page tables.
    fn translate(&self, stub: &Stub, address: u64) -> Option<u64>;

    /// The register of the address after the first instructions of an access.
    fn address_of(&self, code: &[u8]) -> u64;
}

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

/// The word at this address of the stub's memory.
fn word(stub: &Stub, gpa: u64) -> u64 {
    let at = usize::try_from(gpa - stub.page_tables).unwrap();
    u64::from_le_bytes(stub.image[at..at + 8].try_into().unwrap())
}

fn every_access_is_at_its_guest_physical_address(processor: &impl Processor) {
    let accesses: Vec<_> = (0..2000)
        .map(|i| read(0x1_0000_0000 + i * 0x3f_f123, 8))
        .collect();
    let base = 0x40_0000_0000;
    let stub = compile(&processor.code(), &accesses, base);
    let translate = |address| processor.translate(&stub, address);
    assert_eq!(stub.entries.len(), accesses.len() + 1);
    for (access, entry) in accesses.iter().zip(&stub.entries) {
        let at = usize::try_from(translate(*entry).unwrap() - base).unwrap();
        let address = processor.address_of(&stub.image[at..]);
        assert_eq!(translate(address), Some(access.gpa));
        // Its last byte too, also across a border of two windows.
        assert_eq!(translate(address + 7), Some(access.gpa + 7));
    }
    let end = *stub.entries.last().unwrap();
    assert!(translate(end).unwrap() < base + stub.image.len() as u64);
    let nothing = 0x7f_ffff_f000;
    assert_eq!(translate(nothing), None);
}

fn a_stub_fits_in_the_size_that_was_asked_for(processor: &impl Processor) {
    let code = processor.code();
    for count in [0, 1, 127, 128, 129, 5000, 60_000] {
        let accesses: Vec<_> = (0..count)
            .map(|i| read((2 * i + 1) * code.window() - 1, 2))
            .collect();
        let size = size(&code, &accesses);
        for base in [code.table(), code.window() - code.table(), code.window()] {
            let stub = compile(&code, &accesses, base << 20);
            assert!(stub.image.len() as u64 <= size, "{count} at {base:#x}");
        }
    }
}

fn a_poke_fits_and_reaches_its_windows(processor: &impl Processor) {
    let code = processor.code();
    let base = 0x800_0000;
    let gpas: Vec<_> = (0..500)
        .map(|i| 0x1_0000_0000 + i * code.window())
        .collect();
    let poke = Poke::new(&code, base, gpas.iter().copied());
    assert!(poke.stub.image.len() as u64 <= Poke::SIZE);
    for gpa in gpas {
        let order = poke.store(gpa + 0x123, 4, 7);
        let found = processor.translate(&poke.stub, order.address);
        assert_eq!(found, Some(gpa + 0x123));
        let at = processor.translate(&poke.stub, order.pc).unwrap();
        assert!((base..base + poke.stub.image.len() as u64).contains(&at));
    }
}
