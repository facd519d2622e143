// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every step of a change fails once in which private pages follow memory.

use crate::common;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use common::PAGE;
use common::faults::possible;
use common::machine::Machine;
use common::region::private_vm;
use guest_ranges::{AddrRange, PageRange, coalesce};
use kvm_slots::plan::plan_change;
use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{AbiProfile, Capabilities, Change, GuestMemfdFlags, Plan, SlotRange, Vm};
use proptest::prelude::*;

/// Memory of some pages, some of which are private.
#[derive(Clone, Debug)]
struct Memory {
    at: u64,
    pages: u64,
    private: u8,
}

impl Memory {
    fn range(&self, fd: i32) -> SlotRange {
        common::guest_memfd(self.at * PAGE, self.pages * PAGE, fd, 0)
    }

    fn private_pages(&self) -> BTreeSet<u64> {
        let pages = (0..self.pages).filter(|page| self.private >> page & 1 == 1);
        pages.map(|page| (self.at + page) * PAGE).collect()
    }

    fn runs(&self) -> Vec<PageRange> {
        let pages = self.private_pages().into_iter();
        let pages = pages.filter_map(|gpa| AddrRange::new(gpa, PAGE.into()));
        let runs = coalesce(pages).map(|run| PageRange::try_from(run).unwrap());
        runs.collect()
    }
}

fn memory() -> impl Strategy<Value = Memory> {
    (0_u64..10, 1_u64..7, any::<u8>()).prop_map(|(at, pages, private)| Memory {
        at,
        pages,
        private,
    })
}

fn change(machine: &Machine, fd: i32, from: Option<&Memory>, to: &Memory) -> Plan {
    let removed: Vec<SlotRange> = from.iter().map(|memory| memory.range(fd)).collect();
    let was = from.map(Memory::runs).unwrap_or_default();
    let added = [to.range(fd)];
    let is = to.runs();
    let change = Change::new(&removed, &added).with_private_pages(&was, &is);
    let capabilities = Capabilities::probe(&machine.vm().vm);
    plan_change(machine.table(), &change, &capabilities, AbiProfile::None).expect("a plan")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn whichever_step_fails_slots_and_private_pages_are_as_before(
        old in memory(),
        new in memory(),
    ) {
        let mut machine = Machine::on(SimConfig {
            abi: AbiProfile::None,
            ..private_vm(KernelVersion::V7_3)
        });
        let file = machine.vm().vm.create_guest_memfd(16 * PAGE, GuestMemfdFlags::empty());
        let file = file.expect("a file");
        let fd = file.as_raw_fd();

        let plan = change(&machine, fd, None, &old);
        drop(machine.apply(&plan, []).expect("nothing fails"));
        prop_assert_eq!(machine.vm().private(), old.private_pages());

        let plan = change(&machine, fd, Some(&old), &new);
        for (number, op) in plan.ops().iter().enumerate() {
            for errno in possible(op) {
                let before = machine.table().clone();
                let error = machine.apply(&plan, [(number, errno)]).expect_err("it fails");
                prop_assert_eq!((&error.op, &error.not_undone[..]), (op, &[][..]));
                prop_assert_eq!(machine.table(), &before);
                machine.check();
                prop_assert_eq!(machine.vm().private(), old.private_pages());
            }
        }
        drop(machine.apply(&plan, []).expect("nothing fails"));
        machine.check();
        prop_assert_eq!(machine.vm().private(), new.private_pages());
    }
}
