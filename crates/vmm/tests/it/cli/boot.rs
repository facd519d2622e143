// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm boot` with a wrong argument or file: what is said, and exit status 2.

#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::path::Path;

use crate::common::guest::{Code, Kernel, kvm};
use crate::common::{failure, stdout, vmm};

/// A kernel that ends at once. No guest of these tests should come to run it.
fn kernel() -> Kernel {
    Kernel::new(&Code::default().power_off().halt())
}

/// What `vmm boot` says about this kernel and these arguments.
#[track_caller]
fn refused(kernel: &Path, args: &[&str]) -> String {
    failure(&[&["boot", "--kernel", kernel.to_str().unwrap()], args].concat())
}

#[test]
fn a_kernel_or_an_initrd_that_cannot_be_read_is_named() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let path = kernel.path();
    let folder = path.parent().unwrap();
    let missing = folder.join("missing");
    for (file, problem) in [
        (missing.as_path(), "No such file or directory (os error 2)"),
        (folder, "not a regular file"),
        (Path::new("/dev/zero"), "not a regular file"),
    ] {
        let name = file.to_str().unwrap();
        assert_eq!(
            refused(file, &[]),
            format!("vmm: kernel {name}: {problem}\n")
        );
        let said = refused(&path, &["--initrd", name]);
        assert_eq!(said, format!("vmm: initrd {name}: {problem}\n"));
    }
}

#[test]
fn arguments_that_make_no_sense_are_quoted_with_their_option() {
    let kernel = kernel();
    for (option, value, problem) in [
        (
            "--device",
            "nvme",
            "neither a PCI address such as 0000:01:00.0 nor memory:SIZE",
        ),
        (
            "--device",
            "01:00",
            "neither a PCI address such as 0000:01:00.0 nor memory:SIZE",
        ),
        (
            "--device",
            "memory:",
            "neither a PCI address such as 0000:01:00.0 nor memory:SIZE",
        ),
        ("--device", "0000:01:20.0", "neither a PCI address"),
        ("--device", "0000:01:00.8", "neither a PCI address"),
        ("--memory", "half", "not a size such as 512M"),
        ("--memory", "1.5G", "not a size such as 512M"),
        ("--cpus", "0", "0 is not in 1..=64"),
        ("--cpus", "65", "65 is not in 1..=64"),
        ("--cpus", "two", "invalid digit found in string"),
        ("--abi", "dmabuf", "dmabuf"),
    ] {
        let said = refused(&kernel.path(), &[option, value]);
        let start = format!("error: invalid value '{value}' for '{option} <");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.contains(problem), "{said}");
    }
    let said = failure(&["boot"]);
    assert!(said.contains("--kernel <FILE>"), "{said}");
}

#[test]
fn a_memory_function_of_an_impossible_size_is_told_with_its_device_number() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let of = |sizes: &[&str]| {
        let args: Vec<&str> = sizes.iter().flat_map(|size| ["--device", size]).collect();
        refused(&kernel.path(), &args)
    };
    let said = "vmm: PCI device 1: 0x800 bytes of device memory are too few: the least is 0x1000\n";
    assert_eq!(of(&["memory:2K"]), said);
    let said = of(&["memory:4K", "memory:3M"]);
    assert!(said.starts_with("vmm: PCI device 2: "), "{said}");
    assert!(said.contains("power of two"), "{said}");
    let said = of(&["memory:4E"]);
    let start =
        "vmm: PCI device 1: 0x4000000000000000 bytes of device memory cannot be allocated: ";
    assert!(said.starts_with(start), "{said}");
    assert_eq!(said.matches("(os error").count(), 1, "{said}");
    let said = of(&["memory:4K"; 32]);
    assert_eq!(
        said,
        "vmm: all 32 device numbers of the PCI bus are in use\n"
    );
}

#[test]
fn a_device_that_does_not_exist_or_is_not_bound_is_named() {
    let Some(_) = kvm() else { return };
    let kernel = kernel();
    let said = refused(&kernel.path(), &["--device", "ffff:ff:1f.7"]);
    assert!(
        said.starts_with("vmm: ffff:ff:1f.7 cannot be assigned: "),
        "{said}"
    );
}

#[test]
fn a_device_file_that_is_not_kvms_is_named() {
    let kernel = kernel();
    let of = |device: &str| refused(&kernel.path(), &["--kvm-device", device]);
    let said = "vmm: /nonexistent cannot be opened: No such file or directory (os error 2)\n";
    assert_eq!(of("/nonexistent"), said);
    assert!(of("/dev/null").starts_with("vmm: /dev/null is not KVM: "));
}

#[test]
fn the_help_teaches_how_to_boot_leave_and_read_the_end() {
    let output = vmm(&["boot", "--help"]);
    let text = stdout(&output);
    for word in [
        "Examples:\n",
        "vmm boot --kernel vmlinuz --initrd initrd.img\n",
        "--device 0000:01:00.0",
        "--device memory:1M",
        "vfio-pci",
        "Ctrl-A X",
        "[default: 512M]",
        "Exit status: 0 if the guest switched itself off",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}
