// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated VM whose calls can fail, and are recorded and checked.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kvm_slots::convert::{Discard, PageRange};
use kvm_slots::kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
use kvm_slots::push::{Answer, PushPages, Released};
use kvm_slots::sim::SimVm;
use kvm_slots::{AddressBits, Errno, FileAttributesError, GuestMemfdFlags, PageSize, Vm};

use super::PAGE;
use super::records::{Memslot, Records};
use super::tape::{Can, Tape};

const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;

#[derive(Clone, Debug)]
pub(crate) struct WatchedVm {
    pub(crate) sim: SimVm,
    pub(crate) tape: Arc<Tape>,
    pub(crate) records: Arc<Records>,
}

impl WatchedVm {
    fn call<T>(&self, what: &'static str, fails: T, works: impl FnOnce() -> T) -> T {
        self.tape.call(
            (what, Can::Fail),
            || fails,
            || {
                let result = works();
                self.records.check(what);
                result
            },
        )
    }
}

fn pages(start: u64, size: u64) -> impl Iterator<Item = u64> {
    (0..size / PAGE).map(move |page| start + page * PAGE)
}

impl Vm for WatchedVm {
    fn check_extension(&self, capability: u32) -> i32 {
        self.sim.check_extension(capability)
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        self.call("a memslot", Err(Errno::ENOMEM), || {
            // SAFETY: passed on from the caller.
            unsafe { self.sim.set_user_memory_region2(region) }?;
            let memslots = &mut self.records.state().memslots;
            if region.memory_size == 0 {
                memslots.remove(&region.slot);
                return Ok(());
            }
            let file = region.flags & KVM_MEM_GUEST_MEMFD != 0;
            let fd = i32::try_from(region.guest_memfd).unwrap_or(-1);
            let old = memslots.get(&region.slot).and_then(|slot| slot.file);
            let memslot = Memslot {
                gpa: region.guest_phys_addr,
                size: region.memory_size,
                host: region.userspace_addr,
                file: file.then_some((fd, region.guest_memfd_offset)).or(old),
            };
            memslots.insert(region.slot, memslot);
            Ok(())
        })
    }

    unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        self.sim.create_guest_memfd(size, flags)
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        if attributes != 0 {
            self.records.becomes_private(gpa, size);
        }
        self.call("attributes of the VM", Err(Errno::ENOMEM), || {
            self.sim.set_memory_attributes(gpa, size, attributes)?;
            let private = &mut self.records.state().private;
            for page in pages(gpa, size) {
                match attributes {
                    0 => private.remove(&page),
                    _ => private.insert(page),
                };
            }
            Ok(())
        })
    }

    fn set_file_attributes(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        let fd = file.as_raw_fd();
        if attributes != 0 {
            self.records.becomes_private_in_file(fd, offset, size);
        }
        self.call("attributes of a file", Err(Errno::ENOMEM.into()), || {
            self.sim
                .set_file_attributes(file, offset, size, attributes)?;
            let private = &mut self.records.state().private_in_files;
            for page in pages(offset, size) {
                match attributes {
                    0 => private.remove(&(fd, page)),
                    _ => private.insert((fd, page)),
                };
            }
            Ok(())
        })
    }

    fn page_size(&self) -> PageSize {
        self.sim.page_size()
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.sim.address_bits()
    }

    fn push_pages(&self) -> Option<&dyn PushPages> {
        self.sim.push_pages().map(|_| self as &dyn PushPages)
    }

    unsafe fn discard(&self, what: Discard) -> Result<(), Errno> {
        self.records.discarded(what);
        // There are no bytes at these addresses.
        self.call("a discard", Err(Errno::ENOMEM), || Ok(()))
    }
}

impl PushPages for WatchedVm {
    fn make_private(&self, range: PageRange) -> Result<Answer, Errno> {
        self.records.becomes_private(range.start(), range.size());
        self.call("a platform's acceptance", Ok(Answer::Rejected), || {
            let answer = self.sim.make_private(range)?;
            if answer == Answer::Accepted {
                let private = pages(range.start(), range.size());
                self.records.state().private.extend(private);
            }
            Ok(answer)
        })
    }

    fn release(&self, range: PageRange) -> Result<Released, Errno> {
        self.call("a platform's release", Ok(Released::Pending), || {
            let answer = self.sim.release(range)?;
            if answer == Released::Done {
                let private = &mut self.records.state().private;
                private.retain(|page| !(range.start()..range.end()).contains(page));
            }
            Ok(answer)
        })
    }
}
