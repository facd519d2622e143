// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftests of KVM.

use super::{Program, program};
use crate::selftests::settings::Setting;

/// Why idle pages cannot always be tracked.
const IDLE_BITS: &str = "the bitmap of idle pages lacks the last pages of a machine whose memory \
    does not end at a multiple of 64 pages, as the lab's";

/// Why tests of clocks fail after some boots.
const CLOCK: &str = "emulation: KVM keeps the TSC's frequency as measured first, and a busy host \
    disturbs the measurement";

const HUGE_PAGES: [Setting; 1] = [("/proc/sys/vm/nr_hugepages", "48")];

const NX_HUGE_PAGES: [Setting; 4] = [
    ("/proc/sys/vm/nr_hugepages", "48"),
    ("/sys/module/kvm/parameters/nx_huge_pages", "force"),
    (
        "/sys/module/kvm/parameters/nx_huge_pages_recovery_ratio",
        "1",
    ),
    (
        "/sys/module/kvm/parameters/nx_huge_pages_recovery_period_ms",
        "100",
    ),
];

/// All of them.
pub static PROGRAMS: [Program; 110] = [
    program("kvm/access_tracking_perf_test")
        .with(&["-b", "16M", "-v", "1"])
        .unsteady("from page_idle offset", IDLE_BITS),
    program("kvm/coalesced_io_test").quick(),
    program("kvm/demand_paging_test")
        .with(&["-b", "16M", "-v", "1"])
        .quick(),
    program("kvm/demand_paging_test")
        .variant("uffd_missing")
        .with(&["-b", "16M", "-v", "1", "-u", "MISSING"])
        .quick(),
    program("kvm/demand_paging_test")
        .variant("uffd_minor")
        .with(&["-b", "16M", "-v", "1", "-u", "MINOR", "-s", "shmem"]),
    program("kvm/dirty_log_perf_test")
        .with(&["-b", "16M", "-v", "1"])
        .quick(),
    program("kvm/dirty_log_test")
        .not_run("its guest has 1 GiB, whatever its arguments, and so has the lab's machine"),
    program("kvm/guest_memfd_test").quick(),
    program("kvm/guest_print_test"),
    program("kvm/hardware_disable_test")
        .not_run("it starts 512 processes, each with a VM: minutes of emulation"),
    program("kvm/irq_test"),
    program("kvm/irqfd_test").quick(),
    program("kvm/kvm_binary_stats_test").quick(),
    program("kvm/kvm_create_max_vcpus"),
    program("kvm/kvm_page_table_test")
        .with(&["-b", "16M", "-v", "1"])
        .quick(),
    program("kvm/memslot_modification_stress_test")
        .with(&["-i", "50", "-b", "4M", "-v", "1"])
        .quick(),
    program("kvm/memslot_perf_test").with(&["-l", "1", "-s", "64", "-t", "600"]),
    program("kvm/mmu_stress_test")
        .not_run("it writes to 1 GiB several times, whatever its arguments: minutes of emulation"),
    program("kvm/pre_fault_memory_test").quick(),
    program("kvm/rseq_test"),
    program("kvm/set_memory_region_test").quick(),
    program("kvm/steal_time"),
    program("kvm/system_counter_offset_test"),
    program("kvm/vm_types_test").quick(),
    program("kvm/x86/amx_test"),
    program("kvm/x86/aperfmperf_test"),
    program("kvm/x86/apic_bus_clock_test"),
    program("kvm/x86/cpuid_test"),
    program("kvm/x86/cr4_cpuid_sync_test"),
    program("kvm/x86/debug_regs").fails(
        "Unhandled exception '0x3'",
        "emulation: KVM does not get to see INT3",
    ),
    program("kvm/x86/dirty_log_page_splitting_test")
        .with(&["-b", "16M"])
        .settings(&HUGE_PAGES)
        .quick(),
    program("kvm/x86/evmcs_smm_controls_test"),
    program("kvm/x86/exit_on_emulation_failure_test"),
    program("kvm/x86/fastops_test"),
    program("kvm/x86/feature_msrs_test"),
    program("kvm/x86/fix_hypercall_test"),
    program("kvm/x86/hwcr_msr_test"),
    program("kvm/x86/hyperv_clock").unsteady("x86/hyperv_clock.c:", CLOCK),
    program("kvm/x86/hyperv_cpuid"),
    program("kvm/x86/hyperv_evmcs"),
    program("kvm/x86/hyperv_extended_hypercalls"),
    program("kvm/x86/hyperv_features"),
    program("kvm/x86/hyperv_ipi"),
    program("kvm/x86/hyperv_svm_test"),
    program("kvm/x86/hyperv_tlb_flush"),
    program("kvm/x86/kvm_buslock_test"),
    program("kvm/x86/kvm_clock_test").unsteady("unexpected kvm-clock value", CLOCK),
    program("kvm/x86/kvm_pv_test"),
    program("kvm/x86/max_vcpuid_cap_test"),
    program("kvm/x86/monitor_mwait_test"),
    program("kvm/x86/msrs_test").fails(
        "from RDMSR(0x175), got 0x123456789000",
        "emulation: SYSENTER_ESP keeps 64 bits, of which AMD's processors have 32",
    ),
    program("kvm/x86/nested_close_kvm_test"),
    program("kvm/x86/nested_dirty_log_test").quick(),
    program("kvm/x86/nested_emulation_test"),
    program("kvm/x86/nested_exceptions_test").fails(
        "ctrl->exit_info_1 == error_code",
        "emulation: #GP while delivering an exception has 16 times its vector as error code, not 8",
    ),
    program("kvm/x86/nested_invalid_cr3_test"),
    program("kvm/x86/nested_set_state_test"),
    program("kvm/x86/nested_tdp_fault_test"),
    program("kvm/x86/nested_tsc_adjust_test").unsteady("rdtsc() < TSC_ADJUST_VALUE", CLOCK),
    program("kvm/x86/nested_tsc_scaling_test"),
    program("kvm/x86/nested_vmsave_vmload_test"),
    program("kvm/x86/nested_x2apic_test"),
    program("kvm/x86/nx_huge_pages_test")
        .with(&["-t", "887563923", "-p", "100", "-r"])
        .settings(&NX_HUGE_PAGES)
        .quick(),
    program("kvm/x86/platform_info_test"),
    program("kvm/x86/pmu_counters_test"),
    program("kvm/x86/pmu_event_filter_test"),
    program("kvm/x86/private_mem_conversions_test").quick(),
    program("kvm/x86/private_mem_kvm_exits_test").quick(),
    program("kvm/x86/recalc_apic_map_test"),
    program("kvm/x86/save_restore_pf_stress_test"),
    program("kvm/x86/set_boot_cpu_id"),
    program("kvm/x86/set_sregs_test"),
    program("kvm/x86/sev_dbg_test"),
    program("kvm/x86/sev_init2_tests"),
    program("kvm/x86/sev_migrate_tests"),
    program("kvm/x86/sev_smoke_test"),
    program("kvm/x86/smaller_maxphyaddr_emulation_test"),
    program("kvm/x86/smm_test").quick(),
    program("kvm/x86/state_test"),
    program("kvm/x86/svm_int_ctl_test"),
    program("kvm/x86/svm_lbr_nested_state"),
    program("kvm/x86/svm_nested_clear_efer_svme"),
    program("kvm/x86/svm_nested_pat_test"),
    program("kvm/x86/svm_nested_shutdown_test"),
    program("kvm/x86/svm_nested_soft_inject_test").fails(
        "kvm_cpu_has(X86_FEATURE_NRIPS)",
        "emulation: the processor does not save the next RIP",
    ),
    program("kvm/x86/svm_nested_vmcb12_gpa"),
    program("kvm/x86/svm_pmu_host_guest_test"),
    program("kvm/x86/svm_vmcall_test"),
    program("kvm/x86/sync_regs_test"),
    program("kvm/x86/triple_fault_event_test"),
    program("kvm/x86/tsc_msrs_test"),
    program("kvm/x86/tsc_scaling_sync"),
    program("kvm/x86/ucna_injection_test"),
    program("kvm/x86/userspace_io_test"),
    program("kvm/x86/userspace_msr_exit_test"),
    program("kvm/x86/vmx_apic_access_test"),
    program("kvm/x86/vmx_apicv_updates_test"),
    program("kvm/x86/vmx_exception_with_invalid_guest_state"),
    program("kvm/x86/vmx_invalid_nested_guest_state"),
    program("kvm/x86/vmx_msrs_test"),
    program("kvm/x86/vmx_nested_la57_state_test"),
    program("kvm/x86/vmx_pmu_caps_test"),
    program("kvm/x86/vmx_preemption_timer_test"),
    program("kvm/x86/xapic_ipi_test").unsteady(
        "ipis_rcvd != last_ipis_rcvd_count",
        "it expects progress in 3 s, for which a busy host is too slow",
    ),
    program("kvm/x86/xapic_state_test"),
    program("kvm/x86/xapic_tpr_test"),
    program("kvm/x86/xcr0_cpuid_test"),
    program("kvm/x86/xen_shinfo_test"),
    program("kvm/x86/xen_vmcall_test"),
    program("kvm/x86/xss_msr_test"),
];
