// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that loads at regular distances, from any guest-physical address.

use std::ops::Range;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_ioctls::Kvm;
use vmm::guest::poke::Poke;
use vmm::guest::windows::PageTableFormat;
use vmm::guest::{Processor, VcpuGuest};

use super::super::machine::Exits;
use super::at;
use crate::check::same;
use crate::subject::{Arena, Real, STUB, Subject};

/// The guest. Its own memory is the slot that [`Subject::own_slot`] names.
#[derive(Debug)]
pub(super) struct Reader {
    vcpu: VcpuGuest,
    poke: Poke,
    /// Declared after `vcpu`, so that it is dropped later.
    _memory: Arena,
}

impl Reader {
    /// A guest of `real`, which has none yet. It reaches these addresses.
    pub(super) fn new(real: &Real, reach: Range<u64>) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        let processor = Processor::probe(&kvm).map_err(at("a processor"))?;
        let code = processor.code();
        let window = usize::try_from(code.window()).map_err(at("a window"))?;
        let poke = Poke::new(&code, STUB, reach.step_by(window));
        let size = (poke.stub.image.len() as u64).next_multiple_of(Poke::SIZE);
        let pages = usize::try_from(size / real.page_size()).map_err(at("a guest"))?;
        let memory = Arena::new(pages);
        memory.write(0, &poke.stub.image).map_err(at("a guest"))?;
        let region = kvm_userspace_memory_region2 {
            slot: real.own_slot(),
            guest_phys_addr: STUB,
            memory_size: size,
            userspace_addr: memory.address(0),
            ..Default::default()
        };
        // SAFETY: the memory is the guest's own, and is dropped after the vCPU.
        unsafe { real.set(&region, true) }.map_err(at("a guest"))?;
        let vcpu = VcpuGuest::new(real.vm().fd(), &processor, &poke.stub).map_err(at("a vCPU"))?;
        Ok(Self {
            vcpu,
            poke,
            _memory: memory,
        })
    }

    /// Makes `count` loads of 4 bytes, the next one always `stride` bytes
    /// further, and none by an exit.
    pub(super) fn loads(&mut self, gpa: u64, stride: u64, count: u64) -> Result<(), String> {
        let order = self.poke.strided_loads(gpa, stride, count);
        let mut exits = Exits::default();
        self.vcpu.poke(order, &mut exits).map_err(at("loads"))?;
        same("exits", exits.count, 0)
    }
}
