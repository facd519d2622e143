// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that loads at regular distances, from any guest-physical address.

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_ioctls::Kvm;
use vmm::guest::poke::Order;
use vmm::guest::stub::{DONE_PORT, Stub};
use vmm::guest::{Processor, VcpuGuest};

use super::super::machine::Exits;
use super::at;
use crate::check::same;
use crate::subject::{Arena, PAGE, Real, STUB, Subject};

/// The address of the code, after the two page tables.
const CODE: u64 = STUB + 2 * PAGE;

/// `again: mov edx, [rdi]; add rdi, rax; dec rcx; jnz again; out DONE_PORT, al;
/// hlt`.
const LOADS: [u8; 13] = [
    0x8b, 0x17, 0x48, 0x01, 0xc7, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xe6, DONE_PORT, 0xf4,
];

/// The guest. Its own memory is the slot that [`Subject::own_slot`] names.
#[derive(Debug)]
pub(super) struct Reader {
    vcpu: VcpuGuest,
    /// Declared after `vcpu`, so that it is dropped later.
    _memory: Arena,
}

impl Reader {
    /// A guest of `real`, which has none yet.
    pub(super) fn new(real: &Real) -> Result<Self, String> {
        let memory = Arena::new(3);
        for (offset, bytes) in image() {
            memory.write(offset, &bytes).map_err(at("a guest"))?;
        }
        let region = kvm_userspace_memory_region2 {
            slot: real.own_slot(),
            guest_phys_addr: STUB,
            memory_size: 3 * PAGE,
            userspace_addr: memory.address(0),
            ..Default::default()
        };
        // SAFETY: the memory is the guest's own, and is dropped after the vCPU.
        unsafe { real.set(&region, true) }.map_err(at("a guest"))?;
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        let processor = Processor::probe(&kvm).map_err(at("a processor"))?;
        let stub = Stub {
            image: Vec::new(),
            page_tables: STUB,
            entries: vec![CODE],
        };
        let vcpu = VcpuGuest::new(real.vm().fd(), &processor, &stub).map_err(at("a vCPU"))?;
        Ok(Self {
            vcpu,
            _memory: memory,
        })
    }

    /// Makes `count` loads of 4 bytes, the next one always `stride` bytes
    /// further, and none by an exit.
    pub(super) fn loads(&mut self, gpa: u64, stride: u64, count: u64) -> Result<(), String> {
        let order = Order {
            rip: CODE,
            rdi: gpa,
            rax: stride,
            rcx: count,
        };
        let mut exits = Exits::default();
        self.vcpu.poke(order, &mut exits).map_err(at("loads"))?;
        same("exits", exits.count, 0)
    }
}

/// The page tables, which map the first 512 GiB to the same guest-physical
/// addresses, and the code: bytes with their offsets.
fn image() -> [(u64, Vec<u8>); 3] {
    // Present, writable, accessed; for a 1 GiB page also dirty and large.
    let (table, page) = (0b10_0011, 0b1110_0011);
    let top: u64 = (STUB + PAGE) | table;
    let pages = (0..512_u64).map(|number| (number << 30) | page);
    [
        (0, top.to_le_bytes().to_vec()),
        (PAGE, pages.flat_map(u64::to_le_bytes).collect()),
        (CODE - STUB, LOADS.to_vec()),
    ]
}
