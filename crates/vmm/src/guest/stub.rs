// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The script as machine code: a pure function from accesses to bytes.
//!
//! The guest's page tables show only the windows that the script touches, and its
//! own. Each access is a few instructions: the address, the load or store, and one
//! instruction that reports to the VMM that the access is done.

use std::collections::BTreeSet;

use super::windows::{PageTableFormat, WindowMap, page_tables};
use crate::machine::{Access, AccessKind};

/// The machine code of guests on one architecture. The address of an access, its
/// value and a number of repetitions each have a register.
pub trait GuestCode: PageTableFormat {
    /// The most bytes that one access compiles to, the end of the script included.
    const MOST_PER_ACCESS: u64;

    /// Where the processor continues at an exception; empty if KVM reports
    /// exceptions without that.
    fn exceptions(&self) -> Vec<u8>;

    /// Sets the register of the address.
    fn set_address(&self, address: u64) -> Vec<u8>;

    /// Sets the register of the value.
    fn set_value(&self, value: u64) -> Vec<u8>;

    /// Loads 1, 2, 4 or 8 bytes. The upper bytes of the value are undefined.
    fn load(&self, size: usize) -> Vec<u8>;

    /// Stores the value's lowest 1, 2, 4 or 8 bytes.
    fn store(&self, size: usize) -> Vec<u8>;

    /// Loads 4 bytes as often as the register of repetitions says.
    fn loads(&self) -> Vec<u8>;

    /// Loads 4 bytes as often as the register of repetitions says, the next ones
    /// always as many bytes further as the value says.
    fn strided_loads(&self) -> Vec<u8>;

    /// Reports that an access is done.
    fn done(&self) -> Vec<u8>;

    /// Follows the last access.
    fn end(&self) -> Vec<u8>;
}

/// A guest's code and page tables, to be put at a guest-physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// The bytes.
    pub image: Vec<u8>,
    /// The guest-physical address of the uppermost page table.
    pub page_tables: u64,
    /// The virtual address of [`GuestCode::exceptions`], if there is such code.
    pub exceptions: Option<u64>,
    /// The virtual address at which each access's code starts, and at last that of
    /// the end of the script.
    pub entries: Vec<u64>,
}

/// How many bytes the stub for a script needs, in whole page tables. It depends on
/// the accesses alone, so that a place for it can be found first.
pub fn size<G: GuestCode>(guest: &G, accesses: &[Access]) -> u64 {
    let (window, page) = (guest.window(), guest.table());
    let code = (accesses.len() as u64 + 1).saturating_mul(G::MOST_PER_ACCESS);
    let code = (guest.exceptions().len() as u64 + code).next_multiple_of(page);
    let mut total = 0;
    // At most two windows per access, and those of the stub itself; a stub of up to
    // one window lies in one or two of them.
    let mut stub_windows = 2;
    // The stub's own windows need tables, which make the stub larger.
    for _ in 0..3 {
        let windows = windows(window, accesses.iter()).len() as u64 + stub_windows;
        total = guest.tables_size(windows) + code;
        stub_windows = total / window + 2;
    }
    total
}

/// Compiles a script into a stub at guest-physical address `base`, which is a
/// multiple of [`PageTableFormat::table`] and has [`size`] bytes.
pub fn compile(guest: &impl GuestCode, accesses: &[Access], base: u64) -> Stub {
    let window = guest.window();
    let own = (base & !(window - 1)..base + size(guest, accesses)).step_by(step(window));
    let shown = windows(window, accesses.iter()).into_iter().chain(own);
    let mut builder = StubBuilder::new(guest, shown, base);
    for access in accesses {
        let mut code = guest.set_address(builder.map.address(access.gpa));
        match access.kind {
            AccessKind::Read(_) => {
                code.extend(guest.set_value(0));
                code.extend(guest.load(access.size));
            }
            AccessKind::Write(value) => {
                code.extend(guest.set_value(value));
                code.extend(guest.store(access.size));
            }
        }
        code.extend(guest.done());
        builder.entry(&code);
    }
    builder.entry(&guest.end());
    builder.stub
}

/// A stub whose page tables are complete. Its code is added entry by entry.
#[derive(Debug)]
pub(super) struct StubBuilder {
    pub(super) map: WindowMap,
    pub(super) stub: Stub,
}

impl StubBuilder {
    /// A stub at `base` that shows the windows of these addresses, which include
    /// its own.
    pub(super) fn new(
        guest: &impl GuestCode,
        gpas: impl IntoIterator<Item = u64>,
        base: u64,
    ) -> Self {
        let map = WindowMap::showing(guest, gpas);
        let mut image = page_tables(guest, &map, base);
        let exceptions = guest.exceptions();
        let address = map.address(base + image.len() as u64);
        let exceptions_at = (!exceptions.is_empty()).then_some(address);
        image.extend(exceptions);
        let stub = Stub {
            image,
            page_tables: base,
            exceptions: exceptions_at,
            entries: Vec::new(),
        };
        Self { map, stub }
    }

    /// Adds code with an entry of its own.
    pub(super) fn entry(&mut self, code: &[u8]) {
        let stub = &mut self.stub;
        let at = stub.page_tables + stub.image.len() as u64;
        stub.entries.push(self.map.address(at));
        stub.image.extend(code);
    }
}

/// The windows that some accesses touch.
fn windows<'a>(window: u64, accesses: impl Iterator<Item = &'a Access>) -> BTreeSet<u64> {
    let ends = accesses.flat_map(|access| [access.gpa, access.last()]);
    ends.map(|gpa| gpa & !(window - 1)).collect()
}

fn step(window: u64) -> usize {
    usize::try_from(window).unwrap_or(usize::MAX)
}
