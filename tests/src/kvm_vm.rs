// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `KvmVm`: how a VM is created. No guest runs.

use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use kvm_slots::KvmVm;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::check::at;
use crate::end_to_end::Test;
use crate::needs::Need;

/// The tests, by name, with their needs.
pub const TESTS: [Test; 1] = [(
    "a_signal_does_not_keep_a_vm_from_being_created",
    &[Need::Kvm],
    signals_do_not_keep_vms_from_being_created,
)];

/// How many VMs are created. The processors that the tests run on interrupt every
/// hundredth to every tenth ioctl.
const VMS: usize = 500;

/// Signals whose handler has no `SA_RESTART` arrive while a thread creates VMs.
fn signals_do_not_keep_vms_from_being_created() -> Result<(), String> {
    extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let signal = SIGRTMIN() + 10;
    register_signal_handler(signal, ignore).map_err(at("a handler"))?;
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let start = Instant::now();
    drop(KvmVm::create(&kvm, 0).map_err(at("a VM"))?);
    // A processor that is too slow for a call between two signals makes none.
    let period = (2 * start.elapsed()).max(Duration::from_micros(50));
    let creator = thread::spawn(move || {
        let mut vms = (0..VMS).map(|number| {
            let created = KvmVm::create(&kvm, 0).map(drop);
            created.map_err(at(format_args!("VM {number}")))
        });
        vms.try_for_each(|created| created)
    });
    while !creator.is_finished() {
        creator.kill(signal).map_err(at("a signal"))?;
        thread::sleep(period);
    }
    creator.join().map_err(|_| "the thread panicked")?
}
