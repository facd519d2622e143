// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of all hardware tests.

use std::os::fd::AsFd;
use std::path::Path;

use kvm_slots::dirty::DirtyMode;
use kvm_slots::probe::{ProbeError, probe_abi};
use kvm_slots::sim::{KernelVersion, VmType};
use kvm_slots::{AbiProfile, PageSize, SlotTable};
use vfio_private::device::VfioInterface;
use vmm::backend::Platform;
use vmm::backend::kvm::Kvm;
use vmm::backend::sim::Sim;
use vmm::machine::How;

use crate::backends::{MACHINES, all_ok, machine, run, same};
use crate::boot::{self, Bars, BootTest, Wrote};
#[cfg(target_arch = "x86_64")]
use crate::boot_image;
use crate::conformance::{self, Statement};
use crate::differential::{self, Regression};
use crate::like_host::simulated_like;
use crate::needs::{DEVICE, Need, kvm};
use crate::selftests::{self, Selftest};
use crate::syscalls::{self, SyscallTest};
use crate::vfio::{Model, OnDevice};
use crate::{
    dirty, end_to_end, file_attributes, guest_code, guest_sees, kvm_vm, pre_fault, vcpu, vcpu_gate,
    vfio,
};

/// A test, what it needs, and what it does.
#[derive(Clone, Debug)]
pub struct HwTest {
    /// The name, a sentence with underscores.
    pub name: String,
    /// What the machine must have.
    pub needs: &'static [Need],
    run: Body,
}

/// What a test reports before it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A long test makes progress.
    Progress(String),
    /// Bytes that are on the lab's disk, unless the test fails.
    Wrote(Wrote),
    /// A remark that is not a failure.
    Note(String),
}

/// How a test ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It passed.
    Passed,
    /// It was skipped: it found out itself that something is missing.
    Skipped(String),
    /// It is known to be unsteady, and failed in the known way or skipped itself. It
    /// counts as skipped.
    Unsteady(String),
    /// It failed in a way that is known and has this cause.
    KnownFailure(String),
}

/// A run with a number of vCPUs, which reports its progress.
type WatchedRun = fn(u64, &dyn Fn(String)) -> Result<(), String>;

#[derive(Clone, Debug)]
enum Body {
    Plain(fn() -> Result<(), String>),
    OfMachine(fn(&str) -> Result<(), String>, &'static str),
    OfMode(fn(DirtyMode) -> Result<(), String>, DirtyMode),
    WithVcpus(fn(u64) -> Result<(), String>, u64),
    Watched(WatchedRun, u64),
    Statement(Statement),
    Regression(Regression),
    Random(VmType),
    OnDevice(OnDevice),
    DataSheet(Model),
    Boot(BootTest, Bars),
    Selftest(Selftest),
    Syscalls(SyscallTest),
}

impl HwTest {
    /// Runs the test, which may report something before it ends.
    ///
    /// # Errors
    /// A message that says what went wrong.
    pub fn run(&self, report: &dyn Fn(Message)) -> Result<Ended, String> {
        let progress = |text| report(Message::Progress(text));
        let passed = match &self.run {
            Body::Plain(run) => run(),
            Body::OfMachine(run, machine) => run(machine),
            Body::OfMode(run, mode) => run(*mode),
            Body::WithVcpus(run, vcpus) => run(*vcpus),
            Body::Watched(run, vcpus) => run(*vcpus, &progress),
            Body::Statement(statement) => statement.on_real(),
            Body::Regression(regression) => regression.run(),
            Body::Random(vm_type) => differential::random(*vm_type, &progress),
            Body::OnDevice(test) => test.run(),
            Body::DataSheet(model) => vfio::data_sheets::printed(*model),
            Body::Boot(test, bars) => test.run(*bars, report),
            Body::Selftest(test) => return test.run(report),
            Body::Syscalls(test) => return test.run(),
        };
        passed.map(|()| Ended::Passed)
    }
}

/// All hardware tests.
pub fn all() -> Vec<HwTest> {
    let mut tests = Vec::new();
    for (name, _) in MACHINES {
        tests.push(HwTest {
            name: format!("machine_{name}_meets_its_expectations_on_the_real_kvm"),
            needs: needs_of_expectations(name),
            run: Body::OfMachine(runs_as_it_says, name),
        });
        tests.push(HwTest {
            name: format!("machine_{name}_behaves_the_same_on_the_real_and_the_simulated_kvm"),
            needs: &[Need::Kvm],
            run: Body::OfMachine(behaves_the_same, name),
        });
    }
    for (mode_name, mode, needs) in dirty::MODES {
        for (name, run) in dirty::TESTS {
            tests.push(HwTest {
                name: format!("{mode_name}_{name}"),
                needs,
                run: Body::OfMode(run, mode),
            });
        }
    }
    let mut plain = |name: &str, needs, run| {
        tests.push(HwTest {
            name: name.to_string(),
            needs,
            run: Body::Plain(run),
        });
    };
    plain(
        "guest_memfd_ram_is_direct_and_shared_with_its_mapping",
        &[Need::Kvm, Need::MappableGuestMemfd],
        guest_memfd_ram_is_direct,
    );
    plain(
        "a_released_kernel_refuses_a_slot_without_a_host_address",
        &[Need::Kvm, Need::UserMemory2, Need::NoBackingFd],
        a_released_kernel_refuses,
    );
    plain(
        "a_released_kernel_has_no_abi_whatever_the_profile",
        &[Need::Kvm, Need::UserMemory2, Need::NoBackingFd],
        no_abi_is_found,
    );
    plain(
        "machine_real_devices_meets_its_expectations_on_the_real_kvm",
        &[
            Need::Kvm,
            Need::VfioInterface(VfioInterface::LegacyGroup),
            Need::Vfio(Model::Edu),
            Need::Vfio(Model::Ivshmem),
            Need::Vfio(Model::Nvme),
        ],
        vfio::carving::real_devices,
    );
    plain(
        "machine_private_mmio_meets_its_expectations_on_the_real_kvm",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::Vfio(Model::Edu),
            Need::Vfio(Model::Ivshmem),
            Need::Vfio(Model::Nvme),
        ],
        || private_mmio_runs_as_it_says("private_mmio"),
    );
    plain(
        "machine_private_mmio_plain_meets_its_expectations_on_the_real_kvm",
        &[
            Need::BackingFd,
            Need::Vcpus,
            Need::HostPages(PageSize::Size4K),
            Need::Vfio(Model::Edu),
            Need::Vfio(Model::Ivshmem),
            Need::Vfio(Model::Nvme),
        ],
        || private_mmio_runs_as_it_says("private_mmio_plain"),
    );
    plain(
        "clearing_a_dirty_log_fails_the_same_on_the_real_and_the_simulated_kvm",
        &[Need::Kvm, Need::ManualProtect, Need::DirtyRing],
        dirty::refusals_are_the_same,
    );
    plain(
        "pre_faulting_stops_at_the_end_of_the_slot",
        &[Need::Kvm, Need::PreFault],
        pre_fault::goes_as_far_as_there_is_memory,
    );
    plain(
        "pre_faulting_converted_pages_leaves_the_guest_no_fault",
        &[Need::ConvertiblePages, Need::PreFault, Need::DirectGuest],
        pre_fault::saves_the_faults_after_a_conversion,
    );
    plain(
        "pre_faulting_fails_on_a_kernel_without_it",
        &[Need::Kvm, Need::NoPreFault],
        pre_fault::is_refused_where_it_is_missing,
    );
    plain(
        "vmm_bars_asks_vfio_about_a_device_that_is_not_open",
        &[
            Need::VfioInterface(VfioInterface::LegacyGroup),
            Need::Vfio(Model::Nvme),
        ],
        vfio::bars::asks_vfio,
    );
    tests.extend(of_this_architecture());
    tests.extend(file_attributes::TESTS.map(|(name, needs, run)| HwTest {
        name: format!("file_attributes::{name}"),
        needs,
        run: Body::Plain(run),
    }));
    tests.extend(guest_code::TESTS.map(|(name, needs, run)| HwTest {
        name: format!("guest_code::{name}"),
        needs,
        run: Body::Plain(run),
    }));
    tests.extend(kvm_vm::TESTS.map(|(name, needs, run)| HwTest {
        name: format!("kvm_vm::{name}"),
        needs,
        run: Body::Plain(run),
    }));
    tests.extend(of_running_vcpus());
    tests.extend(conformance::all().into_iter().map(|statement| HwTest {
        name: format!("{}::{}", statement.of, statement.name),
        needs: statement.needs,
        run: Body::Statement(statement),
    }));
    tests.extend(against_the_simulation());
    let sheets = vfio::data_sheets().into_iter();
    tests.extend(sheets.map(|(name, needs, model)| HwTest {
        name,
        needs,
        run: Body::DataSheet(model),
    }));
    tests.extend(end_to_end::TESTS.map(|(name, needs, run)| HwTest {
        name: format!("end_to_end::{name}"),
        needs,
        run: Body::Plain(run),
    }));
    tests.extend(vfio::all().into_iter().map(|test| HwTest {
        name: test.name(),
        needs: test.needs,
        run: Body::OnDevice(test),
    }));
    tests.extend(boot::all().map(|(name, needs, test, bars)| HwTest {
        name,
        needs,
        run: Body::Boot(test, bars),
    }));
    tests.extend(syscalls::TESTS.map(|test| HwTest {
        name: format!("syscalls::{}_make_the_documented_calls", test.name),
        needs: test.needs,
        run: Body::Syscalls(test),
    }));
    tests.extend(selftests::all().into_iter().map(|test| HwTest {
        name: test.name(),
        needs: test.needs(),
        run: Body::Selftest(test),
    }));
    tests
}

/// What the expectations of a machine file hold on. Some count on what is trapped to
/// the page: BARs that are cut, and regions smaller than 16 KiB. Others count on a
/// private page that has lost its memory.
fn needs_of_expectations(machine: &str) -> &'static [Need] {
    match machine {
        "confidential" | "memory_faults" => &[Need::Kvm, Need::NoFileAttributes],
        "assigned_device" | "large" => &[Need::Kvm, Need::HostPages(PageSize::Size4K)],
        _ => &[Need::Kvm],
    }
}

/// Tests of what only one architecture has.
fn of_this_architecture() -> Vec<HwTest> {
    type Test = (&'static str, &'static [Need], fn() -> Result<(), String>);
    #[cfg(target_arch = "aarch64")]
    let tests: Vec<Test> = [&crate::aarch64::TESTS[..], &dirty::aarch64::TESTS[..]].concat();
    #[cfg(not(target_arch = "aarch64"))]
    let tests: Vec<Test> = Vec::new();
    let tests = tests.into_iter().map(|(name, needs, run)| HwTest {
        name: name.to_string(),
        needs,
        run: Body::Plain(run),
    });
    tests.collect()
}

/// Tests with vCPUs of their own.
fn of_running_vcpus() -> Vec<HwTest> {
    let programs = HwTest {
        name: "vcpu::programs_do_the_same_on_a_vcpu_and_interpreted".into(),
        needs: &[Need::Vcpus],
        run: Body::Plain(vcpu::same_as_interpreted::programs_do_the_same),
    };
    let programs = vec![programs];
    let others = [of_the_gate(), of_what_the_guest_sees(), of_the_boot_image()];
    [programs, others.concat()].concat()
}

/// The gate that holds vCPUs.
fn of_the_gate() -> Vec<HwTest> {
    let mut tests = Vec::new();
    for (name, run) in vcpu_gate::WITH_VCPUS {
        for vcpus in vcpu_gate::NUMBERS {
            tests.push((
                format!("{name}_with_{vcpus}_vcpus"),
                Body::WithVcpus(run, vcpus),
            ));
        }
    }
    for (name, run) in vcpu_gate::TESTS {
        tests.push((name.to_string(), Body::Plain(run)));
    }
    let tests = tests.into_iter().map(|(name, run)| HwTest {
        name: format!("vcpu_gate::{name}"),
        needs: &[Need::Vcpus],
        run,
    });
    tests.collect()
}

/// What running vCPUs see of commits.
fn of_what_the_guest_sees() -> Vec<HwTest> {
    let found = guest_sees::TESTS.map(|(name, run)| (name.to_string(), Body::Plain(run)));
    let numbers = guest_sees::NUMBERS.map(|vcpus| {
        let name = format!("only_old_and_new_memory_with_{vcpus}_vcpus");
        let run = guest_sees::only_the_old_and_the_new;
        (name, Body::Watched(run, vcpus))
    });
    let tests = found.into_iter().chain(numbers);
    let tests = tests.map(|(name, run)| HwTest {
        name: format!("guest_sees::{name}"),
        needs: &[Need::Vcpus],
        run,
    });
    tests.collect()
}

/// How a confidential guest starts.
#[cfg(target_arch = "x86_64")]
fn of_the_boot_image() -> Vec<HwTest> {
    let tests = boot_image::TESTS.map(|(name, needs, run)| HwTest {
        name: format!("boot_image::{name}"),
        needs,
        run: Body::Plain(run),
    });
    tests.into()
}

/// The boot image's loader is for x86-64 kernels.
#[cfg(not(target_arch = "x86_64"))]
fn of_the_boot_image() -> Vec<HwTest> {
    Vec::new()
}

/// Comparisons of the real and the simulated KVM.
fn against_the_simulation() -> Vec<HwTest> {
    let regressions = differential::regressions();
    let regressions = regressions.into_iter().map(|regression| HwTest {
        name: format!("differential::{}", regression.name),
        needs: regression.needs,
        run: Body::Regression(regression),
    });
    let random = [
        ("plain_vms", &[Need::Kvm][..], VmType::Plain),
        ("private_vms", &[Need::PrivatePages], VmType::SwProtected),
        (
            "private_vms_with_file_attributes",
            &[Need::FileAttributes],
            VmType::SwProtected,
        ),
    ];
    let random = random.into_iter().map(|(which, needs, vm_type)| HwTest {
        name: format!("differential::random_operations_on_{which}_get_the_same_answers"),
        needs,
        run: Body::Random(vm_type),
    });
    regressions.chain(random).collect()
}

fn runs_as_it_says(name: &str) -> Result<(), String> {
    let machine = machine(name)?;
    all_ok(&run(&machine, &kvm(&machine)?)?)
}

/// Uses the interface of this project's kernel patch, if a probe finds it.
fn private_mmio_runs_as_it_says(name: &str) -> Result<(), String> {
    let machine = machine(name)?;
    let kvm = Kvm::new(&machine, Path::new(DEVICE), AbiProfile::FD_OFFSET_BIT_4);
    all_ok(&run(&machine, &kvm.map_err(|e| vmm::with_causes(&e))?)?)
}

/// The simulated kernel gets the capabilities of the real one, so that refusals
/// match too.
fn behaves_the_same(name: &str) -> Result<(), String> {
    let machine = machine(name)?;
    let real = kvm(&machine)?;
    let simulated = Sim::of(simulated_like(real.vm(), real.physical_bits())?);
    same(&run(&machine, &real)?, &run(&machine, &simulated)?)
}

fn guest_memfd_ram_is_direct() -> Result<(), String> {
    let machine = machine("built_in")?;
    let steps = run(&machine, &kvm(&machine)?)?;
    let mut on_it = steps
        .iter()
        .filter(|step| step.region.starts_with("memfd-ram"));
    let direct = on_it.clone().count() > 0 && on_it.all(|step| step.seen.how == How::Direct);
    match direct {
        true => all_ok(&steps),
        false => Err("no step on memfd-ram, or one that was not direct".into()),
    }
}

/// No released kernel knows the profile's flag. So there is no backend for it,
/// and the reason is the probe's result.
fn a_released_kernel_refuses() -> Result<(), String> {
    let machine = machine("built_in")?;
    let profile = AbiProfile::FD_OFFSET_BIT_4;
    let of_kvm = match Kvm::new(&machine, Path::new(DEVICE), profile) {
        Ok(_) => return Err("the kernel took a slot without a host address".into()),
        Err(error) => error.to_string(),
    };
    let simulated = Sim::new(&machine, KernelVersion::V7_3, profile);
    let of_sim = run(&machine, &simulated).and_then(|steps| all_ok(&steps));
    match (of_kvm.contains("does not know the flag 0x10"), of_sim) {
        (true, Ok(())) => Ok(()),
        (false, _) => Err(format!("not refused for its flag but: {of_kvm}")),
        (_, Err(error)) => Err(format!("the simulated kernel, which has it: {error}")),
    }
}

/// Every bit that a profile could name, probed with and without a file.
fn no_abi_is_found() -> Result<(), String> {
    // The RFCs' slots need a VM with private pages, so use one if the kernel
    // has them.
    let machine = machine("confidential")?;
    let flags = (3..16).map(|bit| 1 << bit);
    let profiles = flags.flat_map(|flag| {
        [
            AbiProfile::FdOffset { flag },
            AbiProfile::RfcDmaBuf { flag },
        ]
    });
    for abi in profiles.chain([AbiProfile::None, AbiProfile::Push]) {
        let real = kvm(&machine)?;
        // A stand-in for a dma-buf, which has a size, too.
        let file = real.device_file(0x4000).map_err(|e| e.to_string())?;
        for file in [None, Some(file.as_fd())] {
            // SAFETY: the VM has neither a vCPU nor a slot.
            let found = unsafe { probe_abi(real.vm(), &SlotTable::new(), abi, 0x10_0000, file) };
            let as_due = match abi {
                AbiProfile::FdOffset { flag } | AbiProfile::RfcDmaBuf { flag } => {
                    found == Err(ProbeError::UnknownFlag { flag })
                }
                _ => matches!(found, Err(ProbeError::Profile(_))),
            };
            if !as_due {
                return Err(format!("{abi}, {file:?}: {found:?}"));
            }
        }
    }
    Ok(())
}
