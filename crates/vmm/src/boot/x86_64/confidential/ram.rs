// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM with a private side, and which of its pages are private at the start.

use std::io;
use std::sync::Arc;

use guest_ranges::{PageRange, PageState};
use kvm_slots::convert::{ConvertError, Engine, GuestPages, Home, Request};
use kvm_slots::{Errno, Vm};
use memory_model::{AddrRange, FileSlice, GuestMemfdSides, Memory, Region};

use crate::HostMapping;
use crate::boot::bus::Handle;

/// Why there is no private RAM.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The shared side could not be allocated.
    #[error("the shared side of RAM cannot be mapped: {0}")]
    Host(#[from] io::Error),
    /// It is unknown where the state of pages is.
    #[error("KVM does not tell where private pages have their state: {0}")]
    PageState(Errno),
    /// The private side could not be created.
    #[error("KVM created no guest_memfd of {size:#x} bytes: {errno}")]
    GuestMemfd {
        /// The size.
        size: u64,
        /// The kernel's error.
        errno: Errno,
    },
}

/// RAM of `size` bytes, which are whole pages. Shared pages are in the returned
/// mapping, private ones in a guest_memfd of `vm`.
///
/// # Errors
/// [`RamError`].
pub fn region(
    vm: &impl Vm,
    name: &str,
    size: u64,
) -> Result<(Region<Handle>, Arc<HostMapping>), RamError> {
    let mapping = Arc::new(HostMapping::anonymous(size)?);
    let home = Home::probe(vm).map_err(RamError::PageState)?;
    let file = vm.create_guest_memfd(size, home.file_flags());
    let file = file.map_err(|errno| RamError::GuestMemfd { size, errno })?;
    let memory = FileSlice::new(Arc::new(file), 0, size).and_then(|file| {
        Memory::with_guest_memfd(mapping.host_memory(), file, GuestMemfdSides::Private)
    });
    let memory = memory.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let region = Region::ram(name, memory).with_handle(Handle::default());
    Ok((region, mapping))
}

/// Makes the pages of `ram` private, except those of `staging`. The RAM is in the
/// view that `pages` refers to, and the guest has not run.
///
/// # Errors
/// [`ConvertError`].
pub fn make_private<V: Vm>(
    engine: &Engine<V>,
    pages: &mut impl GuestPages,
    ram: impl IntoIterator<Item = AddrRange>,
    staging: PageRange,
) -> Result<(), ConvertError> {
    for bank in ram.into_iter().filter_map(PageRange::inside) {
        for range in around(bank, staging) {
            let request = Request::new(range.start(), range.size(), PageState::Private)?;
            // Nothing is stale yet, so nothing has to be discarded.
            let _ = engine.convert(pages, request)?;
        }
    }
    Ok(())
}

/// The pages of `bank` that are not in `hole`.
fn around(bank: PageRange, hole: PageRange) -> impl Iterator<Item = PageRange> {
    let below = PageRange::between(bank.start(), bank.end().min(hole.start()));
    let above = PageRange::between(bank.start().max(hole.end()), bank.end());
    below.into_iter().chain(above)
}
