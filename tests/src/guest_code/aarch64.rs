// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests at EL1 with page tables of both granules, and what KVM makes of accesses
//! that it cannot resolve.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::Kvm;
use kvm_slots::exit::MmioHandler;
use kvm_slots::{Capabilities, Vm};
use vmm::HostMapping;
use vmm::guest::aarch64::asm::X;
use vmm::guest::aarch64::translation::Granule;
use vmm::guest::aarch64::{ADDRESS, VALUE, asm};
use vmm::guest::poke::{Order, Poke};
use vmm::guest::{GuestError, Processor, VcpuGuest};

use super::Test;
use crate::check::{at, same};
use crate::needs::Need;
use crate::subject::STUB;

pub(super) const TESTS: [Test; 4] = [
    (
        "page_tables_of_either_granule_reach_the_same_memory",
        &[Need::Kvm],
        either_granule,
    ),
    (
        "an_access_that_kvm_cannot_decode_is_refused_with_its_address",
        &[Need::Kvm],
        undecoded,
    ),
    (
        "an_exception_in_the_guest_ends_the_access",
        &[Need::Kvm],
        exception,
    ),
    (
        "an_access_across_the_end_of_memory_exits_at_the_first_byte_beyond",
        &[Need::Kvm],
        across_the_end,
    ),
];

/// The memory ends at a multiple of the larger window, and starts a page earlier.
const END: u64 = 0x4200_0000;
/// The guest's code is here too, behind the stub.
const CODE: u64 = STUB + Poke::SIZE;

/// A guest with memory around [`END`], or before it.
#[derive(Debug)]
struct Machine {
    vcpu: VcpuGuest,
    poke: Poke,
    /// The size of a page of the host.
    page: u64,
    /// Declared after `vcpu`, so that they are dropped later.
    memory: HostMapping,
    _code: HostMapping,
}

/// The exits of a guest: address, size, and whether it was a store. Loads get ones.
#[derive(Debug, Default)]
struct Exits(Vec<(u64, usize, bool)>);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.0.push((gpa, data.len(), false));
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.0.push((gpa, data.len(), true));
    }
}

impl Machine {
    /// With `after` pages of memory at [`END`] and one before it. `code` is at
    /// [`CODE`].
    fn new(granule: Option<Granule>, after: u64, code: &[u32]) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        let mut processor = Processor::probe(&kvm).map_err(at("a processor"))?;
        if let Some(granule) = granule {
            let with = processor.with_granule(granule);
            processor = with.ok_or(format!("the processor has no {granule:?}"))?;
        }
        let vm = processor.plain_vm(&kvm).map_err(at("a VM"))?;
        let page = Capabilities::minimal().page_size.bytes();
        let poke = Poke::new(&processor.code(), STUB, [CODE, END - page, END]);
        let (own_size, size) = (2 * Poke::SIZE, (1 + after) * page);
        let own = HostMapping::anonymous(own_size).map_err(at("memory"))?;
        let memory = HostMapping::anonymous(size).map_err(at("memory"))?;
        let write = |offset, bytes: &[u8]| own.write(offset, bytes).map_err(at("a guest"));
        write(0, &poke.stub.image)?;
        write(CODE - STUB, &asm::bytes(code.iter().copied()))?;
        for (slot, guest_phys_addr, memory_size, userspace_addr) in [
            (0, STUB, own_size, own.address()),
            (1, END - page, size, memory.address()),
        ] {
            let region = kvm_userspace_memory_region {
                slot,
                guest_phys_addr,
                memory_size,
                userspace_addr,
                ..Default::default()
            };
            // SAFETY: the memory is the guest's own, and is dropped after the vCPU.
            unsafe { vm.set_user_memory_region(&region) }.map_err(at("a slot"))?;
        }
        let vcpu = VcpuGuest::new(vm.fd(), &processor, &poke.stub).map_err(at("a vCPU"))?;
        Ok(Self {
            vcpu,
            poke,
            memory,
            page,
            _code: own,
        })
    }

    fn poke(&mut self, order: Order) -> (Result<u64, GuestError>, Exits) {
        let mut exits = Exits::default();
        (self.vcpu.poke(order, &mut exits), exits)
    }

    /// That the guest still makes an access.
    fn goes_on(&mut self) -> Result<(), String> {
        let order = self.poke.store(END - 8, 8, 0x1234);
        let (stored, _) = self.poke(order);
        stored.map_err(at("the next store"))?;
        let order = self.poke.load(END - 8, 8);
        same("the next load", self.poke(order).0, Ok(0x1234))
    }
}

/// Accesses on both sides of a border of windows, and across it. One without memory
/// exits with its address.
fn either_granule() -> Result<(), String> {
    for granule in [Granule::Kib4, Granule::Kib16] {
        let say = |what: &str| format!("{granule:?}, {what}");
        let mut machine = Machine::new(Some(granule), 1, &[])?;
        for (gpa, value) in [
            (END - 8, 0x1111_2222_3333_4444),
            (END, 0x5555_6666_7777_8888),
            (END - 3, 0x9999_aaaa_bbbb_cccc),
        ] {
            let order = machine.poke.store(gpa, 8, value);
            let (stored, exits) = machine.poke(order);
            stored.map_err(at(say("a store")))?;
            same(&say("exits"), exits.0, vec![])?;
            let mut bytes = [0; 8];
            let offset = gpa - (END - machine.page);
            let read = machine.memory.read(offset, &mut bytes);
            read.map_err(at(say("memory")))?;
            same(&say("in memory"), u64::from_le_bytes(bytes), value)?;
            let order = machine.poke.load(gpa, 8);
            same(&say("a load"), machine.poke(order).0, Ok(value))?;
        }
        let beyond = END + machine.page + 0x18;
        let order = machine.poke.store(beyond, 4, 1);
        let (stored, exits) = machine.poke(order);
        stored.map_err(at(say("a store to nothing")))?;
        same(&say("exits"), exits.0, vec![(beyond, 4, true)])?;
        let order = machine.poke.load(beyond, 2);
        same(&say("a load of nothing"), machine.poke(order).0, Ok(0xffff))?;
        machine.goes_on()?;
    }
    Ok(())
}

/// A load of two registers has no syndrome.
fn undecoded() -> Result<(), String> {
    let code = [asm::ldp(VALUE, X(3), ADDRESS), asm::brk(0)];
    let mut machine = Machine::new(None, 0, &code)?;
    let order = |machine: &Machine, gpa| Order {
        pc: machine.poke.address(CODE),
        address: machine.poke.address(gpa),
        ..Order::default()
    };
    let in_memory = order(&machine, END - 16);
    same("in memory", machine.poke(in_memory).0, Ok(0))?;
    let beyond = order(&machine, END);
    let (loaded, exits) = machine.poke(beyond);
    let refused = GuestError::Undecoded { gpa: END };
    same("beyond", loaded, Err(refused))?;
    same("exits", exits.0, vec![])?;
    machine.goes_on()
}

/// The guest's page tables do not show the address.
fn exception() -> Result<(), String> {
    let mut machine = Machine::new(None, 0, &[])?;
    let order = Order {
        address: 1 << 38,
        ..machine.poke.load(END - 8, 8)
    };
    match machine.poke(order).0 {
        Err(GuestError::Stopped(why)) if why.contains("FAR_EL1 0x4000000000") => {}
        other => return Err(format!("not an exception: {other:?}")),
    }
    machine.goes_on()
}

/// The processor reports the first byte that it cannot reach, and the size of the
/// whole access. KVM passes both on, so the VMM sees an access that begins at the
/// border: the guest did not make it like this.
fn across_the_end() -> Result<(), String> {
    let mut machine = Machine::new(None, 0, &[])?;
    let order = machine.poke.store(END - 4, 8, 0x1111_2222_3333_4444);
    let (stored, exits) = machine.poke(order);
    stored.map_err(at("a store"))?;
    same("a store's exits", exits.0, vec![(END, 8, true)])?;
    let order = machine.poke.load(END - 4, 8);
    let (loaded, exits) = machine.poke(order);
    same("a load", loaded, Ok(u64::MAX))?;
    same("a load's exits", exits.0, vec![(END, 8, false)])?;
    machine.goes_on()
}
